//! ONNX files, read and written. Weights stay slices of the mapped file until a pass replaces them, and a file of which nothing changed
//! is written back byte for byte.

mod external;
mod tensor;
#[cfg(test)]
mod tests;

pub use tensor::{floats, integers, make, raw};

use crate::VariantError;
use bytes::Bytes;
use prost::Message as _;
use std::io::Write as _;
use std::path::Path;

/// Messages of ONNX's own protocol file.
#[allow(missing_docs, clippy::all, rustdoc::all, reason = "generated; the protocol file has the words")]
pub mod pb {
    include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
}

/// Longest file written whole; protobuf ends at 2 GiB. What is longer has its weights beside it.
const WHOLE_MAX: usize = 1_900_000_000;

/// A model in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// The messages. Tensors of external files hold their bytes as if they were in it.
    pub proto: pb::ModelProto,
}

impl Model {
    /// Reads the model at `path`, its external files too, without copying weights. It should have been scanned before: a hostile
    /// file can decode to many times its size.
    ///
    /// # Errors
    /// [`VariantError::File`], [`VariantError::NotOnnx`].
    pub fn read(path: &Path) -> Result<Self, VariantError> {
        let bytes = map(path)?;
        let not_onnx = |reason: String| VariantError::NotOnnx { path: path.to_owned(), reason };
        let mut proto = pb::ModelProto::decode(bytes).map_err(|e| not_onnx(e.to_string()))?;
        let graph = proto.graph.as_mut().ok_or_else(|| not_onnx("it has no graph".to_owned()))?;
        external::bring_in(graph, path.parent().unwrap_or(Path::new("")))?;
        Ok(Self { proto })
    }

    /// The graph; an empty one cannot be, since [`Model::read`] refuses it.
    pub fn graph(&self) -> &pb::GraphProto {
        static EMPTY: std::sync::OnceLock<pb::GraphProto> = std::sync::OnceLock::new();
        self.proto.graph.as_ref().unwrap_or_else(|| EMPTY.get_or_init(pb::GraphProto::default))
    }

    /// The graph, to be changed.
    pub fn graph_mut(&mut self) -> &mut pb::GraphProto {
        self.proto.graph.get_or_insert_default()
    }

    /// Version of ONNX's own operator set.
    pub fn opset(&self) -> i64 {
        let own = self.proto.opset_import.iter().filter(|set| matches!(set.domain(), "" | "ai.onnx"));
        own.map(pb::OperatorSetIdProto::version).max().unwrap_or(1)
    }

    /// Makes operators of `domain` usable.
    pub fn import(&mut self, domain: &str, version: i64) {
        if !self.proto.opset_import.iter().any(|set| set.domain() == domain) {
            self.proto.opset_import.push(pb::OperatorSetIdProto { domain: Some(domain.to_owned()), version: Some(version) });
        }
    }

    /// The bytes of the file.
    pub fn encode(&self) -> Vec<u8> {
        self.proto.encode_to_vec()
    }

    /// Writes it as `folder/model.onnx`, its weights in `model.onnx.data` where one file would be too long.
    ///
    /// # Errors
    /// [`VariantError::File`].
    pub fn write(&self, folder: &Path) -> Result<(), VariantError> {
        let path = folder.join("model.onnx");
        if self.proto.encoded_len() <= WHOLE_MAX {
            return write_file(&path, &self.encode());
        }
        let mut outside = self.clone();
        external::put_out(outside.graph_mut(), folder, "model.onnx.data")?;
        write_file(&path, &outside.encode())
    }
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), VariantError> {
    let write = || {
        let mut file = std::fs::File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all() // a disk that is full may say so only here
    };
    write().map_err(|e| VariantError::file(path, &e))
}

/// A file's bytes, mapped.
fn map(path: &Path) -> Result<Bytes, VariantError> {
    let fail = |e: std::io::Error| VariantError::file(path, &e);
    let file = std::fs::File::open(path).map_err(fail)?;
    if file.metadata().map_err(fail)?.len() == 0 {
        return Ok(Bytes::new());
    }
    #[expect(unsafe_code, reason = "a map of a file that someone else shortens meanwhile ends this tool, which serves nobody")]
    // SAFETY: the map is read only; see above for what cannot be kept from happening.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(fail)?;
    Ok(Bytes::from_owner(map))
}
