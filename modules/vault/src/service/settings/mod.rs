//! What is set: `[vault]` and `[[vaults]]` of the main config, and `bt.toml` below them.
//!
//! Of `[vault]` each key of the main config holds; a vault of its `[[vaults]]` takes the place of one of the same name.

mod encryption;
mod every;
mod folder;
mod one;
mod size;

use std::path::{Path, PathBuf};

use pc_switcher_contract::{ErrorKind, ModuleError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Result, at, usage};

pub use encryption::Encryption;
pub use every::Every;
pub use folder::Folder;
pub use one::{Mistake, Spot, VaultKind, VaultSettings};
pub use size::{Rules, Size};

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What holds for all vaults.
    #[serde(default)]
    pub vault: General,
    /// The vaults.
    #[serde(default)]
    pub vaults: Vec<VaultSettings>,
}

/// The table `[vault]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct General {
    /// How much `bt add` may keep until the next backup; larger files are read at the backup.
    pub staging_max: Size,
    /// What is never backed up, in gitignore syntax; a file `.btignore` in a directory says more for what is below it.
    pub ignore: Vec<String>,
    /// Which backups `bt prune` keeps, for example `all 2d, last 10 sessions, 14d, 8w, 12m`; all of them if it is empty.
    pub keep: Rules,
    /// Which backups stay whatever `keep` and `--keep` say; empty: the newest one.
    pub keep_min: Rules,
    /// Within which time each file that looks unchanged is read again by `bt backup --tracked` and by syncs, `90d` or `12w`; never if
    /// it is empty.
    pub proof: Every,
    /// Always `true`: a vault is encrypted as a whole, with one key for all that is in it.
    pub encryption: Encryption,
    /// Where the catalogue, the stage and the log lie, absolute; empty: below the user's state. Never synced, and never backed up.
    pub base_dir: Folder,
    /// Where the catalogue lies; empty: in `base_dir`.
    pub data_dir: Folder,
    /// Where the stage lies; empty: `stage` in `base_dir`.
    pub staging_dir: Folder,
    /// Where the log lies, `bt.log`; empty: `log` in `base_dir`.
    pub log_dir: Folder,
}

impl Default for General {
    fn default() -> Self {
        let least = Rules("last 1 session".parse().ok());
        Self {
            staging_max: Size(10 << 30),
            ignore: Vec::new(),
            keep: Rules::default(),
            keep_min: least,
            proof: Every(Some(90)),
            encryption: Encryption,
            base_dir: Folder::default(),
            data_dir: Folder::default(),
            staging_dir: Folder::default(),
            log_dir: Folder::default(),
        }
    }
}

impl General {
    /// Returns the directories of our own that are named.
    pub fn directories(&self) -> impl Iterator<Item = &Path> {
        [&self.base_dir, &self.data_dir, &self.staging_dir, &self.log_dir]
            .into_iter()
            .filter_map(Folder::path)
    }

    /// Returns those that a text of settings names, whatever else is wrong with it.
    pub fn directories_named_in(text: &str) -> Vec<PathBuf> {
        let Ok(settings) = toml::from_str::<toml::Table>(text) else { return Vec::new() };
        let keys = ["base_dir", "data_dir", "staging_dir", "log_dir"];
        let named = settings.get("vault").and_then(toml::Value::as_table).into_iter().flat_map(|table| {
            keys.iter().filter_map(|key| Folder::try_from(table.get(*key)?.as_str()?.to_owned()).ok())
        });
        named.filter_map(|folder| folder.path().map(Path::to_owned)).collect()
    }

    /// Returns the JSON Schema of the table.
    pub fn schema() -> Value {
        schema_of::<Self>()
    }
}

fn schema_of<T: JsonSchema>() -> Value {
    schemars::generate::SchemaSettings::draft2020_12()
        .with(|settings| settings.inline_subschemas = true)
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value()
}

/// What the main config says of vaults.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Above {
    /// The file.
    pub path: PathBuf,
    /// The keys of `[vault]` that stand there.
    pub vault: Map<String, Value>,
    /// The vaults that stand there.
    pub vaults: Vec<Value>,
}

