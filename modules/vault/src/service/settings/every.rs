//! How often something is done, in whole days; never if nothing is written.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A number of days, written as `90d` or `12w`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Every(pub Option<u32>);

/// Nobody asks for more: a hundred years.
const MOST: u32 = 36_500;

impl TryFrom<String> for Every {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Self(None));
        }
        let days = match (text.strip_suffix('d'), text.strip_suffix('w')) {
            (Some(days), _) => days.parse::<u32>().ok(),
            (_, Some(weeks)) => weeks.parse::<u32>().ok().and_then(|weeks| weeks.checked_mul(7)),
            _ => None,
        };
        days.filter(|days| (1..=MOST).contains(days))
            .map(|days| Self(Some(days)))
            .ok_or_else(|| format!("`{text}` is no number of days such as \"90d\" or \"12w\""))
    }
}

impl From<Every> for String {
    fn from(every: Every) -> String {
        every.0.map(|days| format!("{days}d")).unwrap_or_default()
    }
}

impl JsonSchema for Every {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Every".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_weeks_are_read_and_nothing_else() {
        let read = |text: &str| Every::try_from(text.to_owned()).map(|every| every.0);
        assert_eq!([read("90d"), read("2w"), read("")], [Ok(Some(90)), Ok(Some(14)), Ok(None)]);
        for text in ["0d", "d", "90", "-1d", "1h", "99999999w"] {
            assert!(read(text).unwrap_err().contains("no number of days"), "{text}");
        }
        assert_eq!(String::from(Every(Some(14))), "14d");
    }
}
