//! Tensor bytes that are still arriving while a worker is chosen and the request goes on to it.
//!
//! The raw contents of a request come last. Where every input has a type of fixed size, what is in front of them says how long each will
//! be and where each begins, so a large request can be checked and sent on before it is here whole; that the bytes in between are those
//! that were promised is seen as they pass.

use bytes::{Buf as _, Bytes};
use http_body::{Body, Frame};
use policy::Failure;
use prost::encoding::{WireType, encode_key, encode_varint};
use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::chain::Chain;

/// Requests up to this length can be sent a second time; of longer ones what has been sent is forgotten.
pub const RETRY_BYTES_MAX: u64 = 8 << 20;
/// Field of a request that holds an input's bytes.
const RAW_FIELD: u32 = 7;

/// Where each input's bytes begin behind the head, and how long each is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// For each input, where its record begins, what it begins with and how many bytes follow.
    records: Vec<(u64, Vec<u8>, u64)>,
    total: u64,
}

impl Layout {
    /// Of inputs with so many bytes each.
    pub fn new(lengths: impl IntoIterator<Item = u64>) -> Self {
        let mut layout = Self { records: Vec::new(), total: 0 };
        for length in lengths {
            let mut start = Vec::with_capacity(8);
            encode_key(RAW_FIELD, WireType::LengthDelimited, &mut start);
            encode_varint(length, &mut start);
            let next = layout.total.saturating_add(start.len() as u64).saturating_add(length);
            layout.records.push((layout.total, start, length));
            layout.total = next;
        }
        layout
    }

    /// Bytes of all records.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Is `slice`, which lies at `at`, as it was promised wherever a record begins?
    fn fits(&self, at: u64, slice: &[u8]) -> bool {
        let end = at.saturating_add(slice.len() as u64);
        let near = self.records.iter().filter(|(from, start, _)| *from < end && from.saturating_add(start.len() as u64) > at);
        let mut begins = near.flat_map(|(from, start, _)| (*from..).zip(start));
        begins.all(|(place, byte)| {
            let within = place.checked_sub(at).and_then(|offset| slice.get(usize::try_from(offset).ok()?));
            within.is_none_or(|found| found == byte)
        })
    }

    /// The inputs' bytes in `records`, which are all here.
    fn split(&self, mut records: Chain) -> Option<Vec<Chain>> {
        let one = |(_, start, length): &(u64, Vec<u8>, u64)| {
            records.has_remaining().then(|| records.advance(start.len()))?;
            records.split_front(usize::try_from(*length).ok()?)
        };
        self.records.iter().map(one).collect()
    }
}

/// Whoever takes the bytes as they come. A clone begins at the first of them.
#[derive(Clone)]
pub struct Inflow(Arc<Shared>);

/// Whoever brings them.
pub struct Feeder(Arc<Shared>);

struct Shared {
    layout: Layout,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What has come, without what is forgotten.
    slices: VecDeque<Bytes>,
    /// Slices forgotten.
    forgotten: usize,
    /// Bytes that have come.
    arrived: u64,
    /// Set at the end: was it the right one?
    ended: Option<bool>,
    waiting: Vec<Waker>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wake(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.waiting)
    }
}

/// The two ends of an inflow of `layout`.
pub fn inflow(layout: Layout) -> (Feeder, Inflow) {
    let shared = Arc::new(Shared { layout, state: Mutex::default() });
    (Feeder(shared.clone()), Inflow(shared))
}

impl Feeder {
    /// More bytes.
    ///
    /// # Errors
    /// [`Failure::Malformed`] when they are not those that were promised.
    pub fn push(&mut self, slice: Bytes) -> Result<(), Failure> {
        let mut state = self.0.lock();
        let end = state.arrived.saturating_add(slice.len() as u64);
        if end > self.0.layout.total || !self.0.layout.fits(state.arrived, &slice) {
            let what = "raw_input_contents are not as long as the inputs' shapes say, or not in their order".to_owned();
            return Err(Failure::Malformed { what });
        }
        state.arrived = end;
        // When nobody takes them any more they are read only so that the stream can end in order.
        if Arc::strong_count(&self.0) > 1 && !slice.is_empty() {
            state.slices.push_back(slice);
        }
        let woken = state.wake();
        drop(state);
        woken.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Bytes that have not come yet.
    pub fn missing(&self) -> u64 {
        self.0.layout.total.saturating_sub(self.0.lock().arrived)
    }
}

impl Drop for Feeder {
    /// What is not whole by now never will be.
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.ended = Some(state.arrived == self.0.layout.total);
        let woken = state.wake();
        drop(state);
        woken.into_iter().for_each(Waker::wake);
    }
}

impl Inflow {
    /// Bytes of all records, here or not.
    pub fn total(&self) -> u64 {
        self.0.layout.total
    }

    /// Can they be taken from the first on?
    pub fn is_whole(&self) -> bool {
        self.0.lock().forgotten == 0
    }

    /// The body of a message that says `head` and then these bytes.
    pub(crate) fn body(&self, head: Bytes) -> InflowBody {
        InflowBody { head: Some(head), shared: self.0.clone(), next: 0 }
    }

    /// Waits for all; the inputs' bytes, in the layout's order.
    ///
    /// # Errors
    /// [`Failure::Cancelled`] when they do not come.
    pub async fn collect(self) -> Result<Vec<Chain>, Failure> {
        let mut body = self.body(Bytes::new());
        let mut records = Chain::default();
        while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            if let Ok(data) = frame.map_err(|Cut| Failure::Cancelled)?.into_data() {
                records.push(data);
            }
        }
        self.0.layout.split(records).ok_or(Failure::Cancelled)
    }
}

