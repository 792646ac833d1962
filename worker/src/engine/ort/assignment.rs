//! Which execution provider took which part of a graph, as the session itself tells (I6).
#![allow(unsafe_code, reason = "the `ort` crate has no safe call for this part of the C API")]

use super::message::EngineResult;
use ::ort::session::Session;
use ::ort::{AsPointer, Error, sys};
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::ptr;

/// Session option without which there is nothing to read.
pub(super) const RECORD: &str = "session.record_ep_graph_assignment_info";

/// Nodes per provider, most nodes first.
pub(super) fn read(session: &Session) -> EngineResult<Vec<(String, usize)>> {
    let mut counts = BTreeMap::<String, usize>::new();
    let (mut subgraphs, mut subgraph_count) = (ptr::null(), 0);
    // SAFETY: the session lives; the call fills in an array that belongs to it, or gives an error.
    unsafe { check((::ort::api().Session_GetEpGraphAssignmentInfo)(session.ptr(), &mut subgraphs, &mut subgraph_count)) }?;
    for i in 0..subgraph_count {
        // SAFETY: `i` is within the array just given.
        let subgraph: *const sys::OrtEpAssignedSubgraph = unsafe { *subgraphs.add(i) };
        let mut name = ptr::null();
        // SAFETY: the subgraph belongs to the living session; the name given does too.
        unsafe { check((::ort::api().EpAssignedSubgraph_GetEpName)(subgraph, &mut name)) }?;
        let (mut nodes, mut node_count) = (ptr::null(), 0);
        // SAFETY: as above; of the nodes only the count is used.
        unsafe { check((::ort::api().EpAssignedSubgraph_GetNodes)(subgraph, &mut nodes, &mut node_count)) }?;
        // SAFETY: a string of the session, ended by a null byte.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
        let count = counts.entry(name).or_default();
        *count = count.saturating_add(node_count);
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, nodes)| std::cmp::Reverse(*nodes));
    Ok(counts)
}

/// # Safety
/// `status` comes straight from a call of the runtime.
unsafe fn check(status: sys::OrtStatusPtr) -> EngineResult<()> {
    // SAFETY: as promised by the caller.
    unsafe { Error::result_from_status(status) }
}
