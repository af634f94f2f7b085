//! One POST to one webhook, over http or https, within a time limit.
//!
//! Knows bytes, headers and statuses; no alerts, no retries. Why hyper's client and not the one of the
//! operator commands: what must not happen here is then absent and not switched off - redirects,
//! proxies from the environment, cookies, decompression - and TLS has its own settings without a
//! process-wide default that other clients would depend on.

use super::AlertsError;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::RETRY_AFTER;
use hyper::{Request, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

/// What is read of a refusal's text, in bytes, and for how long.
const LONGEST_TEXT: usize = 200;
const TEXT_WAIT: Duration = Duration::from_secs(1);

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    /// The header `retry-after` as it came.
    pub(super) retry_after: Option<String>,
    /// The beginning of the body, if the status is no success.
    pub(super) text: String,
}

/// Why nothing came back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum WireError {
    /// No connection, no trust in it, or it broke.
    #[error("{0}")]
    Connection(String),
    /// The time was up.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// A POST to make.
pub(super) struct Post {
    pub(super) url: Uri,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
}

/// The client; cheap to clone.
#[derive(Clone)]
pub(super) struct Wire {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    limit: Duration,
}

/// The certificate authorities that this system trusts.
pub(super) fn system_roots() -> Result<RootCertStore, AlertsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, ignored) = roots.add_parsable_certificates(found.certs);
    if added > 0 {
        return Ok(roots);
    }
    let first = found.errors.first().map(|e| format!("; {e}")).unwrap_or_default();
    Err(AlertsError::NoRoots { what: format!("{ignored} not readable{first}") })
}

impl Wire {
    /// A client that trusts `roots` over https and gives each POST `limit`.
    pub(super) fn new(roots: RootCertStore, limit: Duration) -> Result<Wire, AlertsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| AlertsError::Tls(e.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(limit));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        // Alerts are rare: a connection kept open would be dead by the next one.
        let client =
            Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        Ok(Wire { client, limit })
    }

    /// Sends it and waits for the status.
    pub(super) async fn post(&self, post: Post) -> Result<Reply, WireError> {
        let mut request = Request::post(post.url);
        for (name, value) in post.headers {
            request = request.header(name, value);
        }
        let request = request
            .body(Full::from(post.body))
            .map_err(|e| WireError::Connection(format!("the request cannot be built: {e}")))?;
        let reply = tokio::time::timeout(self.limit, self.client.request(request)).await;
        let reply = reply
            .map_err(|_| WireError::Timeout(self.limit))?
            .map_err(|e| WireError::Connection(chain(&e)))?;
        let status = reply.status();
        let retry_after = reply.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = retry_after.map(str::to_owned);
        let text = match status.is_success() {
            true => String::new(),
            false => beginning(reply.into_body()).await,
        };
        Ok(Reply { status: status.as_u16(), retry_after, text })
    }
}

/// The first bytes of a body as text; what came in time, if it breaks or takes too long.
async fn beginning(mut body: Incoming) -> String {
    let mut bytes: Vec<u8> = Vec::new();
    let read = async {
        while bytes.len() < LONGEST_TEXT {
            let Some(Ok(frame)) = body.frame().await else { return };
            let data = frame.into_data().unwrap_or_default();
            bytes.extend(data.iter().take(LONGEST_TEXT - bytes.len()));
        }
    };
    // Out of time or not: what was read is what there is.
    let _ = tokio::time::timeout(TEXT_WAIT, read).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An error and what caused it. The client's own errors name no URL.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