impl fmt::Debug for Inflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Inflow").field(&self.total()).finish()
    }
}

/// The bytes stopped coming: the message that they belong to must not be taken for one.
#[derive(Debug, thiserror::Error)]
#[error("the sender has gone before the end of its request")]
pub struct Cut;

/// A message as it comes.
pub(crate) struct InflowBody {
    head: Option<Bytes>,
    shared: Arc<Shared>,
    /// Slice to be sent next.
    next: usize,
}

impl Body for InflowBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if let Some(head) = self.head.take().filter(|head| !head.is_empty()) {
            return Poll::Ready(Some(Ok(Frame::data(head))));
        }
        let shared = self.shared.clone();
        let mut state = shared.lock();
        let slice = self.next.checked_sub(state.forgotten).and_then(|place| state.slices.get(place).cloned());
        match (slice, state.ended) {
            (Some(slice), _) => {
                self.next = self.next.saturating_add(1);
                if shared.layout.total > RETRY_BYTES_MAX {
                    while state.forgotten < self.next && state.slices.pop_front().is_some() {
                        state.forgotten = state.forgotten.saturating_add(1);
                    }
                }
                Poll::Ready(Some(Ok(Frame::data(slice))))
            }
            (None, Some(true)) if self.next >= state.forgotten => Poll::Ready(None),
            (None, Some(_)) => Poll::Ready(Some(Err(Cut))),
            (None, None) => {
                if !state.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                    state.waiting.push(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use proptest::prelude::*;

    /// The records of `tensors`.
    fn records(tensors: &[Vec<u8>]) -> Vec<u8> {
        let record = |tensor: &Vec<u8>| {
            let mut bytes = Vec::new();
            prost::encoding::bytes::encode(RAW_FIELD, tensor, &mut bytes);
            if tensor.is_empty() {
                bytes = vec![0x3a, 0];
            }
            bytes
        };
        tensors.iter().flat_map(record).collect()
    }

    fn layout(tensors: &[Vec<u8>]) -> Layout {
        Layout::new(tensors.iter().map(|tensor| tensor.len() as u64))
    }

    proptest! {
        #[test]
        fn however_it_is_cut_the_tensors_come_out_and_no_wrong_byte_of_a_start_passes(
            tensors in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..5),
            step in 1usize..40,
            wrong in any::<prop::sample::Index>(),
        ) {
            let (layout, bytes) = (layout(&tensors), records(&tensors));
            prop_assert_eq!(layout.total(), bytes.len() as u64);
            let (mut feeder, inflow) = inflow(layout.clone());
            for slice in bytes.chunks(step) {
                feeder.push(Bytes::copy_from_slice(slice)).unwrap();
            }
            prop_assert!(feeder.push(Bytes::from_static(b"x")).is_err(), "more than was promised");
            drop(feeder);
            let twice = [inflow.clone(), inflow];
            for inflow in twice {
                let out = inflow.collect().now_or_never().unwrap().unwrap();
                prop_assert_eq!(out.into_iter().map(|c| c.into_bytes().to_vec()).collect::<Vec<_>>(), tensors.clone());
            }
            let place = wrong.index(bytes.len()) as u64;
            let in_a_start = layout.records.iter().any(|(from, start, _)| (*from..*from + start.len() as u64).contains(&place));
            let mut bent = bytes.clone();
            bent[place as usize] ^= 1;
            let (mut feeder, _inflow) = super::inflow(layout);
            let all = bent.chunks(step).try_for_each(|slice| feeder.push(Bytes::copy_from_slice(slice)));
            prop_assert_eq!(all.is_err(), in_a_start);
        }
    }

    #[test]
    fn what_is_cut_is_never_taken_for_a_whole() {
        let tensors = [vec![1; 100]];
        let bytes = Bytes::from(records(&tensors));
        let (mut feeder, inflow) = inflow(layout(&tensors));
        let mut body = inflow.body(Bytes::from_static(b"head"));
        let mut next = || std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).now_or_never();
        assert_eq!(next().unwrap().unwrap().unwrap().into_data().unwrap(), "head");
        assert!(next().is_none(), "waits");
        feeder.push(bytes.slice(..50)).unwrap();
        assert_eq!(next().unwrap().unwrap().unwrap().into_data().unwrap().len(), 50);
        drop(feeder);
        assert!(next().unwrap().unwrap().is_err());
        assert!(inflow.collect().now_or_never().unwrap().is_err());
    }

    #[test]
    fn of_a_long_request_what_was_sent_is_forgotten() {
        let tensors = [vec![0; RETRY_BYTES_MAX as usize + 1]];
        let bytes = Bytes::from(records(&tensors));
        let (mut feeder, inflow) = inflow(layout(&tensors));
        bytes.chunks(1 << 20).for_each(|slice| feeder.push(bytes.slice_ref(slice)).unwrap());
        drop(feeder);
        assert!(inflow.is_whole());
        let again = inflow.clone();
        inflow.collect().now_or_never().unwrap().unwrap();
        assert!(!again.is_whole());
        assert_eq!(again.0.lock().slices.len(), 0);
        assert!(again.collect().now_or_never().unwrap().is_err(), "never half of it");
    }
}
