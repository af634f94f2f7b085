//! Where alerts go: a webhook as typed in the config, and in its validated, resolved form.
//!
//! It does not know about the file or other sections of the config. Errors name the key and the remedy, and
//! never repeat a URL or a secret: a chat service's webhook URL is itself a credential, and log lines are
//! copied around.

use super::signature::Secret;
use super::{AlertsError, Kind, Schedule};
use hyper::Uri;
use serde::Deserialize;
use std::fmt;
use std::time::Duration;

/// Maximum number of webhooks.
const MOST: usize = 16;
/// Maximum length of a URL in bytes.
const LONGEST_URL: usize = 2048;

/// A webhook as typed: one `[[alerts.webhooks]]` table.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawWebhook {
    /// Where to POST; required.
    pub url: Option<String>,
    /// `whsec_` and base64; only for the standard format.
    pub secret: Option<String>,
    /// "standard" (the default) or "slack".
    pub format: Option<String>,
    /// Names of kinds; default: all.
    pub kinds: Option<Vec<String>>,
}

/// The format that a webhook's receiver understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// The Standard Webhooks specification 1.0.0.
    Standard,
    /// Slack's incoming webhooks, which other chat services also accept.
    Slack,
}

/// A webhook in its resolved form.
#[derive(Clone)]
pub struct WebhookConfig {
    /// Its index in the list and its host, for logs and labels: "0 hooks.example.com".
    pub name: String,
    /// Where to POST. May itself be a credential.
    pub(super) url: Uri,
    /// The secret that deliveries are signed with.
    pub(super) secret: Option<Secret>,
    /// What the receiver understands.
    pub format: Format,
    /// The kinds of alerts that it receives; all if `None`.
    pub kinds: Option<Vec<Kind>>,
}

/// All settings for alerts.
#[derive(Debug, Clone)]
pub struct AlertsConfig {
    /// The webhooks; without any, alerts are only logged.
    pub webhooks: Vec<WebhookConfig>,
    /// How long a repeated alert is suppressed.
    pub repeat_window: Duration,
    /// Maximum number of alerts that wait for each webhook.
    pub capacity: usize,
    /// How long one attempt may take, including connecting and reading the reply.
    pub timeout: Duration,
    /// When failed attempts are repeated.
    pub schedule: Schedule,
}

impl Default for AlertsConfig {
    fn default() -> AlertsConfig {
        AlertsConfig {
            webhooks: Vec::new(),
            repeat_window: Duration::from_secs(600),
            capacity: 256,
            timeout: Duration::from_secs(10),
            schedule: Schedule::default(),
        }
    }
}

impl WebhookConfig {
    /// Checks the webhooks of a config, in order. Fails if there are too many, or at the first that is not valid.
    pub fn parse_all(raw: Vec<RawWebhook>) -> Result<Vec<WebhookConfig>, AlertsError> {
        if raw.len() > MOST {
            return Err(AlertsError::TooMany { given: raw.len(), most: MOST });
        }
        raw.into_iter().enumerate().map(|(index, raw)| WebhookConfig::parse(index, raw)).collect()
    }

    /// Checks one webhook, the `index`-th from 0. Fails if one of its keys is not valid, or if a webhook for Slack has
    /// a secret.
    pub fn parse(index: usize, raw: RawWebhook) -> Result<WebhookConfig, AlertsError> {
        let wrong = |key, what: String| AlertsError::Webhook { index, key, what };
        let (url, host) = parse_url(raw.url.as_deref()).map_err(|what| wrong("url", what))?;
        let format = parse_format(raw.format.as_deref()).map_err(|what| wrong("format", what))?;
        let secret = match (raw.secret, format) {
            (Some(_), Format::Slack) => {
                let what = "a slack webhook is not signed; remove the secret, or set format = \
                            \"standard\"";
                return Err(wrong("secret", what.to_owned()));
            }
            (Some(text), Format::Standard) => {
                Some(Secret::parse(&text).map_err(|what| wrong("secret", what))?)
            }
            (None, _) => None,
        };
        let kinds = raw.kinds.map(parse_kinds).transpose().map_err(|what| wrong("kinds", what))?;
        Ok(WebhookConfig { name: format!("{index} {host}"), url, secret, format, kinds })
    }

    pub(super) fn wants(&self, kind: Kind) -> bool {
        self.kinds.as_ref().is_none_or(|kinds| kinds.contains(&kind))
    }

    pub(super) fn is_https(&self) -> bool {
        self.url.scheme_str() == Some("https")
    }
}

fn parse_url(given: Option<&str>) -> Result<(Uri, String), String> {
    let hint = "give an address such as \"https://hooks.example.com/path\"";
    let Some(text) = given else { return Err(format!("is missing; {hint}")) };
    if text.len() > LONGEST_URL {
        return Err(format!("is longer than {LONGEST_URL} bytes; {hint}"));
    }
    let url: Uri = text.parse().map_err(|e| format!("is not a URL ({e}); {hint}"))?;
    if !matches!(url.scheme_str(), Some("http" | "https")) {
        return Err(format!("is neither http:// nor https://; {hint}"));
    }
    if url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(format!("must not contain a user name or password; {hint}"));
    }
    match url.host() {
        Some(host) if !host.is_empty() => Ok((url.clone(), host.to_owned())),
        _ => Err(format!("names no host; {hint}")),
    }
}

fn parse_format(given: Option<&str>) -> Result<Format, String> {
    match given {
        None | Some("standard") => Ok(Format::Standard),
        Some("slack") => Ok(Format::Slack),
        Some(other) => Err(format!("\"{other}\" is not known; give \"standard\" or \"slack\"")),
    }
}