/// What settings say of all vaults at first.
const FIRST: &str = r#"# Settings of the vault: `pc-switcher vault` and `bt`. The passphrase is never in a file of settings. What [vault] and
# [[vaults]] in pc-switcher/config.toml say holds before what stands here.

[vault]
# How much `add` may keep in the stage until the next backup; larger files are read at the backup.
staging_max = "10GiB"
# What is never backed up, in gitignore syntax; a file `.btignore` in a directory says more for what is below it.
ignore = []
# Which backups `bt prune` keeps; without it all of them stay.
# keep = "all 2d, last 10 sessions, 14d, 8w, 12m, 5y"
# Which backups stay whatever `keep` and `--keep` say.
# keep_min = "last 1 session"
# Within which time each file that looks unchanged is read again and compared; "" means never.
# proof = "90d"
# Where the catalogue, the stage and the log lie; "" means below ~/.local/state/pc-switcher.
# base_dir = ""
"#;

/// What settings say of a vault in a bucket at first.
const FIRST_OF_S3: &str = r#"# "env" takes AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, if set, AWS_SESSION_TOKEN; "file:PATH" a file of mode 0600.
credentials = "env"
# The region, if the server wants another than its name tells.
# region = "eu-central-1"
# Whether the bucket is a part of the path and not of the server's name.
# path_style = true
# Where contents of files are put, for example "STANDARD_IA"; what must be fetched first ("GLACIER") makes restoring wait for hours.
# storage_class = "STANDARD"
# The certificate of a server of one's own.
# ca_file = "/etc/ssl/own.pem"
# Copies of the catalogue in another bucket of the server.
# metadata = { bucket = "BUCKET", prefix = "PREFIX", credentials = "env" }
"#;

impl Settings {
    /// Returns the vaults that say where packs are put, and where that is.
    pub(super) fn classes(&self) -> impl Iterator<Item = (&str, &str)> {
        self.vaults.iter().filter_map(|vault| Some((vault.name.as_str(), vault.storage_class.as_deref()?)))
    }

    /// Reads the text of the file.
    ///
    /// # Errors
    /// If it is wrong, with the line.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let settings: Self = toml::from_str(text)
            .map_err(|error| usage(format!("`{}` is not right: {}", path.display(), told(text, &error))))?;
        settings.settled(path)
    }

    /// Proves that the vaults are as they should be, and have names of their own.
    fn settled(mut self, path: &Path) -> Result<Self> {
        let wrong = |why: String| Err(usage(format!("`{}` is not right: {why}", path.display())));
        for vault in &mut self.vaults {
            if let Err(why) = vault.settle() {
                return wrong(format!("the vault `{}` {why}", vault.name));
            }
        }
        for (index, vault) in self.vaults.iter().enumerate() {
            if self.vaults[..index].iter().any(|other| other.name == vault.name) {
                return wrong(format!("two vaults are called `{}`", vault.name));
            }
        }
        Ok(self)
    }

    /// Reads the file and lays what the main config says over it.
    ///
    /// # Errors
    /// If neither says anything of vaults, or one of them is wrong.
    pub fn read(path: &Path, above: &Above) -> Result<Self> {
        let below = match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, path)?,
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(at("read", path, &error));
            }
            Err(_) if above.vaults.is_empty() => {
                return Err(ModuleError::new(ErrorKind::Usage, format!("there is no `{}`", path.display()))
                    .hint("`bt config init` writes one"));
            }
            Err(_) => Self::default(),
        };
        below.under(above)
    }

    fn under(mut self, above: &Above) -> Result<Self> {
        let wrong =
            |error: serde_json::Error| usage(format!("`{}` is not right: {error}", above.path.display()));
        if !above.vault.is_empty() {
            let mut table = serde_json::to_value(&self.vault).map_err(wrong)?;
            table.as_object_mut().into_iter().for_each(|table| table.extend(above.vault.clone()));
            self.vault = General::deserialize(table).map_err(wrong)?;
        }
        for vault in &above.vaults {
            let vault = VaultSettings::deserialize(vault).map_err(wrong)?;
            match self.vaults.iter_mut().find(|other| other.name == vault.name) {
                Some(other) => *other = vault,
                None => self.vaults.push(vault),
            }
        }
        self.settled(&above.path)
    }

    /// Returns the text of a file with one vault, with words for people.
    pub fn first(root: &Path, name: &str) -> String {
        format!("{FIRST}{}", Self::one_more(root, name))
    }

    /// Returns what a file says of one vault, with words for people.
    pub fn one_more(root: &Path, name: &str) -> String {
        let (kind, more) = match VaultSettings::kind_of(&root.to_string_lossy()) {
            VaultKind::S3 => ("s3", FIRST_OF_S3),
            VaultKind::Ssh => ("ssh", ""),
            VaultKind::Filesystem => ("filesystem", ""),
        };
        let root = toml::Value::from(root.display().to_string());
        let name = toml::Value::from(name);
        format!(
            r#"
# A vault is a repository in restic's format: `restic -r ROOT snapshots` works on it.
[[vaults]]
name = {name}
type = "{kind}"
root = {root}
# Whether a backup fails without it, and how many copies of the catalogue it keeps.
required = true
keep_metadata_versions = 10
{more}"#
        )
    }
}

