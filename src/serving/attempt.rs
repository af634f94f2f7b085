//! One arm's attempt at a request: engine events go in and pieces of text come out, until it ends.
//!
//! Its figures come from the engine's timestamps, not from when a piece was delivered, so a slow client does not make a
//! model look slow. It does not know what happens after a failure.

use super::echo::Echo;
use super::in_flight::Seat;
use super::logprobs::Waiting;
use super::prepare::Prepared;
use super::quality::Collected;
use super::types::{Finish, GenerateRequest, Meter, Piece, Served, Timeouts, Usage};
use crate::engine::{
    EngineHandle, Fault, FinishReason, Refusal, SeqEvent, SeqRequest, Timings, Work,
};
use crate::grammar::Guided;
use crate::metrics;
use crate::model::{Logprobs, Score};
use crate::routing::Assignment;
use crate::text::reply::Manner;
use crate::text::{Codec, Emit, StopStrings, StreamDecoder};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{Sender, unbounded_channel};
use tokio::time::{Instant as Deadline, sleep_until};
use tokio_stream::{StreamExt, StreamMap, wrappers::UnboundedReceiverStream};

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Ended {
    Complete,
    ClientGone,
    Failed(Fault),
    Undecodable(String),
    Refused(Refusal),
    TimedOut { what: &'static str, limit: Duration },
}

/// An attempt that has ended, with all that anybody asks of it.
#[derive(Debug)]
pub(super) struct Played {
    pub assignment: Assignment,
    pub served: Served,
    pub ended: Ended,
    /// Whether the client has been told who answers.
    pub started: bool,
    /// As the client saw them.
    pub timings: Timings,
    pub usage: Usage,
    /// Ids of the first reply.
    pub tokens: Vec<u32>,
    /// From the submission to the end, without the wait in the queue: how long a client waited that left before
    /// the first token.
    pub waited: Duration,
    /// Its text, and how it ended.
    pub collected: Collected,
    /// What the prompt cost the device.
    pub ttft: Option<Duration>,
    /// How much larger the prompt's steps were; see [`Work::crowd`].
    pub crowd: u8,
    /// What a token after the first cost the device: a matched step's time if there was one, else the mean.
    pub tpot: Option<Duration>,
    /// Whether `tpot` is of a step that was matched with one of the other arm.
    pub matched: bool,
}

struct Reply {
    decoder: StreamDecoder,
    stops: StopStrings,
    /// Whether the prompt has been repeated.
    opened: bool,
    /// Of the prompt's tokens after the first, until it is repeated.
    scores: Vec<Score>,
    /// Log-probabilities of tokens whose text has not been sent yet.
    waiting: Waiting,
    /// Ids as they came.
    ids: Vec<u32>,
    first: Option<Mark>,
    last: Option<Mark>,
    ended: bool,
}

impl Reply {
    /// One that has not begun.
    fn new(request: &GenerateRequest, prepared: &Prepared, codec: &Arc<Codec>) -> Reply {
        Reply {
            decoder: StreamDecoder::showing(codec.clone(), request.shown()),
            stops: StopStrings::including(request.stop.clone(), request.include_stop),
            opened: false,
            scores: Vec::new(),
            waiting: Waiting::after(prepared.echo.as_ref().map_or(0, Echo::chars)),
            ids: Vec::new(),
            first: None,
            last: None,
            ended: false,
        }
    }
}

type Events = StreamMap<u32, UnboundedReceiverStream<SeqEvent>>;

/// One sequence for each reply, each drawn with a seed of its own, and their events.
fn sequences(request: &GenerateRequest, prepared: &Prepared) -> (Vec<SeqRequest>, Events) {
    let (mut events, mut sequences) = (StreamMap::new(), Vec::new());
    for tag in 0..request.n {
        let (sender, receiver) = unbounded_channel();
        events.insert(tag, UnboundedReceiverStream::new(receiver));
        let mut params = prepared.params.clone();
        params.seed = params.seed.wrapping_add(u64::from(tag));
        sequences.push(SeqRequest {
            tag,
            prompt: prepared.ids.clone(),
            params,
            max_new_tokens: prepared.max_new_tokens,
            stop_ids: prepared.stop_ids.clone(),
            cache_salt: request.cache_salt,
            events: sender,
            background: false,
            guide: prepared.guided.as_ref().map(Guided::guide),
            arrived: request.arrived,
        });
    }
    (sequences, events)
}

/// When a token was made, and what the sequence had cost until then.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Instant,
    work: Work,
}

