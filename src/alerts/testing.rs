//! Test helpers: an alert to send, and a receiver on its own port with scripted responses.

use super::{Alert, AlertId, Kind, ModelVersion, WeightChange};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_rustls::TlsAcceptor;

/// An alert of this kind; its texts describe a rollback from 5 %.
pub fn alert(kind: Kind) -> Alert {
    let version = |version: &str, digest: &str| {
        Some(ModelVersion { version: version.to_owned(), digest: digest.to_owned() })
    };
    Alert {
        id: AlertId::from_bits(42),
        at_unix: 1_700_000_000,
        kind,
        severity: kind.severity(),
        model: "tiny".to_owned(),
        rollout: Some("c367a70a325c".to_owned()),
        stage: 2,
        stable: version("tiny-v1", "8f3a"),
        canary: version("tiny-v3", "77b0"),
        weight: Some(WeightChange { before: 5, after: 0 }),
        what: "canary rolled back from 5 %".to_owned(),
        why: "errors 12.00 % (3 of 25) against stable's 0.00 % (0 of 690), limit 1.50".to_owned(),
        done: "weight set to 0 %, canary is being unloaded".to_owned(),
    }
}

/// The `n`-th of several alerts: another stage, so it is not a repetition, and another id.
pub fn nth(n: u64) -> Alert {
    Alert { id: AlertId::from_bits(n.into()), stage: n, ..alert(Kind::RolledBack) }
}

/// What a receiver answers to one request.
#[derive(Debug, Clone)]
pub enum Answer {
    /// A status, more header lines (each ending in CRLF) and a body.
    Reply(u16, String, String),
    /// A status and the beginning of a body, then nothing for ever.
    Unfinished(u16, String),
    /// No answer at all.
    Silence,
}

impl Answer {
    pub fn status(status: u16) -> Answer {
        Answer::Reply(status, String::new(), String::new())
    }
}

/// A request as received.
#[derive(Debug, Clone)]
pub struct ReceivedRequest {
    pub line: String,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl ReceivedRequest {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The stage of the alert in a standard body.
    pub fn stage(&self) -> u64 {
        self.json()["data"]["stage"].as_u64().unwrap()
    }
}

/// A running receiver.
pub struct Receiver {
    pub address: SocketAddr,
    seen: UnboundedReceiver<ReceivedRequest>,
}

impl Receiver {
    /// Answers the first request with the first answer and so on; the last answer is used for all further
    /// requests.
    pub async fn start(script: Vec<Answer>) -> Receiver {
        Receiver::listen(script, None).await
    }

    /// The same over TLS, with the certificate [`CERTIFICATE`].
    pub async fn start_tls(script: Vec<Answer>) -> Receiver {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(der(KEY));
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![der(CERTIFICATE).into()], key.into())
            .unwrap();
        Receiver::listen(script, Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn listen(script: Vec<Answer>, tls: Option<TlsAcceptor>) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, seen) = unbounded_channel();
        tokio::spawn(async move {
            let mut answers = script.into_iter();
            let mut answer = Answer::Silence;
            while let Ok((stream, _)) = listener.accept().await {
                answer = answers.next().unwrap_or(answer);
                let (tls, answer, sender) = (tls.clone(), answer.clone(), sender.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, answer, sender).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => serve(stream, answer, sender).await,
                            Err(_) => Some(()),
                        },
                    }
                });
            }
        });
        Receiver { address, seen }
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook?token=T0KEN", self.address)
    }

    /// The next request; fails the test if none comes.
    pub async fn next(&mut self) -> ReceivedRequest {
        let wait = tokio::time::timeout(Duration::from_secs(20), self.seen.recv());
        wait.await.expect("a request comes").expect("the receiver lives")
    }

    /// The requests that have arrived and were not read yet.
    pub fn rest(&mut self) -> Vec<ReceivedRequest> {
        std::iter::from_fn(|| self.seen.try_recv().ok()).collect()
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: Answer,
    sender: UnboundedSender<ReceivedRequest>,
) -> Option<()> {
    let seen = read(&mut stream).await?;
    let _ = sender.send(seen);
    let (reply, ends) = match answer {
        Answer::Silence => (String::new(), false),
        Answer::Unfinished(status, body) => {
            (format!("HTTP/1.1 {status} X\r\ncontent-length: 9999\r\n\r\n{body}"), false)
        }
        Answer::Reply(status, headers, body) => {
            let length = format!("content-length: {}\r\n", body.len());
            (format!("HTTP/1.1 {status} X\r\n{length}{headers}\r\n{body}"), true)
        }
    };
    stream.write_all(reply.as_bytes()).await.ok()?;
    if !ends {
        std::future::pending::<()>().await;
    }
    stream.shutdown().await.ok()
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<ReceivedRequest> {
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        let head = String::from_utf8(bytes[..end].to_vec()).ok()?;
        let (line, rest) = head.split_once("\r\n")?;
        let header = |l: &str| l.split_once(": ").map(|(k, v)| (k.to_lowercase(), v.to_owned()));
        let headers: HashMap<String, String> = rest.lines().filter_map(header).collect();
        let length: usize = headers.get("content-length").map_or(Some(0), |n| n.parse().ok())?;
        let body = &bytes[end + 4..];
        if body.len() >= length {
            return Some(ReceivedRequest { line: line.to_owned(), headers, body: body.to_vec() });
        }
    }
}

/// The bytes of a certificate or key below.
pub fn der(base64: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(base64).unwrap()
}

/// Self-signed for 127.0.0.1 and localhost, valid until 2120; made with openssl, and used nowhere else.
pub const CERTIFICATE: &str = concat!(
    "MIIBRTCB66ADAgECAgEHMAoGCCqGSM49BAMCMBQxEjAQBgNVBAMMCWxvY2FsaG9zdDAgFw0yMDAxMDEwMDAwMDBa",
    "GA8yMTIwMDEwMTAwMDAwMFowFDESMBAGA1UEAwwJbG9jYWxob3N0MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE",
    "9qxQ8L3jsLgTJmVlKxwXkhmlWOB4VKu9Slag2TKoPcBjWlHZTm5xxYXNjPQPZE0HyEyGnZuOxrwzwNyXZ041PaMs",
    "MCowGgYDVR0RBBMwEYIJbG9jYWxob3N0hwR/AAABMAwGA1UdEwEB/wQCMAAwCgYIKoZIzj0EAwIDSQAwRgIhAPTz",
    "4fpfYJ/oKT7hd7JzV5s9F9eHG3Ta7rMh82CpEFdjAiEAq3j7DsPHGrgzL1ku5VjelJQ8mnTY0HTUNA+QbFlcoh4=",
);
const KEY: &str = concat!(
    "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg/3ONPY204nLGyQi7sd+LxNDvCZPVVxsABApQWZLe",
    "bDWhRANCAAT2rFDwveOwuBMmZWUrHBeSGaVY4HhUq71KVqDZMqg9wGNaUdlObnHFhc2M9A9kTQfITIadm47GvDPA",
    "3JdnTjU9",
);
