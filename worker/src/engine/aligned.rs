//! Inputs at an address that suits their type.

/// A cache line, which suits every type.
const ALIGN: usize = 64;

/// `data` at such an address in `scratch`. Kept by the caller, since fresh pages cost more than the copy.
pub(super) fn copy<'a>(data: &[u8], scratch: &'a mut Vec<u8>) -> &'a [u8] {
    scratch.resize(data.len().saturating_add(ALIGN), 0);
    let start = scratch.as_ptr().align_offset(ALIGN);
    match scratch.get_mut(start..).and_then(|s| s.get_mut(..data.len())) {
        Some(room) => {
            room.copy_from_slice(data);
            room
        }
        None => &[], // never: 64 spare bytes hold an aligned start
    }
}
