//! Gets one file from a holder over HTTP, goes on where an earlier attempt stopped, and keeps it only when its sha256 is right.

use super::hash_file;
use crate::error::WorkerError;
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use policy::{ArtifactFile, Digest};
use std::path::Path;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;

/// A holder that sends nothing for this long is given up.
const STALL: Duration = Duration::from_secs(10);

/// Fetches `file` to `path`, trying `holders` in turn; `told` hears how many bytes of it are here.
///
/// # Errors
/// What each holder did wrong, when none had the right bytes.
pub(crate) async fn fetch_file(
    artifact: &Digest,
    file: &ArtifactFile,
    holders: &[String],
    path: &Path,
    told: &Told<'_>,
) -> Result<(), WorkerError> {
    let mut wrong = Vec::new();
    for holder in holders {
        match fetch_from(holder, file, path, told).await {
            Ok(()) => match check(file, path).await {
                Ok(()) => return Ok(()),
                Err(what) => {
                    let _ = std::fs::remove_file(path); // a wrong file must not be resumed
                    wrong.push(format!("{holder}: {what}"));
                }
            },
            Err(what) => wrong.push(format!("{holder}: {what}")),
        }
    }
    let what = if wrong.is_empty() {
        "is not on this host and no worker holds it: start a worker whose --models directory has it".to_owned()
    } else {
        format!("could not be fetched: {}", wrong.join("; "))
    };
    Err(WorkerError::NotFetched { digest: artifact.to_string(), what })
}

/// Hashing a large file takes seconds, which no runtime thread has.
async fn check(file: &ArtifactFile, path: &Path) -> Result<(), String> {
    let target = path.to_owned();
    match tokio::task::spawn_blocking(move || hash_file(&target)).await.map_err(|e| e.to_string())? {
        Ok((sha256, _)) if sha256 == file.sha256 => Ok(()),
        Ok((sha256, bytes)) => {
            Err(format!("{} has sha256 {sha256} ({bytes} bytes), expected {} ({} bytes)", file.path, file.sha256, file.bytes))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Hears how many bytes are here.
pub(crate) type Told<'a> = dyn Fn(u64) + Sync + 'a;

type Fault = Box<dyn std::error::Error + Send + Sync>;

async fn fetch_from(holder: &str, file: &ArtifactFile, path: &Path, told: &Told<'_>) -> Result<(), String> {
    get(holder, file, path, told).await.map_err(|e| e.to_string())
}

async fn get(holder: &str, file: &ArtifactFile, path: &Path, told: &Told<'_>) -> Result<(), Fault> {
    let have = tokio::fs::metadata(path).await.map_or(0, |m| m.len());
    if have >= file.bytes && have > 0 {
        return Ok(()); // complete or too long: the check decides
    }
    let stream = tokio::time::timeout(STALL, tokio::net::TcpStream::connect(holder)).await??;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let mut request = Request::get(format!("/artifacts/{}", file.sha256)).header(header::HOST, holder).body(Empty::<Bytes>::new())?;
    if have > 0 {
        request.headers_mut().insert(header::RANGE, HeaderValue::from_str(&format!("bytes={have}-"))?);
    }
    let response = tokio::time::timeout(STALL, sender.send_request(request)).await??;
    let append = match response.status() {
        StatusCode::OK => false,
        StatusCode::PARTIAL_CONTENT => true,
        status => return Err(format!("answered {status}").into()),
    };
    let mut target = tokio::fs::OpenOptions::new().create(true).write(true).append(append).truncate(!append).open(path).await?;
    let (mut body, mut written) = (response.into_body(), if append { have } else { 0 });
    while let Some(frame) = tokio::time::timeout(STALL, body.frame()).await? {
        if let Ok(data) = frame?.into_data() {
            written = written.saturating_add(data.len() as u64);
            if written > file.bytes {
                return Err(format!("sends more than the {} bytes it should have", file.bytes).into());
            }
            target.write_all(&data).await?;
            told(written);
        }
    }
    target.sync_data().await?;
    connection.abort();
    Ok(())
}
