//! Fractions and disk-space thresholds.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ids::IdError;

/// A part of a whole, 0.0 to 1.0, for progress.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize)]
pub struct Fraction(f64);

impl Fraction {
    /// Nothing done.
    pub const ZERO: Fraction = Fraction(0.0);
    /// All done.
    pub const ONE: Fraction = Fraction(1.0);

    /// Makes a fraction; `None` outside 0.0 to 1.0 and for NaN.
    pub fn new(value: f64) -> Option<Self> {
        (0.0..=1.0).contains(&value).then_some(Self(value))
    }

    /// Makes `done / total`, 0 for an empty total, never above 1.
    pub fn of(done: u64, total: u64) -> Self {
        if total == 0 { Self::ZERO } else { Self((done as f64 / total as f64).min(1.0)) }
    }

    /// Returns the number.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl<'de> Deserialize<'de> for Fraction {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = f64::deserialize(deserializer)?;
        Fraction::new(value).ok_or_else(|| serde::de::Error::custom("a fraction from 0.0 to 1.0 is wanted"))
    }
}

/// How much space must be free: a share of the file system or a number of bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Threshold {
    /// A share of the file system's size, strictly between 0 and 1.
    Share(f64),
    /// Bytes, more than 0.
    Bytes(u64),
}

impl Threshold {
    /// Returns the bytes wanted on a file system of `size_bytes`.
    pub fn bytes_of(self, size_bytes: u64) -> u64 {
        match self {
            Threshold::Share(share) => (size_bytes as f64 * share).ceil() as u64,
            Threshold::Bytes(bytes) => bytes,
        }
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Threshold::Share(share) => write!(f, "{} %", share * 100.0),
            Threshold::Bytes(bytes) => write!(f, "{bytes} bytes"),
        }
    }
}

impl FromStr for Threshold {
    type Err = IdError;

    /// Reads `50GiB`, `500 MB`, `20%` or plain bytes.
    fn from_str(text: &str) -> Result<Self, IdError> {
        let bad = |why| IdError { what: "size", text: text.to_owned(), why };
        let trimmed = text.trim();
        if let Some(percent) = trimmed.strip_suffix('%') {
            let value: f64 = percent.trim().parse().map_err(|_| bad("a number is wanted before `%`"))?;
            return if value > 0.0 && value < 100.0 {
                Ok(Threshold::Share(value / 100.0))
            } else {
                Err(bad("more than 0 % and less than 100 % is wanted"))
            };
        }
        let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits);
        let value: f64 = number.parse().map_err(|_| bad("a number with a unit is wanted, as `50GiB`"))?;
        let factor: u64 = match unit.trim() {
            "" | "B" => 1,
            "kB" | "KB" => 1000,
            "MB" => 1000_u64.pow(2),
            "GB" => 1000_u64.pow(3),
            "TB" => 1000_u64.pow(4),
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "TiB" => 1 << 40,
            _ => return Err(bad("the unit is one of B kB MB GB TB KiB MiB GiB TiB, or %")),
        };
        let bytes = value * factor as f64;
        if (1.0..1e18).contains(&bytes) {
            Ok(Threshold::Bytes(bytes as u64))
        } else {
            Err(bad("more than 0 bytes is wanted"))
        }
    }
}

impl Serialize for Threshold {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Threshold::Share(share) => serializer.serialize_f64(*share),
            Threshold::Bytes(bytes) => serializer.serialize_u64(*bytes),
        }
    }
}

impl<'de> Deserialize<'de> for Threshold {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Threshold;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a fraction between 0.0 and 1.0, a number of bytes, or a size such as \"50GiB\"")
            }
            fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Threshold, E> {
                if value > 0.0 && value < 1.0 {
                    Ok(Threshold::Share(value))
                } else {
                    Err(E::custom("a fraction lies between 0.0 and 1.0; write bytes as a whole number"))
                }
            }
            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Threshold, E> {
                u64::try_from(value)
                    .map_err(|_| E::custom("bytes must be more than 0"))
                    .and_then(|v| self.visit_u64(v))
            }
            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Threshold, E> {
                if value > 0 {
                    Ok(Threshold::Bytes(value))
                } else {
                    Err(E::custom("bytes must be more than 0"))
                }
            }
            fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Threshold, E> {
                value.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl schemars::JsonSchema for Threshold {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Threshold".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "a fraction between 0.0 and 1.0, a number of bytes, or a size such as \"50GiB\"",
            "oneOf": [
                { "type": "integer", "minimum": 1 },
                { "type": "number", "exclusiveMinimum": 0.0, "exclusiveMaximum": 1.0 },
                { "type": "string", "pattern": "^ *[0-9]+(\\.[0-9]+)? *(B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB|%)? *$" }
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        assert_eq!("50GiB".parse(), Ok(Threshold::Bytes(50 << 30)));
        assert_eq!("1.5 MB".parse(), Ok(Threshold::Bytes(1_500_000)));
        assert_eq!("20%".parse(), Ok(Threshold::Share(0.2)));
        for bad in ["", "0", "-1", "100%", "5 parsecs", "GiB"] {
            assert!(bad.parse::<Threshold>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_share_is_taken_of_the_size_and_rounded_up() {
        assert_eq!(Threshold::Share(0.2).bytes_of(101), 21);
        assert_eq!(Threshold::Bytes(7).bytes_of(1), 7);
    }

    #[test]
    fn a_fraction_stays_between_zero_and_one() {
        assert!(Fraction::new(1.01).is_none() && Fraction::new(f64::NAN).is_none());
        assert_eq!(Fraction::of(5, 4), Fraction::ONE);
    }
}
