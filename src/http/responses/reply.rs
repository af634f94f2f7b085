//! A response that is being generated: its output items, and the changes that a stream has to report.
//!
//! Pure. Whole responses and streams are built by the same steps, so both end with the same items.

use super::PREFIX;
use super::output::{Content, Item, Status};
use super::request::Echo;
use crate::http::parts::{Part, Parts};
use crate::http::status_codes::{ApiError, Names};
use crate::http::wire::logprobs::ChatToken;
use crate::serving::{Finish, Piece, Served, TokenLogprob, Usage};
use crate::text::reply::{CallEnd, Look};

/// What is known about an answer before it begins.
#[derive(Debug)]
pub struct About {
    /// The response's id.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The model's name as the client wrote it.
    pub model: String,
    /// What the reply is parsed for.
    pub look: Look,
    /// Whether tool calls after the first one are left out.
    pub one_call: bool,
    /// Whether log-probabilities are reported.
    pub logprobs: bool,
    /// What the answer repeats of the request.
    pub echo: Echo,
    /// What the request calls the things that errors are about.
    pub names: Names,
}

/// A change that a stream tells; the number is the item's place in the output.
#[derive(Debug)]
pub enum Change {
    Created,
    Added(usize),
    Text(usize, String, Vec<ChatToken>),
    Arguments(usize, String),
    Finished(usize),
    Ended,
    Failed,
}

/// The answer so far.
#[derive(Debug)]
pub struct Reply {
    pub about: About,
    pub served: Served,
    parts: Parts,
    pub items: Vec<Item>,
    /// Whether the last item may grow.
    open: bool,
    /// Whether a stream has told of it.
    created: bool,
    finish: Option<Finish>,
    pub usage: Option<Usage>,
    pub failed: Option<ApiError>,
}

impl Reply {
    /// Begins an answer; `routed` says who is expected to give it.
    pub fn new(about: About, routed: Served) -> Reply {
        let parts = Parts::new(1, about.look.clone(), about.one_call);
        let (finish, usage, failed) = (None, None, None);
        Reply {
            about,
            served: routed,
            parts,
            items: Vec::new(),
            open: false,
            created: false,
            finish,
            usage,
            failed,
        }
    }

    /// Processes the next piece and returns what has changed, in order.
    pub fn take(&mut self, piece: Piece) -> Vec<Change> {
        let mut changes = Vec::new();
        for part in self.parts.of(piece) {
            self.part(part, &mut changes);
        }
        changes
    }

    fn part(&mut self, part: Part, changes: &mut Vec<Change>) {
        match part {
            Part::Start(served, _) => {
                self.served = served;
                self.create(changes);
            }
            // Nothing that these requests can ask for.
            Part::Echo { .. } | Part::Count { .. } => {}
            Part::Text { text, tokens, .. } => self.text(text, tokens, changes),
            Part::Reasoning { text, .. } => {
                if !(self.open && matches!(self.items.last(), Some(Item::Reasoning { .. }))) {
                    let id = self.id("rs_", self.items.len());
                    let content = vec![Content::ReasoningText { text: String::new() }];
                    let (summary, status) = (Vec::new(), Status::InProgress);
                    self.begin(Item::Reasoning { id, summary, content, status }, changes);
                }
                self.grow(text, Vec::new(), changes);
            }
            Part::CallBegin { call, name, .. } => {
                let (id, call_id) = (self.id("fc_", self.items.len()), self.id("call_", call));
                let (arguments, status) = (String::new(), Status::InProgress);
                let call = Item::FunctionCall { id, call_id, name, arguments, status };
                self.begin(call, changes);
            }
            Part::CallArguments { delta, .. } => {
                if let Some(Item::FunctionCall { arguments, .. }) = self.items.last_mut() {
                    arguments.push_str(&delta);
                    changes.push(Change::Arguments(self.items.len() - 1, delta));
                }
            }
            Part::CallEnd { end, .. } => self.finish_item(
                match end {
                    CallEnd::Whole => Status::Completed,
                    CallEnd::Cut(_) | CallEnd::Broken(_) => Status::Incomplete,
                },
                changes,
            ),
            Part::End { finish, .. } => self.end(finish, changes),
            Part::Done(usage) => {
                self.usage = Some(usage);
                changes.push(Change::Ended);
            }
            Part::Failed(error) => {
                let error = ApiError::named(&error, &self.about.names);
                changes.extend(self.failure(error));
            }
        }
    }

