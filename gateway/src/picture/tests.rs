//! `fixtures.txt` is written by tests/py/image_fixtures.py: small pictures, and what OpenCV makes of them.

use super::decode::{Pixels, decode};
use super::fit::fit;
use super::*;
use policy::{Code, ImageChannels, ImageResize};

const PIXELS: u64 = 1 << 20;

fn fixture(name: &str) -> Vec<u8> {
    let line = include_str!("fixtures.txt").lines().find_map(|line| line.split_once(' ').filter(|(n, _)| *n == name));
    let hex = line.unwrap_or_else(|| panic!("no fixture {name}")).1.as_bytes();
    hex.as_chunks::<2>().0.iter().map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn spec(width: u32, height: u32, resize: ImageResize) -> ImageSpec {
    let (layout, channels) = (ImageLayout::Nchw, ImageChannels::Rgb);
    ImageSpec { input: "x".to_owned(), width, height, resize, layout, channels, mean: [0.0; 3], scale: [1.0; 3] }
}

fn input(datatype: DataType, shape: &[i64]) -> TensorSpec {
    TensorSpec { name: "x".to_owned(), datatype, shape: shape.to_vec(), optional: false, graph_shape: None }
}

fn signature() -> Signature {
    Signature::complete(vec![input(DataType::Fp32, &[-1, 3, 3, 4])], vec![], None)
}

fn levels(picture: &Pixels) -> Vec<u8> {
    picture.bytes.chunks(picture.step).flat_map(|pixel| picture.rgb.map(|at| pixel[at])).collect()
}

fn difference(a: &[u8], b: &[u8]) -> u8 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

fn floats(chain: Chain) -> Vec<f32> {
    chain.into_bytes().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// A BYTES tensor.
fn framed(files: &[&[u8]]) -> Chain {
    let whole: Vec<u8> = files.iter().flat_map(|f| [&u32::try_from(f.len()).unwrap().to_le_bytes(), *f].concat()).collect();
    let (one, two) = whole.split_at(whole.len() / 2); // as from two frames
    let mut chain = Chain::from(one.to_vec());
    chain.push(two.to_vec().into());
    chain
}

fn request(shape: &[i64], chain: &Chain) -> Envelope {
    let image = InputTensor {
        name: "image".to_owned(),
        datatype: "BYTES".to_owned(),
        shape: Shape::from_slice(shape),
        parameters: vec![],
        byte_length: chain.len() as u64,
    };
    Envelope { model: "m".to_owned(), inputs: vec![image], ..Envelope::default() }
}

async fn replaced(limits: PictureLimits, shape: &[i64], chain: Chain) -> Result<(Envelope, Chain), Failure> {
    let (mut envelope, mut raw) = (request(shape, &chain), vec![chain]);
    let spec = spec(4, 3, ImageResize::Stretch);
    Pictures::new(limits).replace(&spec, &signature(), &mut envelope, &mut raw).await?;
    Ok((envelope, raw.remove(0)))
}

/// Why one picture is refused.
async fn refusal(file: &[u8]) -> String {
    let failure = replaced(PictureLimits::default(), &[1], framed(&[file])).await.unwrap_err();
    assert_eq!(failure.wire().0, Code::InvalidArgument, "{failure}");
    failure.to_string()
}

#[test]
fn every_way_to_resize_gives_the_bytes_that_opencv_gives() {
    let picture = decode(&fixture("picture.png"), PIXELS).unwrap();
    for (way, resize) in [("stretch", ImageResize::Stretch), ("cover", ImageResize::Cover), ("crop", ImageResize::Crop)] {
        for (width, height) in [(11, 11), (32, 4), (5, 24)] {
            let name = format!("{way}.{width}x{height}");
            assert_eq!(fit(&picture, &spec(width, height, resize)), fixture(&name), "{name}");
        }
    }
    let same = fit(&picture, &spec(picture.width, picture.height, ImageResize::Cover));
    assert_eq!(same, levels(&picture), "a picture of the right size stays as it is");
}

#[test]
fn every_form_of_picture_reads_as_in_opencv() {
    for name in ["grey.png", "grey1.png", "palette.png", "rgba.png", "greyalpha.png", "rgb16.png", "grey16.png"] {
        let picture = decode(&fixture(name), PIXELS).unwrap();
        assert_eq!(levels(&picture), fixture(&format!("{name}.rgb")), "{name}");
    }
    // Decoders of JPEG round differently. A progressive one and one that EXIF says is turned read as the plain one.
    for (name, like) in
        [("colour.jpg", "colour.jpg"), ("progressive.jpg", "colour.jpg"), ("turned.jpg", "colour.jpg"), ("cmyk.jpg", "cmyk.jpg")]
    {
        let picture = decode(&fixture(name), PIXELS).unwrap();
        let most = difference(&levels(&picture), &fixture(&format!("{like}.rgb")));
        assert!(most <= 4, "{name} differs by {most}");
    }
}

#[tokio::test]
async fn tensors_are_those_of_blob_from_image() {
    let pictures = Pictures::new(PictureLimits::default());
    for (name, channels) in [("tensor.nchw.rgb", ImageChannels::Rgb), ("tensor.nchw.bgr", ImageChannels::Bgr)] {
        let (mean, scale) = ([123.5, 116.25, 103.75], [1.0 / 58.5; 3]);
        let spec = ImageSpec { channels, mean, scale, ..spec(4, 3, ImageResize::Stretch) };
        let file = || vec![Bytes::from(fixture("picture.png"))];
        let (shape, nchw) = pictures.prepare(&spec, &input(DataType::Fp32, &[-1, 3, 3, 4]), file()).await.unwrap();
        let (nchw, want) = (floats(nchw), floats(fixture(name).into()));
        assert_eq!((shape.as_slice(), nchw.len()), (&[1i64, 3, 3, 4][..], want.len()));
        assert!(nchw.iter().zip(&want).all(|(got, want)| (got - want).abs() < 1e-5), "{name}: {nchw:?}, expected {want:?}");

        let nhwc_spec = ImageSpec { layout: ImageLayout::Nhwc, ..spec.clone() };
        let (shape, nhwc) = pictures.prepare(&nhwc_spec, &input(DataType::Fp32, &[3, 4, 3]), file()).await.unwrap();
        let nhwc = floats(nhwc);
        assert_eq!(shape.as_slice(), [3, 4, 3]);
        assert!((0..36).all(|i| nhwc[i] == nchw[i % 3 * 12 + i / 3]), "{nhwc:?}");

        let (_, halves) = pictures.prepare(&spec, &input(DataType::Fp16, &[-1, 3, 3, 4]), file()).await.unwrap();
        let halves = halves.into_bytes();
        let halves = halves.as_chunks::<2>().0.iter().map(|b| f32::from(half::f16::from_le_bytes(*b)));
        assert!(halves.zip(&nchw).all(|(half, full)| (half - full).abs() < 2e-3));
    }
}

#[test]
fn uint8_rounds_and_stays_within_its_range() {
    let spec = ImageSpec { mean: [10.0, 0.0, 0.0], scale: [1.0, 0.5, 2.0], ..spec(1, 1, ImageResize::Stretch) };
    assert_eq!(Element::Uint8.row(&[5, 7, 200], &spec), [0, 4, 255]);
}

#[tokio::test]
async fn pictures_become_the_rows_of_the_models_input_in_order() {
    let (colour, grey) = (fixture("picture.png"), fixture("grey.png"));
    let (envelope, raw) = replaced(PictureLimits::default(), &[2, 1], framed(&[&colour, &grey])).await.unwrap();
    let now = &envelope.inputs[0];
    assert_eq!((now.name.as_str(), now.datatype.as_str(), now.shape.as_slice()), ("x", "FP32", &[2, 3, 3, 4][..]));
    assert_eq!((now.byte_length, raw.len()), (2 * 36 * 4, 2 * 36 * 4));
    assert_eq!(check_request(&signature(), &envelope).unwrap().rows, 2);
    let alone = |file: Vec<u8>| async move { floats(replaced(PictureLimits::default(), &[1], framed(&[&file])).await.unwrap().1) };
    assert_eq!(floats(raw), [alone(colour).await, alone(grey).await].concat());
}

#[test]
fn only_bytes_named_image_for_a_model_that_says_how_are_pictures() {
    let (spec, envelope) = (spec(4, 3, ImageResize::Crop), request(&[1], &Chain::default()));
    assert!(wants(Some(&spec), &signature(), &envelope));
    assert!(!wants(None, &signature(), &envelope));
    let own = TensorSpec { name: "image".to_owned(), ..input(DataType::Bytes, &[1]) };
    assert!(!wants(Some(&spec), &Signature::complete(vec![own], vec![], None), &envelope));
    let mut other = envelope.clone();
    other.inputs[0].datatype = "FP32".to_owned();
    assert!(!wants(Some(&spec), &signature(), &other));
}

#[tokio::test]
async fn what_is_no_picture_is_refused_with_its_reason() {
    assert_eq!(refusal(b"").await, "input `image`: picture 1 is empty");
    assert_eq!(refusal(b"not a picture").await, "input `image`: picture 1 is neither JPEG nor PNG");
    assert_eq!(refusal(b"GIF89a").await, "input `image`: picture 1 is image/gif, expected JPEG or PNG");
    for (name, needle) in [("picture.png", "picture 1 cannot be decoded: "), ("colour.jpg", "picture 1 is cut short")] {
        let whole = fixture(name);
        for cut in [14, whole.len() / 2, whole.len() * 9 / 10] {
            let text = refusal(&whole[..cut]).await;
            assert!(text.contains(needle), "{name} cut to {cut}: {text}");
        }
    }
}

/// A PNG of 8-bit grey that claims a size, with this as its compressed data.
fn png(width: u32, height: u32, data: &[u8]) -> Vec<u8> {
    let crc = |bytes: &[u8]| {
        !bytes.iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
        })
    };
    let chunk = |kind: &[u8], data: &[u8]| {
        let body = [kind, data].concat();
        [&u32::try_from(data.len()).unwrap().to_be_bytes()[..], &body, &crc(&body).to_be_bytes()].concat()
    };
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 0, 0, 0, 0]].concat();
    [b"\x89PNG\r\n\x1a\n".to_vec(), chunk(b"IHDR", &header), chunk(b"IDAT", data), chunk(b"IEND", b"")].concat()
}

