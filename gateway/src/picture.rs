//! Pictures at the door: a model whose `sluice.toml` has an `[image]` takes JPEG and PNG files, one BYTES element each, on
//! an input named `image`, beside the tensor they become. OpenCV's `blobFromImage` gives the same tensor.
//!
//! Decoding runs on threads of its own, as many at once as there are cores, and every picture is bounded before it is
//! decoded: in file bytes, in pixels, and in the tensor it becomes.

mod decode;
mod fit;
mod tensor;
#[cfg(test)]
mod tests;

use bytes::{Buf as _, Bytes};
use futures_util::future::try_join_all;
use policy::check::check_request;
use policy::{DataType, Dims, Envelope, Failure, ImageLayout, ImageSpec, InputTensor, Shape, Signature, TensorSpec};
use proto::chain::Chain;
use std::sync::Arc;
use std::time::Duration;
use tensor::Element;
use tokio::sync::Semaphore;

/// The input that takes pictures.
const INPUT: &str = "image";

/// Bounds on pictures.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PictureLimits {
    /// Most bytes of one file.
    pub(crate) encoded_bytes: u64,
    /// Most pixels of one picture. Decoded they take up to four bytes each, in a progressive JPEG about ten.
    pub(crate) pixels: u64,
    /// Most pictures of a request.
    pub(crate) pictures: u64,
    /// Most bytes of the tensor they become.
    pub(crate) tensor_bytes: u64,
    /// Pictures decoded at once in this process.
    pub(crate) at_once: usize,
    /// How long a request waits for all of its pictures.
    pub(crate) wait: Duration,
}

impl Default for PictureLimits {
    fn default() -> Self {
        Self {
            encoded_bytes: 16 << 20,
            pixels: 50_000_000,
            pictures: 64,
            tensor_bytes: 64 << 20,
            at_once: std::thread::available_parallelism().map_or(1, usize::from),
            wait: Duration::from_secs(5),
        }
    }
}

/// Does the request bring pictures to be prepared? False for a model that has an input named `image` itself.
pub(crate) fn wants(spec: Option<&ImageSpec>, signature: &Signature, envelope: &Envelope) -> bool {
    let pictures = |input: &InputTensor| input.name == INPUT && input.datatype == DataType::Bytes.as_str();
    spec.is_some() && signature.input(INPUT).is_none() && envelope.inputs.iter().any(pictures)
}

/// Prepares pictures; one per process, since its bounds are the process's.
pub(crate) struct Pictures {
    limits: PictureLimits,
    threads: Arc<Semaphore>,
}

impl Pictures {
    pub(crate) fn new(limits: PictureLimits) -> Self {
        Self { limits, threads: Arc::new(Semaphore::new(limits.at_once)) }
    }

    /// Puts the tensor that `spec` asks for in the place of the input `image`, in `envelope` and in `raw`. The request as
    /// it will be is checked before anything is decoded. Dropping the future gives up what has not started.
    ///
    /// # Errors
    /// What [`check_request`] says, BYTES lengths that lie, a limit, a picture that cannot be decoded, and
    /// [`Failure::Refused`] when it takes too long.
    pub(crate) async fn replace(
        &self,
        spec: &ImageSpec,
        signature: &Signature,
        envelope: &mut Envelope,
        raw: &mut [Chain],
    ) -> Result<(), Failure> {
        let index = envelope.inputs.iter().position(|input| input.name == INPUT);
        let Some((input, chain)) = index.and_then(|i| envelope.inputs.get_mut(i).zip(raw.get_mut(i))) else { return Ok(()) };
        let tensor = signature.input(&spec.input).ok_or_else(|| unsupported(spec, "the model has no such input".to_owned()))?;
        let encoded = self.elements(&input.shape, std::mem::take(chain))?;
        let target = self.target(spec, tensor, encoded.len())?;
        *input = InputTensor {
            name: tensor.name.clone(),
            datatype: tensor.datatype.to_string(),
            shape: target.shape,
            parameters: Vec::new(), // they were about the files
            byte_length: target.bytes,
        };
        check_request(signature, envelope)?;
        *chain = self.prepare(spec, tensor, encoded).await?.1;
        Ok(())
    }

    /// Decodes, fits and normalises `encoded` files into the tensor of the model's input `input`, a row each, in order.
    /// Gives its shape, `[n, 3, h, w]` or `[n, h, w, 3]` (without `n` where the input has three dimensions), and its bytes.
    ///
    /// # Errors
    /// As for [`Pictures::replace`].
    pub(crate) async fn prepare(&self, spec: &ImageSpec, input: &TensorSpec, encoded: Vec<Bytes>) -> Result<(Shape, Chain), Failure> {
        let target = self.target(spec, input, encoded.len())?;
        let (element, spec) = (target.element, Arc::new(spec.clone()));
        let rows = encoded.into_iter().enumerate().map(|(i, file)| self.row(i.saturating_add(1), file, spec.clone(), element));
        let rows = tokio::time::timeout(self.limits.wait, try_join_all(rows)).await.map_err(|_| {
            let (ms, at_once) = (self.limits.wait.as_millis(), self.limits.at_once);
            Failure::Refused {
                what: format!("input `{INPUT}`: not prepared within {ms} ms, with pictures decoded {at_once} at once: retry later"),
            }
        })??;
        let mut chain = Chain::default();
        rows.into_iter().for_each(|row| chain.push(row.into()));
        Ok((target.shape, chain))
    }

