use super::*;
use crate::chain::Chain;
use crate::frame::MessageBody;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Answers `/large` with more than all buffers of a connection hold, and everything else with nothing; `/never` never.
#[derive(Clone, Default)]
struct Answers {
    calls: Arc<AtomicUsize>,
}

const LARGE_BYTES: usize = 64 << 20;

impl Handler for Answers {
    async fn call(&self, request: Request<Incoming>) -> Response<ReplyBody> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let bytes = match request.uri().path() {
            "/never" => std::future::pending().await,
            "/large" => LARGE_BYTES,
            _ => 0,
        };
        Response::new(ReplyBody::Message(MessageBody::plain(&Chain::from(vec![0; bytes]))))
    }
}

/// A listener that serves as a [`Server`](crate::server::Server) does.
async fn served(limits: Limits, answers: &Answers) -> (SocketAddr, crate::server::Server) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, answers) = (listener.local_addr().unwrap(), answers.clone());
    (address, crate::server::Server::start(vec![listener], 1, limits, move || answers.clone()).unwrap())
}

/// An HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const ENHANCE_YOUR_CALM: [u8; 4] = [0, 0, 0, 11];

/// HEADERS of a GET that ends its stream (RFC 7541: three entries of the static table, and a path in plain).
fn get(stream: u32, path: &str) -> Vec<u8> {
    let fields = [&[0x82, 0x86, 0x04, u8::try_from(path.len()).unwrap()], path.as_bytes()].concat();
    frame(HEADERS, 0x5, stream, &fields)
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Sends these frames and a ping over one connection. Gives the payload of the GOAWAY that ends it, or nothing once the ping is answered.
async fn flood(address: SocketAddr, frames: Vec<u8>) -> Option<Vec<u8>> {
    let (mut reader, mut writer) = TcpStream::connect(address).await.unwrap().into_split();
    let all = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frames, &frame(PING, 0, 0, &[7; 8])].concat();
    let write = tokio::spawn(async move {
        let _ = writer.write_all(&all).await; // a server that has had enough does not take it all
        writer
    });
    let read = async {
        loop {
            let mut head = [0; 9];
            reader.read_exact(&mut head).await.expect("GOAWAY or an answer to the ping");
            let [a, b, c, kind, flags, ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            reader.read_exact(&mut payload).await.unwrap();
            match (kind, flags) {
                (GOAWAY, _) => return Some(payload),
                (PING, 1) => return None,
                _ => {}
            }
        }
    };
    let end = tokio::time::timeout(Duration::from_secs(20), read).await.expect("an end");
    write.abort();
    end
}

/// `count` streams that are opened and reset at once.
fn rapid_resets(count: u32) -> Vec<u8> {
    (0..count).flat_map(|i| [get(i * 2 + 1, "/never"), frame(RST_STREAM, 0, i * 2 + 1, &[0, 0, 0, 8])].concat()).collect()
}

/// Asks once over an HTTP/2 connection of its own.
async fn asks(address: SocketAddr) -> http::StatusCode {
    let (mut sender, connection) = h2::client::handshake(TcpStream::connect(address).await.unwrap()).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get("http://x/").body(()).unwrap();
    let status = sender.send_request(request, true).unwrap().0.await.unwrap().status();
    connection.abort();
    status
}

#[tokio::test]
async fn a_client_that_opens_and_resets_streams_at_once_is_sent_away_and_others_are_served() {
    const STREAMS: u32 = 20_000;
    let answers = Answers::default();
    let (address, _server) = served(Limits::EDGE, &answers).await;
    let (end, honest) = tokio::join!(flood(address, rapid_resets(STREAMS)), asks(address));
    assert_eq!(end.expect("sent away")[4..8], ENHANCE_YOUR_CALM);
    assert_eq!(honest, 200);
    let calls = answers.calls.load(Ordering::Relaxed);
    assert!(calls < 200, "{calls} calls reached the handler");
    assert_eq!(asks(address).await, 200);
}

#[tokio::test]
async fn what_a_gateway_gives_up_at_once_does_not_cost_its_connection() {
    let (address, _server) = served(Limits::INNER, &Answers::default()).await;
    assert_eq!(flood(address, rapid_resets(1_000)).await, None);
}

#[tokio::test]
async fn a_client_that_makes_us_reset_its_streams_is_sent_away() {
    let (address, _server) = served(Limits::EDGE, &Answers::default()).await;
    // A window that grows too large is an error of its stream.
    let broken = |count: u32| {
        let stream = |i: u32| [get(i * 2 + 1, "/never"), frame(WINDOW_UPDATE, 0, i * 2 + 1, &[0x7f, 0xff, 0xff, 0xff])].concat();
        (0..count).flat_map(stream).collect::<Vec<u8>>()
    };
    assert_eq!(flood(address, broken(100)).await, None, "some are forgiven");
    assert_eq!(flood(address, broken(3_000)).await.expect("sent away")[4..8], ENHANCE_YOUR_CALM);
}

/// Asks for a large answer with `request`, reads none of it until we have ended the connection, and gives what came then.
async fn unread(request: &[u8]) -> (usize, std::io::Result<usize>) {
    let limits = Limits { unread_max: Duration::from_millis(200), ..Limits::EDGE };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    client.write_all(request).await.unwrap();
    let (_stop, stopped) = watch::channel(false);
    let served = serve(stream, Answers::default(), limits, stopped);
    tokio::time::timeout(Duration::from_secs(20), served).await.expect("the connection is ended");
    let (mut got, mut buffer) = (0, vec![0; 1 << 20]);
    loop {
        match client.read(&mut buffer).await {
            Ok(bytes) if bytes > 0 => got += bytes,
            end => return (got, end),
        }
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_disconnected() {
    const WINDOW_MAX: u32 = i32::MAX as u32;
    let open = |grow: u32| grow.to_be_bytes();
    let settings = [&[0, 4][..], &open(WINDOW_MAX)].concat(); // SETTINGS_INITIAL_WINDOW_SIZE
    let windows = [frame(SETTINGS, 0, 0, &settings), frame(WINDOW_UPDATE, 0, 0, &open(WINDOW_MAX - 65_535))].concat();
    let http2 = [PREFACE, &windows, &get(1, "/large")].concat();
    for request in [&b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n"[..], &http2] {
        let (got, end) = unread(request).await;
        assert!(got < LARGE_BYTES, "{got} bytes were taken");
        assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset, "the system keeps nothing for it either");
    }
}

/// A connection from `from` that has been answered once and stays; nothing where it was closed instead.
async fn stays(from: &str, address: SocketAddr) -> Option<TcpStream> {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await; // one that is closed already says so when read
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        stream.read_buf(&mut answer).await.ok().filter(|bytes| *bytes > 0)?;
    }
    Some(stream)
}

/// The places of closed connections are given back, which nobody is told of.
async fn stays_at_last(from: &str, address: SocketAddr) {
    let tries = async || while stays(from, address).await.is_none() {};
    tokio::time::timeout(Duration::from_secs(20), tries()).await.expect("a place is given back");
}

#[tokio::test]
async fn no_more_connections_are_served_than_the_limit_and_a_closed_one_gives_its_place_back() {
    let (address, _server) = served(Limits { connections_max: 2, ..Limits::EDGE }, &Answers::default()).await;
    let first = stays("127.0.0.1", address).await.unwrap();
    let _second = stays("127.0.0.2", address).await.unwrap();
    assert!(stays("127.0.0.3", address).await.is_none(), "the third");
    drop(first);
    stays_at_last("127.0.0.3", address).await;
}

#[tokio::test]
async fn no_address_has_more_connections_than_its_limit_and_others_keep_theirs() {
    let (address, _server) = served(Limits { per_address_max: 2, ..Limits::EDGE }, &Answers::default()).await;
    let first = stays("127.0.0.2", address).await.unwrap();
    let _second = stays("127.0.0.2", address).await.unwrap();
    assert!(stays("127.0.0.2", address).await.is_none(), "its third");
    assert!(stays("127.0.0.3", address).await.is_some(), "another address");
    drop(first);
    stays_at_last("127.0.0.2", address).await;
}
