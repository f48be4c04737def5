//! From ssh's last words to a typed error; pure. ssh is not translated, so its words can be relied on.

use super::error::ConnectError;

/// Returns why ssh gave up, by what it wrote to stderr.
pub(super) fn diagnose(host: &str, lines: &[String]) -> ConnectError {
    let host = host.to_owned();
    let has = |words: &[&str]| {
        lines.iter().rev().find(|line| words.iter().any(|word| line.contains(word))).map(|line| bare(line))
    };
    if has(&["REMOTE HOST IDENTIFICATION HAS CHANGED", "HOST KEY FOR", "POSSIBLE DNS SPOOFING"]).is_some() {
        return ConnectError::HostKeyChanged { host };
    }
    if has(&["Host key verification failed", "host key is known for"]).is_some() {
        return ConnectError::HostKeyUnknown { host };
    }
    if has(&[
        "Could not resolve hostname",
        "Name or service not known",
        "hostname contains invalid characters",
    ])
    .is_some()
    {
        return ConnectError::NameNotResolved { host };
    }
    let refused = has(&[
        "Permission denied",
        "Too many authentication failures",
        "no mutual signature",
        "Authentication failed",
    ]);
    if let Some(why) = refused {
        return ConnectError::AuthenticationRefused { host, why };
    }
    let unreachable = has(&[
        "Connection refused",
        "Connection timed out",
        "No route to host",
        "Network is unreachable",
        "Host is down",
        "Operation timed out",
        "Connection reset",
        "Connection closed",
        "timed out during banner exchange",
        "kex_exchange_identification",
        "stdio forwarding failed",
        "Broken pipe",
        "not responding",
    ]);
    if let Some(why) = unreachable {
        return ConnectError::Unreachable { host, why };
    }
    let last = lines.iter().rev().find(|line| !line.trim().is_empty());
    let why = last.map_or_else(|| "it said nothing".to_owned(), |line| bare(line));
    ConnectError::Ssh { host, why }
}

/// Strips what is the same in all messages.
fn bare(line: &str) -> String {
    line.trim().trim_start_matches("ssh: ").trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> ConnectError {
        diagnose("desk", &text.lines().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn ssh_words_become_typed_errors() {
        let host = || "desk".to_owned();
        assert_eq!(
            of("ssh: Could not resolve hostname desk: Name or service not known"),
            ConnectError::NameNotResolved { host: host() }
        );
        assert_eq!(
            of("ssh: connect to host desk port 22: Connection refused\r"),
            ConnectError::Unreachable {
                host: host(),
                why: "connect to host desk port 22: Connection refused".into()
            }
        );
        assert_eq!(
            of(
                "No ED25519 host key is known for desk and you have requested strict checking.\r\nHost key verification failed.\r"
            ),
            ConnectError::HostKeyUnknown { host: host() }
        );
        assert_eq!(
            of("@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\nHost key verification failed."),
            ConnectError::HostKeyChanged { host: host() }
        );
        assert!(matches!(
            of("banner text\nme@desk: Permission denied (publickey)."),
            ConnectError::AuthenticationRefused { why, .. } if why == "me@desk: Permission denied (publickey)"
        ));
        assert!(matches!(of(""), ConnectError::Ssh { .. }));
    }

    #[test]
    fn every_error_says_what_to_try_next() {
        for text in ["Could not resolve hostname x", "Connection refused", "Permission denied", "odd"] {
            assert!(of(text).hint().is_some_and(|hint| hint.contains("desk")), "{text}");
        }
    }
}
