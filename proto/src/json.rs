//! Messages of our packages as JSON, the way Triton's REST surface spells them: field names as in the proto file, every field that is
//! not a message printed even where it has its default, 64-bit integers as numbers, enumerations by name.
//!
//! Names of messages are full ones, such as `inference.ModelConfig`.

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::Value;
use std::sync::LazyLock;

/// Why a text or value is not such a message.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// Not JSON, an unknown field, or a value of the wrong kind.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// The Rust type does not belong to the name.
    #[error("{0}")]
    Message(#[from] prost::DecodeError),
    /// No package of ours has a message of this name.
    #[error("there is no message `{0}`")]
    Name(String),
}

#[expect(clippy::expect_used, reason = "the descriptors are compiled in; every test of this file runs this line")]
static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| DescriptorPool::decode(crate::DESCRIPTORS).expect("our own descriptors"));

/// The descriptor of `full_name`.
///
/// # Errors
/// When there is no such message.
pub(crate) fn descriptor(full_name: &str) -> Result<MessageDescriptor, JsonError> {
    POOL.get_message_by_name(full_name).ok_or_else(|| JsonError::Name(full_name.to_owned()))
}

/// `message`, which is a `full_name`, as JSON.
///
/// # Errors
/// When `full_name` is not the name of `M`: a mistake of the caller, whatever the message holds.
pub fn to_value<M: Message>(full_name: &str, message: &M) -> Result<Value, JsonError> {
    let mut dynamic = DynamicMessage::new(descriptor(full_name)?);
    dynamic.transcode_from(message)?;
    let options = SerializeOptions::new().stringify_64_bit_integers(false).use_proto_field_name(true).skip_default_fields(false);
    Ok(dynamic.serialize_with_options(serde_json::value::Serializer, &options)?)
}

/// Reads what [`to_value`] wrote. Field names in camelCase and 64-bit integers as text are read too.
///
/// # Errors
/// When `value` has an unknown field or a value of the wrong kind.
pub fn from_value<M: Message + Default>(full_name: &str, value: &Value) -> Result<M, JsonError> {
    Ok(DynamicMessage::deserialize(descriptor(full_name)?, value)?.transcode_to()?)
}

/// Reads JSON text as [`from_value`] does. serde_json bounds the nesting; the caller bounds the length.
///
/// # Errors
/// As [`from_value`], with line and column, and when `text` is not JSON or has something after it.
pub fn from_str<M: Message + Default>(full_name: &str, text: &str) -> Result<M, JsonError> {
    let mut json = serde_json::Deserializer::from_str(text);
    let dynamic = DynamicMessage::deserialize(descriptor(full_name)?, &mut json)?;
    json.end()?;
    Ok(dynamic.transcode_to()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::{
        InferStatistics, ModelStatistics, ModelStatisticsResponse, RepositoryIndexResponse, StatisticDuration, repository_index_response,
    };
    use serde_json::json;

    #[test]
    fn numbers_of_64_bits_are_numbers_and_defaults_are_printed() {
        let stats = ModelStatistics {
            name: "m".into(),
            inference_count: u64::MAX,
            inference_stats: Some(InferStatistics { success: Some(StatisticDuration { count: 0, ns: 7 }), ..Default::default() }),
            ..Default::default()
        };
        let value = to_value("inference.ModelStatisticsResponse", &ModelStatisticsResponse { model_stats: vec![stats.clone()] }).unwrap();
        let expected = json!({ "model_stats": [{
            "name": "m", "version": "", "last_inference": 0, "inference_count": u64::MAX, "execution_count": 0,
            "inference_stats": { "success": { "count": 0, "ns": 7 } },
            "batch_stats": [], "memory_usage": [], "response_stats": {},
        }] });
        assert_eq!(value, expected);
        let back: ModelStatisticsResponse = from_value("inference.ModelStatisticsResponse", &value).unwrap();
        assert_eq!(back.model_stats, [stats]);
    }

    #[test]
    fn names_are_read_in_both_spellings_and_unknown_ones_refused() {
        let expected = repository_index_response::ModelIndex { name: "m".into(), ..Default::default() };
        for text in [r#"{"models": [{"name": "m"}]}"#, r#" {"models": [{"name": "m", "version": null}]} "#] {
            let index: RepositoryIndexResponse = from_str("inference.RepositoryIndexResponse", text).unwrap();
            assert_eq!(index.models, std::slice::from_ref(&expected));
        }
        for (text, reason) in [
            (r#"{"models": [{"nme": "m"}]}"#, "unrecognized field name 'nme' at line 1"),
            (r#"{"models": 5}"#, "a list"),
            (r#"{"models": []} x"#, "trailing characters"),
            ("[1]", "expected a map"),
        ] {
            let error = from_str::<RepositoryIndexResponse>("inference.RepositoryIndexResponse", text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
        let camel: ModelStatistics = from_value("inference.ModelStatistics", &json!({ "inferenceCount": "12" })).unwrap();
        assert_eq!(camel.inference_count, 12);
    }

    #[test]
    fn a_name_that_is_nobodys_is_an_error() {
        assert!(matches!(to_value("inference.Nothing", &ModelStatistics::default()), Err(JsonError::Name(_))));
    }
}
