//! Which requests belong together: those of one conversation, and a reply that is regenerated.
//!
//! Clients need not name their conversations. A conversation is known by its sender and its beginning: the system
//! text and the first user message, which every later turn repeats. So its turns are routed as one, both models
//! see whole conversations, and their prefix caches are equally warm. It does not know how a key is routed.

use super::types::{GenerateRequest, Prompt};
use crate::routing::session_hash;
use serde_json::Value;
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

/// The key that a request is routed by: the session that its client names, else its conversation. `None` for a
/// prompt that is no conversation.
pub(super) fn routing_key(request: &GenerateRequest) -> Option<String> {
    if let Some(key) = request.key.as_ref().filter(|key| !key.is_empty()) {
        return Some(key.clone());
    }
    let Prompt::Chat { messages, .. } = &request.prompt else { return None };
    let is_user = |message: &Value| message.get("role").and_then(Value::as_str) == Some("user");
    let first = messages.iter().position(is_user)?;
    let mut hash = Xxh3::with_seed(request.client);
    for message in &messages[..=first] {
        hash.update(&serde_json::to_vec(message).unwrap_or_default());
    }
    Some(format!("conversation {:016x}", hash.digest()))
}

/// Equal when a client regenerates a reply to the same conversation: a hash of the client and of all that
/// it said.
pub(super) fn regeneration_key(request: &GenerateRequest) -> u64 {
    let said = match &request.prompt {
        Prompt::Chat { messages, .. } => serde_json::to_vec(messages).unwrap_or_default(),
        Prompt::Text(text) => text.clone().into_bytes(),
        Prompt::Tokens(ids) => ids.iter().flat_map(|id| id.to_le_bytes()).collect(),
    };
    let client = request.key.as_deref().map_or(request.client, session_hash);
    xxh3_64_with_seed(&said, client)
}
