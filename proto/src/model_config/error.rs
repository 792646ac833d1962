//! Why a model's configuration is refused.

/// Why a configuration is refused. Its text names the field and, where the text was read, the line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// More text than a configuration ever needs.
    #[error("the configuration has {bytes} bytes, at most {most} are read")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The bound.
        most: usize,
    },
    /// Brackets within brackets.
    #[error("line {line}: nested deeper than {most} levels")]
    TooDeep {
        /// Where the bound is passed, from 1.
        line: usize,
        /// The bound.
        most: usize,
    },
    /// Not the text of a `ModelConfig`: bad syntax, an unknown field or a value of the wrong kind.
    #[error("{}{what}", line.map(|n| format!("line {n}: ")).unwrap_or_default())]
    Syntax {
        /// Where, from 1. None where the text ends too early, and for JSON, which says it in `what`.
        line: Option<usize>,
        /// What is wrong there.
        what: String,
    },
    /// A field of Triton's that Sluice does not serve.
    #[error("`{field}` is not supported: {why}")]
    Unsupported {
        /// Path of the field.
        field: String,
        /// What it would need.
        why: &'static str,
    },
    /// A value that no model could have.
    #[error("`{field}` is {value}, expected {expected}")]
    Invalid {
        /// Path of the field.
        field: String,
        /// What it holds.
        value: String,
        /// What it may hold.
        expected: String,
    },
    /// The model's file says otherwise.
    #[error("{tensor}: the configuration {config}, the model {model}")]
    Contradiction {
        /// Which input or output.
        tensor: String,
        /// What the configuration says of it.
        config: String,
        /// What the model's graph says of it.
        model: String,
    },
}

impl ConfigError {
    pub(super) fn invalid(field: impl Into<String>, value: impl ToString, expected: impl Into<String>) -> Self {
        Self::Invalid { field: short(field.into()), value: short(value.to_string()), expected: short(expected.into()) }
    }

    pub(super) fn unsupported(field: impl Into<String>, why: &'static str) -> Self {
        Self::Unsupported { field: short(field.into()), why }
    }

    pub(super) fn syntax(line: Option<usize>, what: String) -> Self {
        Self::Syntax { line, what: short(what) }
    }

    pub(super) fn contradiction(tensor: String, config: impl Into<String>, model: impl Into<String>) -> Self {
        Self::Contradiction { tensor: short(tensor), config: short(config.into()), model: short(model.into()) }
    }
}

/// Errors travel in headers and logs: a name of a megabyte does not.
fn short(mut text: String) -> String {
    const MOST: usize = 300;
    if text.len() > MOST {
        text.truncate(text.floor_char_boundary(MOST));
        text.push('…');
    }
    text
}
