//! A fake hub for tests: a few files behind its URLs, with network faults.

use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(super) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// One repository.
#[derive(Default)]
pub(super) struct Files {
    pub(super) files: HashMap<String, Vec<u8>>,
    /// Closes the connection after this many bytes of a body, a given number of times.
    pub(super) cut_after: usize,
    pub(super) cuts: AtomicUsize,
    /// Announces another hash than the content's.
    pub(super) lie: bool,
    /// Requires this token.
    pub(super) token: Option<&'static str>,
    /// Ignores ranges: every response is the whole file.
    pub(super) no_ranges: bool,
    /// Large files are stored elsewhere.
    pub(super) storage: Option<String>,
    pub(super) seen: parking_lot::Mutex<Vec<String>>,
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Starts the server; returns its address.
pub(super) async fn serve(files: Arc<Files>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(connection(files.clone(), stream));
        }
    });
    address
}

async fn connection(files: Arc<Files>, mut stream: TcpStream) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(head).unwrap();
        files.seen.lock().push(head.clone());
        if answer(&files, &head, &mut stream).await.is_none() {
            return;
        }
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let line = head.lines().find(|line| line.to_lowercase().starts_with(&format!("{name}:")))?;
    Some(line.split_once(':')?.1.trim())
}

/// `None` closes the connection.
async fn answer(files: &Files, head: &str, stream: &mut TcpStream) -> Option<()> {
    let mut words = head.split_whitespace();
    let (method, path) = (words.next()?, words.next()?);
    let given = header(head, "authorization").and_then(|v| v.strip_prefix("Bearer "));
    if files.token.is_some_and(|token| given != Some(token)) {
        return plain(stream, 401, "", "no").await;
    }
    if path == "/api/models/org/repo/revision/main" {
        let names: Vec<_> =
            files.files.keys().map(|name| serde_json::json!({"rfilename": name})).collect();
        let body = serde_json::json!({"sha": COMMIT, "siblings": names}).to_string();
        return plain(stream, 200, "", &body).await;
    }
    let name =
        path.strip_prefix(&format!("/org/repo/resolve/{COMMIT}/")).or(path.strip_prefix("/store/"));
    let Some((name, bytes)) = name.and_then(|name| files.files.get_key_value(name)) else {
        return plain(stream, 404, "", "nothing").await;
    };
    let large = name.ends_with(".gguf") || name.ends_with(".safetensors");
    let hash = if files.lie { sha256(b"something else") } else { sha256(bytes) };
    let headers = match large {
        true => format!("X-Linked-Etag: \"{hash}\"\r\nX-Linked-Size: {}\r\n", bytes.len()),
        false => format!("ETag: \"{}\"\r\n", &sha256(bytes)[..40]),
    };
    if let Some(storage) = files.storage.as_ref().filter(|_| large) {
        let to = format!("{headers}Location: {storage}/store/{name}\r\n");
        return plain(stream, 302, &to, "").await;
    }
    let from: usize = header(head, "range")
        .filter(|_| !files.no_ranges)
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok())
        .unwrap_or(0);
    let rest = &bytes[from.min(bytes.len())..];
    let status = match from {
        0 => "200 OK".to_owned(),
        _ => format!(
            "206 Partial\r\nContent-Range: bytes {from}-{}/{}",
            bytes.len() - 1,
            bytes.len()
        ),
    };
    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", rest.len());
    stream.write_all(head.as_bytes()).await.ok()?;
    if method == "HEAD" {
        return Some(());
    }
    let cut = large
        && files
            .cuts
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
            .is_ok();
    let until = if cut { files.cut_after.min(rest.len()) } else { rest.len() };
    stream.write_all(&rest[..until]).await.ok()?;
    (!cut).then_some(())
}

async fn plain(stream: &mut TcpStream, status: u16, more: &str, body: &str) -> Option<()> {
    let text = format!("HTTP/1.1 {status} X\r\n{more}Content-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(text.as_bytes()).await.ok()
}
