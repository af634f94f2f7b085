//! The client with which commands talk to a running server: sends orders, returns responses or one-line errors.

use super::CliError;
use crate::control::Status;
use crate::http::page::PageToken;
use crate::{outbound, sanitize};
use rustls::RootCertStore;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A client for the admin routes of one server.
#[derive(Clone)]
pub(super) struct Client {
    base: String,
    pub http: reqwest::Client,
    /// For a server on another machine: a key with the scope `admin`. From the environment, because command lines can
    /// be read by every user.
    key: Option<String>,
}

/// The variable that holds the key.
const KEY: &str = "SERIN_KEY";

impl Client {
    /// A client for the server at `base`; an address without a scheme means http.
    pub fn new(base: &str) -> Client {
        let base = base.trim_end_matches('/');
        let base = match base.contains("://") {
            true => base.to_owned(),
            false => format!("http://{base}"),
        };
        // Certificate authorities are loaded only for https.
        let roots = match base.starts_with("https://") {
            true => outbound::system_roots().unwrap_or_else(|_| RootCertStore::empty()),
            false => RootCertStore::empty(),
        };
        let http = outbound::client(roots).and_then(|c| c.build().map_err(outbound::chain));
        let key = std::env::var(KEY).ok().filter(|key| !key.is_empty());
        Client { base, http: http.expect("settings that do not depend on the machine"), key }
    }

    /// The whole URL of a path, which starts with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// The server's status. Fails if no server answers, or if it refuses.
    pub async fn status(&self) -> Result<Status, CliError> {
        self.finish(self.http.get(self.url("/admin/status"))).await
    }

    /// The token for the live page. Fails as [`Client::status`] does.
    pub async fn page(&self) -> Result<PageToken, CliError> {
        self.finish(self.http.get(self.url("/admin/page"))).await
    }

    /// Sends an order as JSON and returns the answer. Fails as [`Client::status`] does.
    pub async fn order<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        self.finish(self.http.post(self.url(path)).json(body)).await
    }

    async fn finish<T: DeserializeOwned>(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<T, CliError> {
        let request = match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        };
        let response = request.send().await.map_err(|_| {
            CliError(format!(
                "no server answers at {}; start one with `serin serve`, or name it with --server",
                self.base
            ))
        })?;
        let status = response.status();
        let body: Value = response.json().await.map_err(|_| {
            CliError(format!("{} answered {status}, but not as a serin server would", self.base))
        })?;
        // An order that still waits for the ledger is accepted; its response also contains an error.
        if !status.is_success() || body["error"].is_object() {
            let text = body["error"]["message"].as_str().unwrap_or("no reason given");
            return Err(CliError::from_text(sanitize::lines(text)));
        }
        serde_json::from_value(body)
            .map_err(|e| CliError(format!("the server's answer cannot be parsed: {e}")))
    }
}
