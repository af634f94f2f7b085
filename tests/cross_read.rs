//! Replies read by both models: through gateway, control and engine with scripted models and with the demo models.

use serde_json::json;
use serin::control::{ConditionalOrder, Control, LoadOrder};
use serin::rollout::{CrossRead, Expect, Operator, Order, Policy, Weight};
use serin::serving::testing::FakeServer;
use serin::serving::{Gateway, GenerateRequest, Piece, Prompt};
use std::path::Path;
use std::time::Duration;

fn server() -> FakeServer {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-v1");
    let mut server = FakeServer::replying(&folder, 1024, "The canary sings.").unwrap();
    let cross_read = CrossRead { share: 1.0, ..CrossRead::default() };
    server.policy = Policy { bake: Duration::from_secs(3600), cross_read, ..Policy::default() };
    server
}

fn request(id: usize) -> GenerateRequest {
    let messages = vec![json!({"role": "user", "content": format!("What does canary {id} do?")})];
    let prompt =
        Prompt::Chat { messages, tools: None, template_kwargs: None, ending: Default::default() };
    GenerateRequest {
        max_tokens: Some(48),
        ..GenerateRequest::of(&format!("chatcmpl-{id}"), prompt)
    }
}

fn canary(expect: Expect) -> LoadOrder {
    LoadOrder { retry: true, expect: Some(expect), ..LoadOrder::of("canary", "a test") }
}

async fn order(control: &Control, command: Operator) {
    let order = Order { command, by: "a test".to_owned(), reason: None };
    let expect = Some(control.status().revision);
    control.order(ConditionalOrder { order, expect }).await.unwrap();
}

async fn answer(gateway: &Gateway, request: GenerateRequest) {
    let mut generation = gateway.generate(request).await.unwrap();
    while let Some(piece) = generation.pieces.recv().await {
        assert!(!matches!(piece, Piece::Failed(_)), "{piece:?}");
    }
}

/// Waits until nothing is left to read.
async fn settled(gateway: &Gateway) -> serin::control::CrossReadStatus {
    for _ in 0..1000 {
        let read = gateway.status().cross_read.expect("reading is on");
        if read.read + read.dropped + read.too_long + read.failed >= read.sampled {
            return read;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("still reading: {:?}", gateway.status().cross_read);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_idle_nearly_all_of_the_sample_is_read_by_both() {
    let gateway = server().start().await.unwrap();
    let control = gateway.control();
    control.load_canary(canary(Expect::Same)).await.unwrap();
    order(control, Operator::SetWeight(Weight::new(50).unwrap())).await;
    for id in 0..60 {
        answer(&gateway, request(id)).await;
    }
    let read = settled(&gateway).await;
    assert!(read.sampled >= 50, "all but chance: {read:?}");
    assert!(10 * read.read >= 9 * read.sampled, "{read:?}");
    assert_eq!(read.difference, None, "both have the same template");
    let status = control.status();
    let gate = status.gates.iter().find(|gate| gate.name == "cross_read").unwrap();
    assert_eq!(gate.state, "pass", "{}", gate.text);
    assert!(gate.text.contains("replies read") && gate.text.contains("expected: same"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_chosen_without_a_canary_and_nothing_large_is_kept() {
    let gateway = server().start().await.unwrap();
    let control = gateway.control();
    for id in 0..20 {
        answer(&gateway, request(id)).await;
    }
    assert_eq!(gateway.status().cross_read.unwrap().sampled, 0, "there is nobody to compare with");
    control.load_canary(canary(Expect::Different)).await.unwrap();
    order(control, Operator::SetWeight(Weight::new(50).unwrap())).await;
    for id in 0..20 {
        // The template does not read these, so the prompt is short.
        let many: serde_json::Map<_, _> =
            (0..10_000).map(|i| (format!("p{i}"), json!(""))).collect();
        let mut large = request(id);
        if let Prompt::Chat { template_kwargs, .. } = &mut large.prompt {
            *template_kwargs = Some([("unread".to_owned(), many.into())].into_iter().collect());
        }
        answer(&gateway, large).await;
    }
    let read = settled(&gateway).await;
    assert!(read.sampled > 0 && read.too_long == read.sampled, "{read:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expectation_that_nothing_would_test_is_refused() {
    let mut server = server();
    server.policy.cross_read.share = 0.0;
    let gateway = server.start().await.unwrap();
    let refused = gateway.control().load_canary(canary(Expect::Same)).await.unwrap_err();
    assert!(refused.to_string().contains("rollout.cross_read is 0"), "{refused}");
    let asked = LoadOrder { expect: None, ..canary(Expect::Same) };
    gateway.control().load_canary(asked).await.unwrap();
}

/// Disconnects, rollbacks and unloads at any moment of a reading leave no block behind, and stable goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reading_cut_off_at_any_moment_leaves_no_block_behind() {
    let times: usize = std::env::var("SERIN_READINGS").map_or(40, |times| times.parse().unwrap());
    let mut server = server();
    server.model("canary").unwrap().step_time = Duration::from_micros(300);
    let gateway = server.start().await.unwrap();
    let control = gateway.control().clone();
    for round in 0..times {
        control.load_canary(canary(Expect::Different)).await.unwrap();
        order(&control, Operator::SetWeight(Weight::new(50).unwrap())).await;
        for id in 0..4 {
            answer(&gateway, request(round * 10 + id)).await;
        }
        tokio::time::sleep(Duration::from_micros(137 * (round as u64 % 30))).await;
        if round % 2 == 0 {
            drop(gateway.generate(request(round * 10 + 5)).await.unwrap());
        }
        let before = control.status().unloads;
        order(&control, Operator::Rollback).await;
        let report = loop {
            let unloads = control.status().unloads;
            match unloads.last() {
                Some(unload) if unloads != before => break unload.report,
                _ => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        };
        assert_eq!(report.blocks_leaked, 0, "round {round}");
    }
    answer(&gateway, request(9_999_999)).await;
    settled(&gateway).await;
    let stable = control.models().stable.unwrap();
    // A reply ends before the figures of its last step are published.
    let mut used = u64::MAX;
    for _ in 0..1000 {
        used = stable.stats.read().blocks_used;
        if used == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(used, 0, "blocks of stable are still referenced");
}
