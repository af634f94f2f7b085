//! One request to the hub: GET or HEAD.
//!
//! The token is sent to the endpoint only: the client drops it at the first redirect to another host. A
//! redirect from https to http is not followed. Status codes become errors here, and the errors name what was
//! requested.

use super::HubError;
use crate::outbound;
use reqwest::header::RANGE;
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, Method, Response, Url};
use std::time::Duration;

const REDIRECTS: usize = 5;
/// Timeout for a connection, and for the headers of a response.
const WAIT: Duration = Duration::from_secs(30);
/// Maximum size of a listing, in bytes.
const LISTING: usize = 16 << 20;

pub(super) struct Wire {
    /// Follows redirects.
    follows: Client,
    /// Stops at a redirect to another host.
    stays: Client,
    endpoint: String,
}

#[derive(Clone)]
pub(super) struct HubRequest<'a> {
    pub(super) method: Method,
    pub(super) url: &'a str,
    pub(super) token: Option<&'a str>,
    /// The first byte to send.
    pub(super) from: u64,
    /// Whether to follow a redirect to another host.
    pub(super) follow: bool,
    /// A description for errors.
    pub(super) what: &'a str,
}

impl Wire {
    pub(super) fn new(endpoint: &str) -> Result<Wire, HubError> {
        let odd = |what: String| HubError::Protocol { endpoint: endpoint.to_owned(), what };
        let _: Url = endpoint.parse().map_err(|_| odd("it is not a URL".into()))?;
        let client = |policy: Policy| {
            // Without certificate authorities, https requests fail with a clear error; a plain endpoint needs
            // none.
            let roots = outbound::system_roots().unwrap_or_else(|_| rustls::RootCertStore::empty());
            let client = outbound::client(roots).map_err(odd)?;
            let client = client.redirect(policy).connect_timeout(WAIT).build();
            client.map_err(|e| odd(outbound::chain(e)))
        };
        Ok(Wire {
            follows: client(Policy::custom(|attempt| redirected(attempt, true)))?,
            stays: client(Policy::custom(|attempt| redirected(attempt, false)))?,
            endpoint: endpoint.to_owned(),
        })
    }

    pub(super) async fn text(
        &self,
        url: &str,
        token: Option<&str>,
        what: &str,
    ) -> Result<String, HubError> {
        let request = HubRequest { method: Method::GET, url, token, from: 0, follow: true, what };
        let mut answer = self.send(&request).await?;
        let mut bytes = Vec::new();
        let read = async {
            while let Some(data) = answer.chunk().await? {
                bytes.extend_from_slice(&data);
                if bytes.len() > LISTING {
                    break;
                }
            }
            Ok::<(), reqwest::Error>(())
        };
        let read = tokio::time::timeout(WAIT, read).await;
        let read = read.map_err(|_| self.unreachable("the listing took too long".into()))?;
        read.map_err(|e| self.unreachable(outbound::chain(e)))?;
        if bytes.len() > LISTING {
            return Err(self.unreachable(format!("a listing of more than {LISTING} bytes")));
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Sends the request, follows redirects, and returns an error unless it succeeds.
    pub(super) async fn send(&self, request: &HubRequest<'_>) -> Result<Response, HubError> {
        let client = if request.follow { &self.follows } else { &self.stays };
        let mut builder = client.request(request.method.clone(), request.url);
        if let Some(token) = request.token {
            builder = builder.bearer_auth(token);
        }
        if request.from > 0 {
            builder = builder.header(RANGE, format!("bytes={}-", request.from));
        }
        let answer = tokio::time::timeout(WAIT, builder.send()).await;
        let answer = answer.map_err(|_| self.unreachable("no answer in time".into()))?;
        let answer = answer.map_err(|e| match e.is_redirect() {
            true => {
                HubError::Protocol { endpoint: self.endpoint.clone(), what: outbound::chain(e) }
            }
            false => self.unreachable(outbound::chain(e)),
        })?;
        self.success(request, answer)
    }

    fn success(&self, request: &HubRequest<'_>, answer: Response) -> Result<Response, HubError> {
        let (what, endpoint) = (request.what.to_owned(), self.endpoint.clone());
        let has_token = request.token.is_some();
        match answer.status().as_u16() {
            200..=299 | 416 => Ok(answer),
            // A redirect that the client was not to follow.
            300..=399 if !request.follow => Ok(answer),
            // Without a token, the hub answers as if a private repository did not exist.
            401 | 403 => Err(HubError::Refused { what, endpoint, has_token }),
            404 => Err(HubError::NotFound { what, endpoint, private: has_token }),
            status => Err(HubError::Status { what, endpoint, status }),
        }
    }

    fn unreachable(&self, what: String) -> HubError {
        HubError::Unreachable { endpoint: self.endpoint.clone(), what }
    }
}

fn redirected(attempt: Attempt<'_>, follow: bool) -> reqwest::redirect::Action {
    let Some(from) = attempt.previous().last() else { return attempt.follow() };
    let to = attempt.url();
    let same = |a: &Url, b: &Url| {
        (a.host_str(), a.port_or_known_default()) == (b.host_str(), b.port_or_known_default())
    };
    if from.scheme() == "https" && to.scheme() != "https" {
        return attempt.error("a redirect from https to http");
    }
    if attempt.previous().len() > REDIRECTS {
        return attempt.error("too many redirects");
    }
    match follow || same(from, to) {
        true => attempt.follow(),
        false => attempt.stop(),
    }
}