    fn text(&mut self, text: String, tokens: Vec<TokenLogprob>, changes: &mut Vec<Change>) {
        if !(self.open && matches!(self.items.last(), Some(Item::Message { .. }))) {
            if text.is_empty() {
                return;
            }
            self.begin_message(changes);
        }
        let tokens = tokens.into_iter().filter(|_| self.about.logprobs);
        self.grow(text, tokens.map(ChatToken::from).collect(), changes);
    }

    fn begin_message(&mut self, changes: &mut Vec<Change>) {
        let (id, status) = (self.id("msg_", self.items.len()), Status::InProgress);
        let content = vec![Content::output()];
        self.begin(Item::Message { id, status, role: "assistant", content }, changes);
    }

    fn begin(&mut self, item: Item, changes: &mut Vec<Change>) {
        self.finish_item(Status::Completed, changes);
        self.items.push(item);
        self.open = true;
        changes.push(Change::Added(self.items.len() - 1));
    }

    /// Adds to the last item's text.
    fn grow(&mut self, more: String, tokens: Vec<ChatToken>, changes: &mut Vec<Change>) {
        let at = self.items.len().saturating_sub(1);
        let Some(content) = self.items.last_mut().and_then(Item::content_mut) else { return };
        content.text_mut().push_str(&more);
        if let Content::OutputText { logprobs, .. } = content {
            logprobs.extend(tokens.iter().cloned());
        }
        changes.push(Change::Text(at, more, tokens));
    }

    fn finish_item(&mut self, as_what: Status, changes: &mut Vec<Change>) {
        if !std::mem::replace(&mut self.open, false) {
            return;
        }
        if let Some(item) = self.items.last_mut() {
            *item.status_mut() = as_what;
            changes.push(Change::Finished(self.items.len() - 1));
        }
    }

    fn end(&mut self, finish: Finish, changes: &mut Vec<Change>) {
        if self.items.is_empty() {
            // A reply without a word is an empty message: clients read the first one.
            self.begin_message(changes);
        }
        self.finish = Some(finish);
        let cut = finish == Finish::Length;
        self.finish_item(if cut { Status::Incomplete } else { Status::Completed }, changes);
    }

    fn create(&mut self, changes: &mut Vec<Change>) {
        if !std::mem::replace(&mut self.created, true) {
            changes.push(Change::Created);
        }
    }

    /// The answer ends with an error. Clients expect every stream to begin, and every item to end.
    pub fn failure(&mut self, error: ApiError) -> Vec<Change> {
        let mut changes = Vec::new();
        self.create(&mut changes);
        self.finish_item(Status::Incomplete, &mut changes);
        self.failed = Some(error);
        changes.push(Change::Failed);
        changes
    }

    /// An id that starts with `prefix`, of this response's `n`-th thing of its kind.
    fn id(&self, prefix: &str, n: usize) -> String {
        let stem = self.about.id.strip_prefix(PREFIX).unwrap_or(&self.about.id);
        format!("{prefix}{stem}{n:02x}")
    }

    /// How far it is.
    pub fn status(&self) -> Status {
        match (&self.failed, self.usage, self.finish) {
            (Some(_), _, _) => Status::Failed,
            (None, None, _) => Status::InProgress,
            (None, Some(_), Some(Finish::Length)) => Status::Incomplete,
            (None, Some(_), _) => Status::Completed,
        }
    }
}
