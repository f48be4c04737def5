//! Who we are for a server: from the environment or from a file that only its owner reads. Never printed.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use pc_switcher_contract::{ErrorKind, ModuleError};

use crate::error::{Result, usage};

/// The variables, and under the same names in lower case the lines of a file.
const ID: &str = "AWS_ACCESS_KEY_ID";
const SECRET: &str = "AWS_SECRET_ACCESS_KEY";
const TOKEN: &str = "AWS_SESSION_TOKEN";

/// Who we are for a server.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub(super) id: String,
    pub(super) secret: String,
    pub(super) token: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

impl Credentials {
    /// Takes them from what `lookup` knows of the three variables; nothing if one of the first two is not set.
    pub fn from_variables(lookup: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let set =
            |name: &str| lookup(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        Some(Self { id: set(ID)?, secret: set(SECRET)?, token: set(TOKEN) })
    }

    /// Reads them from a file of lines `aws_access_key_id = …`, as `~/.aws/credentials` has them under `[default]`.
    ///
    /// # Errors
    /// If it cannot be read, others may read it, or it holds none.
    pub fn read(path: &Path) -> Result<Self> {
        let failed = |error: std::io::Error| {
            usage(format!("cannot read the credentials in `{}`: {error}", path.display()))
        };
        let file = File::open(path).map_err(failed)?;
        let facts = file.metadata().map_err(failed)?;
        if facts.is_file() && facts.permissions().mode() & 0o077 != 0 {
            let message = format!("others may read the credentials in `{}`", path.display());
            return Err(usage(message).hint(format!("chmod 600 {}", path.display())));
        }
        let mut text = String::new();
        file.take(64 << 10).read_to_string(&mut text).map_err(failed)?;
        Self::from_variables(|name| find(&text, name)).ok_or_else(|| {
            usage(format!("there are no credentials in `{}`", path.display()))
                .hint("its lines are `aws_access_key_id = …` and `aws_secret_access_key = …`")
        })
    }
}

/// Finds a value in a file of lines; of several sections only `[default]` counts.
fn find(text: &str, name: &str) -> Option<String> {
    let mut counts = true;
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            counts = section.trim_end_matches(']').trim() == "default";
        } else if counts
            && !line.starts_with(['#', ';'])
            && let Some((left, right)) = line.split_once('=')
            && left.trim().trim_start_matches("export ").trim().eq_ignore_ascii_case(name)
        {
            return Some(right.trim().trim_matches(['"', '\'']).to_owned());
        }
    }
    None
}

/// Where credentials are; what settings say of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum CredentialsFrom {
    /// In `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and, for those that end, `AWS_SESSION_TOKEN`.
    #[default]
    Env,
    /// In a file of mode 0600.
    File(PathBuf),
}

impl CredentialsFrom {
    /// Fetches them; `given` are those of the environment.
    ///
    /// # Errors
    /// If there are none, or others may read the file.
    pub fn fetch(&self, given: Option<&Credentials>, place: &str) -> Result<Credentials> {
        match self {
            CredentialsFrom::File(path) => Credentials::read(path),
            CredentialsFrom::Env => given.cloned().ok_or_else(|| {
                ModuleError::new(ErrorKind::Invalid, format!("there are no credentials for `{place}`"))
                    .hint(format!("set `{ID}` and `{SECRET}`, or name a file: `credentials = \"file:PATH\"`"))
            }),
        }
    }
}

impl FromStr for CredentialsFrom {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.strip_prefix("file:").map(Path::new) {
            Some(path) if path.is_absolute() => Ok(Self::File(path.to_owned())),
            Some(path) => {
                Err(format!("has a file of credentials that is not absolute: `{}`", path.display()))
            }
            None if text == "env" => Ok(Self::Env),
            // Who wrote a secret here must not read it on a screen.
            None => Err(
                "has credentials that are neither \"env\" nor \"file:PATH\"; secrets are never in settings"
                    .into(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_must_be_private_and_is_read_like_others_of_its_kind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s3");
        let write = |text: &str, mode: u32| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let expected = Credentials { id: "me".into(), secret: "x=/+y".into(), token: None };
        write("aws_access_key_id = me\naws_secret_access_key = x=/+y\n", 0o640);
        let error = Credentials::read(&path).unwrap_err();
        assert!(error.to_string().contains("others may read") && error.hints[0].contains("chmod 600"));
        assert_eq!(error.kind, ErrorKind::Usage);
        write("aws_access_key_id = me\naws_secret_access_key = x=/+y\n", 0o600);
        assert_eq!(Credentials::read(&path).unwrap(), expected);
        write(
            "[other]\naws_access_key_id=no\n[default]\n# aws_access_key_id=no\nAWS_ACCESS_KEY_ID=\"me\"\nexport AWS_SECRET_ACCESS_KEY=x=/+y\n",
            0o400,
        );
        assert_eq!(Credentials::read(&path).unwrap(), expected);
        write("[other]\naws_access_key_id=a\naws_secret_access_key=b\n", 0o600);
        assert!(Credentials::read(&path).unwrap_err().to_string().contains("there are no credentials"));
        assert_eq!(format!("{expected:?}"), "Credentials", "a secret is never printed");
    }

    #[test]
    fn the_environment_gives_both_or_none() {
        let of = |id: Option<&str>, secret: Option<&str>| {
            let (id, secret) = (id.map(String::from), secret.map(String::from));
            Credentials::from_variables(move |name| match name {
                ID => id.clone(),
                SECRET => secret.clone(),
                _ => None,
            })
        };
        assert!(of(Some("me"), Some("secret")).is_some());
        assert!(of(Some("me"), None).is_none() && of(Some(" "), Some("secret")).is_none());
        let error = CredentialsFrom::Env.fetch(None, "s3:https://h/b").unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert!(error.to_string().contains("s3:https://h/b") && error.hints[0].contains(SECRET));
        let secret = "wJalrXUtnFEMI".parse::<CredentialsFrom>().unwrap_err();
        assert!(!secret.contains("wJal"), "{secret}");
    }
}
