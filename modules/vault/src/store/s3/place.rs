//! Where a bucket is, in restic's spelling: `s3:https://host/bucket/prefix`.

use std::fmt;

/// A server that speaks S3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Whether it is spoken to with TLS.
    pub secure: bool,
    /// Its name or address, with the port if it is no usual one.
    pub host: String,
}

/// A part of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The server.
    pub endpoint: Endpoint,
    /// The bucket.
    pub bucket: String,
    /// What all names begin with; empty for the whole bucket.
    pub prefix: String,
}

impl Endpoint {
    /// Reads `https://host`, `http://host:port` or `host`.
    ///
    /// # Errors
    /// With what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (secure, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            Some((other, _)) => return Err(format!("`{other}` is not spoken there, but `https` or `http`")),
            None => (true, text),
        };
        let host = rest.trim_end_matches('/').to_ascii_lowercase();
        let wrong = || Err(format!("`{host}` is no server, such as `s3.example.org` or `10.0.0.1:9000`"));
        let (name, port) = match host.rsplit_once(':') {
            // The last part of an address in brackets is no port.
            Some((name, port)) if !port.contains(']') => (name, Some(port)),
            _ => (host.as_str(), None),
        };
        if port.is_some_and(|port| port.parse::<u16>().is_err()) {
            return wrong();
        }
        let is_address = name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'))
            .is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
        let is_name = name.starts_with(|first: char| first.is_ascii_alphanumeric())
            && name.chars().all(|letter| letter.is_ascii_alphanumeric() || "-.".contains(letter));
        if is_address || is_name { Ok(Self { secure, host }) } else { wrong() }
    }

    /// Whether it is Amazon's, which wants the bucket in the name of the server.
    pub(super) fn is_amazon(&self) -> bool {
        [".amazonaws.com", ".amazonaws.com.cn"].iter().any(|end| self.host.ends_with(end))
    }

    /// Returns the region that the name of the server tells, or the one that most servers take.
    pub(super) fn region(&self) -> String {
        let told = self.host.strip_prefix("s3.").filter(|_| self.is_amazon());
        let region = told.and_then(|rest| rest.split('.').next()).filter(|region| region.contains('-'));
        region.unwrap_or("us-east-1").to_owned()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.secure { "https" } else { "http" }, self.host)
    }
}

impl Location {
    /// Whether a text is meant as a place of this kind.
    pub fn is_meant(text: &str) -> bool {
        text.starts_with("s3:")
    }

    /// Reads `s3:https://host/bucket/prefix`, `s3:host/bucket`, `s3://host/bucket`.
    ///
    /// # Errors
    /// With what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("s3:").ok_or_else(|| format!("`{text}` does not begin with `s3:`"))?;
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let host_at = rest.find("://").map_or(0, |at| at + 3);
        let (host, path) = match rest[host_at..].find('/') {
            Some(at) => (&rest[..host_at + at], &rest[host_at + at + 1..]),
            None => (rest, ""),
        };
        let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
        Self::new(Endpoint::parse(host)?, bucket, prefix)
    }

    /// Puts one together.
    ///
    /// # Errors
    /// With what is wrong with a part.
    pub fn new(endpoint: Endpoint, bucket: &str, prefix: &str) -> Result<Self, String> {
        let fits = |letter: char| letter.is_ascii_alphanumeric() || "-._".contains(letter);
        if bucket.is_empty() || !bucket.chars().all(fits) || bucket.starts_with('.') {
            return Err(format!("`{bucket}` is no bucket: a place is `s3:https://HOST/BUCKET/PREFIX`"));
        }
        let prefix = prefix.trim_matches('/');
        let is_odd = |part: &str| matches!(part, "" | "." | "..") || part.chars().any(char::is_control);
        if !prefix.is_empty() && prefix.split('/').any(is_odd) {
            return Err(format!("`{}` is no prefix", prefix.escape_debug()));
        }
        Ok(Self { endpoint, bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }

    /// Returns the name of an object below the prefix.
    pub(super) fn key(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3:{}/{}", self.endpoint, self.bucket)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_restic_spells_them() {
        let read = |text: &str| Location::parse(text).map(|place| place.to_string());
        let same = "s3:https://s3.example.org/bucket/a/b";
        for text in [
            same,
            "s3:s3.example.org/bucket/a/b",
            "s3://s3.example.org/bucket/a/b/",
            "s3:https://S3.example.org/bucket//a/b",
        ] {
            assert_eq!(read(text).unwrap(), same, "{text}");
        }
        assert_eq!(read("s3:http://[::1]:9000/bucket").unwrap(), "s3:http://[::1]:9000/bucket");
        assert_eq!(read("s3:http://127.0.0.1:9000/b").unwrap(), "s3:http://127.0.0.1:9000/b");
        assert_eq!(Location::parse("s3:h/b").unwrap().key("config"), "config");
        assert_eq!(Location::parse("s3:h/b/p q").unwrap().key("config"), "p q/config");
    }

    #[test]
    fn what_is_no_place_is_said() {
        for (text, why) in [
            ("s3:https://host", "no bucket"),
            ("s3:https://host/", "no bucket"),
            ("s3:ftp://host/bucket", "`ftp` is not spoken"),
            ("s3:-host/bucket", "no server"),
            ("s3:us er@host/bucket", "no server"),
            ("s3:host:port/bucket", "no server"),
            ("s3:host/bucket/a/../b", "no prefix"),
            ("s3:host/bucket/a\nb", "no prefix"),
            ("s3:host/.bucket", "no bucket"),
        ] {
            let error = Location::parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn amazons_servers_tell_their_region() {
        let region = |host: &str| Endpoint::parse(host).unwrap().region();
        assert_eq!(region("s3.eu-central-1.amazonaws.com"), "eu-central-1");
        assert_eq!(region("s3.amazonaws.com"), "us-east-1");
        assert_eq!(region("s3.eu-central-1.example.org"), "us-east-1");
    }
}
