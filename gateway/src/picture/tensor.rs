//! From red, green and blue levels to the bytes of a tensor.

use policy::{DataType, ImageChannels, ImageLayout, ImageSpec};

/// An element type that pictures can become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    Fp32,
    Fp16,
    /// Rounded to the nearest, and kept within 0 to 255.
    Uint8,
}

impl Element {
    /// `None` for types that pictures do not become.
    pub(super) fn of(datatype: DataType) -> Option<Self> {
        match datatype {
            DataType::Fp32 => Some(Self::Fp32),
            DataType::Fp16 => Some(Self::Fp16),
            DataType::Uint8 => Some(Self::Uint8),
            _ => None,
        }
    }

    /// One picture of `rgb` levels as little-endian elements in the layout and the order of colours that `spec` says.
    pub(super) fn row(self, rgb: &[u8], spec: &ImageSpec) -> Vec<u8> {
        match self {
            Self::Fp32 => row(rgb, spec, f32::to_le_bytes),
            Self::Fp16 => row(rgb, spec, |value| half::f16::from_f32(value).to_le_bytes()),
            Self::Uint8 => row(rgb, spec, |value| [value.round_ties_even() as u8]),
        }
    }
}

fn row<const N: usize>(rgb: &[u8], spec: &ImageSpec, encode: impl Fn(f32) -> [u8; N]) -> Vec<u8> {
    let sources: [usize; 3] = match spec.channels {
        ImageChannels::Rgb => [0, 1, 2],
        ImageChannels::Bgr => [2, 1, 0],
    };
    // A colour has 256 levels, so each is normalised and encoded once.
    let places = sources.into_iter().zip(spec.mean.into_iter().zip(spec.scale)).map(|(source, (mean, scale))| {
        let levels: [[u8; N]; 256] = std::array::from_fn(|level| encode((level as f32 - mean) * scale));
        move |pixel: &[u8; 3]| {
            let level = pixel.get(source).map_or(0, |level| usize::from(*level));
            levels.get(level).copied().unwrap_or([0; N])
        }
    });
    let places: Vec<_> = places.collect();
    let pixels = rgb.as_chunks::<3>().0;
    let mut out = Vec::with_capacity(rgb.len().saturating_mul(N));
    match spec.layout {
        ImageLayout::Nchw => places.iter().for_each(|place| pixels.iter().for_each(|pixel| out.extend_from_slice(&place(pixel)))),
        ImageLayout::Nhwc => pixels.iter().for_each(|pixel| places.iter().for_each(|place| out.extend_from_slice(&place(pixel)))),
    }
    out
}