pub(super) struct Attempt {
    assignment: Assignment,
    pub served: Served,
    prompt_tokens: usize,
    arrived: Instant,
    /// When this attempt began; its model's deadlines count from here.
    submitted: Instant,
    events: Events,
    replies: Vec<Reply>,
    /// Whether the client has been told who answers; from then on no other arm can take over.
    started: bool,
    /// Queue and prefill time, as the engine reported them.
    engine: Timings,
    /// Prompt tokens that were cached, once the engine has said so.
    cached: Option<usize>,
    gaps: metrics::TokenGaps,
    /// Of the first reply.
    collected: Collected,
    seat: Seat,
    meter: Option<Arc<Meter>>,
    /// No reply ends before it has so many tokens.
    min_tokens: usize,
    /// The prompt, if replies begin with it.
    echo: Option<Echo>,
    logprobs: bool,
    reads_only: bool,
    /// Whether each piece comes with the reply's usage.
    counts: bool,
}

impl Attempt {
    /// Submits the request's sequences to the assigned lane.
    pub fn submit(
        (engine, model): (&EngineHandle, &str),
        request: &GenerateRequest,
        assignment: Assignment,
        prepared: &Prepared,
        rescued: bool,
        (now, seat): (Instant, Seat),
    ) -> Attempt {
        let deployment = &assignment.deployment;
        let (sequences, events) = sequences(request, prepared);
        if let Some(meter) = &request.meter {
            meter.set_prompt(prepared.ids.len());
        }
        // If the engine has stopped, the senders are dropped and `play` sees the streams end.
        let _ = engine.submit(deployment.lane, sequences);
        let who = metrics::Who { model, arm: assignment.arm, version: &deployment.version };
        let reply = |_| Reply::new(request, prepared, &deployment.codec);
        Attempt {
            served: Served {
                manner: Manner {
                    calls: deployment.codec.calls().clone(),
                    thinking: prepared.opening.marker(),
                },
                ..served(&assignment, rescued)
            },
            prompt_tokens: prepared.ids.len(),
            arrived: request.arrived,
            submitted: now,
            events,
            replies: (0..request.n).map(reply).collect(),
            started: false,
            engine: Timings::default(),
            cached: None,
            gaps: metrics::token_gaps(who),
            collected: Collected::default(),
            seat,
            meter: request.meter.clone(),
            min_tokens: request.token_constraints.min_tokens,
            echo: prepared.echo.clone(),
            logprobs: request.sampling.logprobs.is_some(),
            reads_only: request.max_tokens == Some(0),
            counts: request.count,
            assignment,
        }
    }

    /// Passes the replies on until all have ended or something stops them.
    pub async fn play(&mut self, out: &Sender<Piece>, timeouts: &Timeouts) -> Ended {
        // For the whole reply: made anew for each token, the timer would be registered and removed with each.
        let (gone, timer) = (out.closed(), sleep_until(self.deadline(timeouts).2.into()));
        tokio::pin!(gone, timer);
        while self.replies.iter().any(|reply| !reply.ended) {
            let (what, limit, at) = self.deadline(timeouts);
            // A later deadline is found when the timer fires.
            if Deadline::from(at) < timer.deadline() {
                timer.as_mut().reset(at.into());
            }
            let event = tokio::select! {
                biased;
                () = &mut gone => return Ended::ClientGone,
                event = self.events.next() => event,
                () = &mut timer => {
                    if Deadline::now() >= at.into() {
                        return Ended::TimedOut { what, limit };
                    }
                    timer.as_mut().reset(at.into());
                    continue;
                }
            };
            let Some((_, event)) = event else {
                return Ended::Failed(Fault::Step("the engine has stopped".into()));
            };
            if let Err(ended) = self.take(event, out).await {
                return ended;
            }
        }
        Ended::Complete
    }

    /// The nearest of the three deadlines: its name, its length, and when it falls.
    fn deadline(&self, timeouts: &Timeouts) -> (&'static str, Duration, Instant) {
        let last = self.replies.iter().filter_map(|reply| reply.last).map(|mark| mark.at).max();
        let token = match last {
            None => ("first token", timeouts.first_token, self.submitted + timeouts.first_token),
            Some(at) => ("next token", timeouts.next_token, at + timeouts.next_token),
        };
        let whole = ("whole reply", timeouts.request, self.arrived + timeouts.request);
        if token.2 <= whole.2 { token } else { whole }
    }

