//! From the bytes of a JPEG or PNG file to pixels, within bounds that its header already decides.

use image::{ColorType, ImageDecoder as _, ImageFormat, ImageReader, Limits};
use std::io::Cursor;

/// Most bytes a decoder may hold besides the pixels: a row, a colour profile.
const BESIDES_BYTES_MAX: u64 = 64 << 20;
/// Decoded bytes per pixel of the limit: what 8-bit colour with alpha takes.
const PIXEL_BYTES: u64 = 4;
/// A JPEG may go over as many pixels as this many scans of the largest picture: progressive ones have about ten, and a
/// scan of a few bytes can go over all pixels.
const SCANS: u64 = 10;
/// Longest text of a decoder that is passed on, in characters.
const TEXT_MAX: usize = 200;

/// A decoded picture in the form its file has: grey or colour, with or without alpha, 8 or 16 bits.
pub(super) struct Pixels {
    /// Row by row, without padding.
    pub(super) bytes: Vec<u8>,
    pub(super) width: u32,
    pub(super) height: u32,
    /// Bytes from a pixel to the next.
    pub(super) step: usize,
    /// Where in a pixel the byte of red, of green and of blue lies.
    pub(super) rgb: [usize; 3],
}

/// Decodes as OpenCV's `imread(IMREAD_COLOR | IMREAD_IGNORE_ORIENTATION)` does: grey becomes three equal channels, a
/// palette its colours, alpha is left out, of 16 bits the higher 8 are kept, CMYK is converted; orientation in EXIF and
/// colour profiles are ignored. Of an animation it is the first picture.
///
/// # Errors
/// A text that goes on after "the picture …".
pub(super) fn decode(encoded: &[u8], pixels_max: u64) -> Result<Pixels, String> {
    if encoded.is_empty() {
        return Err("is empty".to_owned());
    }
    let format = match image::guess_format(encoded) {
        Ok(format @ (ImageFormat::Jpeg | ImageFormat::Png)) => format,
        Ok(other) => return Err(format!("is {}, expected JPEG or PNG", other.to_mime_type())),
        Err(_) => return Err("is neither JPEG nor PNG".to_owned()),
    };
    let scans = match format {
        // The decoder would fill what is missing with grey.
        ImageFormat::Jpeg => jpeg_scans(encoded).ok_or("is cut short: the JPEG has no end marker")?,
        _ => 1,
    };
    let unreadable = |error: image::ImageError| {
        let text: String = error.to_string().trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(TEXT_MAX).collect();
        format!("cannot be decoded: {text}")
    };
    let mut reader = ImageReader::with_format(Cursor::new(encoded), format);
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(BESIDES_BYTES_MAX);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(unreadable)?;

    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width).saturating_mul(u64::from(height));
    if pixels == 0 || pixels > pixels_max {
        return Err(format!("has {width}x{height} pixels, expected 1 to {pixels_max}"));
    }
    let (bytes, bytes_max) = (decoder.total_bytes(), pixels_max.saturating_mul(PIXEL_BYTES));
    if bytes > bytes_max {
        return Err(format!("has {bytes} bytes when decoded, the limit is {bytes_max}"));
    }
    if scans.saturating_mul(pixels) > pixels_max.saturating_mul(SCANS) {
        return Err(format!("has {scans} scans over {width}x{height} pixels, more than this server goes through"));
    }
    let (step, rgb) = places(decoder.color_type()).ok_or_else(|| format!("has colours in an unknown form ({:?})", decoder.color_type()))?;
    let mut bytes = vec![0; usize::try_from(bytes).map_err(|e| e.to_string())?];
    decoder.read_image(&mut bytes).map_err(unreadable)?;
    Ok(Pixels { bytes, width, height, step, rgb })
}

/// Bytes per pixel, and where in them the (higher) byte of red, green and blue is.
fn places(color: ColorType) -> Option<(usize, [usize; 3])> {
    let high = if cfg!(target_endian = "little") { 1 } else { 0 };
    Some(match color {
        ColorType::L8 => (1, [0; 3]),
        ColorType::La8 => (2, [0; 3]),
        ColorType::Rgb8 => (3, [0, 1, 2]),
        ColorType::Rgba8 => (4, [0, 1, 2]),
        ColorType::L16 => (2, [high; 3]),
        ColorType::La16 => (4, [high; 3]),
        ColorType::Rgb16 => (6, [0, 2, 4].map(|at: usize| at.saturating_add(high))),
        ColorType::Rgba16 => (8, [0, 2, 4].map(|at: usize| at.saturating_add(high))),
        _ => return None,
    })
}

/// Counts the scans up to a JPEG's end marker; `None` when there is no such marker.
fn jpeg_scans(bytes: &[u8]) -> Option<u64> {
    let mut scans: u64 = 0;
    let mut rest = bytes.get(2..)?;
    loop {
        // Between segments nothing should be skipped, in a scan's data nearly everything is.
        let prefix = rest.iter().position(|b| *b == 0xff)?;
        rest = rest.get(prefix.saturating_add(1)..)?;
        match *rest.first()? {
            0xff => {}                      // a fill byte: the next one decides
            0x00 | 0x01 | 0xd0..=0xd8 => {} // data, and markers without a length
            0xd9 => return Some(scans),
            marker => {
                let length = usize::from(u16::from_be_bytes([*rest.get(1)?, *rest.get(2)?]));
                rest = rest.get(length.saturating_add(1)..)?;
                scans = scans.saturating_add(u64::from(marker == 0xda));
            }
        }
    }
}
