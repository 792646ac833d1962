//! Records as they lie in the store: small JSON objects with a schema number, readable with `etcdctl`.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Entry, RegistryError, VALUE_BYTES_MAX};

/// The one field every record has.
#[derive(Deserialize)]
struct Stamp {
    schema: u64,
}

/// Reads a record. A build that writes schema `schema_supported` also reads the next one, so that a cluster can be upgraded
/// process by process; anything else is [`RegistryError::Schema`].
pub fn decode<T: DeserializeOwned>(entry: &Entry, schema_supported: u32) -> Result<T, RegistryError> {
    let malformed = |error: serde_json::Error| RegistryError::Malformed { key: entry.key.clone(), cause: error.to_string() };
    let Stamp { schema } = serde_json::from_slice(&entry.value).map_err(malformed)?;
    let accepted = u64::from(schema_supported);
    if schema != accepted && schema != accepted.saturating_add(1) {
        return Err(RegistryError::Schema { key: entry.key.clone(), found: schema, accepted: schema_supported });
    }
    serde_json::from_slice(&entry.value).map_err(malformed)
}

/// Writes a record, which must have a number `schema` and fit into 64 KiB.
pub fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, RegistryError> {
    let name = std::any::type_name::<T>;
    let malformed = |error: serde_json::Error| RegistryError::Malformed { key: name().to_owned(), cause: error.to_string() };
    let value = serde_json::to_vec(record).map_err(malformed)?;
    // What no reader would accept is a mistake of the writer.
    let Stamp { .. } = serde_json::from_slice(&value).map_err(malformed)?;
    if value.len() > VALUE_BYTES_MAX {
        return Err(RegistryError::ValueTooLarge { key: name().to_owned(), bytes: value.len(), bytes_max: VALUE_BYTES_MAX });
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sample {
        schema: u32,
        text: String,
    }

    fn entry(value: &str) -> Entry {
        Entry { key: "/k".to_owned(), value: value.as_bytes().to_vec(), revision: 1, created: 1 }
    }

    #[test]
    fn this_schema_and_the_next_are_read_and_unknown_fields_do_not_matter() {
        for schema in [3, 4] {
            let entry = entry(&format!(r#"{{"schema":{schema},"text":"a","later":true}}"#));
            assert_eq!(decode::<Sample>(&entry, 3), Ok(Sample { schema, text: "a".to_owned() }));
        }
    }

    #[test]
    fn another_schema_is_refused_naming_key_and_both_numbers() {
        for found in [2_u64, 5, u64::MAX] {
            let error = decode::<Sample>(&entry(&format!(r#"{{"schema":{found},"shape":1}}"#)), 3).unwrap_err();
            assert_eq!(error, RegistryError::Schema { key: "/k".to_owned(), found, accepted: 3 });
            assert_eq!(error.to_string(), format!("`/k`: schema {found}, this build reads 3 and 4"));
        }
    }

    #[test]
    fn junk_is_an_error_that_names_the_key() {
        for value in ["", "null", "[]", "{}", r#"{"schema":"3"}"#, r#"{"schema":-3}"#, r#"{"schema":3}"#, "\u{0}"] {
            let error = decode::<Sample>(&entry(value), 3).unwrap_err();
            assert!(matches!(&error, RegistryError::Malformed { key, .. } if key == "/k"), "{value}: {error}");
        }
    }

    #[test]
    fn a_record_over_64_kib_is_refused_with_both_numbers() {
        let sample = |length| Sample { schema: 1, text: "x".repeat(length) };
        let overhead = encode(&sample(0)).unwrap().len();
        assert_eq!(encode(&sample(VALUE_BYTES_MAX - overhead)).unwrap().len(), VALUE_BYTES_MAX);
        let error = encode(&sample(VALUE_BYTES_MAX - overhead + 1)).unwrap_err().to_string();
        assert!(error.contains("65537 bytes") && error.contains("65536"), "{error}");
    }

    #[test]
    fn a_record_without_a_schema_is_not_written() {
        assert!(matches!(encode(&"text"), Err(RegistryError::Malformed { .. })));
    }
}
