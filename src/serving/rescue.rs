//! A request from its first attempt to its outcome, and its rescue by stable.
//!
//! Runs on a task of its own, so that an outcome is recorded even when the client leaves. A failed canary is
//! charged before stable takes over. It does not know how outcomes are judged.

use super::attempt::{Attempt, Ended, Played};
use super::class::{class_of, class_of_error, error_of, no_route};
use super::error::GatewayError;
use super::gateway::Gateway;
use super::paired::Answer;
use super::record;
use super::shadow::Copied;
use super::types::{GenerateRequest, Piece};
use crate::rollout::{Arm, Class};
use crate::routing::Assignment;
use std::time::Instant;
use tokio::sync::mpsc::Sender;

/// Arms tried for one request: its own, and stable twice (it may be replaced meanwhile).
const ATTEMPTS: u32 = 3;

impl Gateway {
    /// Follows a request until an arm has answered it, or none can.
    pub(super) async fn follow(
        self,
        request: GenerateRequest,
        conversation: u64,
        first: Attempt,
        out: Sender<Piece>,
    ) {
        let mut attempt = first;
        for tried in 1..=ATTEMPTS {
            let ended = attempt.play(&out, &self.timeouts).await;
            let now = Instant::now();
            let played = attempt.close(ended, now);
            let class = class_of(&played.ended);
            record::played(
                &self.control,
                &self.traffic,
                &request,
                conversation,
                &played,
                class,
                now,
            );
            match played.ended {
                Ended::Complete => {
                    let _ = out.send(Piece::Done(played.usage)).await;
                    self.reader.offer(&request, &played);
                    return self.copy(request, played);
                }
                Ended::ClientGone => return,
                _ => {}
            }
            let error = error_of(&played.ended);
            let next = match tried < ATTEMPTS && may_move(&request, &played, &error) {
                true => self.rescue(&request, &played).await,
                false => None,
            };
            match next {
                Some(next) => attempt = next,
                None => {
                    let _ = out.send(Piece::Failed(error)).await;
                    return;
                }
            }
        }
    }

    /// Records a request that its arm could not even begin, and begins it on stable if that may help. What the
    /// canary does not take, because of its template or its context, is charged to the canary if stable takes it,
    /// and else to the request.
    pub(super) async fn not_begun(
        &self,
        request: &GenerateRequest,
        assignment: &Assignment,
        error: GatewayError,
    ) -> Result<Attempt, GatewayError> {
        let bad = matches!(error, GatewayError::Invalid { .. });
        let stays = assignment.arm == Arm::Stable || request.pin.is_some() || bad;
        let less = matches!(error, GatewayError::Untaken(_) | GatewayError::ContextLength { .. });
        if !stays && less {
            let stable = self.control.fallback().map_err(no_route)?;
            let attempt = self.attempt(request, stable, true).await;
            let class = attempt.as_ref().err().map_or(Class::ModelError, class_of_error);
            self.record_not_begun(request, assignment, class);
            return attempt;
        }
        let class = class_of_error(&error);
        self.record_not_begun(request, assignment, class);
        if stays {
            return Err(error);
        }
        let stable = self.control.fallback().map_err(no_route)?;
        self.attempt(request, stable, true).await
    }

    fn record_not_begun(&self, request: &GenerateRequest, assignment: &Assignment, class: Class) {
        let (arrived, now) = (request.arrived, Instant::now());
        record::not_begun(&self.control, &self.traffic, arrived, assignment, class, now);
    }

    /// Stable's attempt at a request that another model failed; `None` if there is no other stable.
    async fn rescue(&self, request: &GenerateRequest, failed: &Played) -> Option<Attempt> {
        let stable = self.control.fallback().ok()?;
        if stable.deployment.lane == failed.assignment.deployment.lane {
            return None;
        }
        self.attempt(request, stable, true).await.ok()
    }

    /// Copies a share of what stable has answered to the canary.
    fn copy(&self, request: GenerateRequest, played: Played) {
        let stable = played.assignment.arm == Arm::Stable;
        if !stable || request.n != 1 || rand::random::<f64>() >= self.shadow.share {
            return;
        }
        let Played { timings, tokens, .. } = played;
        let ttft = timings.first_token.unwrap_or(timings.total);
        let stable = Answer { tokens, ttft, per_token: timings.per_token() };
        self.shadow.offer(Copied { request, stable });
    }
}

/// Whether another model may take the request over: nothing was sent yet, it was not pinned to the canary, and
/// the model that failed is a canary or on its way out.
fn may_move(request: &GenerateRequest, played: &Played, error: &GatewayError) -> bool {
    let leaving = matches!(error, GatewayError::Unavailable(_));
    let canary = played.assignment.arm == Arm::Canary;
    !played.started && request.pin != Some(Arm::Canary) && (canary || leaving)
}