    /// One picture, on a thread of its own.
    async fn row(&self, number: usize, file: Bytes, spec: Arc<ImageSpec>, element: Element) -> Result<Vec<u8>, Failure> {
        let bad = |what: String| bytes(format!("picture {number} {what}"));
        let (got, limit) = (file.len() as u64, self.limits.encoded_bytes);
        if got > limit {
            return Err(Failure::Limit { what: format!("bytes of picture {number} in input `{INPUT}`"), got, limit });
        }
        let Ok(permit) = self.threads.clone().acquire_owned().await else { return Err(Failure::Cancelled) };
        let pixels_max = self.limits.pixels;
        let work = move || {
            let _permit = permit; // until the work ends, even when nobody waits for it any more
            let picture = decode::decode(&file, pixels_max)?;
            Ok(element.row(&fit::fit(&picture, &spec), &spec))
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result.map_err(bad),
            Err(_) => Err(bad("cannot be decoded: the decoder failed on it".to_owned())),
        }
    }

    /// The elements of a BYTES tensor of `shape`. They may be larger than those that go on to a worker.
    fn elements(&self, shape: &[i64], mut chain: Chain) -> Result<Vec<Bytes>, Failure> {
        let count = shape.iter().try_fold(1u64, |n, dim| u64::try_from(*dim).ok().map(|dim| n.saturating_mul(dim)));
        let Some(count) = count else {
            return Err(Failure::BadShape { input: INPUT.to_owned(), got: Dims::from(shape), why: "has a negative dimension" });
        };
        self.pictures(count)?;
        let mut elements = Vec::new();
        for number in 1..=count {
            if chain.is_empty() {
                return Err(bytes(format!("expected {count} elements, got {}", number.saturating_sub(1))));
            }
            let length = chain.try_get_u32_le().map_err(|_| bytes(format!("ends inside the length of element {number}")))?;
            let left = chain.len();
            let element = chain.split_front(length as usize);
            elements.push(element.ok_or_else(|| bytes(format!("element {number} claims {length} bytes, {left} are left")))?.into_bytes());
        }
        if chain.is_empty() { Ok(elements) } else { Err(bytes(format!("expected {count} elements, found more"))) }
    }

    fn pictures(&self, got: u64) -> Result<(), Failure> {
        match (got, self.limits.pictures) {
            (0, _) => Err(bytes("has no picture".to_owned())),
            (got, limit) if got > limit => Err(Failure::Limit { what: format!("pictures in input `{INPUT}`"), got, limit }),
            _ => Ok(()),
        }
    }

    /// What `count` pictures become.
    fn target(&self, spec: &ImageSpec, input: &TensorSpec, count: usize) -> Result<Target, Failure> {
        let count = count as u64;
        self.pictures(count)?;
        let element = Element::of(input.datatype)
            .ok_or_else(|| unsupported(spec, format!("its datatype is {}, expected FP32, FP16 or UINT8", input.datatype)))?;
        let (h, w) = (i64::from(spec.height), i64::from(spec.width));
        let row = match spec.layout {
            ImageLayout::Nchw => [3, h, w],
            ImageLayout::Nhwc => [h, w, 3],
        };
        let shape = match input.shape.len() {
            4 => std::iter::once(count.cast_signed()).chain(row).collect(),
            3 if count == 1 => Shape::from_slice(&row),
            3 => return Err(bytes(format!("has {count} pictures, expected 1: the model takes no batches"))),
            _ => return Err(unsupported(spec, format!("its shape is {}, expected three or four dimensions", Dims(input.shape.clone())))),
        };
        let size = input.datatype.size().unwrap_or(0) as u64;
        let bytes = shape.iter().fold(size, |n, dim| n.saturating_mul(dim.unsigned_abs()));
        let limit = self.limits.tensor_bytes;
        if bytes > limit {
            return Err(Failure::Limit { what: format!("bytes of the tensor that input `{INPUT}` becomes"), got: bytes, limit });
        }
        Ok(Target { shape, bytes, element })
    }
}

/// The tensor that pictures become.
struct Target {
    shape: Shape,
    bytes: u64,
    element: Element,
}

fn bytes(what: String) -> Failure {
    Failure::BytesTensor { input: INPUT.to_owned(), what }
}

/// The model's settings ask for what cannot be.
fn unsupported(spec: &ImageSpec, why: String) -> Failure {
    Failure::Unsupported { what: format!("a picture for the model's input `{}`", spec.input), why }
}
