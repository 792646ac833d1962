//! `data` of an input: from JSON text to raw little-endian bytes in one pass, without recursion and without a tree.

use super::json::shown;
use super::limits::NESTING_MAX;
use bytes::{BufMut, Bytes, BytesMut};
use policy::{DataType, Dims, Failure, InputTensor};

/// The raw bytes of `data`, a well-formed JSON value: arrays nested at will are read row by row, `elements` scalars are wanted.
///
/// # Errors
/// [`Failure::TypedContents`] for a value that is not of `datatype` and for another number of values than `elements`;
/// [`Failure::Limit`] for arrays nested too deep.
pub(super) fn to_raw(input: &InputTensor, datatype: DataType, data: &str, elements: u64) -> Result<Bytes, Failure> {
    let mut out = BytesMut::with_capacity(room(datatype, elements, data.len()));
    let job = Job { input, datatype, data, elements };
    let out = &mut out;
    match datatype {
        DataType::Bool => job.fill(out, |out, text| put(out, bool(text)?)),
        DataType::Uint8 => job.fill(out, |out, text| put(out, text.parse::<u8>().ok()?.to_le_bytes())),
        DataType::Uint16 => job.fill(out, |out, text| put(out, text.parse::<u16>().ok()?.to_le_bytes())),
        DataType::Uint32 => job.fill(out, |out, text| put(out, text.parse::<u32>().ok()?.to_le_bytes())),
        DataType::Uint64 => job.fill(out, |out, text| put(out, text.parse::<u64>().ok()?.to_le_bytes())),
        DataType::Int8 => job.fill(out, |out, text| put(out, text.parse::<i8>().ok()?.to_le_bytes())),
        DataType::Int16 => job.fill(out, |out, text| put(out, text.parse::<i16>().ok()?.to_le_bytes())),
        DataType::Int32 => job.fill(out, |out, text| put(out, text.parse::<i32>().ok()?.to_le_bytes())),
        DataType::Int64 => job.fill(out, |out, text| put(out, text.parse::<i64>().ok()?.to_le_bytes())),
        // A number too large parses as infinity.
        DataType::Fp32 => job.fill(out, |out, text| put(out, text.parse().ok().filter(|v: &f32| v.is_finite())?.to_le_bytes())),
        DataType::Fp64 => job.fill(out, |out, text| put(out, text.parse().ok().filter(|v: &f64| v.is_finite())?.to_le_bytes())),
        DataType::Bytes => job.fill(out, string),
        DataType::Fp16 | DataType::Bf16 => {
            Err(job.wrong(format!("{datatype} values cannot be sent as JSON: send them as binary data, with binary_data_size")))
        }
    }?;
    Ok(out.split().freeze())
}

/// Bytes to reserve. The shape is only a claim: what has come bounds it, as an element takes a byte of JSON and all but the last a comma.
pub(super) fn room(datatype: DataType, elements: u64, data_len: usize) -> usize {
    let count_max = usize::try_from(elements).unwrap_or(usize::MAX).min(data_len.div_ceil(2));
    datatype.size().map_or(data_len, |size| count_max.saturating_mul(size))
}

fn put<const N: usize>(out: &mut BytesMut, value: [u8; N]) -> Option<()> {
    out.put_slice(&value);
    Some(())
}

fn bool(text: &str) -> Option<[u8; 1]> {
    match text {
        "true" | "1" => Some([1]),
        "false" | "0" => Some([0]),
        _ => None,
    }
}

/// A BYTES element: its length and the string's bytes.
fn string(out: &mut BytesMut, text: &str) -> Option<()> {
    let inside = text.strip_prefix('"')?.strip_suffix('"')?;
    let unescaped: String;
    let value = if inside.contains('\\') {
        unescaped = serde_json::from_str(text).ok()?;
        unescaped.as_bytes()
    } else {
        inside.as_bytes()
    };
    out.put_u32_le(u32::try_from(value.len()).ok()?);
    out.put_slice(value);
    Some(())
}