    async fn take(&mut self, event: SeqEvent, out: &Sender<Piece>) -> Result<(), Ended> {
        match event {
            SeqEvent::Started { queued, prefill, cached_tokens, .. } => {
                self.note_cached(cached_tokens);
                // Of several replies the first to start is the one that the client waited for.
                if self.replies.iter().all(|reply| reply.first.is_none()) {
                    self.engine = Timings { queued, prefill, ..self.engine };
                }
                Ok(())
            }
            SeqEvent::Scored { tag, scores } => {
                if let Some(reply) = self.replies.get_mut(tag as usize) {
                    reply.scores = scores;
                }
                Ok(())
            }
            SeqEvent::Token { tag, id, at, work, logprobs } => {
                self.token(tag, (id, logprobs), Mark { at, work }, out).await
            }
            SeqEvent::Finished { tag, reason, timings } => {
                self.note_cached(timings.cached_tokens);
                self.finished(tag, reason, out).await
            }
            SeqEvent::Failed { fault, .. } => Err(Ended::Failed(fault)),
            SeqEvent::Refused { why, .. } => {
                if let Some(meter) = &self.meter {
                    meter.set_prompt(0);
                }
                Err(Ended::Refused(why))
            }
        }
    }

    /// Of several replies the least counts: the later ones find what the first has just computed.
    fn note_cached(&mut self, tokens: usize) {
        self.cached = Some(self.cached.map_or(tokens, |least| least.min(tokens)));
    }

    async fn token(
        &mut self,
        tag: u32,
        (id, logprobs): (u32, Option<Box<Logprobs>>),
        mark: Mark,
        out: &Sender<Piece>,
    ) -> Result<(), Ended> {
        self.open(tag, out).await?;
        let Some(reply) = self.replies.get_mut(tag as usize).filter(|reply| !reply.ended) else {
            return Ok(());
        };
        reply.first.get_or_insert(mark);
        if self.reads_only {
            return Ok(());
        }
        reply.ids.push(id);
        self.seat.token();
        if let Some(meter) = &self.meter {
            meter.count_token();
        }
        if let Some(before) = reply.last {
            self.gaps.record(mark.at.saturating_duration_since(before.at).as_secs_f64());
        }
        reply.last = Some(mark);
        let text = reply.decoder.push(id).map_err(|e| Ended::Undecodable(e.to_string()))?;
        if let Some(logprobs) = logprobs {
            reply.waiting.token(&self.assignment.deployment.codec, id, &logprobs);
        }
        reply.waiting.decoded(&text);
        // What comes before a reply may end is not searched for stop strings.
        let emit = match reply.ids.len() > self.min_tokens {
            true => reply.stops.push(&text),
            false => Emit { text, hit: None },
        };
        self.emit(tag, emit, None, out).await
    }

    async fn finished(
        &mut self,
        tag: u32,
        reason: FinishReason,
        out: &Sender<Piece>,
    ) -> Result<(), Ended> {
        self.open(tag, out).await?;
        let Some(reply) = self.replies.get_mut(tag as usize).filter(|reply| !reply.ended) else {
            return Ok(());
        };
        let tail = reply.decoder.finish();
        reply.waiting.decoded(&tail);
        let mut emit = reply.stops.push(&tail);
        emit.text.push_str(&reply.stops.finish());
        let finish = match reason {
            FinishReason::Stop if !self.reads_only => Finish::Stop,
            _ => Finish::Length,
        };
        self.emit(tag, emit, Some(finish), out).await
    }

    async fn emit(
        &mut self,
        tag: u32,
        emit: Emit,
        finish: Option<Finish>,
        out: &Sender<Piece>,
    ) -> Result<(), Ended> {
        if tag == 0 {
            self.collected.add(&emit, finish);
        }
        let waiting = &mut self.replies[tag as usize].waiting;
        let tokens = match finish {
            // What a stop string cut off was never sent, and neither are its tokens.
            Some(_) if emit.hit.is_none() => waiting.rest(),
            _ => waiting.sent(&emit.text),
        };
        let says = !emit.text.is_empty() || !tokens.is_empty();
        if self.counts && (says || finish.is_some() || emit.hit.is_some()) {
            let usage = self.used(self.replies[tag as usize].ids.len());
            send(out, Piece::Count { index: tag, usage }).await?;
        }
        if says {
            send(out, Piece::Text { index: tag, text: emit.text, tokens }).await?;
        }
        let finish = emit.hit.map(Finish::StopString).or(finish);
        if let Some(finish) = finish {
            self.replies[tag as usize].ended = true;
            // Dropping the receiver cancels whatever the lane would still generate.
            self.events.remove(&tag);
            send(out, Piece::End { index: tag, finish }).await?;
        }
        Ok(())
    }

