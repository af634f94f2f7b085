//! What is kept of a request: its metrics, its outcome for the rollout, and who wrote the reply.
//!
//! One call for each attempt, whatever its end. How an end is classed is `class`'s business.

use super::attempt::Played;
use super::types::{GenerateRequest, Prompt};
use crate::control::{Control, can_be_voted_on};
use crate::metrics;
use crate::rollout::{Arm, Class, Outcome};
use crate::routing::{Assignment, Deployment, session_hash};
use std::time::Instant;

/// A request that its arm could not even begin.
pub(super) fn not_begun(
    control: &Control,
    request: &GenerateRequest,
    assignment: &Assignment,
    class: Class,
    now: Instant,
) {
    let who = who(control, assignment.arm, &assignment.deployment);
    metrics::request(who, class.as_str(), &Default::default());
    control.record(Outcome {
        arm: assignment.arm,
        class,
        stage: assignment.stage,
        judged: assignment.judged,
        session: request.key.as_deref().map(session_hash),
        key: request.api_key,
        ttft: None,
        tpot: None,
        e2e: now.saturating_duration_since(request.arrived),
        output_tokens: 0,
        matched: false,
    });
}

/// A request that stable has no room for, refused before it was read.
pub(super) fn refused(control: &Control, stable: &Deployment) {
    let who = who(control, Arm::Stable, stable);
    metrics::request(who, Class::Rejected.as_str(), &Default::default());
}

/// An attempt that has ended. The rollout acts on it before this returns.
pub(super) fn played(
    control: &Control,
    request: &GenerateRequest,
    conversation: u64,
    played: &Played,
    class: Class,
) {
    let Assignment { arm, stage, judged, deployment, .. } = &played.assignment;
    metrics::request(who(control, *arm, deployment), class.as_str(), &played.timings);
    if played.served.rescued && class == Class::Ok {
        metrics::rescued(&deployment.version);
    }
    if can_be_voted_on(class) {
        control.remember_author(request.id.clone(), conversation, &played.assignment);
    }
    control.record(Outcome {
        arm: *arm,
        class,
        stage: *stage,
        judged: *judged,
        session: request.key.as_deref().map(session_hash),
        key: request.api_key,
        ttft: played.ttft,
        tpot: played.tpot,
        e2e: played.timings.total,
        matched: played.matched,
        output_tokens: u32::try_from(played.timings.output_tokens).unwrap_or(u32::MAX),
    });
}

fn who<'a>(control: &'a Control, arm: Arm, deployment: &'a Deployment) -> metrics::Who<'a> {
    metrics::Who { model: control.name(), arm, version: &deployment.version }
}

/// Equal when a client asks for a reply to the same conversation again: a hash of the client and of all that
/// it said.
pub(super) fn conversation(request: &GenerateRequest) -> u64 {
    let said = match &request.prompt {
        Prompt::Chat { messages, .. } => serde_json::to_vec(messages).unwrap_or_default(),
        Prompt::Text(text) => text.clone().into_bytes(),
        Prompt::Tokens(ids) => ids.iter().flat_map(|id| id.to_le_bytes()).collect(),
    };
    let client = request.key.as_deref().map_or(request.client, session_hash);
    xxhash_rust::xxh3::xxh3_64_with_seed(&said, client)
}
