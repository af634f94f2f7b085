//! A request from routing to outcome: the first attempt, the rescue on stable, the books.
//!
//! Runs on a task of its own, so that an outcome is recorded even when the client leaves. What a failed
//! canary owes is charged before stable takes over.

use super::admission::{self, Admission};
use super::attempt::{Attempt, Ended};
use super::paired::Answer;
use super::prepare::{check_ids, encode, invalid, prepare, text_error};
use super::shadow::{Copied, Shadow, ShadowReport};
use super::types::{GatewayError, GenerateRequest, Generation, Limits, Piece, Prompt, Timeouts};
use crate::control::{Assignment, Control, NoRoute, can_be_voted_on};
use crate::engine::{Fault, Refusal};
use crate::metrics;
use crate::rollout::{Arm, Class, Outcome};
use crate::router;
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use tokio::sync::mpsc::{Sender, channel};

/// Pieces that wait for a slow client; beyond, the task waits and the engine's events queue up, which are
/// bounded by the reply's length.
const PIECES: usize = 64;
/// Arms tried for one request: its own, and stable twice (it may be replaced meanwhile).
const ATTEMPTS: u32 = 3;

/// The way from a parsed request to its reply. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    control: Arc<Control>,
    limits: Limits,
    timeouts: Timeouts,
    shadow: Arc<Shadow>,
    admission: Admission,
}

impl Gateway {
    /// A gateway that copies a share of stable's requests to an idle canary, as `control` was told. Must
    /// be called within a tokio runtime.
    pub fn new(control: Arc<Control>, limits: Limits, timeouts: Timeouts) -> Gateway {
        let admission = Admission::new();
        let shadow = Shadow::start(control.care().shadow, &control, admission.clone());
        Gateway { control, limits, timeouts, shadow, admission }
    }

    /// What copied requests have shown; `None` when none are copied.
    pub fn shadow(&self) -> Option<ShadowReport> {
        self.shadow.report()
    }

    pub fn control(&self) -> &Arc<Control> {
        &self.control
    }

    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Routes and submits a request. Errors here are known before any model ran; later ones arrive as
    /// `Piece::Failed`.
    pub async fn generate(&self, request: GenerateRequest) -> Result<Generation, GatewayError> {
        let live = self.shadow.live();
        let draw = rand::random::<f64>();
        let route = self.control.route(request.key.as_deref(), request.pin, draw);
        let assignment = route.map_err(no_route)?;
        let attempt = match self.attempt(&request, assignment.clone(), false).await {
            Ok(attempt) => attempt,
            Err(error) => self.not_begun(&request, &assignment, error).await?,
        };
        let conversation = conversation(&request);
        self.control.asked(conversation);
        let (out, pieces) = channel(PIECES);
        let routed = attempt.served.clone();
        let this = self.clone();
        tokio::spawn(async move {
            this.drive(request, conversation, attempt, out).await;
            drop(live);
        });
        Ok(Generation { routed, pieces })
    }

    /// Refuses what would be refused whatever it holds: nobody has room. For before it is read.
    pub fn check_room(&self) -> Result<(), GatewayError> {
        let Some(stable) = self.control.models().stable else { return Ok(()) };
        let room = admission::check_queue(&stable);
        if room.is_err() {
            let (model, version) = (self.control.name(), &stable.version);
            let who = metrics::Who { model, arm: Arm::Stable, version };
            metrics::request(who, Class::Rejected.as_str(), &Default::default());
        }
        room
    }

    /// Refuses what could never wait together: so many sequences of one request. A busy server is another matter.
    pub fn check_sequences(&self, count: usize) -> Result<(), GatewayError> {
        let most = self.control.models().stable.map_or(0, |stable| {
            stable.stats.waiting_most.load(std::sync::atomic::Ordering::Relaxed) as usize
        });
        match most > 0 && count > most {
            true => Err(invalid(
                "n",
                format!(
                    "{count} replies (prompts times n) are more than the {most} that may wait at a time (engine.max_waiting); send them in parts"
                ),
            )),
            false => Ok(()),
        }
    }

    /// Token ids that stable would see for a prompt; `add_special` overrides whether the tokenizer adds
    /// special tokens of its own.
    pub async fn tokenize(
        &self,
        prompt: Prompt,
        add_special: Option<bool>,
    ) -> Result<Vec<u32>, GatewayError> {
        let stable = self.control.fallback().map_err(no_route)?;
        admission::check_bytes(&prompt, &stable.deployment)?;
        let (text, codec) = (prompt.clone(), stable.deployment.codec.clone());
        let encoded = move || encode(&text, &codec, add_special, SystemTime::now());
        self.admission.encode(&prompt, encoded).await?
    }

