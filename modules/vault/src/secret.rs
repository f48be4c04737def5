//! Where a passphrase is that nobody types.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use pc_switcher_contract::{ErrorKind, ModuleError};

use crate::error::Result;

/// The variable.
pub const VARIABLE: &str = "PC_SWITCHER_VAULT_PASSWORD";

/// Reads the first line of a file that only its owner may read.
///
/// # Errors
/// If it cannot be read, or others may.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let failed = |error: std::io::Error| {
        ModuleError::new(
            ErrorKind::Usage,
            format!("cannot read the passphrase from `{}`: {error}", path.display()),
        )
    };
    let file = File::open(path).map_err(failed)?;
    let facts = file.metadata().map_err(failed)?;
    // A pipe, as `<(…)` makes one, has no readers but us.
    if facts.is_file() && facts.permissions().mode() & 0o077 != 0 {
        let message = format!("others may read the passphrase in `{}`", path.display());
        return Err(ModuleError::new(ErrorKind::Usage, message).hint(format!("chmod 600 {}", path.display())));
    }
    let mut text = Vec::new();
    file.take(64 << 10).read_to_end(&mut text).map_err(failed)?;
    let end = text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len());
    text.truncate(end);
    Ok(text.strip_suffix(b"\r").unwrap_or(&text).to_vec())
}
