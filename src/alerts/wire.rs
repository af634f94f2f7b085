//! One POST to one webhook, over http or https, within a time limit.
//!
//! It knows bytes, headers and statuses, but not alerts or retries.

use super::AlertsError;
use crate::outbound;
use hyper::Uri;
use reqwest::header::RETRY_AFTER;
use reqwest::redirect::Policy;
use reqwest::{Client, Response};
use rustls::RootCertStore;
use std::time::Duration;

/// How much of a refusal's text is read, in bytes, and for how long.
const LONGEST_TEXT: usize = 200;
const TEXT_WAIT: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    /// The `retry-after` header as received.
    pub(super) retry_after: Option<String>,
    /// The beginning of the body, if the status is not a success.
    pub(super) text: String,
}

/// Why there is no response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum WireError {
    /// No connection, no trusted certificate, or the connection broke.
    #[error("{0}")]
    Connection(String),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

pub(super) struct Post {
    pub(super) url: Uri,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
}

/// The client; cheap to clone.
#[derive(Clone)]
pub(super) struct Wire {
    client: Client,
    limit: Duration,
}

impl Wire {
    /// A client that trusts `roots` over https and gives each POST `limit`.
    pub(super) fn new(roots: RootCertStore, limit: Duration) -> Result<Wire, AlertsError> {
        // Alerts are rare: a kept-alive connection would be dead by the time of the next one.
        let client = outbound::client(roots).map_err(AlertsError::Tls)?;
        let client = client.redirect(Policy::none()).pool_max_idle_per_host(0).build();
        Ok(Wire { client: client.map_err(|e| AlertsError::Tls(outbound::chain(e)))?, limit })
    }

    /// Sends it and waits for the status.
    pub(super) async fn post(&self, post: Post) -> Result<Reply, WireError> {
        let mut request = self.client.post(post.url.to_string()).body(post.body);
        for (name, value) in post.headers {
            request = request.header(name, value);
        }
        let reply = tokio::time::timeout(self.limit, request.send()).await;
        let reply = reply
            .map_err(|_| WireError::Timeout(self.limit))?
            .map_err(|e| WireError::Connection(outbound::chain(e)))?;
        let status = reply.status();
        let retry_after = reply.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = retry_after.map(str::to_owned);
        let text = match status.is_success() {
            true => String::new(),
            false => beginning(reply).await,
        };
        Ok(Reply { status: status.as_u16(), retry_after, text })
    }
}

/// The first bytes of a body as text; if it breaks or takes too long, what arrived in time.
async fn beginning(mut reply: Response) -> String {
    let mut bytes: Vec<u8> = Vec::new();
    let read = async {
        while bytes.len() < LONGEST_TEXT {
            let Ok(Some(data)) = reply.chunk().await else { return };
            bytes.extend(data.iter().take(LONGEST_TEXT - bytes.len()));
        }
    };
    // Timed out or not: use what was read.
    let _ = tokio::time::timeout(TEXT_WAIT, read).await;
    String::from_utf8_lossy(&bytes).into_owned()
}
