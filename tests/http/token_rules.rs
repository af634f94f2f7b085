//! Biases, bans, allowed tokens and least lengths, with a real model in a real process.

use crate::process_support::Process;
use serde_json::{Value, json};

const PLAIN: &str = "/v1/completions";

struct Server(Process);

impl Server {
    /// Its greedy answer to a fixed prompt, changed by the fields of `more`.
    fn ask(&self, more: Value) -> (u16, Value) {
        let mut body = json!({
            "prompt": "The capital of France is", "temperature": 0, "max_tokens": 12, "ignore_eos": true,
            "logprobs": 1,
        });
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        let (status, answer) = self.0.http("POST", PLAIN, Some(&body));
        (status, serde_json::from_str(&answer).unwrap())
    }

    /// The tokens of its reply, as text, and why it ended.
    fn tokens(&self, more: Value) -> (Vec<String>, String) {
        let (status, answer) = self.ask(more);
        assert_eq!(status, 200, "{answer}");
        let choice = &answer["choices"][0];
        let tokens: Vec<String> =
            serde_json::from_value(choice["logprobs"]["tokens"].clone()).unwrap();
        (tokens, choice["finish_reason"].as_str().unwrap().to_owned())
    }

    fn ids(&self, text: &str) -> Vec<u32> {
        let body = json!({"prompt": text, "add_special_tokens": false});
        let (status, answer) = self.0.http("POST", "/tokenize", Some(&body));
        assert_eq!(status, 200, "{answer}");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        serde_json::from_value(answer["tokens"].clone()).unwrap()
    }

    fn id(&self, token: &str) -> u32 {
        let ids = self.ids(token);
        assert_eq!(ids.len(), 1, "{token:?} is one token");
        ids[0]
    }
}

#[test]
fn rules_for_tokens_hold() {
    let server = Server(Process::serve(&[]));
    let (plain, _) = server.tokens(json!({}));
    assert_eq!(plain.len(), 12);
    let favourite = plain[0].clone();

    biases_and_bans(&server, &favourite);
    // What is allowed is all that comes, whatever else the model would say.
    let allowed = [" a", " the", " of"].map(|token| server.id(token));
    let (tokens, _) = server.tokens(json!({"allowed_token_ids": allowed}));
    assert!(
        tokens.iter().all(|token| [" a", " the", " of"].contains(&token.as_str())),
        "{tokens:?}"
    );

    // Neither a stop token nor a stop string ends the reply before its time.
    let first = server.id(&favourite);
    let stop_ids = json!([first]);
    let (tokens, why) = server.tokens(json!({"stop_token_ids": stop_ids}));
    assert_eq!((tokens.len(), why.as_str()), (0, "stop"));
    let (tokens, _) = server.tokens(json!({"stop_token_ids": stop_ids, "min_tokens": 7}));
    assert!(tokens.len() >= 7 && !tokens.contains(&favourite), "{tokens:?}");
    let (tokens, why) = server.tokens(json!({"stop": [&plain[1]]}));
    assert_eq!((tokens.len(), why.as_str()), (1, "stop"));
    let (tokens, _) = server.tokens(json!({"stop": [&plain[1]], "min_tokens": 4}));
    assert_eq!(tokens[..4], plain[..4], "the same reply, further on");

    // A word's tokens may come, but not one after the other.
    let word = format!("{}{}", plain[0], plain[1]);
    let (tokens, _) = server.tokens(json!({"bad_words": [&word]}));
    assert_eq!(tokens[0], plain[0]);
    assert!(!tokens.concat().contains(&word), "{tokens:?}");
}

fn biases_and_bans(server: &Server, favourite: &str) {
    let id = server.id(favourite).to_string();
    for bias in [json!({&id: -100}), json!({favourite: -100}), json!({favourite: false})] {
        let (tokens, _) = server.tokens(json!({"logit_bias": bias}));
        assert!(!tokens.contains(&favourite.to_owned()), "{bias}: {tokens:?}");
    }
    let other = server.id(" the");
    for bias in [json!({other.to_string(): 100}), json!([[other, 100]]), json!([[" the", 100]])] {
        let (tokens, _) = server.tokens(json!({"logit_bias": bias}));
        assert!(tokens.iter().all(|token| token == " the"), "{bias}: {tokens:?}");
    }
    // A little bias changes the probability, not the reported log-probabilities, which are the model's own.
    let (_, answer) = server.ask(json!({"logit_bias": {other.to_string(): 100}, "max_tokens": 1}));
    let (_, before) = server.ask(json!({"max_tokens": 1}));
    let top =
        |answer: &Value| answer["choices"][0]["logprobs"]["top_logprobs"][0][favourite].clone();
    assert_eq!(top(&answer), top(&before));
}

#[test]
fn rules_that_cannot_be_followed_are_refused_by_name() {
    let server = Server(Process::serve(&[]));
    let ids: Vec<u32> = (0..2000).collect();
    let many: Value =
        ids.iter().map(|id| (id.to_string(), json!(1))).collect::<serde_json::Map<_, _>>().into();
    for (more, param) in [
        (json!({"logit_bias": {"1": 101}}), "logit_bias"),
        (json!({"logit_bias": {"1": "x"}}), "logit_bias"),
        (json!({"logit_bias": {"99999999": 1}}), "logit_bias"),
        (json!({"logit_bias": {"99999999999": 1}}), "logit_bias"),
        (json!({"logit_bias": [[1]]}), "logit_bias"),
        (json!({"logit_bias": "x"}), "logit_bias"),
        (json!({"logit_bias": many}), "logit_bias"),
        (json!({"allowed_token_ids": []}), "allowed_token_ids"),
        (json!({"allowed_token_ids": [99_999_999]}), "allowed_token_ids"),
        (json!({"allowed_token_ids": ["x"]}), "allowed_token_ids[0]"),
        (json!({"bad_words": [5]}), "bad_words[0]"),
        (json!({"bad_words": ["x".repeat(300)]}), "bad_words[0]"),
        (json!({"bad_words": vec!["x"; 200]}), "bad_words"),
        (json!({"min_tokens": 13}), "min_tokens"),
        (json!({"min_tokens": -1}), "min_tokens"),
    ] {
        let (status, answer) = server.ask(more.clone());
        assert_eq!((status, &answer["error"]["param"]), (400, &json!(param)), "{more}: {answer}");
    }
    for nothing in [json!({}), json!([]), Value::Null] {
        assert_eq!(server.ask(json!({"logit_bias": nothing, "bad_words": [" ", ""]})).0, 200);
    }
}
