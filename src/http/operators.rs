//! Who may use the operators' routes: programs on this machine, and web pages of the operators' own listener
//! that have its token.
//!
//! Three kinds of requests are refused. First, a web page of another origin can make a browser on this machine send
//! requests here. Browsers announce this (`Origin`, `Sec-Fetch-Site`), and if the page's own name resolves to loopback
//! (DNS rebinding), `Host` reveals it. Second, a proxy on this machine would forward requests from strangers. A proxy
//! must not forward to this listener, and proxies that can be recognised are refused. Third, other machines are refused
//! by their address.
//!
//! If keys are required, a key with the scope `admin` also gives access to programs on other machines and behind
//! proxies, and to the page if it was loaded from the same origin ([`super::authorize`]).

use super::status_codes::ApiError;
use super::{Peer, authorize};
use crate::access::Access;
use axum::extract::{MatchedPath, Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::IpAddr;
use std::sync::Arc;

/// Who may use the operators' routes.
#[derive(Debug, Clone, Default)]
pub struct Operators {
    /// The token that a page of this listener has to send; without one, no page is allowed.
    token: Option<Arc<str>>,
}

impl Operators {
    /// Allows programs, and pages that send this token as a bearer token.
    pub fn with_token(token: &str) -> Operators {
        Operators { token: Some(token.into()) }
    }

    /// The token, for a program that prints the page's address. A page never gets it from here.
    pub(super) fn token_for(&self, headers: &HeaderMap) -> Result<Option<String>, &'static str> {
        match of_browser(headers) {
            true => Err("Only programs are told the page's token."),
            false => Ok(self.token.as_deref().map(str::to_owned)),
        }
    }

    fn shown(&self, headers: &HeaderMap) -> bool {
        let shown = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
        let shown = shown.and_then(|value| value.strip_prefix(b"Bearer "));
        self.token.as_ref().zip(shown).is_some_and(|(token, shown)| equal(token.as_bytes(), shown))
    }
}

/// Takes the same time for every guess of the same length.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

/// Headers that only proxies send, and prefixes of such headers.
const OF_PROXIES: [&str; 11] = [
    "forwarded",
    "via",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "fastly-client-ip",
    "fly-client-ip",
    "x-appengine-user-ip",
    "x-proxyuser-ip",
    "proxy-authorization",
];
const OF_PROXIES_BEGIN: [&str; 7] =
    ["x-forwarded", "x-envoy-", "x-original-", "x-azure-", "x-amzn-", "x-arr-", "cf-"];
/// The header in which browsers say which site sends a request.
const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// Who may, and the keys that others need.
type Who = (Operators, Access);

/// For the page's files, which hold nothing: any browser on this machine may have them.
pub(super) async fn guard_files(
    State((_, access)): State<Who>,
    request: Request,
    next: Next,
) -> Response {
    decide(elsewhere(peer(&request), request.headers()), &access, request, next).await
}

pub(super) async fn guard(
    State((operators, access)): State<Who>,
    request: Request,
    next: Next,
) -> Response {
    let near = refusal(&operators, peer(&request), request.headers());
    decide(near, &access, request, next).await
}

fn peer(request: &Request) -> Option<IpAddr> {
    request.extensions().get::<Peer>().map(|peer| peer.0.ip())
}

/// Lets a request through that this machine may send, or that shows the key that its route needs. `near`: why it
/// is not one of this machine's.
async fn decide(
    near: Option<&'static str>,
    access: &Access,
    request: Request,
    next: Next,
) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let refused =
        near.and_then(|reason| by_key(reason, access, route.as_deref(), request.headers()));
    let mut response = match refused {
        None => next.run(request).await,
        Some(error) => error.into_response(),
    };
    response.extensions_mut().insert(authorize::Route(route.unwrap_or_default()));
    response
}

/// Why the key of a request does not open the route; `None` if it does.
fn by_key(
    reason: &'static str,
    access: &Access,
    route: Option<&str>,
    headers: &HeaderMap,
) -> Option<ApiError> {
    if !access.asks() {
        return Some(ApiError::forbidden(reason));
    }
    // No page of another origin may use a key, wherever it has it from.
    if of_browser(headers) && !of_same_origin(headers) {
        return Some(ApiError::forbidden(
            "Web pages of other origins may not use operators' routes.",
        ));
    }
    authorize::check(access, authorize::OPERATORS, route, headers, super::unix_now()).err()
}

/// Why a request is refused; `None` if it is allowed.
fn refusal(
    operators: &Operators,
    peer: Option<IpAddr>,
    headers: &HeaderMap,
) -> Option<&'static str> {
    if let Some(reason) = elsewhere(peer, headers) {
        return Some(reason);
    }
    if of_browser(headers) && !(of_own_page(headers) && operators.shown(headers)) {
        return Some("Web pages need this listener's origin and token to use operators' routes.");
    }
    None
}

