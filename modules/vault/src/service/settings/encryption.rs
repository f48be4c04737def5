//! What holds anyway: a repository is encrypted as a whole.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Written as `true`; anything else would promise what is not so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "bool", into = "bool")]
pub struct Encryption;

impl TryFrom<bool> for Encryption {
    type Error = String;

    fn try_from(is_on: bool) -> std::result::Result<Self, String> {
        match is_on {
            true => Ok(Self),
            false => {
                Err("`encryption = false` cannot be: a vault is encrypted as a whole; leave it out".into())
            }
        }
    }
}

impl From<Encryption> for bool {
    fn from(_: Encryption) -> bool {
        true
    }
}

impl JsonSchema for Encryption {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Encryption".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "boolean" })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Settings;

    #[test]
    fn a_vault_is_encrypted_whatever_is_said_and_nothing_else_is_promised() {
        let parse = |value: &str| {
            Settings::parse(&format!("[vault]\nencryption = {value}\n"), std::path::Path::new("bt.toml"))
        };
        assert_eq!(parse("true").unwrap().vault, super::super::General::default());
        let error = parse("false").unwrap_err().to_string();
        assert!(error.contains("encrypted as a whole") && error.contains("line 2"), "{error}");
        for other in ["\"age\"", "{ type = \"age\" }"] {
            let error = parse(other).unwrap_err().to_string();
            assert!(error.contains("line 2") && error.contains("boolean"), "{error}");
        }
    }
}