    /// Begins a reply, if that has not been done: says who answers, and repeats the prompt.
    async fn open(&mut self, tag: u32, out: &Sender<Piece>) -> Result<(), Ended> {
        self.start(out).await?;
        let Some(reply) = self.replies.get_mut(tag as usize) else { return Ok(()) };
        let Some(echo) = self.echo.as_ref().filter(|_| !reply.opened) else { return Ok(()) };
        reply.opened = true;
        let scores = std::mem::take(&mut reply.scores);
        let tokens = match self.logprobs {
            true => echo.tokens(&self.assignment.deployment.codec, scores),
            false => Vec::new(),
        };
        send(out, Piece::Echo { index: tag, text: echo.text.clone(), tokens }).await
    }

    async fn start(&mut self, out: &Sender<Piece>) -> Result<(), Ended> {
        if self.started {
            return Ok(());
        }
        self.started = true;
        send(out, Piece::Start(self.served.clone(), self.used(0))).await
    }

    /// What it came to, by the engine's time marks; `now` counts only where no token came.
    pub fn close(mut self, ended: Ended, now: Instant) -> Played {
        let (timings, usage) = (self.timings(now), self.usage());
        let (ttft, matched) = (self.own_first_token(), self.matched());
        let tpot = matched.or_else(|| self.own_per_token());
        let crowd = self.first().map_or(0, |mark| mark.work.crowd);
        let waited = now.saturating_duration_since(self.submitted).saturating_sub(timings.queued);
        let tokens = self.replies.first_mut().map(|reply| std::mem::take(&mut reply.ids));
        Played {
            assignment: self.assignment,
            served: self.served,
            ended,
            started: self.started,
            timings,
            usage,
            tokens: tokens.unwrap_or_default(),
            waited,
            crowd,
            collected: self.collected,
            ttft,
            tpot,
            matched: matched.is_some(),
        }
    }

    fn usage(&self) -> Usage {
        self.used(self.replies.iter().map(|reply| reply.ids.len()).sum())
    }

    /// The usage after so many tokens of replies.
    fn used(&self, completion_tokens: usize) -> Usage {
        let (prompt_tokens, cached_tokens) = (self.prompt_tokens, self.cached.unwrap_or(0));
        Usage { prompt_tokens, completion_tokens, cached_tokens }
    }

    /// Where the time went, over all replies.
    fn timings(&self, now: Instant) -> Timings {
        let first = self.first().map(|mark| mark.at);
        let last = self.replies.iter().filter_map(|reply| reply.last).map(|mark| mark.at).max();
        let since = |at: Instant| at.saturating_duration_since(self.arrived);
        let decode = first.zip(last).map(|(a, b)| b.saturating_duration_since(a));
        Timings {
            first_token: first.map(since),
            decode: decode.unwrap_or_default(),
            total: since(last.unwrap_or(now)),
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached.unwrap_or(0),
            output_tokens: self.usage().completion_tokens,
            ..self.engine
        }
    }

    /// The first token of all replies.
    fn first(&self) -> Option<Mark> {
        self.replies.iter().filter_map(|reply| reply.first).min_by_key(|mark| mark.at)
    }

    /// What the prompt cost the device: TTFT without the wait for a place and for other sequences, of this
    /// model and of others. Waiting depends on an arm's traffic, not on its model.
    fn own_first_token(&self) -> Option<Duration> {
        self.first().map(|mark| mark.work.prefill)
    }

    /// What a step took that was matched with one of the other arm.
    fn matched(&self) -> Option<Duration> {
        self.replies.iter().find_map(|reply| reply.last?.work.matched)
    }

    /// What a token cost the device on average, over all replies; `None` if no step only decoded.
    fn own_per_token(&self) -> Option<Duration> {
        let last = self.replies.iter().filter_map(|reply| reply.last);
        let (time, decodes) = last.fold((Duration::ZERO, 0), |(time, decodes), mark| {
            (time + mark.work.decode, decodes + mark.work.decodes)
        });
        (decodes > 0).then(|| time / decodes)
    }
}

pub(super) fn served(assignment: &Assignment, rescued: bool) -> Served {
    Served {
        arm: assignment.arm,
        version: assignment.deployment.version.clone(),
        fingerprint: assignment.deployment.fingerprint.clone(),
        rescued,
        manner: Manner::default(),
    }
}

async fn send(out: &Sender<Piece>, piece: Piece) -> Result<(), Ended> {
    out.send(piece).await.map_err(|_| Ended::ClientGone)
}
