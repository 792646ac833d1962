//! Names for versions, such as `stable` and `canary`.

use crate::{ModelName, NameError, Version};
use std::collections::BTreeMap;

/// Why a version's text means no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AliasError {
    /// Not the name of an alias.
    #[error("alias {0:?} is not allowed: as a model's name, but not digits alone")]
    Name(String),
    /// Digits, but not a version.
    #[error(transparent)]
    Version(#[from] NameError),
    /// Nobody gave it a version.
    #[error("version `{alias}` is neither a number nor an alias of this model ({known})")]
    Unknown {
        /// What was asked for.
        alias: String,
        /// The aliases there are.
        known: String,
    },
}

/// Checks the name of an alias: that of a model would do, and it cannot be taken for a number.
///
/// # Errors
/// When it is not such a name.
pub fn check_alias(text: &str) -> Result<(), AliasError> {
    let number = text.bytes().all(|b| b.is_ascii_digit());
    if number || ModelName::new(text).is_err() { Err(AliasError::Name(text.to_owned())) } else { Ok(()) }
}

/// The version that a request's text means, a number or an alias; none where it is empty and any will do.
///
/// # Errors
/// When it is neither, or an alias that is not there.
pub fn resolve_version(text: &str, aliases: &BTreeMap<String, Version>) -> Result<Option<Version>, AliasError> {
    if text.is_empty() {
        return Ok(None);
    }
    // Digits are a number before anything else, so that an alias smuggled in cannot hide a version.
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(Some(Version::parse(text)?));
    }
    check_alias(text)?;
    aliases.get(text).copied().map(Some).ok_or_else(|| {
        let names: Vec<_> = aliases.keys().map(String::as_str).collect();
        let known = if names.is_empty() { "it has none".to_owned() } else { names.join(", ") };
        AliasError::Unknown { alias: text.to_owned(), known }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn aliases() -> BTreeMap<String, Version> {
        // `7` cannot be set, see `check_alias`; a record from elsewhere may hold it all the same.
        [("canary", 12), ("stable", 3), ("7", 3)].map(|(name, n)| (name.to_owned(), Version::try_from(n).unwrap())).into()
    }

    #[test]
    fn a_number_an_alias_or_nothing_names_a_version() {
        let resolve = |text: &str| resolve_version(text, &aliases()).map(|version| version.map(u64::from));
        for (text, version) in [("", None), ("5", Some(5)), ("7", Some(7)), ("canary", Some(12)), ("stable", Some(3))] {
            assert_eq!(resolve(text), Ok(version), "{text:?}");
        }
        for bad in ["0", "007", "9223372036854775808"] {
            assert_eq!(resolve(bad), Err(AliasError::Version(NameError::Version(bad.to_owned()))));
        }
        for bad in ["-1", "../canary", "stats", " stable", "é"] {
            assert_eq!(resolve(bad), Err(AliasError::Name(bad.to_owned())));
        }
        let unknown = resolve("Canary").unwrap_err().to_string();
        assert_eq!(unknown, "version `Canary` is neither a number nor an alias of this model (7, canary, stable)");
        let none = resolve_version("canary", &BTreeMap::new()).unwrap_err().to_string();
        assert_eq!(none, "version `canary` is neither a number nor an alias of this model (it has none)");
    }

    proptest! {
        #[test]
        fn no_alias_can_be_taken_for_a_version(text in "[a-z0-9._-]{0,6}") {
            prop_assert_eq!(check_alias(&text).is_ok(), ModelName::new(text.as_str()).is_ok() && !text.bytes().all(|b| b.is_ascii_digit()));
            prop_assert!(check_alias(&text).is_err() || Version::parse(&text).is_err());
        }
    }
}
