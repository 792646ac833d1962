//! Bytes as they came from the socket: a chain of slices that is read without being joined.

use bytes::{Buf, Bytes};
use smallvec::SmallVec;

/// A run of bytes in one or more slices. A tensor that came in one frame is one slice; nothing is copied to make it so.
#[derive(Debug, Clone, Default)]
pub struct Chain {
    parts: SmallVec<[Bytes; 2]>,
    /// Parts before this one are used up.
    head: usize,
    len: usize,
    /// Small parts at the end.
    small: usize,
}

/// A sender of one-byte frames must not cost a slice, and the buffer it points into, for each byte: so many parts smaller than that
/// become one. Frames of ordinary clients are larger and stay as they came.
const SMALL_BYTES: usize = 1 << 10;
const SMALL_PARTS_MAX: usize = 64;
/// Used-up parts that are kept before they are taken out together.
const USED_PARTS_MAX: usize = 32;

impl Chain {
    /// Adds a slice at the end.
    pub fn push(&mut self, part: Bytes) {
        if !part.is_empty() {
            self.len = self.len.saturating_add(part.len());
            self.small = if part.len() < SMALL_BYTES { self.small.saturating_add(1) } else { 0 };
            self.parts.push(part);
            if self.small >= SMALL_PARTS_MAX {
                self.join_small();
            }
        }
    }

    fn join_small(&mut self) {
        let from = self.parts.len().saturating_sub(self.small).max(self.head);
        let joined: Bytes = self.parts.iter().skip(from).flat_map(|part| part.iter().copied()).collect();
        self.parts.truncate(from);
        if !joined.is_empty() {
            self.parts.push(joined);
        }
        self.small = 0;
    }

    /// Bytes left.
    pub fn len(&self) -> usize {
        self.len
    }

    /// No bytes left.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The slices, in order.
    pub fn slices(&self) -> impl Iterator<Item = &Bytes> + Clone {
        self.parts.iter().skip(self.head)
    }

    /// Takes the first `len` bytes out as a chain of their own; `None` when there are fewer.
    pub fn split_front(&mut self, len: usize) -> Option<Chain> {
        if len > self.len {
            return None;
        }
        let mut out = Chain::default();
        self.take_front(len, |part, step| out.push(part.split_to(step)));
        Some(out)
    }

    /// Hands the first `len` bytes, which are there, to `take`, a slice at a time; it must take so many off the slice's front.
    fn take_front(&mut self, len: usize, mut take: impl FnMut(&mut Bytes, usize)) {
        let mut left = len;
        while left > 0 {
            let Some(part) = self.parts.get_mut(self.head) else { break };
            let step = left.min(part.len());
            take(part, step);
            if part.is_empty() {
                self.head = self.head.saturating_add(1);
            }
            left = left.saturating_sub(step);
        }
        self.len = self.len.saturating_sub(len);
        // Used-up parts go in time: over a long stream the chain may never be empty.
        if self.is_empty() || self.head >= USED_PARTS_MAX {
            self.parts.drain(..self.head.min(self.parts.len()));
            self.head = 0;
            self.small = self.small.min(self.parts.len());
        }
    }

    /// The whole as one slice: the slice itself when there is one, else a copy.
    pub fn into_bytes(mut self) -> Bytes {
        self.copy_to_bytes(self.len)
    }

    /// Copies everything into `target`, which must be exactly as long; false when it is not.
    pub fn copy_into(&self, target: &mut [u8]) -> bool {
        let mut rest = target;
        for part in self.slices() {
            if part.len() > rest.len() {
                return false;
            }
            let (now, later) = rest.split_at_mut(part.len());
            now.copy_from_slice(part);
            rest = later;
        }
        rest.is_empty()
    }
}

impl From<Bytes> for Chain {
    fn from(bytes: Bytes) -> Self {
        let mut chain = Self::default();
        chain.push(bytes);
        chain
    }
}

impl From<Vec<u8>> for Chain {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl Buf for Chain {
    fn remaining(&self) -> usize {
        self.len
    }

    fn chunk(&self) -> &[u8] {
        self.parts.get(self.head).map_or(&[], |p| p)
    }

    fn advance(&mut self, count: usize) {
        debug_assert!(count <= self.len, "advanced {count} bytes past the end");
        self.take_front(count.min(self.len), Bytes::advance);
    }

    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        let Some(taken) = self.split_front(len) else { return Bytes::new() };
        let mut slices = taken.parts.into_iter();
        match (slices.next(), slices.next()) {
            (None, _) => Bytes::new(),
            (Some(only), None) => only,
            (Some(first), Some(second)) => {
                let mut joined = bytes::BytesMut::with_capacity(len);
                joined.extend_from_slice(&first);
                joined.extend_from_slice(&second);
                slices.for_each(|s| joined.extend_from_slice(&s));
                joined.freeze()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_split_reads_as_the_whole(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..8), cut in 0usize..200) {
            let whole: Vec<u8> = parts.concat();
            let mut chain = Chain::default();
            parts.into_iter().for_each(|p| chain.push(p.into()));
            prop_assert_eq!(chain.len(), whole.len());
            match chain.split_front(cut) {
                None => prop_assert!(cut > whole.len()),
                Some(front) => {
                    prop_assert_eq!(&front.into_bytes()[..], &whole[..cut]);
                    let mut rest = vec![0; whole.len() - cut];
                    prop_assert!(chain.copy_into(&mut rest));
                    prop_assert_eq!(&rest[..], &whole[cut..]);
                }
            }
        }
    }

    #[test]
    fn a_flood_of_small_slices_is_joined_and_large_ones_are_not() {
        let mut chain = Chain::default();
        let bytes: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        for (i, byte) in bytes.iter().enumerate() {
            chain.push(Bytes::copy_from_slice(&[*byte]));
            if i == 1_000 {
                assert_eq!(chain.split_front(990).unwrap().into_bytes(), bytes[..990]);
            }
        }
        assert!(chain.slices().count() < 2_000, "{}", chain.slices().count());
        assert_eq!(chain.into_bytes(), bytes[990..]);
        let mut chain = Chain::default();
        (0..200).for_each(|_| chain.push(Bytes::from(vec![0; SMALL_BYTES])));
        assert_eq!(chain.slices().count(), 200);
    }

    #[test]
    fn a_chain_that_is_never_empty_does_not_keep_what_is_used_up() {
        let mut chain = Chain::from(Bytes::from(vec![0; 2_000]));
        for _ in 0..10_000 {
            chain.push(Bytes::from(vec![1; 2_000]));
            assert!(chain.split_front(2_000).is_some());
        }
        assert!(chain.parts.len() <= USED_PARTS_MAX + 2, "{}", chain.parts.len());
    }

    #[test]
    fn one_slice_stays_the_same_memory() {
        let bytes = Bytes::from(vec![1u8, 2, 3, 4]);
        let pointer = bytes.as_ptr();
        let mut chain = Chain::from(bytes);
        chain.advance(1);
        assert_eq!(chain.into_bytes().as_ptr(), pointer.wrapping_add(1));
    }
}
