//! Routing through control, gateway and engine with scripted models: shares, stickiness, rescue, clients that
//! disconnect.

use serde_json::json;
use serin::control::{ConditionalOrder, Control, LoadOrder};
use serin::engine::SchedulerConfig;
use serin::rollout::{Arm, Operator, Order, Policy, Weight};
use serin::serving::testing::FakeServer;
use serin::serving::{Gateway, GatewayError, GenerateRequest, Piece, Prompt, SamplingPatch};
use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

fn server() -> FakeServer {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-v1");
    let mut server = FakeServer::replying(&folder, 1024, "The canary sings.").unwrap();
    server.policy = Policy { bake: Duration::from_secs(3600), ..Policy::default() };
    server
}

fn request(id: usize, key: Option<String>) -> GenerateRequest {
    let prompt = chat("What does the canary do?".to_owned());
    GenerateRequest {
        sampling: SamplingPatch { seed: Some(id as u64), ..SamplingPatch::default() },
        max_tokens: Some(48),
        key,
        ..GenerateRequest::of(&format!("chatcmpl-{id}"), prompt)
    }
}

fn canary() -> LoadOrder {
    LoadOrder::of("canary", "a test")
}

async fn set_weight(control: &Control, percent: u8) {
    let command = Operator::SetWeight(Weight::new(percent).unwrap());
    let order = Order { command, by: "a test".to_owned(), reason: None };
    let expect = Some(control.status().revision);
    control.order(ConditionalOrder { order, expect }).await.unwrap();
}

