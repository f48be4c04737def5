//! Values of settings: numbers of bytes, and rules that may be none.

use std::str::FromStr;

use pc_switcher_contract::keep::Keep;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A number of bytes, written as `10GiB` or as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl Serialize for Size {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        let fitting = units.iter().find(|(_, bits)| self.0 > 0 && self.0.is_multiple_of(1 << bits));
        match fitting {
            Some((unit, bits)) => serializer.serialize_str(&format!("{}{unit}", self.0 >> bits)),
            None => serializer.serialize_u64(self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(u64),
            Text(String),
        }
        match Either::deserialize(deserializer)? {
            Either::Number(bytes) => Ok(Size(bytes)),
            Either::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let split = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = text.split_at(split);
        let factor = match unit.trim() {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "TiB" => 1_u64 << 40,
            _ => 0,
        };
        let size = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
        size.filter(|size| *size > 0)
            .map(Size)
            .ok_or_else(|| format!("`{text}` is no size such as \"10GiB\""))
    }
}

impl JsonSchema for Size {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["integer", "string"], "minimum": 1, "description": "a number of bytes, or text such as \"10GiB\"" })
    }
}

/// Rules of `keep`; none if nothing is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rules(pub Option<Keep>);

impl TryFrom<String> for Rules {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        match text.trim().is_empty() {
            true => Ok(Self(None)),
            false => text
                .parse()
                .map(|keep| Self(Some(keep)))
                .map_err(|error: pc_switcher_contract::keep::KeepError| error.to_string()),
        }
    }
}

impl From<Rules> for String {
    fn from(rules: Rules) -> String {
        rules.0.map(|keep| keep.to_string()).unwrap_or_default()
    }
}

impl JsonSchema for Rules {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Rules".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}