/// Zeros, deflated: about a thousandth of them. The last block is missing, so that it goes on for as long as it is read.
fn zeros(count: usize) -> Vec<u8> {
    // A fixed-Huffman block: a literal zero, then the longest match again and again, 13 bits for 258 bytes.
    let mut bits: Vec<bool> = vec![false, true, false]; // not the last block; fixed codes, low bit first
    let code = |bits: &mut Vec<bool>, value: u32, length: u32| bits.extend((0..length).rev().map(|i| value >> i & 1 == 1));
    code(&mut bits, 0x30, 8);
    for _ in 0..count.div_ceil(258) {
        code(&mut bits, 0b1100_0101, 8);
        code(&mut bits, 0, 5);
    }
    let bytes = bits.chunks(8).map(|bits| bits.iter().enumerate().map(|(i, bit)| u8::from(*bit) << i).sum());
    [0x78, 0x9c].into_iter().chain(bytes).collect()
}

#[tokio::test]
async fn the_header_decides_before_anything_is_unpacked() {
    let text = refusal(&png(100_000, 100_000, &zeros(1000))).await;
    assert_eq!(text, "input `image`: picture 1 has 100000x100000 pixels, expected 1 to 50000000");
    let text = refusal(&png(0, 5, &zeros(10))).await;
    assert!(text.contains("picture 1"), "{text}");
    // A small picture, and data that unpacks to far more than it needs.
    let picture = decode(&png(16, 16, &zeros(200 << 20)), PIXELS).unwrap();
    assert_eq!(picture.bytes, [0; 256]);
}