/// Runs a request to its end: the answering arm and the text.
async fn answer(gateway: &Gateway, request: GenerateRequest) -> (Arm, String) {
    let mut generation = gateway.generate(request).await.unwrap();
    let (mut arm, mut text) = (None, String::new());
    while let Some(piece) = generation.pieces.recv().await {
        match piece {
            Piece::Start(served, _) => arm = Some(served.arm),
            Piece::Text { text: part, .. } => text += &part,
            Piece::Failed(error) => panic!("{error}"),
            _ => {}
        }
    }
    (arm.unwrap(), text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_requests_at_five_percent_are_shared_within_four_sigma() {
    let gateway = server().start().await.unwrap();
    gateway.control().load_canary(canary()).await.unwrap();
    let (n, p) = (10_000usize, 0.05);
    let mut canary = 0;
    for group in 0..n / 50 {
        let asks = (0..50).map(|i| answer(&gateway, request(group * 50 + i, None)));
        for (arm, text) in futures_util::future::join_all(asks).await {
            assert_eq!(text, "The canary sings.");
            canary += usize::from(arm == Arm::Canary);
        }
    }
    let sigma = (n as f64 * p * (1.0 - p)).sqrt();
    println!("{canary} of {n} went to the canary (4 sigma = {:.0})", 4.0 * sigma);
    assert!((canary as f64 - n as f64 * p).abs() < 4.0 * sigma, "{canary}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_session_leaves_the_canary_while_the_weight_rises() {
    let gateway = server().start().await.unwrap();
    let control = gateway.control();
    control.load_canary(canary()).await.unwrap();
    let mut before: HashSet<usize> = HashSet::new();
    for percent in [5, 25, 50, 100] {
        set_weight(control, percent).await;
        let mut now = HashSet::new();
        for session in 0..400 {
            let ask = request(session, Some(format!("session-{session}")));
            if answer(&gateway, ask).await.0 == Arm::Canary {
                now.insert(session);
            }
        }
        assert!(before.is_subset(&now), "at {percent} % a session left the canary");
        before = now;
    }
    assert!((330..400).contains(&before.len()), "a tenth is held back: {}", before.len());
    let status = control.status();
    assert_eq!((status.weight, status.routed), (100, 90));
    assert!(
        status.share_of == 1000 && status.share > 0.5,
        "{} of {}",
        status.share,
        status.share_of
    );
}

/// A few sessions that are all on the canary are much of the traffic, each below what is drawn per request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_are_told_once_that_the_real_share_is_not_what_was_set() {
    let mut server = server();
    server.model("canary").unwrap();
    let gateway = server.start().await.unwrap();
    let control = gateway.control();
    control.load_canary(canary()).await.unwrap();
    set_weight(control, 50).await;
    let arm = |key: &str| control.route(Some(key), None, 0.5).unwrap().arm;
    let keys = (0..100).map(|session| format!("session-{session}"));
    let on_canary: Vec<String> = keys.filter(|key| arm(key) == Arm::Canary).take(20).collect();
    for key in on_canary.iter().cycle().take(45 * on_canary.len()) {
        assert_eq!(arm(key), Arm::Canary);
    }
    let told = || {
        let earlier = control.listen(0).earlier;
        earlier.into_iter().filter(|note| note.kind == "traffic_skew").collect::<Vec<_>>()
    };
    for _ in 0..100 {
        if !told().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let told = told();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].body.contains("\"expected\":0.5"), "{}", told[0].body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_canary_is_rescued_rolled_back_and_unloaded() {
    let mut server = server();
    server.model("canary").unwrap().nan_share = 1.0;
    let gateway = server.start().await.unwrap();
    let control = gateway.control();
    control.load_canary(canary()).await.unwrap();
    set_weight(control, 50).await;
    for id in 0..300 {
        let (arm, text) = answer(&gateway, request(id, None)).await;
        assert_eq!((arm, text.as_str()), (Arm::Stable, "The canary sings."));
    }
    let status = control.status();
    assert_eq!(status.weight, 0);
    assert_eq!(status.phase.as_str(), "rolled_back");
    for _ in 0..100 {
        if !control.status().unloads.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let report = control.status().unloads[0].report;
    assert!(report.used_before >= 1 << 20, "the model held memory: {report:?}");
    assert_eq!((report.used_after, report.reserved_after, report.blocks_leaked), (0, 0, 0));
}

fn chat(content: String) -> Prompt {
    let messages = vec![json!({"role": "user", "content": content})];
    Prompt::Chat { messages, tools: None, template_kwargs: None, ending: Default::default() }
}

/// A conversation that grew on a canary with a longer context may be too long for what stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_for_length_names_the_version_that_took_it() {
    let mut server = server();
    server.model("canary").unwrap().capacity.max_len = 4096;
    let gateway = server.start().await.unwrap();
    let control = gateway.control();
    let refusal = async |words: usize| {
        let asked = GenerateRequest { prompt: chat("bird ".repeat(words)), ..request(words, None) };
        match gateway.generate(asked).await {
            Err(error) => error.to_string(),
            Ok(_) => panic!("{words} words were taken"),
        }
    };
    assert!(!refusal(1000).await.contains("in service"), "no version has left");
    control.load_canary(canary()).await.unwrap();
    let command = Operator::Rollback;
    let order = Order { command, by: "a test".to_owned(), reason: None };
    let expect = Some(control.status().revision);
    control.order(ConditionalOrder { order, expect }).await.unwrap();
    let text = refusal(1000).await;
    assert!(text.contains("which took up to 4096 tokens, is no longer in service"), "{text}");
    assert!(!refusal(50_000).await.contains("in service"), "too long for both");
}

/// What stable would have taken is charged to the canary, and stable answers; what neither takes is charged to nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_too_long_for_the_canary_is_judged_by_what_stable_can_do() {
    const SHORT_CONTEXT: usize = 128;
    let (answered, refused) = (true, false);
    for (words, client, rolled_back) in
        [(1, answered, false), (200, answered, true), (2000, refused, false)]
    {
        let mut server = server();
        server.model("canary").unwrap().capacity.max_len = SHORT_CONTEXT;
        let gateway = server.start().await.unwrap();
        let control = gateway.control();
        let refusal = control.load_canary(canary()).await.unwrap_err().to_string();
        assert!(refusal.contains("context"), "{refusal}");
        control.load_canary(LoadOrder { allow: true, ..canary() }).await.unwrap();
        set_weight(control, 50).await;
        for id in 0..100 {
            let asked =
                GenerateRequest { prompt: chat("bird ".repeat(words)), ..request(id, None) };
            match gateway.generate(asked).await {
                Ok(mut generation) => {
                    assert_eq!(client, answered, "{words} words");
                    while let Some(piece) = generation.pieces.recv().await {
                        assert!(!matches!(piece, Piece::Failed(_)), "{words} words: {piece:?}");
                    }
                }
                Err(GatewayError::ContextLength { max, .. }) => {
                    assert_eq!((client, max), (refused, 512), "{words} words");
                }
                Err(error) => panic!("{words} words: {error}"),
            }
        }
        let status = control.status();
        assert_eq!(status.phase == "rolled_back", rolled_back, "{words} words: {:?}", status.phase);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_clients_that_leave_cost_nothing() {
    let mut server = server();
    let script = server.model("stable").unwrap();
    script.step_time = Duration::from_millis(2);
    script.reply = vec![5; 400];
    server.scheduler = SchedulerConfig { max_waiting: 512, ..SchedulerConfig::default() };
    let gateway = server.start().await.unwrap();
    let leave = |id: usize| {
        let gateway = gateway.clone();
        async move {
            let mut ask = request(id, None);
            ask.max_tokens = Some(400);
            let mut generation = gateway.generate(ask).await.unwrap();
            let stay = Duration::from_micros((id as u64 * 7919) % 400_000);
            let reading = async { while generation.pieces.recv().await.is_some() {} };
            let _ = tokio::time::timeout(stay, reading).await;
        }
    };
    futures_util::future::join_all((0..200).map(leave)).await;
    let stable = gateway.control().models().stable.unwrap();
    let used = || stable.stats.read().blocks_used;
    let busy = || stable.stats.read().running + stable.stats.read().waiting;
    for _ in 0..200 {
        if used() + busy() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!((used(), busy()), (0, 0), "every KV block is back");
    assert!(stable.stats.read().cancelled > 100);
    assert_eq!(gateway.control().view().arms[0].total.errors, 0);
}

/// Shadow copies run only while the device is idle, are shown to no client, and count in no verdict.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_compares_in_pairs_and_keeps_out_of_the_way() {
    let mut server = server();
    server.deployments.shadow = 1.0;
    let script = server.model("canary").unwrap();
    script.step_time = Duration::from_millis(3);
    script.reply.truncate(2);
    let gateway = server.start().await.unwrap();
    gateway.control().load_canary(canary()).await.unwrap();
    set_weight(gateway.control(), 0).await;
    let before = gateway.control().view();
    for id in 0..20 {
        let (arm, text) = answer(&gateway, request(id, None)).await;
        assert_eq!((arm, text.as_str()), (Arm::Stable, "The canary sings."));
        // From time to time the device is idle for long enough.
        tokio::time::sleep(Duration::from_millis(id as u64 % 4 * 10)).await;
    }
    let seen = || gateway.shadow().unwrap().pairs;
    for _ in 0..200 {
        if seen() >= 5 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let report = gateway.shadow().unwrap();
    assert!(report.pairs >= 5 && report.preempted > 0 && report.failed == 0, "{report:?}");
    let ratio = |ratio: Option<f64>| ratio.expect("pairs were compared");
    assert!(ratio(report.ttft_ratio) > 1.0 && ratio(report.length_ratio) < 1.0, "{report:?}");
    assert_eq!((report.identical, report.divergence), (Some(0.0), Some(2.0)));
    assert!(report.log_probability.is_some_and(|mean| mean <= 0.0), "{report:?}");
    let after = gateway.control().view();
    assert_eq!(after.arm(Arm::Canary), before.arm(Arm::Canary), "nothing was judged");
}
