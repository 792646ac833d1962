//! NumPy's files: an array in a `.npy`, several in a `.npz`.

use bytes::Bytes;
use npyz::{DType, NpyFile, TypeChar};
use policy::DataType;
use std::io::{BufReader, Read};
use std::path::Path;

/// An array as it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Element type.
    pub datatype: DataType,
    /// Dimensions, outermost first.
    pub shape: Vec<i64>,
    /// Elements in row-major order, little-endian.
    pub data: Bytes,
}

/// The array in the `.npy` file at `path`.
///
/// # Errors
/// What is wrong with the file, for people; the path is not in it.
pub fn read(path: &Path) -> Result<Array, String> {
    array(BufReader::new(std::fs::File::open(path).map_err(|e| e.to_string())?))
}

/// The arrays in the `.npz` file at `path`, by their names.
///
/// # Errors
/// As [`read`].
pub fn read_archive(path: &Path) -> Result<Vec<(String, Array)>, String> {
    let not_npz = |e: zip::result::ZipError| format!("not a NumPy .npz file: {e}");
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    let mut archive = zip::ZipArchive::new(BufReader::new(file)).map_err(not_npz)?;
    let mut found = Vec::new();
    for at in 0..archive.len() {
        let member = archive.by_index(at).map_err(not_npz)?;
        let Some(name) = member.name().map_err(not_npz)?.strip_suffix(".npy").map(str::to_owned) else { continue };
        let array = array(member).map_err(|reason| format!("`{name}`: {reason}"))?;
        found.push((name, array));
    }
    Ok(found)
}

fn array(reader: impl Read) -> Result<Array, String> {
    let file = NpyFile::new(reader).map_err(|e| format!("not a NumPy file: {e}"))?;
    if file.order() != npyz::Order::C {
        return Err("in Fortran order: save np.ascontiguousarray(x)".to_owned());
    }
    let unknown = || format!("a type that tensors do not have: {}", file.dtype().descr());
    let datatype = datatype(&file.dtype()).ok_or_else(unknown)?;
    let shape = file.shape().iter().map(|d| i64::try_from(*d)).collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
    let wanted = file.shape().iter().fold(datatype.size().unwrap_or(0) as u64, |n, d| n.saturating_mul(*d));
    let mut data = Vec::new();
    file.into_inner().take(wanted).read_to_end(&mut data).map_err(|e| e.to_string())?;
    if data.len() as u64 != wanted {
        return Err(format!("cut short: {} of {wanted} bytes", data.len()));
    }
    Ok(Array { datatype, shape, data: data.into() })
}

fn datatype(dtype: &DType) -> Option<DataType> {
    let DType::Plain(text) = dtype else { return None };
    if text.endianness() == npyz::Endianness::Big {
        return None;
    }
    Some(match (text.type_char(), text.size_field()) {
        (TypeChar::Bool, _) => DataType::Bool,
        (TypeChar::Uint, 1) => DataType::Uint8,
        (TypeChar::Uint, 2) => DataType::Uint16,
        (TypeChar::Uint, 4) => DataType::Uint32,
        (TypeChar::Uint, 8) => DataType::Uint64,
        (TypeChar::Int, 1) => DataType::Int8,
        (TypeChar::Int, 2) => DataType::Int16,
        (TypeChar::Int, 4) => DataType::Int32,
        (TypeChar::Int, 8) => DataType::Int64,
        (TypeChar::Float, 2) => DataType::Fp16,
        (TypeChar::Float, 4) => DataType::Fp32,
        (TypeChar::Float, 8) => DataType::Fp64,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `.npy` file whose header says `shape`, with `data` behind it.
    fn file(shape: &str, data: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
        let length = u16::try_from(header.len()).unwrap().to_le_bytes();
        [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), data].concat()
    }

    #[test]
    fn a_header_that_lies_is_an_error_whatever_it_says() {
        let fine = array(&file("(2, 1)", &[0; 8])[..]).unwrap();
        assert_eq!((fine.shape, fine.data.len()), (vec![2, 1], 8));
        for (shape, said) in [("(3, 1)", "cut short: 8 of 12"), ("(1099511627776, 1099511627776)", "cut short")] {
            let error = array(&file(shape, &[0; 8])[..]).unwrap_err();
            assert!(error.contains(said), "{shape}: {error}");
        }
        assert!(array(&b"nothing"[..]).is_err());
    }
}