fn parse_kinds(names: Vec<String>) -> Result<Vec<Kind>, String> {
    if names.is_empty() {
        return Err("is empty, so nothing would be sent; leave it out for all kinds".to_owned());
    }
    let known = || Kind::ALL.map(Kind::as_str).join(", ");
    let parse = |name: &String| {
        let kind = Kind::from_name(name);
        kind.ok_or_else(|| format!("\"{name}\" is not known; give some of {}", known()))
    };
    names.iter().map(parse).collect()
}

impl fmt::Debug for RawWebhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = f.debug_struct("RawWebhook");
        all.field("format", &self.format).field("kinds", &self.kinds).finish_non_exhaustive()
    }
}

impl fmt::Debug for WebhookConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = f.debug_struct("WebhookConfig");
        all.field("name", &self.name).field("format", &self.format).field("kinds", &self.kinds);
        all.field("signed", &self.secret.is_some()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const URL: &str = "https://hooks.example.com/services/T0KEN";

    fn raw(url: &str) -> RawWebhook {
        RawWebhook { url: Some(url.to_owned()), ..RawWebhook::default() }
    }

    fn refusal(raw: RawWebhook) -> String {
        WebhookConfig::parse(2, raw).unwrap_err().to_string()
    }

    #[test]
    fn a_url_alone_is_enough() {
        let webhook = WebhookConfig::parse(0, raw(URL)).unwrap();
        assert_eq!(
            (webhook.name.as_str(), webhook.format),
            ("0 hooks.example.com", Format::Standard)
        );
        assert!(webhook.secret.is_none() && webhook.is_https());
        assert!(Kind::ALL.into_iter().all(|kind| webhook.wants(kind)));
        assert!(!WebhookConfig::parse(0, raw("http://127.0.0.1:9/x")).unwrap().is_https());
    }

    #[test]
    fn all_keys_are_read() {
        let kinds = Some(vec!["promoted".to_owned(), "fault".to_owned()]);
        let secret = Some(SECRET.to_owned());
        let webhook = WebhookConfig::parse(0, RawWebhook { secret, kinds, ..raw(URL) }).unwrap();
        assert!(webhook.secret.is_some());
        let wanted: Vec<Kind> = Kind::ALL.into_iter().filter(|k| webhook.wants(*k)).collect();
        assert_eq!(wanted, [Kind::Promoted, Kind::Fault]);
        let format = Some("slack".to_owned());
        let webhook = WebhookConfig::parse(0, RawWebhook { format, ..raw(URL) }).unwrap();
        assert_eq!(webhook.format, Format::Slack);
    }

    #[test]
    fn refusals_name_the_key_and_the_remedy() {
        let bad_urls = ["", "hooks.example.com/T0KEN", "/T0KEN", "ftp://h/T0KEN", "https:///T0KEN"];
        for url in bad_urls.into_iter().chain(["https://u:T0KEN@h/", "https://h/T0KEN x"]) {
            let text = refusal(raw(url));
            assert!(text.starts_with("alerts.webhooks[2].url: "), "{url}: {text}");
            assert!(text.contains("https://hooks.example.com/path"), "{url}: {text}");
            assert!(!text.contains("T0KEN"), "{text}");
        }
        assert!(refusal(RawWebhook::default()).contains("url: is missing"));
        assert!(refusal(raw(&format!("https://h/{}", "x".repeat(3000)))).contains("longer than"));

        let text = refusal(RawWebhook { secret: Some("hunter2".to_owned()), ..raw(URL) });
        assert!(
            text.starts_with("alerts.webhooks[2].secret: does not begin with whsec_"),
            "{text}"
        );
        assert!(!text.contains("hunter2"));
        let (secret, format) = (Some(SECRET.to_owned()), Some("slack".to_owned()));
        let text = refusal(RawWebhook { secret, format, ..raw(URL) });
        assert!(text.contains("[2].secret: a slack webhook is not signed"), "{text}");

        let text = refusal(RawWebhook { format: Some("teams".to_owned()), ..raw(URL) });
        assert!(text.contains("[2].format: \"teams\" is not known; give \"standard\""), "{text}");
        let text = refusal(RawWebhook { kinds: Some(vec!["raised".to_owned()]), ..raw(URL) });
        assert!(text.contains("[2].kinds: \"raised\"") && text.contains("rolled_back"), "{text}");
        assert!(refusal(RawWebhook { kinds: Some(vec![]), ..raw(URL) }).contains("leave it out"));
    }

    #[test]
    fn too_many_are_refused() {
        assert!(WebhookConfig::parse_all(vec![raw(URL); MOST]).is_ok());
        let error = WebhookConfig::parse_all(vec![raw(URL); MOST + 1]).unwrap_err();
        assert_eq!(error, AlertsError::TooMany { given: 17, most: 16 });
    }

    #[test]
    fn debug_shows_neither_url_nor_secret() {
        let raw = RawWebhook { secret: Some(SECRET.to_owned()), ..raw(URL) };
        let shown = format!("{raw:?} {:?}", WebhookConfig::parse(0, raw.clone()).unwrap());
        assert!(!shown.contains("T0KEN") && !shown.contains("MfKQ"), "{shown}");
    }

    #[test]
    fn a_table_is_typed_so_and_unknown_keys_are_refused() {
        let text = format!("url = \"{URL}\"\nformat = \"slack\"\nkinds = [\"stalled\"]");
        let raw: RawWebhook = toml::from_str(&text).unwrap();
        assert!(WebhookConfig::parse(0, raw).is_ok());
        assert!(toml::from_str::<RawWebhook>("uri = \"x\"").is_err());
    }
}
