//! Alerts over real sockets, to receivers in this process with scripted responses.

use super::testing::{Answer, CERTIFICATE, ReceivedRequest, Receiver, alert, der, nth};
use super::wire::Wire;
use super::*;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::RootCertStore;
use sha2::{Digest, Sha256};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const LIMIT: Duration = Duration::from_secs(20);

fn webhook(url: String) -> RawWebhook {
    RawWebhook { url: Some(url), ..RawWebhook::default() }
}

/// Retries within milliseconds, defaults for everything else.
fn config(raw: Vec<RawWebhook>) -> AlertsConfig {
    let delays = vec![Duration::from_millis(20); 5];
    AlertsConfig {
        webhooks: WebhookConfig::parse_all(raw).unwrap(),
        schedule: Schedule { delays, ..Schedule::default() },
        ..AlertsConfig::default()
    }
}

/// Retries after an hour, so only immediate deliveries are seen.
fn patient(raw: Vec<RawWebhook>) -> AlertsConfig {
    let delays = vec![Duration::from_secs(360_000); 5];
    AlertsConfig { schedule: Schedule { delays, ..Schedule::default() }, ..config(raw) }
}

fn start_to(receiver: &Receiver) -> Alerts {
    Alerts::start(config(vec![webhook(receiver.url())])).unwrap()
}