struct Job<'a> {
    input: &'a InputTensor,
    datatype: DataType,
    data: &'a str,
    elements: u64,
}

impl Job<'_> {
    /// Puts every scalar into `out`. `put` returns `None` for one that is not a value of the datatype.
    fn fill(&self, out: &mut BytesMut, put: impl Fn(&mut BytesMut, &str) -> Option<()>) -> Result<(), Failure> {
        let mut scalars = Scalars { rest: self.data, depth: 0 };
        let mut count = 0u64;
        while let Some(text) = scalars.next().map_err(|stop| self.stopped(&stop))? {
            // Beyond what the shape has, scalars are only counted.
            if count < self.elements {
                put(out, text).ok_or_else(|| self.bad_value(count, text))?;
            }
            count = count.saturating_add(1);
        }
        if count == self.elements {
            return Ok(());
        }
        let shape = Dims::from(self.input.shape.as_slice());
        Err(self.wrong(format!("shape {shape} has {} elements, data has {count}", self.elements)))
    }

    fn wrong(&self, what: String) -> Failure {
        Failure::TypedContents { input: self.input.name.clone(), what }
    }

    fn stopped(&self, stop: &Stop) -> Failure {
        match stop {
            Stop::Object => self.wrong("data has an object in it: arrays of values are expected".to_owned()),
            Stop::Deep => Failure::Limit {
                what: format!("nesting depth of the data of input `{}`", self.input.name),
                got: NESTING_MAX as u64 + 1,
                limit: NESTING_MAX as u64,
            },
        }
    }

    fn bad_value(&self, index: u64, text: &str) -> Failure {
        let expected = match self.datatype {
            DataType::Bool => "true, false, 0 or 1",
            DataType::Bytes => "a string of whole Unicode characters",
            DataType::Fp32 | DataType::Fp64 => "a number in its range",
            _ => "a whole number in its range, without fraction or exponent",
        };
        self.wrong(format!("value {} of element {index} does not fit datatype {}: expected {expected}", shown(text), self.datatype))
    }
}

/// The scalars in a well-formed JSON text of nested arrays, in order.
struct Scalars<'a> {
    rest: &'a str,
    /// Arrays open around `rest`.
    depth: usize,
}

/// Why there are no more scalars to be had.
enum Stop {
    Object,
    Deep,
}

impl<'a> Scalars<'a> {
    /// The next scalar's text, quotes included; `None` behind the last.
    fn next(&mut self) -> Result<Option<&'a str>, Stop> {
        while let Some(byte) = self.rest.as_bytes().first() {
            let len = match byte {
                b'[' if self.depth >= NESTING_MAX => return Err(Stop::Deep),
                b'{' => return Err(Stop::Object),
                b'[' => {
                    self.depth = self.depth.saturating_add(1);
                    0
                }
                b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    0
                }
                b',' | b' ' | b'\t' | b'\n' | b'\r' => 0,
                b'"' => string_len(self.rest.as_bytes()),
                _ => self.rest.bytes().take_while(|byte| !matches!(byte, b',' | b']' | b' ' | b'\t' | b'\n' | b'\r')).count(),
            };
            let (scalar, rest) = self.rest.split_at_checked(len.max(1)).unwrap_or((self.rest, ""));
            self.rest = rest;
            if len > 0 {
                return Ok(Some(scalar));
            }
        }
        Ok(None)
    }
}

/// Length of the JSON string that `text` begins with, quotes included.
fn string_len(text: &[u8]) -> usize {
    let mut len = 1usize;
    loop {
        let rest = text.get(len..).unwrap_or_default();
        let Some(plain) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\')) else { return text.len() };
        len = len.saturating_add(plain).saturating_add(1);
        if rest.get(plain) == Some(&b'"') {
            return len;
        }
        len = len.saturating_add(1); // what the backslash escapes
    }
}