#[test]
fn a_jpeg_of_many_scans_over_many_pixels_is_refused() {
    let file = fixture("progressive.jpg");
    assert!(decode(&file, 256).is_ok());
    // Its scans, over and over.
    let scan = file.windows(2).position(|w| w == [0xff, 0xda]).unwrap();
    let (head, scans) = file[..file.len() - 2].split_at(scan);
    let many = [head, &scans.repeat(20), &[0xff, 0xd9]].concat();
    let text = decode(&many, 256).err().unwrap();
    assert!(text.contains("scans over 16x16 pixels"), "{text}");
}

#[tokio::test]
async fn lengths_that_lie_are_refused() {
    let file = fixture("grey.png");
    let one = || framed(&[&file]);
    let cases: [(&[i64], Chain, &str); 6] = [
        (&[2], one(), "expected 2 elements, got 1"),
        (&[1], framed(&[&file, &file]), "expected 1 elements, found more"),
        (&[1], vec![9, 0, 0, 0, 1].into(), "element 1 claims 9 bytes, 1 are left"),
        (&[1], vec![9, 0, 0].into(), "ends inside the length of element 1"),
        (&[0], Chain::default(), "has no picture"),
        (&[-1, -1], one(), "shape [-1,-1] has a negative dimension"),
    ];
    for (shape, chain, needle) in cases {
        let failure = replaced(PictureLimits::default(), shape, chain).await.unwrap_err();
        assert_eq!(failure.wire().0, Code::InvalidArgument);
        assert!(failure.to_string().starts_with("input `image`: ") && failure.to_string().contains(needle), "{failure}");
    }
}

