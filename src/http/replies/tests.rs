//! Several generations as one answer.

use super::*;
use crate::rollout::Arm;
use crate::serving::{Finish, Prompt};
use std::cell::RefCell;
use tokio::sync::mpsc::{Sender, channel};

fn served() -> Served {
    let (version, fingerprint) = ("v1".into(), "f".into());
    Served { arm: Arm::Stable, version, fingerprint, rescued: false, manner: Default::default() }
}

fn request() -> GenerateRequest {
    GenerateRequest { n: 2, ..GenerateRequest::of("id", Prompt::Text("Hi".to_owned())) }
}

/// Starts the requested number of generations, with two replies each and pieces sent by the test.
async fn start(prompts: usize) -> (Replies, Vec<Sender<Piece>>) {
    let senders = RefCell::new(Vec::new());
    let generate = async |_| {
        let (sender, pieces) = channel(16);
        senders.borrow_mut().push(sender);
        Ok(Generation { routed: served(), pieces })
    };
    let replies = Replies::start(vec![request(); prompts], 2, generate).await.expect("started");
    (replies, senders.into_inner())
}

fn text(index: u32) -> Piece {
    Piece::Text { index, text: "x".to_owned(), tokens: Vec::new() }
}

fn usage(tokens: usize) -> Usage {
    Usage { prompt_tokens: tokens, completion_tokens: 1, cached_tokens: 2 }
}

async fn drain(replies: &mut Replies) -> Vec<Piece> {
    let mut pieces = Vec::new();
    while let Some(piece) = replies.next().await {
        pieces.push(piece);
    }
    pieces
}

#[tokio::test]
async fn choices_are_numbered_through_and_usage_is_summed() {
    let (mut replies, lanes) = start(2).await;
    for (lane, tokens) in lanes.iter().zip([3, 4]) {
        lane.send(Piece::Start(served(), Usage::default())).await.unwrap();
        lane.send(text(1)).await.unwrap();
        lane.send(Piece::End { index: 1, finish: Finish::Stop }).await.unwrap();
        lane.send(Piece::Done(usage(tokens))).await.unwrap();
    }
    let pieces = drain(&mut replies).await;
    let starts = pieces.iter().filter(|piece| matches!(piece, Piece::Start(..))).count();
    assert_eq!(starts, 1);
    for index in [1, 3] {
        assert!(pieces.contains(&text(index)), "{pieces:?}");
    }
    let total = Usage { prompt_tokens: 7, completion_tokens: 2, cached_tokens: 4 };
    assert_eq!(pieces.last(), Some(&Piece::Done(total)));
}

#[tokio::test]
async fn one_failure_fails_all_and_cancels_the_rest() {
    let (mut replies, lanes) = start(2).await;
    let error = GatewayError::Busy { waiting: 3 };
    lanes[1].send(Piece::Failed(error.clone())).await.unwrap();
    assert_eq!(drain(&mut replies).await, [Piece::Failed(error)]);
    assert!(lanes[0].is_closed());
}

#[tokio::test]
async fn a_generation_that_breaks_off_is_a_failure() {
    let (mut replies, lanes) = start(1).await;
    lanes[0].send(Piece::Start(served(), Usage::default())).await.unwrap();
    drop(lanes);
    let pieces = drain(&mut replies).await;
    assert!(matches!(pieces[..], [Piece::Start(..), Piece::Failed(GatewayError::Model(_))]));
}

#[tokio::test]
async fn a_refused_prompt_cancels_those_before_it() {
    let senders = RefCell::new(Vec::new());
    let generate = async |_| {
        let (sender, pieces) = channel::<Piece>(16);
        senders.borrow_mut().push(sender);
        match senders.borrow().len() {
            1 => Ok(Generation { routed: served(), pieces }),
            _ => Err(GatewayError::Busy { waiting: 1 }),
        }
    };
    let refused = Replies::start(vec![request(); 2], 2, generate).await;
    assert_eq!(refused.err(), Some(GatewayError::Busy { waiting: 1 }));
    assert!(senders.borrow()[0].is_closed());
}

#[tokio::test]
async fn dropping_them_cancels() {
    let (replies, lanes) = start(2).await;
    drop(replies);
    assert!(lanes.iter().all(Sender::is_closed));
}
