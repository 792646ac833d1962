//! From a picture to a model's input, as its `sluice.toml` says.

use anyhow::Context as _;
use image::imageops::FilterType;
use image::{DynamicImage, ImageReader, RgbImage};
use policy::ImageSpec;
use std::path::Path;

/// Most pixels of a picture: 64 megapixels is more than any camera people upload from.
const PIXELS_MAX: u64 = 64 << 20;

/// Share of the shortest side that the centre crop keeps.
const CROP: f64 = 0.875;

/// Reads a JPEG or PNG within bounds.
pub(crate) fn read(path: &Path) -> anyhow::Result<DynamicImage> {
    let mut reader = ImageReader::open(path).with_context(|| format!("{}", path.display()))?.with_guessed_format()?;
    let mut limits = image::Limits::default();
    limits.max_alloc = Some(PIXELS_MAX.saturating_mul(4));
    reader.limits(limits);
    reader.decode().with_context(|| format!("{} is not a JPEG or PNG that can be read", path.display()))
}

/// Resizes, crops and normalises. The result is one element of the batch: `[1, 3, H, W]` or `[1, H, W, 3]` with its bytes.
pub(crate) fn prepare(picture: &DynamicImage, spec: &ImageSpec) -> anyhow::Result<(Vec<i64>, Vec<u8>)> {
    let picture = sized(picture, spec)?;
    let (height, width) = (usize::try_from(spec.height)?, usize::try_from(spec.width)?);
    let order: [usize; 3] = match spec.channels.as_str() {
        "rgb" => [0, 1, 2],
        "bgr" => [2, 1, 0],
        other => anyhow::bail!("channels {other:?}: expected rgb or bgr"),
    };
    let value = |pixel: &image::Rgb<u8>, place: usize| -> f32 {
        let channel = order.get(place).copied().unwrap_or(0);
        let get = |list: &[f32; 3], default| list.get(place).copied().unwrap_or(default);
        (f32::from(pixel.0.get(channel).copied().unwrap_or(0)) - get(&spec.mean, 0.0)) * get(&spec.scale, 1.0)
    };
    let mut bytes = Vec::with_capacity(height.saturating_mul(width).saturating_mul(12));
    let (h, w) = (i64::from(spec.height), i64::from(spec.width));
    let shape = match spec.layout.as_str() {
        "nchw" => {
            for place in 0..3 {
                picture.pixels().for_each(|p| bytes.extend_from_slice(&value(p, place).to_le_bytes()));
            }
            vec![1, 3, h, w]
        }
        "nhwc" => {
            picture.pixels().for_each(|p| (0..3).for_each(|place| bytes.extend_from_slice(&value(p, place).to_le_bytes())));
            vec![1, h, w, 3]
        }
        other => anyhow::bail!("layout {other:?}: expected nchw or nhwc"),
    };
    Ok((shape, bytes))
}

fn sized(picture: &DynamicImage, spec: &ImageSpec) -> anyhow::Result<RgbImage> {
    match spec.resize.as_str() {
        "stretch" => Ok(picture.resize_exact(spec.width, spec.height, FilterType::Triangle).to_rgb8()),
        "crop" => {
            // Both sides must cover the enlarged target; the longer one is cut.
            let grow = |side: u32| (f64::from(side) / CROP).round();
            let factor = (grow(spec.width) / f64::from(picture.width())).max(grow(spec.height) / f64::from(picture.height()));
            let side = |length: u32| ((f64::from(length) * factor).round() as u32).max(1);
            let resized = picture.resize_exact(side(picture.width()), side(picture.height()), FilterType::Triangle);
            let middle = |have: u32, want: u32| have.saturating_sub(want).checked_div(2).unwrap_or(0);
            let (x, y) = (middle(resized.width(), spec.width), middle(resized.height(), spec.height));
            Ok(resized.crop_imm(x, y, spec.width, spec.height).to_rgb8())
        }
        other => anyhow::bail!("resize {other:?}: expected crop or stretch"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(layout: &str, channels: &str) -> ImageSpec {
        ImageSpec {
            input: "x".into(),
            width: 2,
            height: 1,
            resize: "stretch".into(),
            layout: layout.into(),
            channels: channels.into(),
            mean: [1.0, 0.0, 0.0],
            scale: [1.0, 2.0, 1.0],
        }
    }

    fn values(layout: &str, channels: &str) -> (Vec<i64>, Vec<f32>) {
        let mut picture = RgbImage::new(2, 1);
        picture.put_pixel(0, 0, image::Rgb([1, 2, 3]));
        picture.put_pixel(1, 0, image::Rgb([4, 5, 6]));
        let (shape, bytes) = prepare(&picture.into(), &spec(layout, channels)).unwrap();
        (shape, bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect())
    }

    #[test]
    fn layout_channels_mean_and_scale_are_applied() {
        assert_eq!(values("nchw", "rgb"), (vec![1, 3, 1, 2], vec![0.0, 3.0, 4.0, 10.0, 3.0, 6.0]));
        assert_eq!(values("nhwc", "bgr"), (vec![1, 1, 2, 3], vec![2.0, 4.0, 1.0, 5.0, 10.0, 4.0]));
    }

    #[test]
    fn a_crop_keeps_the_middle() {
        let mut picture = RgbImage::new(40, 20);
        picture.enumerate_pixels_mut().filter(|(x, _, _)| (15..25).contains(x)).for_each(|(_, _, p)| *p = image::Rgb([255, 255, 255]));
        let spec = ImageSpec { width: 7, height: 14, resize: "crop".into(), mean: [0.0; 3], scale: [1.0; 3], ..spec("nchw", "rgb") };
        let (_, bytes) = prepare(&picture.into(), &spec).unwrap();
        assert!(bytes.chunks(4).all(|b| f32::from_le_bytes(b.try_into().unwrap()) > 200.0));
    }
}
