use super::*;
use crate::body::{STALL_MAX, UNREAD_MAX, stalled};
use crate::budget::Budget;
use http_body::Body as _;
use std::io::Write as _;

async fn read(encoding: Encoding, bytes: Vec<u8>, limit: usize) -> Result<Vec<Vec<u8>>, ReadError> {
    let body = http_body_util::Full::new(Bytes::from(bytes));
    let mut reader = MessageReader::new(body, encoding, limit);
    let mut out = Vec::new();
    while let Some(message) = reader.next().await? {
        out.push(message.into_bytes().to_vec());
    }
    Ok(out)
}

fn frame(flag: u8, payload: &[u8]) -> Vec<u8> {
    [&[flag][..], &(payload.len() as u32).to_be_bytes(), payload].concat()
}

fn failure(result: Result<Vec<Vec<u8>>, ReadError>) -> Failure {
    match result {
        Err(ReadError::Bad(failure)) => failure,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn messages_come_out_one_by_one_and_a_cut_is_noticed() {
    let two = [frame(0, b"ab"), frame(0, b"")].concat();
    assert_eq!(read(Encoding::Identity, two, 9).await.unwrap(), [b"ab".to_vec(), vec![]]);
    assert!(matches!(failure(read(Encoding::Identity, vec![0, 0, 0], 9).await), Failure::Malformed { .. }));
    let short = frame(0, b"abc")[..7].to_vec();
    assert!(matches!(failure(read(Encoding::Identity, short, 9).await), Failure::Malformed { .. }));
}

/// A large request of one tensor, cut into frames, and what comes of reading it as it comes.
async fn fed(body: Vec<u8>, limit: usize) -> Result<Option<usize>, Failure> {
    let frames = body.chunks(10_000).map(|c| Ok::<_, std::convert::Infallible>(Frame::data(Bytes::copy_from_slice(c))));
    let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames.collect::<Vec<_>>()));
    let mut reader = MessageReader::new(body, Encoding::Identity, limit);
    let Some((front, len)) = reader.opening().await? else { return reader.only().await.map(|_| None) };
    let Some((_, layout, records)) = crate::envelope::read_opening(&front, len) else { return reader.only().await.map(|_| None) };
    let (feeder, inflow) = crate::inflow::inflow(layout);
    let (fed, tensors) = tokio::join!(reader.feed(feeder, records), inflow.collect());
    fed.map(|()| tensors.unwrap().first().map(Chain::len))
}

fn large(elements: usize, datatype: &str) -> Vec<u8> {
    let shape = vec![elements as i64];
    let input = crate::inference::model_infer_request::InferInputTensor {
        name: "x".into(),
        datatype: datatype.into(),
        shape,
        ..Default::default()
    };
    let raw = vec![Bytes::from(vec![7; elements * 4])];
    let message = crate::inference::ModelInferRequest { inputs: vec![input], raw_input_contents: raw, ..Default::default() };
    prost::Message::encode_to_vec(&message)
}

#[tokio::test]
async fn a_large_request_is_handed_on_as_it_comes_and_its_end_is_checked() {
    let message = large(100_000, "FP32");
    let whole = frame(0, &message);
    assert_eq!(fed(whole.clone(), 1 << 20).await.unwrap(), Some(400_000));
    assert_eq!(fed(frame(0, &large(100, "FP32")), 1 << 20).await.unwrap(), None, "a short one is read whole");
    assert_eq!(fed(frame(0, &large(100_000, "BYTES")), 1 << 20).await.unwrap(), None);
    assert!(matches!(fed(whole.clone(), 100_000).await, Err(Failure::MessageTooLarge { .. })));
    for (wrong, what) in [
        (whole[..whole.len() - 1].to_vec(), "before the end of a message"),
        ([whole.clone(), frame(0, b"")].concat(), "more than one message"),
    ] {
        let Err(Failure::Malformed { what: got }) = fed(wrong, 1 << 20).await else { panic!("{what}") };
        assert!(got.contains(what), "{got}");
    }
}

#[test]
fn only_a_plain_body_tells_its_length() {
    let bytes = Chain::from(vec![0; 9]);
    assert_eq!(MessageBody::plain(&bytes).size_hint().exact(), Some(9));
    assert_eq!(MessageBody::message(&bytes, None).size_hint().exact(), None);
    assert_eq!(MessageBody::default().size_hint().exact(), Some(0));
}