#[tokio::test]
async fn what_is_over_a_limit_is_refused_with_both_numbers() {
    let file = fixture("grey.png");
    let limits = PictureLimits { encoded_bytes: 100, pixels: 47, pictures: 3, tensor_bytes: 300, ..PictureLimits::default() };
    let open = PictureLimits::default();
    let cases: [(PictureLimits, usize, &str); 5] = [
        (PictureLimits { encoded_bytes: 100, ..open }, 1, "bytes of picture 1 in input `image`: 122 is over the limit of 100"),
        (PictureLimits { pixels: 47, ..open }, 1, "input `image`: picture 1 has 8x6 pixels, expected 1 to 47"),
        (limits, 4, "pictures in input `image`: 4 is over the limit of 3"),
        (limits, 3, "bytes of the tensor that input `image` becomes: 432 is over the limit of 300"),
        (open, 5, "batch of 5 rows is over the max_batch_size of 4 of model `m`"),
    ];
    for (limits, count, text) in cases {
        let failure = replaced(limits, &[count as i64], framed(&vec![&file[..]; count])).await.unwrap_err();
        assert_eq!((failure.to_string().as_str(), failure.wire().0), (text, Code::InvalidArgument));
    }
}

#[tokio::test]
async fn what_a_model_cannot_take_is_refused_before_decoding() {
    let pictures = Pictures::new(PictureLimits::default());
    let spec = spec(4, 3, ImageResize::Stretch);
    let cases = [
        (input(DataType::Int64, &[-1, 3, 3, 4]), 1, "its datatype is INT64, expected FP32, FP16 or UINT8"),
        (input(DataType::Fp32, &[-1, 36]), 1, "its shape is [-1,36], expected three or four dimensions"),
        (input(DataType::Fp32, &[3, 3, 4]), 2, "has 2 pictures, expected 1: the model takes no batches"),
    ];
    for (input, count, needle) in cases {
        let failure = pictures.prepare(&spec, &input, vec![Bytes::new(); count]).await.unwrap_err();
        assert!(failure.to_string().contains(needle), "{failure}");
    }
    let odd = Signature::complete(vec![input(DataType::Fp32, &[-1, 3, 5, 5])], vec![], None);
    let chain = framed(&[b"not a picture"]);
    let failure = pictures.replace(&spec, &odd, &mut request(&[1], &chain), &mut [chain]).await.unwrap_err();
    assert_eq!(failure.to_string(), "input `x`: expected shape [-1,3,5,5], got [1,3,3,4]");
}

#[tokio::test]
async fn i7_a_request_waits_for_a_thread_only_so_long_and_is_then_not_started() {
    let pictures = Pictures::new(PictureLimits { at_once: 1, wait: Duration::ZERO, ..PictureLimits::default() });
    let busy = pictures.threads.clone().acquire_owned().await.unwrap();
    let spec = spec(4, 3, ImageResize::Stretch);
    let late = pictures.prepare(&spec, &input(DataType::Fp32, &[-1, 3, 3, 4]), vec![fixture("grey.png").into()]).await.unwrap_err();
    assert_eq!(late.to_string(), "input `image`: not prepared within 0 ms, with pictures decoded 1 at once: retry later");
    assert_eq!(late.wire().0, Code::Unavailable);
    drop(busy);
    assert_eq!(pictures.threads.available_permits(), 1, "nothing is left that waits for the thread");
}

#[test]
fn a_thin_picture_costs_no_more_than_what_is_kept_of_it() {
    // Scaled to cover 512x512 this is 512 x 512,000,000 pixels.
    let picture =
        Pixels { bytes: (0..1_000_000u32).map(|i| (i / 4000) as u8).collect(), width: 1, height: 1_000_000, step: 1, rgb: [0; 3] };
    let out = fit(&picture, &spec(512, 512, ImageResize::Cover));
    assert_eq!((out.len(), out[0], out[out.len() - 1]), (512 * 512 * 3, 124, 125));
}
