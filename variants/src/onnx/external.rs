//! Weights in files beside the model.

use super::{map, pb};
use crate::VariantError;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Component, Path};

/// Smaller tensors stay in the model: shapes and scalars are read by shape inference.
const STAYS_MAX: usize = 1024;
/// Pages: so a runtime can map tensors.
const ALIGNMENT: u64 = 4096;

/// Gives every external tensor of `graph` its bytes, as slices of the mapped files.
pub(super) fn bring_in(graph: &mut pb::GraphProto, folder: &Path) -> Result<(), VariantError> {
    let mut files: BTreeMap<String, Bytes> = BTreeMap::new();
    for_each_tensor(graph, &mut |tensor| {
        if tensor.data_location() != pb::tensor_proto::DataLocation::External {
            return Ok(());
        }
        let entry = |key: &str| tensor.external_data.iter().find(|e| e.key() == key).map(|e| e.value().to_owned());
        let refuse = |reason: &str| VariantError::tensor(tensor.name(), reason);
        let number = |key: &str| entry(key).map(|text| text.parse::<usize>().map_err(|_| refuse(&format!("external {key} is no number"))));
        let location = entry("location").ok_or_else(|| refuse("external, but it is not said where"))?;
        if location.is_empty() || !Path::new(&location).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
            return Err(refuse(&format!("external data {location:?} must lie in the model's folder")));
        }
        let bytes = match files.get(&location) {
            Some(bytes) => bytes.clone(),
            None => files.entry(location.clone()).or_insert(map(&folder.join(&location))?).clone(),
        };
        let start = number("offset").transpose()?.unwrap_or(0);
        let length = number("length").transpose()?.unwrap_or(bytes.len().saturating_sub(start));
        let end = start.checked_add(length).filter(|end| *end <= bytes.len());
        let end = end.ok_or_else(|| refuse(&format!("{length} bytes at {start} are wanted, but {location} has {}", bytes.len())))?;
        tensor.raw_data = Some(bytes.slice(start..end));
        tensor.external_data.clear();
        tensor.data_location = None;
        Ok(())
    })
}

/// Writes larger tensors to `folder/name` and says so in `graph`.
pub(super) fn put_out(graph: &mut pb::GraphProto, folder: &Path, name: &str) -> Result<(), VariantError> {
    let path = folder.join(name);
    let fail = |e: std::io::Error| VariantError::file(&path, &e);
    let mut file = std::io::BufWriter::new(std::fs::File::create(&path).map_err(fail)?);
    let mut at: u64 = 0;
    for_each_tensor(graph, &mut |tensor| {
        let Some(raw) = tensor.raw_data.take_if(|raw| raw.len() > STAYS_MAX) else { return Ok(()) };
        let gap = at.next_multiple_of(ALIGNMENT).saturating_sub(at);
        let zeros = vec![0; usize::try_from(gap).unwrap_or(0)];
        file.write_all(&zeros).and_then(|()| file.write_all(&raw)).map_err(fail)?;
        at = at.saturating_add(gap);
        let pair = |key: &str, value: String| pb::StringStringEntryProto { key: Some(key.to_owned()), value: Some(value) };
        tensor.external_data =
            vec![pair("location", name.to_owned()), pair("offset", at.to_string()), pair("length", raw.len().to_string())];
        tensor.set_data_location(pb::tensor_proto::DataLocation::External);
        at = at.saturating_add(raw.len() as u64);
        Ok(())
    })?;
    let file = file.into_inner().map_err(|e| fail(e.into_error()))?;
    file.sync_all().map_err(fail)
}

/// Every tensor that is stored: initializers and attributes, in subgraphs too.
fn for_each_tensor(
    graph: &mut pb::GraphProto,
    act: &mut impl FnMut(&mut pb::TensorProto) -> Result<(), VariantError>,
) -> Result<(), VariantError> {
    graph.initializer.iter_mut().try_for_each(&mut *act)?;
    for attribute in graph.node.iter_mut().flat_map(|node| &mut node.attribute) {
        attribute.t.iter_mut().chain(&mut attribute.tensors).try_for_each(&mut *act)?;
        for inner in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            for_each_tensor(inner, act)?;
        }
    }
    Ok(())
}
