//! What computes a variant, and in which precision.

use serde::{Deserialize, Serialize};

/// An engine, by the name it has in variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum EngineName {
    /// ONNX Runtime.
    #[default]
    Ort,
    /// OpenVINO.
    Openvino,
}

impl EngineName {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Ort, Self::Openvino];

    /// As in the name of a variant.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ort => "ort",
            Self::Openvino => "openvino",
        }
    }

    /// Its library, as flags, capabilities and folders call it.
    pub const fn library(self) -> &'static str {
        match self {
            Self::Ort => "onnxruntime",
            Self::Openvino => "openvino",
        }
    }

    /// Its library, as people call it.
    pub const fn product(self) -> &'static str {
        match self {
            Self::Ort => "ONNX Runtime",
            Self::Openvino => "OpenVINO",
        }
    }

    /// The engine that variants call `text`.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|name| name.as_str() == text)
    }
}

impl std::fmt::Display for EngineName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The precision in which an engine is told to compute a graph of another one, where it can choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrecisionHint {
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point.
    F16,
    /// The upper half of a 32-bit one.
    Bf16,
}

impl PrecisionHint {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Bf16];

    /// As written in records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    /// The hint that is written `text`.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hint| hint.as_str() == text)
    }
}

impl std::fmt::Display for PrecisionHint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in EngineName::ALL {
            assert_eq!(EngineName::parse(name.as_str()), Some(name));
            assert_eq!(serde_json::to_value(name).unwrap(), name.as_str());
        }
        for hint in PrecisionHint::ALL {
            assert_eq!(PrecisionHint::parse(hint.as_str()), Some(hint));
            assert_eq!(serde_json::to_value(hint).unwrap(), hint.as_str());
        }
        assert_eq!((EngineName::parse("onnxruntime"), PrecisionHint::parse("fp32")), (None, None));
    }
}
