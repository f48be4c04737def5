//! Where a passphrase comes from: a file that only its owner reads, the environment, or the keyboard.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use pc_switcher_contract::{ErrorKind, ModuleError};
use pc_switcher_vault::secret::{self, VARIABLE};
use pc_switcher_vault::service::Ask;

use crate::paths::Env;
use crate::ui::Prompter;

/// Where the passphrase is.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Secret {
    /// Read the passphrase from the first line of this file, which only its owner may read
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

/// Where this run takes it from.
pub(super) struct Source {
    file: Option<PathBuf>,
    variable: Option<OsString>,
}

impl Secret {
    pub(super) fn source(&self, env: &Env) -> Source {
        Source { file: self.password_file.clone(), variable: env.var(VARIABLE).map(ToOwned::to_owned) }
    }
}

impl Source {
    /// For runs that need none.
    pub(super) fn none() -> Self {
        Self { file: None, variable: None }
    }

    /// Returns what was given: the file comes before the variable.
    pub(super) fn given(&self) -> Result<Option<Vec<u8>>, ModuleError> {
        match (&self.file, &self.variable) {
            (Some(file), _) => secret::read(file).map(Some),
            (None, Some(variable)) => Ok(Some(variable.as_bytes().to_vec())),
            (None, None) => Ok(None),
        }
    }

    /// Asks at the terminal; twice for a new vault.
    pub(super) async fn typed(&self, prompter: &Prompter, ask: &Ask) -> Result<Vec<u8>, ModuleError> {
        if !prompter.can_ask() {
            return Err(ModuleError::new(
                ErrorKind::Invalid,
                "there is no terminal to ask for the passphrase on",
            )
            .hint(format!("set `{VARIABLE}`, or name a file with --password-file")));
        }
        let prompt = match ask {
            Ask::Open(vault) => format!("Passphrase of the vault `{vault}`: "),
            Ask::New(vault) => {
                format!("New passphrase for the vault `{vault}` (without it nothing can be restored): ")
            }
        };
        let word = prompter.password(&prompt).await?;
        if matches!(ask, Ask::New(_)) && prompter.password("Once more: ").await? != word {
            return Err(ModuleError::new(ErrorKind::Invalid, "the two passphrases differ"));
        }
        Ok(word.as_bytes().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_comes_before_the_variable_and_must_be_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("word");
        std::fs::write(&path, "from the file\nnot this\n").unwrap();
        let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let source = Source { file: Some(path.clone()), variable: Some("from the variable".into()) };
        mode(0o644);
        assert!(source.given().unwrap_err().to_string().contains("others may read"));
        mode(0o600);
        assert_eq!(source.given().unwrap().unwrap(), b"from the file");
        let source = Source { file: None, ..source };
        assert_eq!(source.given().unwrap().unwrap(), b"from the variable");
        assert!(Source::none().given().unwrap().is_none());
    }
}
