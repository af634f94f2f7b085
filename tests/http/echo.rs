//! Prompts that are repeated and scored, the best of several replies, and usage in every chunk.

use crate::support::*;
use serde_json::{Value, json};
use serin::text::Codec;

const PLAIN: &str = "/v1/completions";

/// The scripted models' log-probability of a token; see `engine::fake`.
fn scripted(id: u32) -> f64 {
    f64::from(-(id as f32 + 1.0) / 100.0)
}

fn ids(text: &str) -> Vec<u32> {
    Codec::load(text_from(), 1024).expect("a codec").encode(text, false).expect("ids")
}

/// The chunks of a streamed answer.
async fn chunks(app: &axum::Router, body: &Value) -> Vec<Value> {
    let mut all = events(&text(send(app, post(PLAIN, body)).await).await);
    assert_eq!(all.pop(), Some(json!("[DONE]")));
    all
}

async fn choices(app: &axum::Router, more: Value) -> Vec<Value> {
    ok(app, post(PLAIN, &plain(more))).await["choices"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_prompt_is_repeated_before_its_replies() {
    let app = api(gateway_saying(" and more.", |_| {}).await);
    let text = "Grüße, 世界! Once  upon";
    for choice in choices(&app, json!({"prompt": text, "echo": true, "n": 2})).await {
        assert_eq!(choice["text"], format!("{text} and more."));
        assert_eq!(choice["logprobs"], Value::Null);
    }
    // By ids, the same text.
    let choice = &choices(&app, json!({"prompt": ids(text), "echo": true})).await[0];
    assert_eq!(choice["text"], format!("{text} and more."));
    // What was cut off is not repeated.
    let cut = json!({"prompt": ids(text), "echo": true, "truncate_prompt_tokens": 1});
    let said = choices(&app, cut).await[0]["text"].as_str().unwrap().to_owned();
    let kept = said.strip_suffix(" and more.").expect("the reply");
    assert!(!kept.is_empty() && " upon".ends_with(kept), "{said}");
    // Several prompts, streamed: each before its own reply.
    let body = plain(json!({"prompt": ["One", "Two"], "echo": true, "stream": true}));
    let mut said = [String::new(), String::new()];
    for event in chunks(&app, &body).await {
        let choice = &event["choices"][0];
        said[choice["index"].as_u64().unwrap() as usize] += choice["text"].as_str().unwrap();
    }
    assert_eq!(said, ["One and more.", "Two and more."]);
}

#[tokio::test]
async fn a_prompts_tokens_have_their_log_probabilities() {
    let app = api(gateway_saying(" and more.", |_| {}).await);
    let text = "Once upon a time";
    for stream in [false, true] {
        let more = json!({"prompt": text, "echo": true, "logprobs": 2, "stream": stream, "add_special_tokens": false});
        let answer = self::text(send(&app, post(PLAIN, &plain(more))).await).await;
        let mut lists =
            json!({"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []});
        let parts =
            if stream { events(&answer) } else { vec![serde_json::from_str(&answer).unwrap()] };
        for part in parts {
            let Some(more) = part["choices"][0]["logprobs"].as_object() else { continue };
            for (name, list) in more {
                lists[name]
                    .as_array_mut()
                    .unwrap()
                    .extend(list.as_array().unwrap().iter().cloned());
            }
        }
        let all: Vec<u32> = [ids(text), ids(" and more.")].concat();
        let tokens: Vec<String> = serde_json::from_value(lists["tokens"].clone()).unwrap();
        assert_eq!(tokens.concat(), format!("{text} and more."));
        let mut offset = 0;
        for (at, id) in all.iter().enumerate() {
            assert_eq!(lists["text_offset"][at], offset);
            offset += tokens[at].chars().count();
            let (own, top) = (&lists["token_logprobs"][at], &lists["top_logprobs"][at]);
            if at == 0 {
                assert_eq!((own, top), (&Value::Null, &Value::Null), "nothing is before it");
                continue;
            }
            assert!((own.as_f64().unwrap() - scripted(*id)).abs() < 1e-6, "{at}: {own}");
            assert_eq!(top[&tokens[at]], *own);
            assert!((2..=3).contains(&top.as_object().unwrap().len()), "{top}");
        }
        assert_eq!(lists["tokens"].as_array().unwrap().len(), all.len());
    }
}

#[tokio::test]
async fn a_prompt_can_be_scored_without_a_reply() {
    let app = api(gateway_saying(" and more.", |_| {}).await);
    let text = "Once upon a time";
    let body = plain(json!({"prompt": text, "echo": true, "logprobs": 1, "max_tokens": 0}));
    let answer = ok(&app, post(PLAIN, &body)).await;
    let choice = &answer["choices"][0];
    assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!(text), &json!("length")));
    let scored = choice["logprobs"]["token_logprobs"].as_array().unwrap().len();
    assert_eq!(answer["usage"]["completion_tokens"], 0);
    assert_eq!(answer["usage"]["prompt_tokens"], scored);
    // A single token has nothing before it.
    let one = json!({"prompt": ids("Once")[..1], "echo": true, "logprobs": 1, "max_tokens": 0});
    assert_eq!(choices(&app, one).await[0]["logprobs"]["token_logprobs"], json!([null]));
    let (status, error) = ask(&app, post(PLAIN, &plain(json!({"max_tokens": 0})))).await;
    assert_eq!((status.as_u16(), &error["error"]["param"]), (400, &json!("max_tokens")), "{error}");
}

#[tokio::test]
async fn usage_comes_with_every_chunk_if_asked_for() {
    let app = api(gateway_saying("one two three four", |_| {}).await);
    let stream = async |options: Value| {
        let body = plain(json!({"stream": true, "stream_options": options, "n": 2}));
        chunks(&app, &body).await
    };
    let all = stream(json!({"include_usage": true, "continuous_usage_stats": true})).await;
    let (last, chunks) = all.split_last().unwrap();
    for index in 0..2 {
        let of = chunks.iter().filter(|chunk| chunk["choices"][0]["index"] == index);
        let used: Vec<u64> =
            of.map(|chunk| chunk["usage"]["completion_tokens"].as_u64().unwrap()).collect();
        assert!(used.len() > 2 && used.is_sorted() && used[0] > 0, "{used:?}");
        assert_eq!(2 * used[used.len() - 1], last["usage"]["completion_tokens"].as_u64().unwrap());
    }
    assert!(
        chunks
            .iter()
            .all(|chunk| chunk["usage"]["prompt_tokens"] == last["usage"]["prompt_tokens"])
    );
    for options in [json!({"include_usage": true}), json!({"continuous_usage_stats": true})] {
        let all = stream(options).await;
        assert!(
            all.iter()
                .filter(|chunk| chunk["choices"][0].is_object())
                .all(|chunk| chunk["usage"].is_null())
        );
    }
}

#[test]
fn the_best_of_several_replies_is_the_likeliest() {
    let process = crate::process_support::Process::serve(&[]);
    let answer = |more: Value| -> Value {
        let mut body = json!({"prompt": "The capital of France is", "max_tokens": 6, "seed": 5, "logprobs": 0, "temperature": 2, "ignore_eos": true});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, answer) = process.http("POST", PLAIN, Some(&body));
        assert_eq!(status, 200, "{answer}");
        serde_json::from_str(&answer).unwrap()
    };
    let mean = |choice: &Value| {
        let list = choice["logprobs"]["token_logprobs"].as_array().unwrap().clone();
        list.iter().map(|x| x.as_f64().unwrap()).sum::<f64>() / list.len() as f64
    };
    let all = answer(json!({"n": 4}));
    let mut means: Vec<f64> = all["choices"].as_array().unwrap().iter().map(mean).collect();
    means.sort_by(|a, b| b.total_cmp(a));
    assert!(means[0] > means[3], "the replies differ: {means:?}");
    let best = answer(json!({"n": 2, "best_of": 4}));
    let kept = best["choices"].as_array().unwrap();
    assert_eq!(
        kept.iter().map(|choice| choice["index"].as_u64().unwrap()).collect::<Vec<_>>(),
        [0, 1]
    );
    for (choice, wanted) in kept.iter().zip(&means) {
        assert!((mean(choice) - wanted).abs() < 1e-4, "{choice} {means:?}");
    }
    assert_eq!(best["usage"]["completion_tokens"], 24, "all four were made");
    // They are not shown to those who did not ask for them.
    let plain = answer(json!({"n": 1, "best_of": 3, "logprobs": null}));
    assert_eq!(plain["choices"][0]["logprobs"], Value::Null);
    for more in [
        json!({"n": 3, "best_of": 2}),
        json!({"best_of": 2, "stream": true}),
        json!({"best_of": 0}),
    ] {
        let mut body = json!({"prompt": "x"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, answer) = process.http("POST", PLAIN, Some(&body));
        assert!(status == 400 && answer.contains("best_of"), "{more}: {answer}");
    }
}

#[test]
fn a_real_models_scores_are_those_of_its_replies() {
    let process = crate::process_support::Process::serve(&[]);
    let post = |path: &str, body: Value| -> Value {
        let (status, answer) = process.http("POST", path, Some(&body));
        assert_eq!(status, 200, "{answer}");
        serde_json::from_str(&answer).unwrap()
    };
    let prompt = "The capital of France is";
    let made = post(
        PLAIN,
        json!({"prompt": prompt, "max_tokens": 8, "temperature": 0, "logprobs": 1, "ignore_eos": true}),
    );
    let made = &made["choices"][0];
    let tokens = |text: &str| {
        post("/tokenize", json!({"prompt": text}))["tokens"].as_array().unwrap().clone()
    };
    let whole = format!("{prompt}{}", made["text"].as_str().unwrap());
    let (before, all) = (tokens(prompt), tokens(&whole));
    assert_eq!(all[..before.len()], before, "the text is cut into tokens as it was made");
    let read = post(PLAIN, json!({"prompt": all, "max_tokens": 0, "echo": true, "logprobs": 1}));
    let read = &read["choices"][0]["logprobs"];
    for (at, wanted) in made["logprobs"]["token_logprobs"].as_array().unwrap().iter().enumerate() {
        let got = &read["token_logprobs"][before.len() + at];
        assert!(
            (got.as_f64().unwrap() - wanted.as_f64().unwrap()).abs() < 2e-3,
            "{at}: {got} {wanted}"
        );
        // A greedy reply: each token is the most likely one.
        let top = read["top_logprobs"][before.len() + at].as_object().unwrap();
        assert!(top.values().all(|other| other == got), "{top:?}");
    }
}
