//! Names that identify things, checked once where they enter and trusted afterwards.

use serde::{Deserialize, Serialize};

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a model name.
    #[error(
        "model name {0:?} is not allowed: use 1 to 128 letters, digits, `.`, `_`, `-`, starting and ending with a letter or digit, without `..`; `stats` is reserved"
    )]
    Model(String),
    /// Not a version.
    #[error("version {0:?} is not allowed: use a positive decimal number below 2^63 without leading zeros")]
    Version(String),
    /// Not a variant name.
    #[error("variant name {0:?} is not allowed: use `precision@engine`, such as fp32@ort, from letters, digits, `.`, `_`, `-`")]
    Variant(String),
    /// Not `model:version:variant`.
    #[error("variant id {0:?} is not allowed: use `model:version:precision@engine`")]
    VariantId(String),
    /// Not a worker id.
    #[error("worker id {0:?} is not allowed: use 1 to 128 letters, digits, `.`, `_`, `-`, starting and ending with a letter or digit")]
    Worker(String),
    /// Not a sha256.
    #[error("digest {0:?} is not allowed: use 64 lowercase hexadecimal digits")]
    Digest(String),
}

/// `[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?` without `..`: safe as a file name, a key and a metric label.
fn is_plain(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    bytes.len() <= 128
        && ends(bytes.first())
        && ends(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && !text.contains("..")
}

macro_rules! text_name {
    ($(#[$doc:meta])* $name:ident, $error:path, |$text:ident| $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks `text`.
            ///
            /// # Errors
            /// When it is not such a name; the error says what is allowed.
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                let ok = { let $text = text.as_str(); $check };
                if ok { Ok(Self(text)) } else { Err($error(text)) }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

text_name!(
    /// What a client names.
    ModelName, NameError::Model, |t| is_plain(t) && t != "stats"
);
text_name!(
    /// A worker, stable over restarts.
    WorkerId, NameError::Worker, |t| is_plain(t)
);
text_name!(
    /// One way to run a version: `precision@engine`, such as `fp32@ort`.
    VariantName, NameError::Variant, |t| t.len() <= 128 && t.split_once('@').is_some_and(|(p, e)| is_plain(p) && is_plain(e))
);
text_name!(
    /// The sha256 that names an artifact, in lowercase hexadecimal.
    Digest, NameError::Digest, |t| t.len() == 64 && t.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
);

impl VariantName {
    /// What comes before the `@`.
    pub fn precision(&self) -> &str {
        self.0.split_once('@').map_or("", |(precision, _)| precision)
    }

    /// What comes after the `@`; [`crate::EngineName::parse`] knows the engines there are.
    pub fn engine(&self) -> &str {
        self.0.split_once('@').map_or("", |(_, engine)| engine)
    }
}

/// A model's version: 1 to 2^63-1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Version(u64);

impl Version {
    /// Reads a decimal number without sign or leading zeros.
    ///
    /// # Errors
    /// When `text` is anything else.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
        let number = if plain { text.parse::<u64>().ok() } else { None };
        number.and_then(|n| Self::try_from(n).ok()).ok_or_else(|| NameError::Version(text.to_owned()))
    }
}

impl TryFrom<u64> for Version {
    type Error = NameError;
    fn try_from(number: u64) -> Result<Self, NameError> {
        if number == 0 || i64::try_from(number).is_err() { Err(NameError::Version(number.to_string())) } else { Ok(Self(number)) }
    }
}

impl From<Version> for u64 {
    fn from(version: Version) -> u64 {
        version.0
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl VariantName {
    /// What the variant is called that all others of a version are measured against.
    pub const REFERENCE: &'static str = "fp32@ort";
}

/// A variant of one version of one model, written `model:version:precision@engine` (a model name has no colon).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VariantId {
    /// The model.
    pub model: ModelName,
    /// Its version.
    pub version: Version,
    /// Which way to run it.
    pub name: VariantName,
}

impl VariantId {
    /// Reads `model:version:precision@engine`.
    ///
    /// # Errors
    /// When a part is missing or not allowed.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let mut parts = text.splitn(3, ':');
        let (Some(model), Some(version), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NameError::VariantId(text.to_owned()));
        };
        Ok(Self { model: ModelName::new(model)?, version: Version::parse(version)?, name: VariantName::new(name)? })
    }
}

impl std::fmt::Display for VariantId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.model, self.version, self.name)
    }
}

impl TryFrom<String> for VariantId {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<VariantId> for String {
    fn from(id: VariantId) -> String {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_could_leave_a_folder_are_refused() {
        for bad in ["", " ", ".", "..", "../x", "a/../b", "/abs", "model/", "a..b", ".hidden", "a.", "%2e%2e", "a\0b", "stats", "é", "a b"]
        {
            assert!(ModelName::new(bad).is_err(), "{bad:?}");
        }
        assert!(ModelName::new("a".repeat(128)).is_ok());
        assert!(ModelName::new("a".repeat(129)).is_err());
    }

    #[test]
    fn versions_have_one_spelling() {
        for bad in ["0", "01", "-1", "+1", "1.0", "", "x", "9223372036854775808"] {
            assert!(Version::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Version::parse("9223372036854775807").map(u64::from), Ok(i64::MAX as u64));
    }

    proptest! {
        #[test]
        fn a_variant_id_reads_back_as_written(model in "[a-z][a-z0-9]{0,8}", version in 1u64..1000, precision in "[a-z0-9]{1,6}") {
            let text = format!("{model}:{version}:{precision}@ort");
            let id = VariantId::parse(&text).unwrap();
            prop_assert_eq!((id.name.precision(), id.name.engine()), (precision.as_str(), "ort"));
            prop_assert_eq!(id.to_string(), text);
        }

        #[test]
        fn no_accepted_model_name_leaves_its_folder(text in ".{0,40}") {
            if let Ok(name) = ModelName::new(text) {
                let path = std::path::Path::new("/root").join(name.as_str());
                prop_assert_eq!(path.parent(), Some(std::path::Path::new("/root")));
            }
        }
    }
}
