//! One request to the hub: GET or HEAD, redirects followed by hand.
//!
//! By hand because the token belongs to the endpoint alone: storage hosts that it sends to must not see
//! it. Status codes become errors here, with what was asked for in them.

use super::HubError;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, LOCATION, RANGE, USER_AGENT};
use hyper::{Method, Request, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

const REDIRECTS: usize = 5;
/// For a connection, and for the head of an answer.
const WAIT: Duration = Duration::from_secs(30);
/// Largest listing.
const LISTING: usize = 16 << 20;

pub(super) struct Wire {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    endpoint: Uri,
}

/// What to ask for.
#[derive(Clone)]
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    pub(super) url: &'a str,
    pub(super) token: Option<&'a str>,
    /// From this byte on.
    pub(super) from: u64,
    /// Whether to go where a redirect to another host points.
    pub(super) follow: bool,
    /// In words, for errors.
    pub(super) what: &'a str,
}

impl Wire {
    pub(super) fn new(endpoint: &str) -> Result<Wire, HubError> {
        let odd = |what: String| HubError::Protocol { endpoint: endpoint.to_owned(), what };
        let uri: Uri = endpoint.parse().map_err(|_| odd("it is no address".into()))?;
        let mut roots = RootCertStore::empty();
        // Without any, https fails by name when it is tried; a plain endpoint needs none.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| odd(e.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(WAIT));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Wire { client, endpoint: uri })
    }

    /// A small answer as text.
    pub(super) async fn text(
        &self,
        url: &str,
        token: Option<&str>,
        what: &str,
    ) -> Result<String, HubError> {
        let ask = Ask { method: Method::GET, url, token, from: 0, follow: true, what };
        let body = Limited::new(self.send(&ask).await?.into_body(), LISTING);
        let bytes = tokio::time::timeout(WAIT, body.collect()).await;
        let bytes = bytes.map_err(|_| self.unreachable("the listing took too long".into()))?;
        let bytes = bytes.map_err(|e| self.unreachable(e.to_string()))?.to_bytes();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Asks, goes where it is sent, and refuses whatever is not a success.
    pub(super) async fn send(&self, ask: &Ask<'_>) -> Result<Response<Incoming>, HubError> {
        let odd = |what: &str| HubError::Protocol {
            endpoint: self.endpoint.to_string(),
            what: what.to_owned(),
        };
        let mut at: Uri = ask.url.parse().map_err(|_| odd("an address that is none"))?;
        for _ in 0..=REDIRECTS {
            let answer = self.once(ask, &at).await?;
            if !answer.status().is_redirection() {
                return self.success(ask, answer);
            }
            let to = answer.headers().get(LOCATION).and_then(|to| to.to_str().ok());
            let to =
                to.and_then(|to| resolve(&at, to)).ok_or_else(|| odd("a redirect to nowhere"))?;
            if !ask.follow && to.authority() != at.authority() {
                return Ok(answer);
            }
            at = to;
        }
        Err(odd("redirects in a circle"))
    }

    async fn once(&self, ask: &Ask<'_>, at: &Uri) -> Result<Response<Incoming>, HubError> {
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(at.clone())
            .header(USER_AGENT, concat!("serin/", env!("CARGO_PKG_VERSION")));
        if let Some(token) = ask.token.filter(|_| at.authority() == self.endpoint.authority()) {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if ask.from > 0 {
            request = request.header(RANGE, format!("bytes={}-", ask.from));
        }
        let request = request.body(Empty::new()).map_err(|e| self.unreachable(e.to_string()))?;
        let answer = tokio::time::timeout(WAIT, self.client.request(request)).await;
        let answer = answer.map_err(|_| self.unreachable("no answer in time".into()))?;
        answer.map_err(|e| self.unreachable(chain(&e)))
    }

    fn success(
        &self,
        ask: &Ask<'_>,
        answer: Response<Incoming>,
    ) -> Result<Response<Incoming>, HubError> {
        let (what, endpoint) = (ask.what.to_owned(), self.endpoint.to_string());
        let has_token = ask.token.is_some();
        match answer.status().as_u16() {
            200..=299 | 416 => Ok(answer),
            // Without a token, what is private looks as if it did not exist.
            401 | 403 => Err(HubError::Refused { what, endpoint, has_token }),
            404 => Err(HubError::NotFound { what, endpoint, private: has_token }),
            status => Err(HubError::Status { what, endpoint, status }),
        }
    }

    fn unreachable(&self, what: String) -> HubError {
        HubError::Unreachable { endpoint: self.endpoint.to_string(), what }
    }
}

/// Where a redirect points, seen from where it came.
fn resolve(from: &Uri, to: &str) -> Option<Uri> {
    if to.starts_with("http://") || to.starts_with("https://") {
        // Nobody is led from a protected connection to an open one.
        let to: Uri = to.parse().ok()?;
        return (from.scheme_str() != Some("https") || to.scheme_str() == Some("https"))
            .then_some(to);
    }
    let path = to.strip_prefix('/')?;
    format!("{}://{}/{path}", from.scheme_str()?, from.authority()?).parse().ok()
}

/// An error and what caused it.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
