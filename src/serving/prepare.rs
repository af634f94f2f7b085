//! Prepares a request for one arm: encodes its text with that arm's tokenizer, fills in that model's defaults, and
//! checks its length against that model's context.

use super::admission::{self, Admission};
use super::echo::Echo;
use super::error::{GatewayError, check_ids, invalid, text_error};
use super::token_rules;
use super::types::{GenerateRequest, Prompt, SamplingPatch};
use crate::grammar::{Constraint, Guided};
use crate::model::SamplingParams;
use crate::rollout::Weight;
use crate::routing::Deployment;
use crate::text::reply::reasoning::Opening;
use crate::text::{Abilities, Chat, Codec, Ending, GenerationDefaults};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::SystemTime;

/// What one arm is given to run.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// The prompt, at least one token.
    pub ids: Vec<u32>,
    /// The client's settings over the model's own.
    pub params: SamplingParams,
    /// Most tokens of the reply, at least 1.
    pub max_new_tokens: usize,
    /// Ids that end the reply.
    pub stop_ids: Vec<u32>,
    /// The prompt as the beginning of each reply, if it was asked for.
    pub echo: Option<Echo>,
    /// Where the reply begins.
    pub opening: Opening,
    /// What restricts each reply.
    pub guided: Option<Guided>,
}

/// Encodes and completes `request` for `deployment`; `beside`: of a canary, stable and the weight; `today` is what
/// templates print as the date.
pub(super) async fn prepare(
    request: &GenerateRequest,
    deployment: &Deployment,
    beside: Option<&(Arc<Deployment>, Weight)>,
    admission: &Admission,
    today: SystemTime,
) -> Result<Prepared, GatewayError> {
    admission::check(request, deployment, beside)?;
    let (prompt, codec) = (request.prompt.clone(), deployment.codec.clone());
    let add_special = request.add_special;
    let encoded = move || encode(&prompt, &codec, add_special, today);
    let (mut ids, opening) = admission.encode(&request.prompt, encoded).await??;
    if let Some(most) = request.truncate_prompt {
        let most = most.min(deployment.max_len().saturating_sub(1));
        ids.drain(..ids.len().saturating_sub(most));
    }
    if ids.is_empty() {
        return Err(invalid("prompt", "the prompt is empty; give at least one token"));
    }
    check_ids(&ids, deployment.capacity.vocab, "prompt")?;
    let max_new_tokens = reply_room(ids.len(), request.max_tokens, deployment.max_len())?;
    let stop_ids = stop_ids(request, deployment)?;
    let mut params = sampling(&request.sampling, &deployment.defaults, &request.id);
    let (constraints, vocab) = (&request.token_constraints, deployment.capacity.vocab);
    params.rules = token_rules::rules(constraints, &deployment.codec, vocab, &stop_ids)?;
    let echo = Echo::of(request, &ids, &deployment.codec);
    let echo = echo.map_err(|error| text_error("echo", &error))?;
    if echo.is_some() && params.logprobs.is_some() {
        params.score_last = ids.len() - 1;
    }
    let guided = guided(request, deployment, admission, opening).await?;
    Ok(Prepared { ids, params, max_new_tokens, stop_ids, echo, opening, guided })
}

/// The request's constraint in the model's tokens. Compiling one takes a while.
async fn guided(
    request: &GenerateRequest,
    deployment: &Deployment,
    admission: &Admission,
    opening: Opening,
) -> Result<Option<Guided>, GatewayError> {
    let Some((constraint, param)) = &request.constraint else { return Ok(None) };
    let Some(grammars) = deployment.grammars.clone() else {
        if matches!(**constraint, Constraint::Auto(_)) {
            return Ok(None);
        }
        let what = "replies of this model cannot be constrained; its tokenizer is not supported";
        return Err(GatewayError::Untaken(what.to_owned()));
    };
    let wanted = constraint.clone();
    let compiled = admission.apart(move || grammars.compile(&wanted, opening)).await?;
    compiled.map_err(|error| invalid(param, error.to_string()))
}

/// The ids that end a reply: the model's own, those of the request, and stop strings that are one special token, which
/// no text of the reply would show.
fn stop_ids(request: &GenerateRequest, deployment: &Deployment) -> Result<Vec<u32>, GatewayError> {
    let codec = &deployment.codec;
    check_ids(&request.stop_token_ids, deployment.capacity.vocab, "stop_token_ids")?;
    let mut ids = request.stop_token_ids.clone();
    if !request.ignore_eos {
        ids.extend(codec.eos_ids());
    }
    let special = request.stop.iter().filter(|stop| codec.is_special(stop));
    ids.extend(special.filter_map(|stop| codec.token_id(stop)));
    Ok(ids)
}

/// Token ids of a prompt in `codec`'s vocabulary. Unless `add_special` says otherwise, a text gets the
/// special tokens that its tokenizer adds, and a conversation those that its template writes, no others. Also returns
/// where the reply begins.
pub(super) fn encode(
    prompt: &Prompt,
    codec: &Codec,
    add_special: Option<bool>,
    today: SystemTime,
) -> Result<(Vec<u32>, Opening), GatewayError> {
    match prompt {
        Prompt::Tokens(ids) => Ok((ids.clone(), Opening::Answer)),
        Prompt::Text(text) => {
            let special = add_special.unwrap_or(true);
            let ids = codec.encode(text, special).map_err(|e| text_error("prompt", &e))?;
            Ok((ids, Opening::Answer))
        }
        Prompt::Chat { messages, tools, template_kwargs, ending } => {
            let chat = chat(messages, tools.as_ref(), template_kwargs.as_ref(), *ending, today);
            shown(tools.as_ref(), codec)?;
            let special = add_special.unwrap_or(false);
            codec.encode_chat(&chat, special).map_err(|e| text_error("messages", &e))
        }
    }
}

