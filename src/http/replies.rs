//! Merges several generations into one sequence of pieces.
//!
//! A plain completion may contain several prompts. Each is a generation of its own, and together they are one
//! answer whose choices are numbered consecutively. One failure fails the whole answer. Dropping [`Replies`]
//! cancels everything that still runs.

use crate::serving::{GatewayError, GenerateRequest, Generation, Piece, Served, Usage};
use futures_util::future::poll_fn;
use std::task::{Context, Poll};
use tokio::sync::mpsc::Receiver;

/// The rest of an answer.
#[derive(Debug)]
pub struct Replies {
    /// The arm that was going to answer the first prompt.
    pub routed: Served,
    /// One per prompt; `None` once it has ended.
    lanes: Vec<Option<Receiver<Piece>>>,
    /// Choices per prompt.
    n: u32,
    /// The lane to poll first, so that none is favoured.
    turn: usize,
    started: bool,
    usage: Usage,
}

impl Replies {
    /// Starts all requests with `generate`. Fails if one of them does, and drops all then, or if there is none.
    pub async fn start<F>(
        requests: Vec<GenerateRequest>,
        n: u32,
        generate: impl Fn(GenerateRequest) -> F,
    ) -> Result<Replies, GatewayError>
    where
        F: Future<Output = Result<Generation, GatewayError>>,
    {
        let (mut routed, mut lanes) = (None, Vec::with_capacity(requests.len()));
        for request in requests {
            let generation = generate(request).await?;
            routed.get_or_insert(generation.routed);
            lanes.push(Some(generation.pieces));
        }
        let routed = routed.ok_or_else(|| GatewayError::Invalid {
            param: "prompt",
            message: "there must be at least one prompt".to_owned(),
        })?;
        Ok(Replies { routed, lanes, n, turn: 0, started: false, usage: Usage::default() })
    }

    /// The next piece of any generation; `None` after `Done` or `Failed`. Nothing is lost if the returned
    /// future is dropped.
    pub async fn next(&mut self) -> Option<Piece> {
        while self.lanes.iter().any(Option::is_some) {
            let (lane, piece) = poll_fn(|context| self.poll(context)).await;
            if let Some(piece) = self.merge(lane, piece) {
                return Some(piece);
            }
        }
        None
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<(usize, Option<Piece>)> {
        let count = self.lanes.len();
        for lane in (0..count).map(|step| (self.turn + step) % count) {
            let Some(pieces) = &mut self.lanes[lane] else { continue };
            if let Poll::Ready(piece) = pieces.poll_recv(context) {
                self.turn = (lane + 1) % count;
                return Poll::Ready((lane, piece));
            }
        }
        Poll::Pending
    }

    /// What a generation's piece means for the whole answer, if anything.
    fn merge(&mut self, lane: usize, piece: Option<Piece>) -> Option<Piece> {
        let first = lane as u32 * self.n;
        match piece {
            Some(Piece::Start(served, usage)) => {
                let first = !std::mem::replace(&mut self.started, true);
                first.then_some(Piece::Start(served, usage))
            }
            Some(Piece::Text { index, text, tokens }) => {
                Some(Piece::Text { index: first + index, text, tokens })
            }
            Some(Piece::Echo { index, text, tokens }) => {
                Some(Piece::Echo { index: first + index, text, tokens })
            }
            Some(Piece::Count { index, usage }) => {
                Some(Piece::Count { index: first + index, usage })
            }
            Some(Piece::End { index, finish }) => Some(Piece::End { index: first + index, finish }),
            Some(Piece::Done(usage)) => {
                self.lanes[lane] = None;
                self.usage.prompt_tokens += usage.prompt_tokens;
                self.usage.completion_tokens += usage.completion_tokens;
                self.usage.cached_tokens += usage.cached_tokens;
                self.lanes.iter().all(Option::is_none).then_some(Piece::Done(self.usage))
            }
            Some(Piece::Failed(error)) => Some(self.fail(error)),
            None => Some(self.fail(GatewayError::Model("its reply broke off".to_owned()))),
        }
    }

    fn fail(&mut self, error: GatewayError) -> Piece {
        self.lanes.clear();
        Piece::Failed(error)
    }
}

#[cfg(test)]
mod tests;
