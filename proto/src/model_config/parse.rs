//! Text to message, within bounds.

use super::{ConfigError, FULL_NAME};
use crate::inference::ModelConfig;
use crate::json;
use miette::Diagnostic;
use prost_reflect::DynamicMessage;

/// Most bytes of a configuration. Triton's own examples have a few kilobytes.
pub const TEXT_BYTES_MAX: usize = 1 << 20;

/// Most brackets open at once. The deepest field of a `ModelConfig`, each list in brackets, needs half of this.
pub const NESTING_MAX: usize = 32;

/// Reads `config.pbtxt`.
///
/// # Errors
/// Over [`TEXT_BYTES_MAX`] or [`NESTING_MAX`]; not the text format; an unknown field (named, with its line); a value of the wrong kind.
pub fn parse_text(text: &str) -> Result<ModelConfig, ConfigError> {
    bound_length(text)?;
    let text = prepare(text)?;
    let descriptor = json::descriptor(FULL_NAME).map_err(|e| ConfigError::syntax(None, e.to_string()))?;
    let dynamic = DynamicMessage::parse_text_format(descriptor, &text).map_err(|error| {
        let offset = error.labels().and_then(|mut labels| labels.next()).map(|label| label.offset());
        ConfigError::syntax(offset.map(|offset| line(&text, offset)), error.to_string())
    })?;
    dynamic.transcode_to().map_err(|e| ConfigError::syntax(None, e.to_string()))
}

/// Reads the `config` parameter of a load call: the same message as JSON, field names in snake_case or camelCase.
///
/// # Errors
/// As [`parse_text`].
pub fn parse_json(text: &str) -> Result<ModelConfig, ConfigError> {
    bound_length(text)?;
    json::from_str(FULL_NAME, text).map_err(|e| ConfigError::syntax(None, e.to_string()))
}

fn bound_length(text: &str) -> Result<(), ConfigError> {
    let (bytes, most) = (text.len(), TEXT_BYTES_MAX);
    if bytes > most { Err(ConfigError::TooLarge { bytes, most }) } else { Ok(()) }
}

/// The line of byte `offset`, from 1.
fn line(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|&b| b == b'\n').count().saturating_add(1)
}

/// The text as prost-reflect's parser can take it.
///
/// * Brackets are counted before that parser recurses with them: by `[any/inference.ModelConfig] {` it can be led as deep as the text
///   is long. Strings and comments are skipped as it skips them; where the two could differ (a string that does not end on its line)
///   it stops with an error.
/// * It wants a colon in `input [ { ... } ]`, which the format leaves out before lists of messages, and so does everyone. The colon goes
///   right before the bracket, so that lines keep their numbers.
fn prepare(text: &str) -> Result<String, ConfigError> {
    let mut prepared = String::with_capacity(text.len());
    let (mut copied, mut depth, mut after_name) = (0, 0_usize, false);
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        if byte == b'[' && after_name {
            prepared.push_str(text.get(copied..at).unwrap_or_default());
            prepared.push(':');
            copied = at;
        }
        match byte {
            b'{' | b'[' | b'<' => depth = depth.saturating_add(1),
            b'}' | b']' | b'>' => depth = depth.saturating_sub(1),
            b'#' => while bytes.next().is_some_and(|(_, b)| b != b'\n') {},
            b'"' | b'\'' => skip_string(&mut bytes, byte),
            _ => {}
        }
        if depth > NESTING_MAX {
            return Err(ConfigError::TooDeep { line: line(text, at), most: NESTING_MAX });
        }
        if byte != b'#' && !byte.is_ascii_whitespace() {
            after_name = byte.is_ascii_alphanumeric() || byte == b'_';
        }
    }
    prepared.push_str(text.get(copied..).unwrap_or_default());
    Ok(prepared)
}

/// Goes behind the `quote` that ends a string.
fn skip_string(bytes: &mut impl Iterator<Item = (usize, u8)>, quote: u8) {
    while let Some((_, byte)) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            _ if byte == quote => break,
            _ => {}
        }
    }
}
