//! What settings name of our own: directories of state, and files with secrets. It belongs to the machine.

use std::path::PathBuf;

use toml::{Table, Value};

use super::Folder;
use crate::store::s3::CredentialsFrom;

/// Returns the paths that a text of settings, of `bt.toml` or of the main config, names as our own, whatever else is wrong with it.
pub fn named_in(text: &str) -> Vec<PathBuf> {
    let Ok(settings) = toml::from_str::<Table>(text) else { return Vec::new() };
    let table = |name: &str| settings.get(name).and_then(Value::as_table);
    let text = |table: &Table, key: &str| table.get(key).and_then(Value::as_str).map(str::to_owned);
    let mut all = Vec::new();
    let folder = |text: String| Folder::try_from(text).ok()?.path().map(Into::into);
    for key in ["base_dir", "data_dir", "staging_dir", "log_dir"] {
        all.extend(table("vault").and_then(|vault| text(vault, key)).and_then(folder));
    }
    all.extend(table("vault-backup").and_then(|backup| text(backup, "password_file")).and_then(folder));
    let vaults = settings.get("vaults").and_then(Value::as_array).into_iter().flatten();
    for vault in vaults.filter_map(Value::as_table) {
        let spots = ["content", "metadata"].into_iter().filter_map(|spot| vault.get(spot)?.as_table());
        for said in spots.chain([vault]).filter_map(|table| text(table, "credentials")) {
            if let Ok(CredentialsFrom::File(path)) = said.parse() {
                // As paths are compared: without slashes at its end and the like.
                all.push(path.components().collect());
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_our_own_is_known_whatever_else_is_wrong() {
        let named = |text: &str| -> Vec<String> {
            named_in(text).into_iter().map(|path| path.to_str().unwrap().to_owned()).collect()
        };
        let text =
            "[vault]\nbase_dir = \"/home/a/bt/\"\nkeep = 5\nlog_dir = \"~/x\"\nnonsense = 1\n[[vaults]]\n";
        assert_eq!(named(text), ["/home/a/bt"]);
        assert!(named("[vault").is_empty() && named("vault = 1\nvaults = \"x\"\n").is_empty());
    }

    #[test]
    fn files_with_secrets_are_our_own_wherever_settings_name_them() {
        let text = "[vault-backup]\npassword_file = \"/home/a//word\"\n\
                    [[vaults]]\nname = \"usb\"\ncredentials = \"env\"\n\
                    [[vaults]]\ncredentials = \"file:/home/a/./keys\"\n\
                    content = { credentials = \"file:/home/a/keys of content\" }\n\
                    metadata = { bucket = \"b\", credentials = \"file:keys\" }\n\
                    [[vaults]]\nmetadata = { credentials = \"file:/m\" }\n";
        let named: Vec<PathBuf> = named_in(text);
        let wanted = ["/home/a/word", "/home/a/keys of content", "/home/a/keys", "/m"];
        assert_eq!(named, wanted.map(PathBuf::from));
    }
}
