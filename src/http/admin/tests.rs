//! Who may operate.

use super::*;
use axum::http::HeaderValue;

fn ip(text: &str) -> Option<IpAddr> {
    Some(text.parse().expect("an address"))
}

#[test]
fn only_this_machine_may_operate() {
    let refused = |peer| refusal(AdminPolicy::Loopback, peer, &HeaderMap::new()).is_some();
    for near in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
        assert!(!refused(ip(near)), "{near}");
    }
    for far in ["10.0.0.1", "0.0.0.0", "::ffff:10.0.0.1", "fe80::1", "::"] {
        assert!(refused(ip(far)), "{far}");
    }
    assert!(refused(None), "a peer that is not known");
}

#[test]
fn browsers_and_proxies_may_not() {
    for name in ON_BEHALF {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static("127.0.0.1"));
        assert!(refusal(AdminPolicy::Loopback, ip("127.0.0.1"), &headers).is_some(), "{name}");
    }
}

#[test]
fn nobody_may_when_it_is_off() {
    assert!(refusal(AdminPolicy::Off, ip("127.0.0.1"), &HeaderMap::new()).is_some());
}
