//! Log-probabilities as clients get them: streamed and not, for several replies, around stop strings and
//! characters of several tokens; and those of a real model.

#[path = "http/support.rs"]
mod http_support;
#[path = "process/support.rs"]
mod process_support;

use http_support::*;
use serde_json::{Value, json};
use serin::text::Codec;

const CHAT: &str = "/v1/chat/completions";
const PLAIN: &str = "/v1/completions";
/// Characters of several tokens, and words.
const WORDS: &str = "Grüße, 世界! The end 👍 of it.";

/// The scripted models' log-probability of a token; see `engine::fake`.
fn scripted(id: u32) -> f64 {
    f64::from(-(id as f32 + 1.0) / 100.0)
}

fn ids(text: &str) -> Vec<u32> {
    Codec::load(text_from(), 1024).expect("a codec").encode(text, false).expect("ids")
}

fn floats(list: &Value) -> Vec<f64> {
    list.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number")).collect()
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-6
}

fn bytes(tokens: &[Value]) -> Vec<u8> {
    let one = |token: &Value| floats(&token["bytes"]).into_iter().map(|byte| byte as u8).collect();
    tokens.iter().flat_map(|token| -> Vec<u8> { one(token) }).collect()
}

#[tokio::test]
async fn a_chat_lists_its_tokens() {
    let app = api(gateway_saying(WORDS, |_| {}).await);
    let body = chat(json!({"logprobs": true, "top_logprobs": 3, "n": 2}));
    let answer = ok(&app, post(CHAT, &body)).await;
    for choice in answer["choices"].as_array().unwrap() {
        let content = choice["logprobs"]["content"].as_array().unwrap();
        assert_eq!(String::from_utf8(bytes(content)).unwrap(), WORDS);
        let expected: Vec<f64> = ids(WORDS).into_iter().map(scripted).collect();
        let got: Vec<f64> = content.iter().map(|t| t["logprob"].as_f64().unwrap()).collect();
        assert!(got.iter().zip(&expected).all(|(a, b)| close(*a, *b)), "{got:?}");
        assert_eq!(got.len(), expected.len());
        assert!(content.iter().all(|token| token["top_logprobs"].as_array().unwrap().len() == 3));
    }
    let without = ok(&app, post(CHAT, &chat(json!({"logprobs": true})))).await;
    assert_eq!(without["choices"][0]["logprobs"]["content"][0]["top_logprobs"], json!([]));
    let none = ok(&app, post(CHAT, &chat(json!({"logprobs": false})))).await;
    assert_eq!(none["choices"][0]["logprobs"], Value::Null);
}

#[tokio::test]
async fn each_chunk_carries_the_tokens_of_its_text() {
    let app = api(gateway_saying(WORDS, |_| {}).await);
    let body = chat(json!({"logprobs": true, "top_logprobs": 1, "n": 2, "stream": true}));
    let events = events(&text(send(&app, post(CHAT, &body)).await).await);
    for index in 0..2 {
        let chosen = |event: &Value| event["choices"][0]["index"] == index;
        let mut all = 0;
        for event in events.iter().filter(|event| chosen(event)) {
            let choice = &event["choices"][0];
            let content = choice["delta"]["content"].as_str().unwrap_or_default();
            let tokens = choice["logprobs"]["content"].as_array().cloned().unwrap_or_default();
            // Every text here ends at a token boundary, so the tokens spell the text exactly.
            assert_eq!(String::from_utf8(bytes(&tokens)).unwrap(), content, "{event}");
            all += tokens.len();
        }
        assert_eq!(all, ids(WORDS).len());
    }
}

#[tokio::test]
async fn a_stop_string_takes_its_tokens_along() {
    let app = api(gateway_saying(WORDS, |_| {}).await);
    for stream in [false, true] {
        let more = json!({"logprobs": true, "stop": [" end"], "stream": stream});
        let answer = text(send(&app, post(CHAT, &chat(more))).await).await;
        let (said, tokens) = match stream {
            false => {
                let answer: Value = serde_json::from_str(&answer).unwrap();
                let choice = answer["choices"][0].clone();
                let said = choice["message"]["content"].as_str().unwrap().to_owned();
                (said, choice["logprobs"]["content"].as_array().unwrap().clone())
            }
            true => {
                let (mut said, mut tokens) = (String::new(), Vec::new());
                for event in events(&answer) {
                    let choice = &event["choices"][0];
                    said += choice["delta"]["content"].as_str().unwrap_or_default();
                    tokens.extend(
                        choice["logprobs"]["content"].as_array().cloned().unwrap_or_default(),
                    );
                }
                (said, tokens)
            }
        };
        assert_eq!(said, "Grüße, 世界! The");
        // The tokens that begin in the text: they spell it, and may extend into the stop string.
        let spelt = String::from_utf8(bytes(&tokens)).unwrap();
        assert!(spelt.starts_with(&said) && WORDS.starts_with(&spelt), "{spelt}");
        let last = bytes(&tokens[tokens.len() - 1..]).len();
        assert!(spelt.len() - last < said.len(), "a token of the stop string alone: {spelt}");
    }
}

