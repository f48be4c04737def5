//! Where a directory of another machine is: `ssh://[user@]host[:port]/directory`, and `/~/` for one below the home.

use std::fmt;

/// A directory of another machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshPlace {
    /// Who logs in, if not whom ssh's own settings name.
    pub user: Option<String>,
    /// What ssh understands: a name, an alias, or an address in brackets.
    pub host: String,
    /// The port, if not the one of ssh's own settings.
    pub port: Option<u16>,
    /// The directory with its leading slash.
    path: String,
}

impl SshPlace {
    /// Whether a text is meant as a place of this kind.
    pub fn is_meant(text: &str) -> bool {
        text.starts_with("ssh://")
    }

    /// Reads a place.
    ///
    /// # Errors
    /// With what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("ssh://").ok_or_else(|| {
            format!("`{text}` does not begin with `ssh://`, as `ssh://desk/srv/vault` does")
        })?;
        let (login, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = path.trim_end_matches('/');
        if path.is_empty() || path == "~" {
            return Err(format!("`{text}` names no directory, as `ssh://desk/srv/vault` does"));
        }
        if path.chars().any(char::is_control) {
            return Err("a directory with control characters in its name cannot be served".into());
        }
        let (user, machine) = match login.rsplit_once('@') {
            Some((user, machine)) => (Some(user), machine),
            None => (None, login),
        };
        let (host, port) = match machine.rsplit_once(':') {
            // The last part of an address in brackets is no port.
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (machine, None),
        };
        let port = port.map(|port| port.parse::<u16>().map_err(|_| format!("`{port}` is no port")));
        if !is_word(host) || user.is_some_and(|user| !is_word(user)) {
            return Err(format!("`{login}` is no machine that ssh could reach"));
        }
        Ok(Self {
            user: user.map(str::to_owned),
            host: host.to_owned(),
            port: port.transpose()?,
            path: format!("/{path}"),
        })
    }

    /// Returns what ssh is told to connect to.
    pub fn target(&self) -> String {
        let user = self.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
        match self.port {
            Some(port) => format!("ssh://{user}{}:{port}", self.host),
            None if self.host.starts_with('[') => format!("ssh://{user}{}", self.host),
            None => format!("{user}{}", self.host),
        }
    }

    /// Returns the directory as it is called there, where a login begins in the home.
    pub fn directory(&self) -> String {
        match self.path.strip_prefix("/~/") {
            Some(below) => format!("./{below}"),
            None => self.path.clone(),
        }
    }
}

/// Whether a text can be a name for ssh, which would take a leading dash for an option.
fn is_word(text: &str) -> bool {
    let plain = |c: char| c.is_alphanumeric() || "._-+%[]:".contains(c);
    !text.is_empty() && !text.starts_with('-') && text.chars().all(plain)
}

impl fmt::Display for SshPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ssh://")?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        f.write_str(&self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_says_whom_to_reach_and_which_directory() {
        for (text, target, directory) in [
            ("ssh://desk/srv/vault", "desk", "/srv/vault"),
            ("ssh://alice@desk/srv/my vault", "alice@desk", "/srv/my vault"),
            ("ssh://desk:2222/~/vault", "ssh://desk:2222", "./vault"),
            ("ssh://alice@[::1]/v", "ssh://alice@[::1]", "/v"),
            ("ssh://[fe80::1%eth0]:22/v", "ssh://[fe80::1%eth0]:22", "/v"),
        ] {
            let place = SshPlace::parse(text).unwrap();
            assert_eq!((place.target().as_str(), place.directory().as_str()), (target, directory));
            assert_eq!(SshPlace::parse(&place.to_string()), Ok(place));
        }
        assert_eq!(SshPlace::parse("ssh://desk/v//").unwrap().to_string(), "ssh://desk/v");
    }

    #[test]
    fn what_names_no_place_is_refused() {
        for text in [
            "/srv/vault",
            "ssh://desk",
            "ssh://desk/",
            "ssh://desk/~",
            "ssh:///srv",
            "ssh://-oProxyCommand=x/srv",
            "ssh://desk:port/srv",
            "ssh://a b/srv",
            "ssh://@desk/srv",
            "ssh://desk/a\nb",
        ] {
            assert!(SshPlace::parse(text).is_err(), "{text:?}");
        }
    }
}