/// Waits until the first webhook's counts satisfy `so`.
async fn until(alerts: &Alerts, so: impl Fn(&WebhookCounts) -> bool) -> WebhookCounts {
    let begun = Instant::now();
    loop {
        let counts = alerts.counts().webhooks.remove(0);
        if so(&counts) {
            return counts;
        }
        assert!(begun.elapsed() < LIMIT, "still {counts:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// HMAC written from RFC 2104, independent of the library that the code under test uses.
fn hmac_sha256(key: &[u8], message: &[u8]) -> Vec<u8> {
    assert!(key.len() <= 64, "a longer key would have to be hashed first");
    let pad = |with: u8| {
        let mut block = [with; 64];
        block.iter_mut().zip(key).for_each(|(b, k)| *b ^= k);
        block
    };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
}

fn assert_signed(seen: &ReceivedRequest, key: &[u8]) {
    let (id, time) = (seen.header("webhook-id"), seen.header("webhook-timestamp"));
    let message = [format!("{id}.{time}.").as_bytes(), &seen.body].concat();
    let expected = format!("v1,{}", STANDARD.encode(hmac_sha256(key, &message)));
    assert_eq!(seen.header("webhook-signature"), expected);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!(now.abs_diff(time.parse().unwrap()) < 60, "the time of the try, not of the alert");
}

#[tokio::test]
async fn a_signed_alert_arrives_whole() {
    let mut receiver = Receiver::start(vec![Answer::status(204)]).await;
    let key: Vec<u8> = (100..132).collect();
    let secret = Some(format!("whsec_{}", STANDARD.encode(&key)));
    let raw = RawWebhook { secret, ..webhook(receiver.url()) };
    let alerts = Alerts::start(config(vec![raw])).unwrap();
    alerts.send(alert(Kind::RolledBack));
    let seen = receiver.next().await;
    assert_eq!(seen.line, "POST /hook?token=T0KEN HTTP/1.1");
    assert_eq!(seen.header("content-type"), "application/json");
    assert_eq!(seen.header("host"), receiver.address.to_string());
    assert!(seen.header("user-agent").starts_with("serin/"));
    assert_eq!(seen.header("webhook-id"), alert(Kind::RolledBack).id.as_str());
    assert_signed(&seen, &key);
    assert_eq!(seen.json()["type"], "serin.rolled_back");
    let counts = until(&alerts, |c| c.sent == 1).await;
    assert_eq!((counts.waiting, counts.failed, counts.dropped, counts.retried), (0, 0, 0, 0));
}

#[tokio::test]
async fn a_retry_is_the_same_message_signed_anew() {
    let script = [500, 503, 200].map(Answer::status).to_vec();
    let mut receiver = Receiver::start(script).await;
    let key = [7; 24];
    let secret = Some(format!("whsec_{}", STANDARD.encode(key)));
    let raw = RawWebhook { secret, ..webhook(receiver.url()) };
    let alerts = Alerts::start(config(vec![raw])).unwrap();
    alerts.send(alert(Kind::Fault));
    let tries = [receiver.next().await, receiver.next().await, receiver.next().await];
    for seen in &tries {
        assert_eq!(seen.header("webhook-id"), tries[0].header("webhook-id"));
        assert_eq!(seen.body, tries[0].body);
        assert_signed(seen, &key);
    }
    let counts = until(&alerts, |c| c.sent == 1).await;
    assert_eq!((counts.retried, counts.failed, counts.waiting), (2, 0, 0));
    assert!(receiver.rest().is_empty());
}

#[tokio::test]
async fn it_gives_up_after_the_last_try() {
    let mut receiver = Receiver::start(vec![Answer::status(500)]).await;
    let alerts = start_to(&receiver);
    alerts.send(alert(Kind::Fault));
    let counts = until(&alerts, |c| c.failed == 1).await;
    assert_eq!((counts.retried, counts.sent, counts.waiting), (5, 0, 0));
    assert_eq!(receiver.rest().len(), 6);
}

#[tokio::test]
async fn a_refusal_is_not_repeated_and_a_redirect_not_followed() {
    let mut elsewhere = Receiver::start(vec![Answer::status(200)]).await;
    let location = format!("location: {}\r\n", elsewhere.url());
    let redirect = Answer::Reply(307, location, String::new());
    let mut receiver = Receiver::start(vec![Answer::status(404), redirect]).await;
    let alerts = start_to(&receiver);
    alerts.send(nth(1));
    alerts.send(nth(2));
    let counts = until(&alerts, |c| c.failed == 2).await;
    assert_eq!((counts.retried, counts.sent), (0, 0));
    assert_eq!(receiver.rest().len(), 2);
    assert!(elsewhere.rest().is_empty());
}

#[tokio::test]
async fn a_receiver_that_says_nothing_delays_nobody_else() {
    let mut silent = Receiver::start(vec![Answer::Silence]).await;
    let mut quick = Receiver::start(vec![Answer::status(200)]).await;
    let raw = vec![webhook(silent.url()), webhook(quick.url())];
    let alerts = Alerts::start(config(raw)).unwrap();
    let begun = Instant::now();
    (0..50).for_each(|n| alerts.send(nth(n)));
    assert!(begun.elapsed() < Duration::from_secs(2), "send waited");
    for n in 0..50 {
        assert_eq!(quick.next().await.stage(), n, "in order");
    }
    assert_eq!(silent.next().await.stage(), 0);
    let counts = alerts.counts().webhooks.remove(0);
    assert_eq!((counts.sent, counts.waiting), (0, 50));
}

#[tokio::test]
async fn silence_ends_at_the_time_limit_and_is_retried() {
    let mut receiver = Receiver::start(vec![Answer::Silence, Answer::status(200)]).await;
    let timeout = Duration::from_millis(200);
    let config = AlertsConfig { timeout, ..config(vec![webhook(receiver.url())]) };
    let alerts = Alerts::start(config).unwrap();
    alerts.send(alert(Kind::Stalled));
    let counts = until(&alerts, |c| c.sent == 1).await;
    assert_eq!(counts.retried, 1);
    assert_eq!(receiver.rest().len(), 2);
}

#[tokio::test]
async fn gone_turns_a_webhook_off() {
    let mut receiver = Receiver::start(vec![Answer::status(410), Answer::status(200)]).await;
    let alerts = start_to(&receiver);
    (1..=3).for_each(|n| alerts.send(nth(n)));
    let counts = until(&alerts, |c| c.gone).await;
    assert_eq!((counts.failed, counts.waiting), (1, 0));
    until(&alerts, |c| c.dropped == 2).await;
    alerts.send(nth(4));
    assert_eq!(until(&alerts, |c| c.dropped == 3).await.sent, 0);
    assert_eq!(alerts.flush(LIMIT).await, 0);
    assert_eq!(receiver.rest().len(), 1);
}

#[tokio::test]
async fn a_full_queue_drops_the_oldest_and_counts() {
    let mut receiver = Receiver::start(vec![Answer::Silence]).await;
    let config = AlertsConfig { capacity: 3, ..config(vec![webhook(receiver.url())]) };
    let alerts = Alerts::start(config).unwrap();
    alerts.send(nth(0));
    assert_eq!(receiver.next().await.stage(), 0, "it is being tried and holds no place");
    (1..=8).for_each(|n| alerts.send(nth(n)));
    let counts = alerts.counts().webhooks.remove(0);
    assert_eq!((counts.dropped, counts.waiting), (5, 4));
}

#[tokio::test]
async fn what_is_left_of_a_full_queue_is_the_newest() {
    let config = |url| AlertsConfig { capacity: 2, ..config(vec![webhook(url)]) };
    let mut receiver = Receiver::start(vec![Answer::status(200)]).await;
    let alerts = Alerts::start(config(receiver.url())).unwrap();
    // The task has not run yet: this test's runtime has one thread, and nothing here awaits.
    (1..=5).for_each(|n| alerts.send(nth(n)));
    until(&alerts, |c| c.sent == 2).await;
    let stages: Vec<u64> = receiver.rest().iter().map(ReceivedRequest::stage).collect();
    assert_eq!(stages, [4, 5]);
    assert_eq!(alerts.counts().webhooks[0].dropped, 3);
}

#[tokio::test]
async fn a_repetition_is_sent_once_and_counted() {
    let mut receiver = Receiver::start(vec![Answer::status(200)]).await;
    let repeat_window = Duration::from_millis(300);
    let config = AlertsConfig { repeat_window, ..config(vec![webhook(receiver.url())]) };
    let alerts = Alerts::start(config).unwrap();
    (0..4).for_each(|_| alerts.send(alert(Kind::Stalled)));
    alerts.send(alert(Kind::Fault));
    assert_eq!(receiver.next().await.json()["data"]["kind"], "stalled");
    assert_eq!(receiver.next().await.json()["data"]["kind"], "fault");
    assert_eq!(alerts.counts().repeats, 3);
    tokio::time::sleep(repeat_window).await;
    alerts.send(alert(Kind::Stalled));
    assert_eq!(receiver.next().await.json()["data"]["repeats"], 3);
}

#[tokio::test]
async fn a_webhook_gets_its_kinds_in_its_format() {
    let mut receiver = Receiver::start(vec![Answer::status(200)]).await;
    let kinds = Some(vec!["fault".to_owned()]);
    let format = Some("slack".to_owned());
    let raw = RawWebhook { kinds, format, ..webhook(receiver.url()) };
    let alerts = Alerts::start(config(vec![raw])).unwrap();
    alerts.send(alert(Kind::Promoted));
    alerts.send(Alert { what: "<!here>".to_owned(), ..alert(Kind::Fault) });
    let seen = receiver.next().await;
    assert!(
        seen.json()["text"].as_str().unwrap().starts_with("*[critical] tiny*: &lt;!here&gt;\n")
    );
    assert_eq!(seen.json()["blocks"][0]["type"], "section");
    assert!(!seen.headers.keys().any(|name| name.starts_with("webhook-")));
    let counts = until(&alerts, |c| c.sent == 1).await;
    assert_eq!(counts.waiting, 0);
    assert!(receiver.rest().is_empty());
}

#[tokio::test]
async fn quiet_asked_for_holds_the_next_alert_too() {
    let quiet = Answer::Reply(429, "retry-after: 3600\r\n".to_owned(), String::new());
    let mut receiver = Receiver::start(vec![quiet, Answer::status(200)]).await;
    let alerts = start_to(&receiver);
    alerts.send(nth(1));
    until(&alerts, |c| c.retried == 1).await;
    alerts.send(nth(2));
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(receiver.rest().len(), 1);
    assert_eq!(alerts.counts().webhooks[0].waiting, 2);
}

#[tokio::test]
async fn flush_tries_what_waits_at_once() {
    let mut receiver = Receiver::start([500, 200].map(Answer::status).to_vec()).await;
    let alerts = Alerts::start(patient(vec![webhook(receiver.url())])).unwrap();
    alerts.send(nth(1));
    until(&alerts, |c| c.retried == 1).await;
    alerts.send(nth(2));
    until(&alerts, |c| c.sent == 1).await;
    assert_eq!(alerts.flush(LIMIT).await, 0);
    let stages: Vec<u64> = receiver.rest().iter().map(ReceivedRequest::stage).collect();
    assert_eq!(stages, [1, 2, 1], "the second did not wait for the first");
    let counts = alerts.counts().webhooks.remove(0);
    assert_eq!((counts.sent, counts.failed, counts.dropped, counts.waiting), (2, 0, 0, 0));
    alerts.send(nth(3));
    assert_eq!(alerts.counts().webhooks[0].dropped, 1, "the door is shut");
}

#[tokio::test]
async fn flush_tries_once_and_ends() {
    let mut receiver = Receiver::start(vec![Answer::status(500)]).await;
    let alerts = Alerts::start(patient(vec![webhook(receiver.url())])).unwrap();
    (1..=3).for_each(|n| alerts.send(nth(n)));
    assert_eq!(alerts.flush(LIMIT).await, 0, "none is left waiting");
    let counts = alerts.counts().webhooks.remove(0);
    assert_eq!((counts.sent, counts.failed, counts.waiting), (0, 3, 0));
    assert_eq!(receiver.rest().len(), 3);
}

#[tokio::test]
async fn flush_gives_up_at_its_limit_and_says_so() {
    let receiver = Receiver::start(vec![Answer::Silence]).await;
    let alerts = start_to(&receiver);
    (1..=3).for_each(|n| alerts.send(nth(n)));
    let begun = Instant::now();
    assert_eq!(alerts.flush(Duration::from_millis(200)).await, 3);
    assert!(begun.elapsed() < Duration::from_secs(5));
    let counts = alerts.counts().webhooks.remove(0);
    assert_eq!((counts.dropped, counts.waiting), (3, 0));
}

#[tokio::test]
async fn without_webhooks_there_is_nothing_to_wait_for() {
    let alerts = Alerts::start(AlertsConfig::default()).unwrap();
    alerts.send(alert(Kind::Promoted));
    assert!(alerts.counts().webhooks.is_empty());
    assert_eq!(alerts.flush(LIMIT).await, 0);
}

fn trusting(roots: RootCertStore) -> Wire {
    Wire::new(roots, Duration::from_secs(10)).unwrap()
}

async fn post_over_tls(wire: Wire) -> (Result<wire::Reply, wire::WireError>, Vec<ReceivedRequest>) {
    let mut receiver = Receiver::start_tls(vec![Answer::status(200)]).await;
    let url = format!("https://{}/", receiver.address).parse().unwrap();
    let result = wire.post(wire::Post { url, headers: vec![], body: b"{}".to_vec() }).await;
    (result, receiver.rest())
}

#[tokio::test]
async fn https_delivers_to_whom_it_trusts() {
    let mut roots = RootCertStore::empty();
    roots.add(der(CERTIFICATE).into()).unwrap();
    let (result, seen) = post_over_tls(trusting(roots)).await;
    assert_eq!(result.unwrap().status, 200);
    assert_eq!(seen.len(), 1);
}

#[tokio::test]
async fn https_refuses_a_stranger_and_says_why() {
    let (result, seen) = post_over_tls(trusting(RootCertStore::empty())).await;
    let why = result.unwrap_err().to_string();
    assert!(why.contains("invalid peer certificate: UnknownIssuer"), "{why}");
    assert!(seen.is_empty());
}

#[tokio::test]
async fn a_closed_port_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/T0KEN", listener.local_addr().unwrap()).parse().unwrap();
    drop(listener);
    let wire = trusting(RootCertStore::empty());
    let result = wire.post(wire::Post { url, headers: vec![], body: vec![] }).await;
    let why = result.unwrap_err().to_string();
    assert!(why.contains("refused"), "{why}");
    assert!(!why.contains("T0KEN"), "{why}");
}

#[tokio::test]
async fn a_refusals_words_are_kept_short() {
    let long = Answer::Reply(400, String::new(), "x".repeat(100_000));
    let receiver = Receiver::start(vec![long]).await;
    let wire = trusting(RootCertStore::empty());
    let url = receiver.url().parse().unwrap();
    let reply = wire.post(wire::Post { url, headers: vec![], body: vec![] }).await.unwrap();
    assert_eq!((reply.status, reply.text.len()), (400, 200));
}

#[tokio::test]
async fn a_refusal_whose_words_never_end_is_a_refusal() {
    let endless = Answer::Unfinished(404, "no such".to_owned());
    let receiver = Receiver::start(vec![endless]).await;
    let url = receiver.url().parse().unwrap();
    let wire = trusting(RootCertStore::empty());
    let reply = wire.post(wire::Post { url, headers: vec![], body: vec![] }).await.unwrap();
    assert_eq!((reply.status, reply.text.as_str()), (404, "no such"));
}

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Sink {
    /// Collects everything that this thread logs from now on, as JSON lines.
    fn listen() -> (Sink, tracing::subscriber::DefaultGuard) {
        let sink = Sink::default();
        let writer = sink.clone();
        let all = tracing_subscriber::fmt().json().with_max_level(tracing::Level::TRACE);
        let subscriber = all.with_writer(move || writer.clone()).finish();
        (sink, tracing::subscriber::set_default(subscriber))
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

#[tokio::test]
async fn the_log_never_shows_a_url() {
    let (sink, _guard) = Sink::listen();
    let script = vec![Answer::status(500), Answer::status(404), Answer::status(410)];
    let receiver = Receiver::start(script).await;
    let alerts = start_to(&receiver);
    alerts.send(nth(1));
    until(&alerts, |c| c.failed == 1).await;
    alerts.send(nth(2));
    until(&alerts, |c| c.gone).await;
    alerts.send(nth(3));
    let text = sink.text();
    for told in ["will be retried: status 500", "NOT delivered: status 404", "(410)", "is closed"] {
        assert!(text.contains(told), "{told}: {text}");
    }
    assert!(text.contains("0 127.0.0.1"), "the webhook's name: {text}");
    assert!(!text.contains("T0KEN") && !text.contains("/hook"), "{text}");
}

#[tokio::test]
async fn the_log_says_the_same() {
    let (sink, guard) = Sink::listen();
    let alerts = Alerts::start(AlertsConfig::default()).unwrap();
    alerts.send(alert(Kind::RolledBack));
    alerts.send(Alert { rollout: None, weight: None, ..alert(Kind::Promoted) });
    alerts.send(alert(Kind::RolledBack));
    drop(guard);
    let text = sink.text();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert_eq!(lines[2]["level"], "DEBUG", "a repetition is not worth more");
    assert_eq!(lines[0]["level"], "ERROR");
    assert_eq!(lines[1]["level"], "INFO");
    let (fields, sent) = (&lines[0]["fields"], alert(Kind::RolledBack));
    assert_eq!(fields["message"], sent.what);
    assert_eq!(fields["why"], sent.why);
    assert_eq!(fields["done"], sent.done);
    assert_eq!(fields["kind"], "rolled_back");
    assert_eq!(fields["canary"], "tiny-v3 (77b0)");
    assert_eq!((&fields["weight_before"], &fields["weight_after"]), (&5.into(), &0.into()));
    assert!(lines[1]["fields"].get("rollout").is_none());
}