#[tokio::test]
async fn an_oversize_message_is_refused_from_its_prefix() {
    let claim = vec![0, 0xff, 0xff, 0xff, 0xff];
    assert_eq!(failure(read(Encoding::Identity, claim, 9).await), Failure::MessageTooLarge { got: 0xffff_ffff, limit: 9 });
}

#[tokio::test]
async fn what_arrives_is_counted_and_what_is_only_claimed_is_not() {
    let budget = Budget::new(100);
    let body = http_body_util::Full::new(Bytes::from([frame(0, &[7; 40]), vec![0, 0, 0, 0xff, 0xff, 1, 2]].concat()));
    let mut reader = MessageReader::new(body, Encoding::Identity, 1 << 20).with_budget(&budget);
    let message = reader.next().await.unwrap().unwrap();
    let permit = reader.take_permit().unwrap();
    assert_eq!((message.len(), budget.held()), (40, 52));
    drop(permit);
    assert_eq!(budget.held(), 7, "the cut message behind it, not the 64 KiB it claims");
    drop(reader);
    assert_eq!(budget.held(), 0);
    let body = http_body_util::Full::new(Bytes::from(frame(0, &[7; 200])));
    let mut reader = MessageReader::new(body, Encoding::Identity, 1 << 20).with_budget(&budget);
    assert!(matches!(reader.next().await, Err(ReadError::Bad(Failure::Overloaded { .. }))));
}

#[tokio::test]
async fn an_answer_is_compressed_as_the_call_was_if_the_client_reads_that() {
    let headers = |asked: &'static str, accepted: &'static str| {
        let pairs = [("grpc-encoding", asked), ("grpc-accept-encoding", accepted)];
        pairs.into_iter().map(|(n, v)| (http::HeaderName::from_static(n), HeaderValue::from_static(v))).collect::<HeaderMap>()
    };
    assert_eq!(Encoding::of_reply(&headers("gzip", "identity, deflate, gzip")), Encoding::Gzip);
    assert_eq!(Encoding::of_reply(&headers("gzip", "deflate")), Encoding::Identity);
    assert_eq!(Encoding::of_reply(&headers("identity", "identity,gzip")), Encoding::Identity);
    for encoding in [Encoding::Identity, Encoding::Gzip, Encoding::Deflate] {
        let answer = reply(Chain::from(vec![5; 9_000]), encoding).await;
        assert_eq!(Encoding::of(answer.headers()).unwrap(), encoding);
        let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
        assert_eq!(body.len() < 1000, encoding != Encoding::Identity);
        assert_eq!(read(encoding, body.to_vec(), 9_000).await.unwrap(), [vec![5; 9_000]]);
        let short = http_body_util::BodyExt::collect(reply(Chain::from(vec![5; 100]), encoding).await.into_body()).await.unwrap();
        assert_eq!(short.to_bytes(), frame(0, &[5; 100]), "not worth it");
    }
}

