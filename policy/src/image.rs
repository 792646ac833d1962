//! How an encoded picture becomes a model's input.

use serde::{Deserialize, Serialize};

/// The `[image]` part of a model's `sluice.toml`: what is done to a picture before the model sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSpec {
    /// The input it becomes.
    pub input: String,
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// How it gets that size.
    pub resize: ImageResize,
    /// Order of the tensor's dimensions.
    pub layout: ImageLayout,
    /// Order of the colours.
    pub channels: ImageChannels,
    /// Subtracted from 0..255 values, per channel in the order of `channels`.
    pub mean: [f32; 3],
    /// Then multiplied, per channel in the order of `channels`.
    pub scale: [f32; 3],
}

/// From a picture's size to the model's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageResize {
    /// Scaled to cover size / 0.875, then the centre: the usual evaluation of an image classifier.
    Crop,
    /// Scaled to cover the size, then the centre: OpenCV's `blobFromImage(crop=True)`.
    Cover,
    /// Straight to the size, whatever that does to proportions: OpenCV's `blobFromImage(crop=False)`.
    Stretch,
}

/// Order of an image tensor's dimensions: N rows, C channels, H pixels down, W pixels across.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageLayout {
    /// `[N, 3, H, W]`.
    Nchw,
    /// `[N, H, W, 3]`.
    Nhwc,
}

/// Order of the colours in an image tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageChannels {
    /// Red first.
    Rgb,
    /// Blue first, as OpenCV holds pictures.
    Bgr,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(resize: &str) -> String {
        format!(
            r#"{{"input":"x","width":2,"height":3,"resize":"{resize}","layout":"nchw","channels":"bgr","mean":[0.0,0.0,0.0],"scale":[1.0,1.0,1.0]}}"#
        )
    }

    #[test]
    fn records_of_earlier_versions_read_and_write_the_same() {
        for resize in ["crop", "stretch", "cover"] {
            let spec: ImageSpec = serde_json::from_str(&record(resize)).unwrap();
            assert_eq!(serde_json::to_string(&spec).unwrap(), record(resize));
        }
    }

    #[test]
    fn an_unknown_word_is_an_error_that_names_the_known_ones() {
        let error = serde_json::from_str::<ImageSpec>(&record("fit")).unwrap_err().to_string();
        assert!(error.contains("`fit`") && error.contains("`crop`, `cover`, `stretch`"), "{error}");
    }
}
