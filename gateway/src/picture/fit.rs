//! From pixels to a model's size, as OpenCV's `resize(INTER_LINEAR)` on 8-bit pictures does it, bit by bit: sampled at
//! half-pixel centres, without smoothing, in fixed point. Only what is kept is computed, so a thin picture that is scaled
//! up to cover the size costs no more than another.

use super::decode::Pixels;
use policy::{ImageResize, ImageSpec};

/// Share of the side that [`ImageResize::Crop`] keeps.
const CROP: f64 = 0.875;
/// One, for OpenCV's weights of 11 bits.
const ONE: f32 = 2048.0;

/// The picture at the size of `spec`: `height` rows of `width` pixels of red, green and blue.
pub(super) fn fit(picture: &Pixels, spec: &ImageSpec) -> Vec<u8> {
    let grown = |side: u32| (f64::from(side) / CROP).round() as f32;
    let [columns, rows] = match spec.resize {
        ImageResize::Stretch => [stretched(picture.width, spec.width), stretched(picture.height, spec.height)],
        ImageResize::Cover => covered(picture, spec, spec.width as f32, spec.height as f32),
        ImageResize::Crop => covered(picture, spec, grown(spec.width), grown(spec.height)),
    };
    let row_bytes = (picture.width as usize).saturating_mul(picture.step);
    let row = |at: usize| {
        let start = at.saturating_mul(row_bytes);
        picture.bytes.get(start..start.saturating_add(row_bytes)).unwrap_or_default()
    };
    let columns: Vec<Tap> = columns.taps(picture.width, picture.step).collect();
    let mut out = Vec::with_capacity(columns.len().saturating_mul(spec.height as usize).saturating_mul(3));
    for down in rows.taps(picture.height, 1) {
        let (upper, lower) = (row(down.at), row(down.next));
        for across in &columns {
            out.extend(picture.rgb.map(|byte| down.blend(across.level(upper, byte), across.level(lower, byte))));
        }
    }
    out
}

/// One direction: `count` samples, the first at place `origin` of the scaled picture, each `scale` original pixels on.
struct Axis {
    origin: u32,
    count: u32,
    scale: f64,
}

/// The two original pixels that a sample lies between, and their weights of 11 bits.
struct Tap {
    at: usize,
    next: usize,
    weight_at: i32,
    weight_next: i32,
}

fn stretched(length: u32, size: u32) -> Axis {
    // OpenCV inverts the factor instead of dividing the other way; the last bit can decide.
    Axis { origin: 0, count: size, scale: 1.0 / (f64::from(size) / f64::from(length)) }
}

/// Both directions scaled by one factor so that the picture covers `width` by `height`, then the middle of the size wanted.
fn covered(picture: &Pixels, spec: &ImageSpec, width: f32, height: f32) -> [Axis; 2] {
    // In single precision, as blobFromImage has it.
    let factor = f64::from((width / picture.width as f32).max(height / picture.height as f32));
    let axis = |length: u32, size: u32| {
        let scaled = (f64::from(length) * factor).round_ties_even();
        let origin = ((scaled - f64::from(size)) / 2.0) as u32; // cut, as OpenCV's Point does; never below 0
        Axis { origin, count: size, scale: 1.0 / factor }
    };
    [axis(picture.width, spec.width), axis(picture.height, spec.height)]
}

impl Axis {
    /// Where each sample comes from in a line of `length` pixels, counted in steps of `step`.
    fn taps(self, length: u32, step: usize) -> impl Iterator<Item = Tap> {
        let last = i64::from(length.saturating_sub(1));
        (0..self.count).map(move |i| {
            let place = ((f64::from(self.origin) + f64::from(i) + 0.5) * self.scale - 0.5) as f32;
            let fraction = place - place.floor();
            let at = place.floor() as i64;
            // Beyond an edge both are the edge's pixel.
            let inside = |at: i64| usize::try_from(at.clamp(0, last)).unwrap_or(0).saturating_mul(step);
            Tap {
                at: inside(at),
                next: inside(at.saturating_add(1)),
                weight_at: ((1.0 - fraction) * ONE).round_ties_even() as i32,
                weight_next: (fraction * ONE).round_ties_even() as i32,
            }
        })
    }
}

// Levels are at most 255 and weights at most 2048, so sums stay below 2^21 and products below 2^27.
impl Tap {
    /// The level between two pixels of a row, times 2048. `byte` is the colour's place in a pixel.
    fn level(&self, row: &[u8], byte: usize) -> i32 {
        let get = |at: usize| row.get(at.saturating_add(byte)).map_or(0, |level| i32::from(*level));
        get(self.at) * self.weight_at + get(self.next) * self.weight_next
    }

    /// The level between two rows' levels, with the bits OpenCV drops on the way.
    fn blend(&self, upper: i32, lower: i32) -> u8 {
        let sum = (((upper >> 4) * self.weight_at) >> 16) + (((lower >> 4) * self.weight_next) >> 16);
        u8::try_from((sum + 2) >> 2).unwrap_or(u8::MAX)
    }
}