#[tokio::test]
async fn plain_completions_have_parallel_lists() {
    let app = api(gateway_saying(WORDS, |_| {}).await);
    let check = |lists: &Value, said: &str| {
        let tokens = lists["tokens"].as_array().unwrap().len();
        let expected: Vec<f64> = ids(WORDS).into_iter().map(scripted).collect();
        let got = floats(&lists["token_logprobs"]);
        assert!(got.iter().zip(&expected).all(|(a, b)| close(*a, *b)), "{got:?}");
        assert_eq!((tokens, got.len()), (expected.len(), expected.len()));
        let offsets = floats(&lists["text_offset"]);
        assert!(offsets.is_sorted() && offsets[0] == 0.0, "{offsets:?}");
        let letters: Vec<char> = said.chars().collect();
        for (token, offset) in lists["tokens"].as_array().unwrap().iter().zip(&offsets) {
            let token = token.as_str().unwrap();
            let there: String = letters[*offset as usize..].iter().collect();
            assert!(token.contains('\u{FFFD}') || there.starts_with(token), "{token} at {offset}");
        }
        for (i, top) in lists["top_logprobs"].as_array().unwrap().iter().enumerate() {
            let token = lists["tokens"][i].as_str().unwrap();
            assert!(top.get(token).is_some() && top.as_object().unwrap().len() <= 3, "{top}");
        }
    };
    let whole = ok(&app, post(PLAIN, &plain(json!({"logprobs": 2})))).await;
    check(&whole["choices"][0]["logprobs"], WORDS);
    let streamed = plain(json!({"logprobs": 2, "stream": true}));
    let mut lists =
        json!({"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []});
    for event in events(&text(send(&app, post(PLAIN, &streamed)).await).await) {
        let Some(more) = event["choices"][0]["logprobs"].as_object() else { continue };
        for (name, list) in more {
            let lists = lists[name].as_array_mut().unwrap();
            lists.extend(list.as_array().unwrap().iter().cloned());
        }
    }
    check(&lists, WORDS);
}

#[tokio::test]
async fn what_cannot_be_reported_is_refused_by_field() {
    let app = plain_api().await;
    for (path, body, param) in [
        (CHAT, chat(json!({"top_logprobs": 2})), "top_logprobs"),
        (CHAT, chat(json!({"logprobs": true, "top_logprobs": 21})), "top_logprobs"),
        (CHAT, chat(json!({"logprobs": 5})), "logprobs"),
        (PLAIN, plain(json!({"logprobs": 21})), "logprobs"),
        (PLAIN, plain(json!({"logprobs": true})), "logprobs"),
    ] {
        let (status, answer) = ask(&app, post(path, &body)).await;
        assert_eq!((status.as_u16(), &answer["error"]["param"]), (400, &json!(param)), "{answer}");
        assert_eq!(answer["error"]["type"], "invalid_request_error");
    }
}

#[test]
fn a_real_models_probabilities_make_sense() {
    let process = process_support::Process::serve(&[]);
    let (_, models) = process.http("GET", "/v1/models", None);
    let models: Value = serde_json::from_str(&models).unwrap();
    let body = json!({
        "model": models["data"][0]["id"], "temperature": 0, "max_tokens": 20,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "logprobs": true, "top_logprobs": 20,
    });
    let (status, answer) = process.http("POST", CHAT, Some(&body));
    assert_eq!(status, 200, "{answer}");
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let choice = &answer["choices"][0];
    let content = choice["logprobs"]["content"].as_array().unwrap();
    assert!(!content.is_empty());
    let said = choice["message"]["content"].as_str().unwrap();
    assert_eq!(String::from_utf8(bytes(content)).unwrap(), said);
    for token in content {
        let top = token["top_logprobs"].as_array().unwrap();
        let logprobs: Vec<f64> = top.iter().map(|t| t["logprob"].as_f64().unwrap()).collect();
        assert_eq!(logprobs.len(), 20);
        assert!(logprobs.iter().all(|l| *l <= 0.0) && logprobs.is_sorted_by(|a, b| a >= b));
        let sum: f64 = logprobs.iter().map(|l| l.exp()).sum();
        assert!(sum > 0.1 && sum <= 1.0 + 1e-5, "{sum}");
        // Greedy: the chosen token is the most likely one.
        assert_eq!((&token["logprob"], &token["token"]), (&top[0]["logprob"], &top[0]["token"]));
    }
}