/// Says what is wrong with the text, with its line, unless that might hold what nobody should read on a screen.
fn told(text: &str, error: &toml::de::Error) -> String {
    let said = error.to_string();
    let is_told = !["secret", "token", "password"].iter().any(|word| said.to_lowercase().contains(word));
    if is_told {
        return said.trim_end().to_owned();
    }
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let known = error.message().split(['`', '"']).next().unwrap_or_default().trim_end();
    format!("line {}: {known}; secrets are never in settings", before.matches('\n').count() + 1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::s3::Credentials;

    fn parse(text: &str) -> Result<Settings> {
        Settings::parse(text, Path::new("bt.toml"))
    }

    #[test]
    fn what_is_written_first_is_right() {
        let settings = parse(&Settings::first(Path::new("/mnt/a \"b\"/v"), "usb disk")).unwrap();
        assert_eq!(settings.vaults[0].root, Path::new("/mnt/a \"b\"/v"));
        assert_eq!(settings.vaults[0].name, "usb disk");
        assert_eq!(settings.vault, General::default());
    }

    #[test]
    fn mistakes_have_their_line_and_doubles_are_found() {
        let error = parse("[vault]\nstaging_mx = 1\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("staging_mx"), "{error}");
        let vault = "[[vaults]]\nname = \"a\"\ntype = \"filesystem\"\nroot = \"/a\"\n";
        assert!(parse(vault).is_ok());
        assert!(parse(&vault.repeat(2)).unwrap_err().to_string().contains("two vaults"));
        assert!(parse(&vault.replace("\"/a\"", "\"a\"")).unwrap_err().to_string().contains("absolute"));
        assert!(
            parse(&format!("{vault}region = \"x\"\n")).unwrap_err().to_string().contains("`region` is for")
        );
        assert!(parse("[vault]\nstaging_max = \"10 bananas\"\n").is_err());
        let error = parse("[vault]\nkeep = \"7x\"\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("`7x` is no rule"), "{error}");
        assert_eq!(parse("[vault]\nstaging_max = \"3MiB\"\n").unwrap().vault.staging_max, Size(3 << 20));
    }

    fn s3(more: &str) -> Result<VaultSettings> {
        let settings = parse(&format!("[[vaults]]\nname = \"cloud\"\ntype = \"s3\"\n{more}"))?;
        Ok(settings.vaults.into_iter().next().unwrap())
    }

    #[test]
    fn a_bucket_is_named_as_restic_does_or_by_its_parts() {
        let by_root = s3("root = \"s3:s3.example.org/b/p\"\n").unwrap();
        let by_parts =
            s3("endpoint = \"https://s3.example.org\"\ncontent = { bucket = \"b\", prefix = \"p\" }\n")
                .unwrap();
        assert_eq!(by_root.root, Path::new("s3:https://s3.example.org/b/p"));
        assert_eq!(by_parts.root, by_root.root);
        let given = Credentials::from_variables(|name| Some(name.to_lowercase()));
        let (one, other) = (by_root.s3(given.as_ref()).unwrap(), by_parts.s3(given.as_ref()).unwrap());
        assert_eq!(one, other);
        assert_eq!(one.content, one.metadata, "one bucket holds both");
        let apart = s3("root = \"s3:h/b/p\"\nmetadata = { bucket = \"m\" }\n").unwrap().s3(given.as_ref());
        assert_eq!(apart.unwrap().metadata.place.to_string(), "s3:https://h/m");
    }

    #[test]
    fn what_settings_of_a_bucket_lack_is_said() {
        for (more, why) in [
            ("", "lacks a `root`"),
            ("endpoint = \"h\"\n", "both `endpoint` and `content`"),
            ("content = { bucket = \"b\" }\n", "both `endpoint` and `content`"),
            ("root = \"/mnt/usb\"\n", "does not begin with `s3:`"),
            ("root = \"s3:h/b\"\nendpoint = \"other\"\n", "not at its `endpoint`"),
            ("root = \"s3:h/b\"\nendpoint = \"h\"\ncontent = { bucket = \"c\" }\n", "is not its `endpoint`"),
            ("root = \"s3:h/b\"\nmetadata = { bucket = \"\" }\n", "is no bucket"),
            ("root = \"s3:h/b\"\ncredentials = \"AKIA:secret\"\n", "secrets are never in settings"),
            ("root = \"s3:h/b\"\nsecret_key = \"wJalr\"\n", "line 5: unknown field; secrets are never"),
            ("root = \"s3:h/b\"\nca_file = \"ca.pem\"\n", "not absolute"),
        ] {
            let error = s3(more).unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("wJalr"), "{more}: {error}");
        }
        let error =
            parse("[[vaults]]\nname = \"a\"\ntype = \"filesystem\"\nroot = \"s3:h/b\"\n").unwrap_err();
        assert!(error.to_string().contains("type = \"s3\""), "{error}");
    }

    #[test]
    fn settings_of_a_bucket_can_be_printed_and_read_again() {
        let text = Settings::first(Path::new("s3:https://h/b/p"), "cloud");
        let settings = parse(&text).unwrap();
        assert_eq!(settings.vaults[0].kind, VaultKind::S3);
        let parts = "endpoint = \"h\"\ncontent = { bucket = \"b\", credentials = \"file:/x\" }\nmetadata = { bucket = \"m\" }\n";
        let settings = Settings { vaults: vec![s3(parts).unwrap()], ..settings };
        assert_eq!(parse(&toml::to_string(&settings).unwrap()).unwrap(), settings);
    }

    #[test]
    fn a_vault_of_another_machine_is_named_as_ssh_does() {
        let text = |root: &str, more: &str| {
            format!("[[vaults]]\nname = \"desk\"\ntype = \"ssh\"\nroot = \"{root}\"\n{more}")
        };
        let settings = parse(&text("ssh://alice@desk:2222/srv/vault/", "")).unwrap();
        assert_eq!(settings.vaults[0].root, Path::new("ssh://alice@desk:2222/srv/vault"));
        assert_eq!(
            parse(&Settings::first(Path::new("ssh://desk/~/vault"), "desk")).unwrap().vaults[0].kind,
            VaultKind::Ssh
        );
        for (root, more, why) in [
            ("/srv/vault", "", "does not begin with `ssh://`"),
            ("ssh://desk", "", "no directory"),
            ("s3:h/b", "", "type = \"s3\""),
            ("ssh://desk/srv", "region = \"x\"\n", "`region` is for"),
        ] {
            let error = parse(&text(root, more)).unwrap_err().to_string();
            assert!(error.contains(why), "{root}: {error}");
        }
        let error = parse("[[vaults]]\nname = \"a\"\ntype = \"filesystem\"\nroot = \"ssh://desk/x\"\n");
        assert!(error.unwrap_err().to_string().contains("type = \"ssh\""));
    }

    #[test]
    fn directories_of_our_own_are_known_whatever_else_is_wrong() {
        let text =
            "[vault]\nbase_dir = \"/home/a/bt/\"\nkeep = 5\nlog_dir = \"~/x\"\nnonsense = 1\n[[vaults]]\n";
        assert_eq!(General::directories_named_in(text), [PathBuf::from("/home/a/bt")]);
        assert!(General::directories_named_in("[vault").is_empty());
        let settings = parse("[vault]\nstaging_dir = \"/s\"\ndata_dir = \"/d\"\n").unwrap();
        assert_eq!(settings.vault.directories().collect::<Vec<_>>(), [Path::new("/d"), Path::new("/s")]);
        assert!(parse("[vault]\nbase_dir = \"~/bt\"\n").unwrap_err().to_string().contains("absolute"));
    }

    #[test]
    fn the_main_config_lies_above_key_by_key_and_vault_by_vault() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bt.toml");
        let none = Above { path: "config.toml".into(), ..Above::default() };
        let error = Settings::read(&path, &none).unwrap_err();
        assert!(error.to_string().contains("there is no"), "{error}");
        let vault = |name: &str, root: &str| json!({ "name": name, "type": "filesystem", "root": root });
        let mut above = Above { vaults: vec![vault("usb", "/new"), vault("desk", "/desk")], ..none };
        let alone = Settings::read(&path, &above).unwrap();
        assert_eq!((alone.vault, alone.vaults.len()), (General::default(), 2), "no bt.toml is needed then");
        let text = "[vault]\nkeep = \"7d\"\nignore = [\"*.o\"]\n[[vaults]]\nname = \"usb\"\ntype = \"filesystem\"\nroot = \"/old\"\n\
                    [[vaults]]\nname = \"nas\"\ntype = \"filesystem\"\nroot = \"/nas\"\n";
        std::fs::write(&path, text).unwrap();
        above.vault = Map::from_iter([("keep".to_owned(), json!("2w"))]);
        let both = Settings::read(&path, &above).unwrap();
        assert_eq!(String::from(both.vault.keep), "2w");
        assert_eq!(both.vault.ignore, ["*.o"], "what it does not say stays");
        let roots: Vec<_> = both.vaults.iter().map(|vault| vault.root.to_str().unwrap()).collect();
        assert_eq!(roots, ["/new", "/nas", "/desk"]);
    }

    #[test]
    fn the_schemas_take_what_is_written_first_and_the_defaults() {
        assert_eq!(General::deserialize(json!(General::default())).unwrap(), General::default());
        assert_eq!(VaultSettings::schema()["required"], json!(["name", "type"]));
        assert!(
            VaultSettings::schema()["properties"]["region"]["type"] == "string",
            "none is said by leaving it out"
        );
    }

    #[test]
    fn everything_that_does_not_fit_in_a_vault_is_told_at_once_and_by_its_key() {
        let table = json!({
            "name": "a/b", "type": "filesystem", "root": "a", "region": "x", "ca_file": "ca.pem", "required": true
        });
        let keys = |table: &Value| {
            VaultSettings::mistakes_of(table).into_iter().map(|one| one.key).collect::<Vec<_>>()
        };
        assert_eq!(keys(&table), [Some("name"), Some("root"), Some("region"), Some("ca_file")]);
        let table = json!({
            "name": "a", "type": "s3", "root": "s3:h/b", "endpoint": "other", "ca_file": "ca.pem", "credentials": "x",
            "content": { "bucket": "b", "credentials": "y" }
        });
        assert_eq!(keys(&table), [Some("root"), Some("ca_file"), Some("credentials"), Some("content")]);
        assert_eq!(keys(&json!({ "name": "a", "type": "s3" })), [None]);
    }
}
