//! The entry point that a front end calls.
//!
//! [`Gateway::generate`] routes a request, and has it prepared and submitted. Then a task (`rescue`) follows it to its
//! outcome, whether or not the client stays connected. It does not know about the ways in which requests end, or about
//! statistics.

use super::admission::{self, Admission};
use super::attempt::Attempt;
use super::class::no_route;
use super::conversation;
use super::cross_read::CrossReader;
use super::error::{GatewayError, check_ids, invalid, text_error};
use super::idle::Idle;
use super::in_flight::InFlight;
use super::prepare::{encode, prepare, render};
use super::record;
use super::shadow::Shadow;
use super::traffic::Traffic;
use super::types::{GenerateRequest, Generation, Limits, Prompt, Timeouts};
use crate::control::{ArmStatus, Control, ShadowStatus, Status};
use crate::routing::Assignment;
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use tokio::sync::mpsc::channel;

/// Pieces that wait for a slow client; beyond, the task waits and the engine's events queue up, which are
/// bounded by the reply's length.
const PIECES: usize = 64;
/// Requests in flight that a status lists.
const SHOWN_IN_FLIGHT: usize = 64;

/// The way from a parsed request to its reply. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    pub(super) control: Arc<Control>,
    pub(super) timeouts: Timeouts,
    pub(super) shadow: Arc<Shadow>,
    pub(super) reader: Arc<CrossReader>,
    pub(super) traffic: Arc<Traffic>,
    in_flight: InFlight,
    idle: Idle,
    limits: Limits,
    admission: Admission,
}

impl Gateway {
    /// A gateway that copies a share of stable's requests to an idle canary, as `control` was told. Must
    /// be called within a tokio runtime.
    pub fn new(control: Arc<Control>, limits: Limits, timeouts: Timeouts) -> Gateway {
        let admission = Admission::new();
        let (idle, shadowed) = (Idle::default(), control.deployments().shadow);
        let shadow = Shadow::start(shadowed, &control, admission.clone(), idle.clone());
        let read = control.read_share();
        let reader = CrossReader::start(read, &control, admission.clone(), idle.clone());
        let (traffic, in_flight) = (Arc::default(), InFlight::default());
        Gateway { control, limits, timeouts, shadow, reader, traffic, in_flight, idle, admission }
    }

    /// What copied requests have shown; `None` when none are copied.
    pub fn shadow(&self) -> Option<ShadowStatus> {
        self.shadow.report()
    }

    /// Everything that an operator may want to see.
    pub fn status(&self) -> Status {
        let (models, now) = (self.control.models(), Instant::now());
        let cross_read = self.reader.report(models.canary.as_ref().map(|canary| canary.lane));
        let status = self.control.status();
        let lanes = [models.stable, models.canary].map(|loaded| loaded.map(|one| one.lane));
        self.traffic.retain(&lanes.iter().flatten().copied().collect::<Vec<_>>());
        let arms = status.arms.into_iter().zip(lanes).map(|(status, lane)| {
            let traffic = lane.map(|lane| self.traffic.status(lane, now));
            ArmStatus { traffic, ..status }
        });
        Status {
            shadow: self.shadow(),
            cross_read,
            in_flight: self.in_flight.status(now, SHOWN_IN_FLIGHT),
            arms: arms.collect(),
            ..status
        }
    }

    /// The control plane that routes its requests.
    pub fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// Bounds on one request.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Routes and submits a request. Fails if it is not valid, does not fit into the model's context, or finds no model
    /// or no place in the queue. What goes wrong once a model runs arrives as `Piece::Failed`.
    pub async fn generate(&self, request: GenerateRequest) -> Result<Generation, GatewayError> {
        let live = self.idle.live();
        let (key, draw) = (conversation::routing_key(&request), rand::random::<f64>());
        let route = self.control.route(key.as_deref(), request.pin, draw);
        let mut assignment = route.map_err(no_route)?;
        assignment.origin.party = request.party;
        let attempt = match self.attempt(&request, assignment.clone(), false).await {
            Ok(attempt) => attempt,
            Err(error) => {
                let attempt = self.not_begun(&request, &assignment, error).await;
                attempt.map_err(|error| error.or_withdrawn(|| self.control.withdrawn()))?
            }
        };
        let conversation = conversation::regeneration_key(&request);
        self.control.regenerated(conversation);
        let (out, pieces) = channel(PIECES);
        let routed = attempt.served.clone();
        let this = self.clone();
        tokio::spawn(async move {
            this.follow(request, conversation, attempt, out).await;
            drop(live);
        });
        Ok(Generation { routed, pieces })
    }