/// Why a request does not come from this machine; `None` if it does.
fn elsewhere(peer: Option<IpAddr>, headers: &HeaderMap) -> Option<&'static str> {
    if !peer.is_some_and(|ip| ip.to_canonical().is_loopback()) {
        return Some("Operators' routes are available only on this machine (loopback).");
    }
    if headers.keys().any(|name| of_proxy(name.as_str())) {
        return Some("Operators' routes are not available through a proxy.");
    }
    if headers.get_all(header::HOST).iter().any(|host| !loopback_name(host.as_bytes())) {
        return Some("Operators' routes need a loopback name in Host, such as 127.0.0.1.");
    }
    None
}

fn of_proxy(name: &str) -> bool {
    OF_PROXIES.contains(&name) || OF_PROXIES_BEGIN.iter().any(|begin| name.starts_with(begin))
}

fn of_browser(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ORIGIN) || headers.contains_key(SEC_FETCH_SITE)
}

/// Whether it was sent by a page of this listener.
fn of_own_page(headers: &HeaderMap) -> bool {
    is_from(headers, &["http://"], &["same-origin"])
}

/// Whether it was sent by a page that was loaded from the name and port that it sends the request to, or by a user
/// who opened the address. A proxy may have taken the TLS away.
fn of_same_origin(headers: &HeaderMap) -> bool {
    is_from(headers, &["https://", "http://"], &["same-origin", "none"])
}

/// Whether each origin is the request's host under one of these schemes, and each site one of `sites`.
fn is_from(headers: &HeaderMap, schemes: &[&str], sites: &[&str]) -> bool {
    let host = headers.get(header::HOST).map(|host| host.as_bytes()).unwrap_or_default();
    let own = |origin: &[u8], scheme: &str| origin.strip_prefix(scheme.as_bytes()) == Some(host);
    let mut origins = headers.get_all(header::ORIGIN).iter().map(|origin| origin.as_bytes());
    origins.all(|origin| schemes.iter().any(|scheme| own(origin, scheme)))
        && headers.get_all(SEC_FETCH_SITE).iter().all(|site| sites.iter().any(|one| site == one))
}

/// Whether it is a name that only this machine can use for itself.
fn loopback_name(host: &[u8]) -> bool {
    let host = std::str::from_utf8(host).unwrap_or_default().parse::<Authority>();
    let Ok(host) = host.map(|host| host.host().to_owned()) else { return false };
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost")
        || address.is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderName, HeaderValue};

    const HERE: &str = "127.0.0.1";

    fn refused(peer: Option<&str>, headers: &[(&'static str, &'static str)]) -> bool {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let peer = peer.map(|peer| peer.parse().expect("an address"));
        refusal(&Operators::with_token("secret"), peer, &headers.collect()).is_some()
    }

    #[test]
    fn only_this_machine_may() {
        for near in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
            assert!(!refused(Some(near), &[]), "{near}");
        }
        for far in ["10.0.0.1", "0.0.0.0", "::ffff:10.0.0.1", "fe80::1", "::"] {
            assert!(refused(Some(far), &[]), "{far}");
        }
        assert!(refused(None, &[]), "a peer that is not known");
    }

    #[test]
    fn proxies_that_show_themselves_may_not() {
        let more = ["x-forwarded-for", "x-forwarded", "x-envoy-peer-metadata", "cf-connecting-ip"];
        for name in OF_PROXIES.into_iter().chain(more) {
            assert!(refused(Some(HERE), &[(name, "127.0.0.1")]), "{name}");
        }
        assert!(!refused(Some(HERE), &[("user-agent", "curl/8"), ("accept", "*/*")]));
    }

    #[test]
    fn only_loopback_names_are_taken() {
        for near in ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]:8080"] {
            assert!(!refused(Some(HERE), &[("host", near)]), "{near}");
        }
        for far in
            ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", ""]
        {
            assert!(refused(Some(HERE), &[("host", far)]), "{far}");
        }
    }

    #[test]
    fn of_pages_only_this_listeners_own_may_and_only_with_the_token() {
        let host = ("host", "127.0.0.1:8081");
        let (own, token) =
            (("origin", "http://127.0.0.1:8081"), ("authorization", "Bearer secret"));
        let same = ("sec-fetch-site", "same-origin");
        assert!(!refused(Some(HERE), &[host, own, same, token]));
        assert!(!refused(Some(HERE), &[host, same, token]), "a GET of the own page has no origin");
        assert!(refused(Some(HERE), &[host, own, same]), "no token");
        assert!(refused(Some(HERE), &[host, own, ("authorization", "Bearer secreT")]));
        for origin in
            ["http://evil.example", "https://127.0.0.1:8081", "http://127.0.0.1:8080", "null"]
        {
            assert!(refused(Some(HERE), &[host, ("origin", origin), token]), "{origin}");
        }
        for site in ["cross-site", "same-site", "none"] {
            assert!(refused(Some(HERE), &[host, own, ("sec-fetch-site", site), token]), "{site}");
        }
        let nobody = HeaderMap::from_iter([(header::ORIGIN, HeaderValue::from_static("http://a"))]);
        assert!(refusal(&Operators::default(), HERE.parse().ok(), &nobody).is_some());
    }
}