#[tokio::test]
async fn a_large_message_is_inflated_aside_and_a_dropped_read_loses_nothing() {
    let noise: Vec<u8> = (0..200_000u64).map(|i| (i.wrapping_mul(i).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8).collect();
    let chain = Chain::from(noise.clone());
    let gzip = ContentEncoding::Gzip.compress(&chain).into_bytes();
    assert!(!ContentEncoding::inflates_inline(gzip.len()));
    let budget = Budget::new(1 << 20);
    let body = http_body_util::Full::new(Bytes::from([frame(1, &gzip), frame(0, b"next")].concat()));
    let mut reader = MessageReader::new(body, Encoding::Gzip, 1 << 20).with_budget(&budget);
    let polled = futures_util::FutureExt::now_or_never(reader.next());
    assert!(polled.is_none(), "the other thread has only begun");
    assert_eq!(reader.next().await.unwrap().unwrap().into_bytes(), noise);
    let permit = reader.take_permit();
    assert!(budget.held() >= 200_000, "{}", budget.held());
    drop(permit);
    assert_eq!(reader.next().await.unwrap().unwrap().into_bytes(), "next");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stalls_inside_a_message_is_given_up() {
    let silent = |bytes: Vec<u8>| {
        let (tx, rx) = mpsc::channel(1);
        tx.try_send(Frame::data(Bytes::from(bytes))).unwrap();
        (tx, ReplyBody::Stream(rx))
    };
    let (_open, body) = silent(frame(0, b"abc")[..6].to_vec());
    let Err(ReadError::Bad(failure)) = MessageReader::new(body, Encoding::Identity, 9).next().await else { panic!() };
    assert_eq!(failure, stalled());
    let (_open, body) = silent(frame(0, b"abc"));
    let mut reader = MessageReader::new(body, Encoding::Identity, 9);
    assert!(reader.next().await.unwrap().is_some());
    let longer = tokio::time::timeout(STALL_MAX * 10, reader.next()).await;
    assert!(longer.is_err(), "between messages silence is fine");
    let (_open, body) = silent(frame(0, b"abc"));
    let unary = tokio::time::timeout(STALL_MAX * 10, MessageReader::new(body, Encoding::Identity, 9).only()).await;
    assert_eq!(unary.unwrap().unwrap_err(), stalled(), "but not behind the one message of a call");
    let (_open, body) = silent(vec![]);
    let mut reader = MessageReader::new(body, Encoding::Identity, 9);
    let unary = tokio::time::timeout(STALL_MAX * 10, reader.opening()).await;
    assert_eq!(unary.unwrap().unwrap_err(), stalled(), "nor before it");
}

#[tokio::test]
async fn a_unary_call_is_read_to_the_end_of_its_side() {
    let only = async |bytes: Vec<u8>| {
        let body = http_body_util::Full::new(Bytes::from(bytes));
        MessageReader::new(body, Encoding::Identity, 9).only().await.map(|(message, _)| message.into_bytes())
    };
    assert_eq!(only(frame(0, b"abc")).await.unwrap(), "abc");
    assert!(matches!(only(vec![]).await, Err(Failure::Malformed { .. })));
    assert!(matches!(only([frame(0, b"a"), frame(0, b"b")].concat()).await, Err(Failure::Malformed { .. })));
    let (tx, rx) = mpsc::channel(1);
    tx.try_send(Frame::data(Bytes::from(frame(0, b"abc")))).unwrap();
    let mut open = std::pin::pin!(MessageReader::new(ReplyBody::Stream(rx), Encoding::Identity, 9).only());
    assert!(futures_util::FutureExt::now_or_never(open.as_mut()).is_none(), "the caller may still send");
    drop(tx);
    assert_eq!(open.await.unwrap().0.into_bytes(), "abc");
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_reader_makes_no_room_is_given_up_and_one_that_reads_slowly_is_not() {
    let (sender, mut body) = StreamSender::new(1, Encoding::Identity);
    let started = tokio::time::Instant::now();
    let send = async {
        let mut sent = 0;
        while sender.message(Chain::from(vec![7; 10])).await {
            sent += 1;
            assert!(sent < 100, "nobody reads");
        }
        (sent, started.elapsed())
    };
    let read = async {
        for _ in 0..4 {
            tokio::time::sleep(UNREAD_MAX * 2 / 3).await; // in time every time, and later than the limit in all
            http_body_util::BodyExt::frame(&mut body).await.unwrap().unwrap();
        }
        started.elapsed()
    };
    let ((sent, given_up), read_last) = tokio::time::timeout(UNREAD_MAX * 10, async { tokio::join!(send, read) }).await.expect("an end");
    assert_eq!((sent, given_up), (5, read_last + UNREAD_MAX), "four were read, one waits");
    let finished = tokio::time::timeout(UNREAD_MAX * 10, sender.finish(HeaderMap::new())).await;
    assert!(finished.is_ok(), "the end waits no longer either");
}

#[tokio::test]
async fn a_compression_bomb_stops_at_the_limit() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&vec![0; 100_000]).unwrap();
    let bomb = frame(1, &gzip.finish().unwrap());
    assert_eq!(failure(read(Encoding::Gzip, bomb.clone(), 9_999).await), Failure::MessageTooLarge { got: 10_000, limit: 9_999 });
    assert_eq!(read(Encoding::Gzip, bomb.clone(), 100_000).await.unwrap()[0].len(), 100_000);
    assert!(matches!(failure(read(Encoding::Identity, bomb, 100_000).await), Failure::Malformed { .. }));
}