/// The text of a prompt: of a conversation, what the chat template makes of it.
pub(super) fn render(
    prompt: &Prompt,
    codec: &Codec,
    today: SystemTime,
) -> Result<String, GatewayError> {
    match prompt {
        Prompt::Tokens(ids) => {
            codec.decode(ids, false).map_err(|error| text_error("prompt", &error))
        }
        Prompt::Text(text) => Ok(text.clone()),
        Prompt::Chat { messages, tools, template_kwargs, ending } => {
            let chat = chat(messages, tools.as_ref(), template_kwargs.as_ref(), *ending, today);
            shown(tools.as_ref(), codec)?;
            codec.render(&chat).map_err(|error| text_error("messages", &error))
        }
    }
}

/// Refuses tools that the chat template would not show to the model.
fn shown(tools: Option<&Value>, codec: &Codec) -> Result<(), GatewayError> {
    if tools.is_some() && codec.abilities().is_some_and(Abilities::hides_tools) {
        let hidden = "this model's chat template does not show tools to the model; leave tools out";
        return Err(GatewayError::Untaken(hidden.to_owned()));
    }
    Ok(())
}

fn chat<'a>(
    messages: &'a [Value],
    tools: Option<&'a Value>,
    extra: Option<&'a Map<String, Value>>,
    ending: Ending,
    today: SystemTime,
) -> Chat<'a> {
    Chat { messages, tools, ending, extra, today: Some(today) }
}

/// Tokens that may be generated: what was asked for, as far as the context holds it. An error if it holds none.
fn reply_room(prompt: usize, wanted: Option<usize>, max: usize) -> Result<usize, GatewayError> {
    let left = max.saturating_sub(prompt);
    if left == 0 {
        let asked = prompt.saturating_add(1);
        return Err(GatewayError::ContextLength { max, asked, prompt, reply: 1, withdrawn: None });
    }
    // A model that only reads the prompt makes one token all the same, which is not shown.
    Ok(wanted.map_or(left, |wanted| wanted.clamp(1, left)))
}

/// The client's options over the model's defaults. Without a seed, the completion's id (which is random)
/// seeds the draw.
fn sampling(patch: &SamplingPatch, model: &GenerationDefaults, id: &str) -> SamplingParams {
    let plain = SamplingParams::default();
    let temperature = match model.do_sample {
        Some(false) => Some(0.0),
        _ => model.temperature,
    };
    SamplingParams {
        temperature: patch.temperature.or(temperature).unwrap_or(plain.temperature),
        top_k: patch.top_k.or(model.top_k).unwrap_or(plain.top_k),
        top_p: patch.top_p.or(model.top_p).unwrap_or(plain.top_p),
        min_p: patch.min_p.or(model.min_p).unwrap_or(plain.min_p),
        repetition_penalty: patch
            .repetition_penalty
            .or(model.repetition_penalty)
            .unwrap_or(plain.repetition_penalty),
        frequency_penalty: patch.frequency_penalty.unwrap_or(0.0),
        presence_penalty: patch.presence_penalty.unwrap_or(0.0),
        seed: patch.seed.unwrap_or_else(|| xxhash_rust::xxh3::xxh3_64(id.as_bytes())),
        logprobs: patch.logprobs,
        ..plain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_gets_what_is_left_or_what_was_asked() {
        assert_eq!(reply_room(10, None, 16), Ok(6));
        assert_eq!(reply_room(10, Some(3), 16), Ok(3));
        assert_eq!(reply_room(15, None, 16), Ok(1));
        assert_eq!(reply_room(10, Some(7), 16), Ok(6));
        assert_eq!(reply_room(1, Some(usize::MAX), 16), Ok(15));
        for (prompt, wanted) in [(16, None), (16, Some(1)), (usize::MAX, Some(usize::MAX))] {
            let error = reply_room(prompt, wanted, 16).unwrap_err();
            assert!(matches!(error, GatewayError::ContextLength { max: 16, .. }), "{error}");
        }
    }

    #[test]
    fn the_client_wins_over_the_model_and_the_model_over_the_plain_default() {
        let model = GenerationDefaults {
            temperature: Some(0.5),
            top_k: Some(7),
            ..GenerationDefaults::default()
        };
        let patch = SamplingPatch { temperature: Some(0.9), ..SamplingPatch::default() };
        let got = sampling(&patch, &model, "id");
        assert_eq!((got.temperature, got.top_k, got.top_p), (0.9, 7, 1.0));
        let greedy = GenerationDefaults { do_sample: Some(false), ..model };
        assert_eq!(sampling(&SamplingPatch::default(), &greedy, "id").temperature, 0.0);
        let seed = |id| sampling(&SamplingPatch::default(), &model, id).seed;
        assert_ne!(seed("a"), seed("b"));
    }
}