    /// Text of token ids, by stable's tokenizer.
    pub fn detokenize(&self, ids: &[u32]) -> Result<String, GatewayError> {
        let stable = self.control.fallback().map_err(no_route)?;
        check_ids(ids, stable.deployment.capacity.vocab, "tokens")?;
        let codec = &stable.deployment.codec;
        codec.decode(ids, false).map_err(|error| text_error("tokens", &error))
    }

    /// Books a request that its arm could not even begin, and begins it on stable if that may help: a
    /// canary may have a template that fails, or room for less. A conversation that the canary's template does
    /// not take is the canary's doing if stable takes it, and else the request's.
    async fn not_begun(
        &self,
        request: &GenerateRequest,
        assignment: &Assignment,
        error: GatewayError,
    ) -> Result<Attempt, GatewayError> {
        let bad = matches!(error, GatewayError::Invalid { .. });
        let stays = assignment.arm == Arm::Stable || request.pin.is_some() || bad;
        if !stays && matches!(error, GatewayError::Untaken(_)) {
            let stable = self.control.fallback().map_err(no_route)?;
            let attempt = self.attempt(request, stable, true).await;
            let untaken = attempt.as_ref().err().map_or(Class::ModelError, class_of_error);
            self.book_not_begun(request, assignment, untaken);
            return attempt;
        }
        self.book_not_begun(request, assignment, class_of_error(&error));
        if stays {
            return Err(error);
        }
        let stable = self.control.fallback().map_err(no_route)?;
        self.attempt(request, stable, true).await
    }

    fn book_not_begun(&self, request: &GenerateRequest, assignment: &Assignment, class: Class) {
        let version = &assignment.deployment.version;
        let who = metrics::Who { model: self.control.name(), arm: assignment.arm, version };
        metrics::request(who, class.as_str(), &Default::default());
        let session = request.key.as_deref().map(router::session_hash);
        self.control.record(Outcome {
            arm: assignment.arm,
            class,
            stage: assignment.stage,
            judged: assignment.judged,
            session,
            key: request.api_key,
            ttft: None,
            tpot: None,
            e2e: request.arrived.elapsed(),
            output_tokens: 0,
            matched: false,
        });
    }

    async fn attempt(
        &self,
        request: &GenerateRequest,
        assignment: Assignment,
        rescued: bool,
    ) -> Result<Attempt, GatewayError> {
        if request.n == 0 || request.n > self.limits.max_n {
            let text = format!("n is {}; it must be from 1 to {}", request.n, self.limits.max_n);
            return Err(invalid("n", text));
        }
        let (deployment, beside) = (&assignment.deployment, assignment.beside.as_ref());
        let today = SystemTime::now();
        let prepared = prepare(request, deployment, beside, &self.admission, today).await?;
        let (engine, model) = (self.control.engine(), self.control.name());
        let now = Instant::now();
        Ok(Attempt::submit(engine, model, request, assignment, &prepared, rescued, now))
    }

