//! Nothing seeded comes out again, and what is no secret stays readable.

use super::*;
use proptest::prelude::*;
use serde_json::json;

#[test]
fn known_shapes_are_hidden_and_the_rest_stays() {
    for (given, wanted) in [
        ("clone https://me:hunter2@git.example/a.git now", "clone https://***@git.example/a.git now"),
        ("'https://me:it's@x@git.example/a'", "'https://***@git.example/a'"),
        ("ssh://git@git.example:22/a", "ssh://***@git.example:22/a"),
        ("https://u:p/w@host/a", "https://***@host/a"),
        (
            "https://[::1]:80/a@b and https://host:8080/pkg@1.2",
            "https://[::1]:80/a@b and https://host:8080/pkg@1.2",
        ),
        ("curl -H 'Authorization: Bearer abc.def' https://x", "curl -H 'Authorization: ***' https://x"),
        ("authorization: Digest a=\"b\", c=d\nnext", "authorization: ***\nnext"),
        ("password=hunter2 user=me", "password=*** user=me"),
        ("DB_PASSWORD='it's me' x", "DB_PASSWORD='***' x"),
        ("{\"access_token\": \"a b\", \"n\": 1}", "{\"access_token\": \"***\", \"n\": 1}"),
        ("{\\\"secret\\\":\\\"abc\\\",\\\"n\\\":1}", "{\\\"secret\\\":\\\"***\\\",\\\"n\\\":1}"),
        ("mysql --password hunter2 -u me", "mysql --password *** -u me"),
        ("[\"--token\", \"abc\", \"x\"]", "[\"--token\", \"***\", \"x\"]"),
        ("pwd=/home/me pass=x", "pwd=/home/me pass=***"),
        ("key AKIAIOSFODNN7EXAMPLE found", "key *** found"),
        ("see -----BEGIN OPENSSH PRIVATE KEY-----\nabc\n-----END OPENSSH PRIVATE KEY----- ok", "see *** ok"),
        ("-----BEGIN RSA PRIVATE KEY-----\ncut off", "***"),
        ("sent Bearer abcdefgh12345678", "sent Bearer ***"),
    ] {
        assert_eq!(text(given), wanted);
        assert_eq!(text(&text(given)), wanted, "twice is once");
    }
}

#[test]
fn ordinary_lines_are_left_alone() {
    for line in [
        "/home/me/secrets.yaml: permission denied",
        "/home/me/password: permission denied",
        "[sudo] password for me",
        "the bearer of this letter",
        "me@desk: 12 files, 3.4 MB",
        "https://example.org/@scope/pkg",
        "-----BEGIN CERTIFICATE-----",
        "compass: north",
    ] {
        assert_eq!(text(line), line);
    }
}

#[test]
fn context_is_redacted_at_every_depth() {
    let mut context = json!({
        "command": ["tool", "--token", "hunter2", "https://u:hunter2@h/"],
        "deep": [{"Password": {"is": "hunter2"}, "note": "secret=hunter2"}],
        "path": "/home/me",
        "password_set": true,
    });
    value(&mut context);
    let shown = context.to_string();
    assert!(!shown.contains("hunter2"), "{shown}");
    assert_eq!(context["path"], "/home/me");
    assert_eq!(context["password_set"], true);
    assert_eq!(context["command"][0], "tool");
}

#[test]
fn a_control_sequence_inside_a_secret_does_not_save_it() {
    let mut kind = EventKind::Stage { stage: "pass\x1b[0mword=hun\x1b[1mter2".into() };
    event(&mut kind);
    assert_eq!(kind, EventKind::Stage { stage: "password=***".into() });
}

/// A word that appears in no frame, made of everything a password may hold but white space.
fn secret() -> impl Strategy<Value = String> {
    "[A-Za-z0-9'\"@:/%&+$,;=()!*~]{0,6}Zq7X[A-Za-z0-9'@:%&+$,;=()!*~]{0,6}"
}

/// Leaves only those quotes that more of the word follows.
fn without_ends(secret: &str) -> String {
    let next_is_word = |at: usize| secret[at + 1..].starts_with(|c: char| c.is_ascii_alphanumeric());
    secret
        .char_indices()
        .filter(|(at, c)| !matches!(c, '"' | '\'') || next_is_word(*at))
        .map(|(_, c)| c)
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_seeded_secret_never_comes_out(
        secret in secret(),
        frame in prop::sample::select(vec![
            "password={}", "PASSWORD: {}", "x token={} y", "--secret {} z", "client_secret => {}",
            "Authorization: Bearer {}", "-H \"authorization: Basic {}\"", "api_key='{}'", "{\"token\":\"{}\"}",
            "aws_secret_access_key = {}", "?a=b&access_token={}", "a.secret.key={}", "passphrase: \"{}\", n",
            "-----BEGIN EC PRIVATE KEY-----\n{}\n-----END EC PRIVATE KEY-----",
        ]),
        before in "[a-z ]{0,10}",
        after in "( [a-z .]{0,10})?",
    ) {
        // A quote before a separator ends a quoted value, one at the beginning begins it: nobody could tell them apart.
        let secret = match ["{}\"", "{}'"].iter().any(|end| frame.contains(end)) {
            true => without_ends(&secret),
            false => secret.trim_start_matches(['"', '\'']).to_owned(),
        };
        // Behind a separator that the frame's own one takes in, as in `==`, is the beginning, too.
        let secret = match secret.trim_start_matches('=') {
            inner if inner.starts_with(['"', '\'']) => inner.trim_start_matches(['"', '\'']).to_owned(),
            _ => secret,
        };
        let line = format!("{before} {}{after}", frame.replace("{}", &secret));
        let shown = text(&line).into_owned();
        prop_assert!(!shown.contains("Zq7X"), "{line} → {shown}");
    }

    #[test]
    fn a_password_in_a_url_never_comes_out(
        password in "[A-Za-z0-9'\"@:%&+$,;=()!*~]{0,6}Zq7X[A-Za-z0-9'\"@:%&+$,;=()!*~/]{0,6}",
        quote in prop::sample::select(vec!["", "'", "\"", "("]),
    ) {
        let line = format!("fetch {quote}https://me:{password}@git.example/a.git{quote} failed");
        let shown = text(&line).into_owned();
        prop_assert!(!shown.contains("Zq7X"), "{line} → {shown}");
        prop_assert!(shown.contains("@git.example/a.git"), "{line} → {shown}");
    }

    #[test]
    fn any_text_is_survived_and_twice_is_once(given in any::<String>()) {
        let once = text(&given).into_owned();
        prop_assert_eq!(text(&once).into_owned(), once);
    }
}
