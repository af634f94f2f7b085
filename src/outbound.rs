//! The HTTP client for requests that this process makes: webhooks, model downloads and operators' commands.
//!
//! It sets what all of them have in common: TLS with this system's certificate authorities, no proxies from
//! the environment, no process-wide TLS default. Each caller handles redirects itself. It does not know about
//! alerts or models.

use reqwest::{Client, ClientBuilder};
use rustls::{ClientConfig, RootCertStore};
use std::error::Error;
use std::sync::Arc;

/// The certificate authorities that this system trusts; if there are none, the reason.
pub(crate) fn system_roots() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, ignored) = roots.add_parsable_certificates(found.certs);
    if added > 0 {
        return Ok(roots);
    }
    let first = found.errors.first().map(|e| format!("; {e}")).unwrap_or_default();
    Err(format!("{ignored} not readable{first}"))
}

/// A client that trusts `roots` over https. Plain http works as well.
pub(crate) fn client(roots: RootCertStore) -> Result<ClientBuilder, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = Client::builder().tls_backend_preconfigured(tls).no_proxy();
    Ok(client.user_agent(concat!("serin/", env!("CARGO_PKG_VERSION"))))
}

/// An error and its causes, each once, without the URL, which may contain a secret.
pub(crate) fn chain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