    async fn drive(
        self,
        request: GenerateRequest,
        conversation: u64,
        first: Attempt,
        out: Sender<Piece>,
    ) {
        let mut attempt = first;
        for tried in 1..=ATTEMPTS {
            let ended = attempt.play(&out, &self.timeouts).await;
            let class = class_of(&ended);
            self.book(&request, conversation, &attempt, class);
            match ended {
                Ended::Complete => {
                    let _ = out.send(Piece::Done(attempt.usage())).await;
                    self.copy(&request, &mut attempt);
                    return;
                }
                Ended::ClientGone => return,
                _ => {}
            }
            let error = error_of(ended);
            let next = match tried < ATTEMPTS && self.may_move(&request, &attempt, &error) {
                true => self.rescue(&request, &attempt).await,
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

    /// Copies a share of what stable has answered to the canary.
    fn copy(&self, request: &GenerateRequest, attempt: &mut Attempt) {
        let stable = attempt.assignment.arm == Arm::Stable;
        if !stable || request.n != 1 || rand::random::<f64>() >= self.shadow.share {
            return;
        }
        let timings = attempt.timings(Instant::now());
        let stable = Answer {
            tokens: attempt.take_tokens(),
            ttft: timings.first_token.unwrap_or(timings.total),
            per_token: timings.per_token(),
        };
        self.shadow.offer(Copied { request: request.clone(), stable });
    }

    /// Whether another model may take the request over: nothing was sent yet, it was not pinned, and this
    /// was a canary or a model on its way out.
    fn may_move(&self, request: &GenerateRequest, attempt: &Attempt, error: &GatewayError) -> bool {
        let leaving = matches!(error, GatewayError::Unavailable(_));
        let canary = attempt.assignment.arm == Arm::Canary;
        !attempt.started && request.pin != Some(Arm::Canary) && (canary || leaving)
    }

    /// Stable's attempt at a request that another model failed; `None` if there is no other stable.
    async fn rescue(&self, request: &GenerateRequest, failed: &Attempt) -> Option<Attempt> {
        let stable = self.control.fallback().ok()?;
        if stable.deployment.lane == failed.assignment.deployment.lane {
            return None;
        }
        self.attempt(request, stable, true).await.ok()
    }

    /// Metrics, verdict, authorship.
    fn book(&self, request: &GenerateRequest, conversation: u64, attempt: &Attempt, class: Class) {
        let now = Instant::now();
        let Assignment { arm, deployment, .. } = &attempt.assignment;
        let who =
            metrics::Who { model: self.control.name(), arm: *arm, version: &deployment.version };
        metrics::request(who, class.as_str(), &attempt.timings(now));
        if attempt.served.rescued && class == Class::Ok {
            metrics::rescued(&deployment.version);
        }
        if can_be_voted_on(class) {
            let id = request.id.clone();
            self.control.remember_author(id, conversation, &attempt.assignment);
        }
        let session = request.key.as_deref().map(router::session_hash);
        self.control.record(attempt.outcome(class, session, request.api_key, now));
    }
}

/// What is the same when a client asks the same again: the client and all that it said.
fn conversation(request: &GenerateRequest) -> u64 {
    let said = match &request.prompt {
        Prompt::Chat { messages, .. } => serde_json::to_vec(messages).unwrap_or_default(),
        Prompt::Text(text) => text.clone().into_bytes(),
        Prompt::Tokens(ids) => ids.iter().flat_map(|id| id.to_le_bytes()).collect(),
    };
    let client = request.key.as_deref().map_or(request.client, router::session_hash);
    xxhash_rust::xxh3::xxh3_64_with_seed(&said, client)
}

pub(super) fn no_route(why: NoRoute) -> GatewayError {
    match why {
        NoRoute::NoCanary => GatewayError::NoCanary,
        NoRoute::NotLoaded => GatewayError::Unavailable("it is still loading".into()),
    }
}

/// The outcome class of a request that could not begin.
fn class_of_error(error: &GatewayError) -> Class {
    match error {
        GatewayError::Model(_) => Class::ModelError,
        GatewayError::Timeout { .. } => Class::Timeout,
        GatewayError::Invalid { .. }
        | GatewayError::Untaken(_)
        | GatewayError::ContextLength { .. } => Class::InvalidRequest,
        GatewayError::NoCanary | GatewayError::Unavailable(_) | GatewayError::Busy { .. } => {
            Class::Rejected
        }
    }
}

/// The outcome class of each ending, as the evidence counts it.
fn class_of(ended: &Ended) -> Class {
    match ended {
        Ended::Complete => Class::Ok,
        Ended::ClientGone => Class::ClientCancel,
        Ended::Failed(Fault::Unloaded) => Class::Rejected,
        Ended::Failed(_) | Ended::Undecodable(_) => Class::ModelError,
        Ended::TimedOut { .. } => Class::Timeout,
        Ended::Refused(why) => match why {
            Refusal::TooLong { .. } | Refusal::BadToken { .. } | Refusal::EmptyPrompt => {
                Class::InvalidRequest
            }
            _ => Class::Rejected,
        },
    }
}

fn error_of(ended: Ended) -> GatewayError {
    match ended {
        Ended::Failed(Fault::Unloaded) => GatewayError::Unavailable("it was unloaded".into()),
        Ended::Failed(fault) => GatewayError::Model(public_text(&fault).to_owned()),
        Ended::Undecodable(_) => GatewayError::Model("its output is not text".into()),
        Ended::TimedOut { what, limit } => GatewayError::Timeout { what, limit },
        Ended::Refused(Refusal::QueueFull { waiting }) => GatewayError::Busy { waiting },
        Ended::Refused(why) => match class_of(&Ended::Refused(why.clone())) {
            Class::InvalidRequest => invalid("prompt", why.to_string()),
            _ => GatewayError::Unavailable(why.to_string()),
        },
        Ended::Complete | Ended::ClientGone => GatewayError::Unavailable("it has ended".into()),
    }
}

/// What a client may know of a fault; the details go to the log.
fn public_text(fault: &Fault) -> &'static str {
    tracing::warn!(%fault, "a sequence failed");
    match fault {
        Fault::NonFiniteLogits => "it produced NaN or infinite logits",
        Fault::OutOfMemory => "it ran out of memory",
        Fault::Step(_) => "a step failed",
        Fault::Panic(_) => "the engine panicked",
        Fault::DeviceLost(_) => "its device has failed",
        Fault::Unloaded => "it was unloaded",
    }
}
