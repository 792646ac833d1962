//! Protobuf's encoding, read from a file through a small window.

use super::ScanError;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Bytes read at once: the fields between two weights.
const WINDOW: usize = 16 * 1024;

/// A part of the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    at: u64,
    end: u64,
}

impl Span {
    /// Its bytes.
    pub(super) fn length(self) -> u64 {
        self.end.saturating_sub(self.at)
    }
}

/// One field of a message.
pub(super) struct Field {
    pub(super) number: u64,
    pub(super) value: Value,
}

/// What it holds; fixed-size numbers are skipped, since nothing here needs one.
pub(super) enum Value {
    Number(u64),
    Span(Span),
    Skipped,
}

/// The file, with the bytes around the last place read.
pub(super) struct Source {
    file: File,
    size: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl Source {
    pub(super) fn new(file: File, size: u64) -> Self {
        Self { file, size, window: Vec::new(), window_at: 0 }
    }

    pub(super) fn whole(&self) -> Span {
        Span { at: 0, end: self.size }
    }

    /// Takes the next field from the front of `span`.
    pub(super) fn next(&mut self, span: &mut Span) -> Result<Option<Field>, ScanError> {
        if span.at >= span.end {
            return Ok(None);
        }
        let start = span.at;
        let tag = self.varint(span)?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint(span)?),
            1 => self.skip(span, 8)?,
            2 => {
                let length = self.varint(span)?;
                let inner = Span { at: span.at, end: span.at.saturating_add(length) };
                self.skip(span, length)?;
                Value::Span(inner)
            }
            5 => self.skip(span, 4)?,
            _ => return Err(self.malformed("a field of no known kind", start)),
        };
        match tag >> 3 {
            0 => Err(self.malformed("a field with number 0", start)),
            number => Ok(Some(Field { number, value })),
        }
    }

    /// Takes the next of the numbers that `span` holds one behind the other.
    pub(super) fn packed(&mut self, span: &mut Span) -> Result<Option<u64>, ScanError> {
        if span.at >= span.end {
            return Ok(None);
        }
        self.varint(span).map(Some)
    }

    /// The text in `span`.
    pub(super) fn text(&mut self, span: Span, limit: u64) -> Result<String, ScanError> {
        let length = span.length();
        if length > limit {
            return Err(ScanError::TooLarge { what: "bytes of a name", limit });
        }
        let bytes: Vec<u8> = (span.at..span.end).map(|at| self.byte(at)).collect::<Result<_, _>>()?;
        String::from_utf8(bytes).map_err(|_| self.malformed("a name that is not text", span.at))
    }

    fn skip(&self, span: &mut Span, length: u64) -> Result<Value, ScanError> {
        let start = span.at;
        span.at = span.at.saturating_add(length);
        if span.at > span.end {
            return Err(self.malformed("a field longer than what holds it", start));
        }
        Ok(Value::Skipped)
    }

    fn varint(&mut self, span: &mut Span) -> Result<u64, ScanError> {
        let (start, mut value) = (span.at, 0u64);
        for shift in (0..70).step_by(7) {
            if span.at >= span.end {
                return Err(self.malformed("an end inside a number", start));
            }
            let byte = self.byte(span.at)?;
            span.at = span.at.saturating_add(1);
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.malformed("a number of more than ten bytes", start))
    }

    fn byte(&mut self, at: u64) -> Result<u8, ScanError> {
        let cached = at.checked_sub(self.window_at).and_then(|i| self.window.get(usize::try_from(i).ok()?));
        if let Some(byte) = cached {
            return Ok(*byte);
        }
        self.window.resize(WINDOW, 0);
        let read = self.file.read_at(&mut self.window, at).map_err(|e| ScanError::Unreadable { reason: e.kind().to_string() })?;
        self.window.truncate(read);
        self.window_at = at;
        self.window.first().copied().ok_or_else(|| self.malformed("a file that shrinks while it is read", at))
    }

    fn malformed(&self, reason: &'static str, at: u64) -> ScanError {
        ScanError::Malformed { reason, at, size: self.size }
    }
}