    /// Prepares a request for an arm and submits it there.
    pub(super) async fn attempt(
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
        let prompt_tokens = prepared.ids.len();
        let seat =
            self.in_flight.enter(&request.id, assignment.arm, request.arrived, prompt_tokens);
        let to = (engine, &**model);
        Ok(Attempt::submit(to, request, assignment, &prepared, rescued, (now, seat)))
    }

    /// Refuses a request that would be refused whatever it holds, since all queues are full; to be asked before
    /// its body is parsed.
    pub fn check_room(&self) -> Result<(), GatewayError> {
        let Some(stable) = self.control.models().stable else { return Ok(()) };
        admission::check_queue(&stable).inspect_err(|_| {
            record::refused(&self.control, &self.traffic, &stable, Instant::now());
        })
    }

    /// Fails if `count` sequences, all of one request, are more than may ever wait together.
    pub fn check_sequences(&self, count: usize) -> Result<(), GatewayError> {
        let stable = self.control.models().stable;
        let most = stable.map_or(0, |stable| stable.stats.read().waiting_most);
        if most == 0 || count as u64 <= most {
            return Ok(());
        }
        Err(invalid(
            "n",
            format!(
                "{count} replies (prompts times n) are more than the {most} that may wait at a time (engine.max_waiting); send them in parts"
            ),
        ))
    }

    /// Token ids that stable would see for a prompt; `add_special` overrides whether the tokenizer adds
    /// special tokens of its own. Fails if stable is not loaded, or if the prompt is too long or its template or
    /// tokenizer does not take it.
    pub async fn tokenize(
        &self,
        prompt: Prompt,
        add_special: Option<bool>,
    ) -> Result<Vec<u32>, GatewayError> {
        let stable = self.control.fallback().map_err(no_route)?;
        admission::check_bytes(&prompt, &stable.deployment)?;
        let (text, codec) = (prompt.clone(), stable.deployment.codec.clone());
        let encoded = move || encode(&text, &codec, add_special, SystemTime::now());
        Ok(self.admission.encode(&prompt, encoded).await??.0)
    }

    /// How many tokens stable would see for a prompt, also for one that is longer than its context. Fails if stable is
    /// not loaded, or if its template or tokenizer does not take the prompt.
    pub async fn count(&self, prompt: Prompt) -> Result<usize, GatewayError> {
        let stable = self.control.fallback().map_err(no_route)?;
        // What no model could read is counted one at a time, for the memory that it takes.
        let _turn = match admission::check_bytes(&prompt, &stable.deployment) {
            Ok(()) => None,
            Err(_) => Some(self.admission.turn().await?),
        };
        let (text, codec) = (prompt.clone(), stable.deployment.codec.clone());
        let encoded = move || encode(&text, &codec, None, SystemTime::now());
        Ok(self.admission.encode(&prompt, encoded).await??.0.len())
    }

    /// The text that stable's chat template makes of a conversation. Fails as [`Gateway::tokenize`] does.
    pub async fn render(&self, prompt: Prompt) -> Result<String, GatewayError> {
        let stable = self.control.fallback().map_err(no_route)?;
        admission::check_bytes(&prompt, &stable.deployment)?;
        let (text, codec) = (prompt.clone(), stable.deployment.codec.clone());
        let rendered = move || render(&text, &codec, SystemTime::now());
        self.admission.encode(&prompt, rendered).await?
    }

    /// Text of token ids, by stable's tokenizer. Fails if stable is not loaded or has no such token.
    pub fn detokenize(&self, ids: &[u32]) -> Result<String, GatewayError> {
        let stable = self.control.fallback().map_err(no_route)?;
        check_ids(ids, stable.deployment.capacity.vocab, "tokens")?;
        let codec = &stable.deployment.codec;
        codec.decode(ids, false).map_err(|error| text_error("tokens", &error))
    }
}
