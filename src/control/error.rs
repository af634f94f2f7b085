//! Why an order was refused, as a message for operators.

/// Why an operator's order was not carried out. Texts are fit for operators.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// The order is about a canary, and none is in service.
    #[error("no canary is loaded; load one first (serin canary load PATH)")]
    NoCanary,
    /// A canary was to be loaded while another is in service.
    #[error(
        "canary {version} is already loaded; promote it or roll it back before loading another"
    )]
    CanaryPresent {
        /// Version of the one in service.
        version: String,
    },
    /// A model was to be loaded while another load runs; there is one at a time.
    #[error("a model is being loaded already; wait until it is ready")]
    Loading,
    /// The order could raise something, and the rollout from before the restart is not taken up yet.
    #[error(
        "the previous process's rollout is still being resumed; until then, orders that could raise the weight are refused (rollback and pause work)"
    )]
    Resuming,
    /// The order needs a stable model, and none is loaded yet.
    #[error("stable is not loaded yet; wait until /readyz answers 200")]
    NoStable,
    /// An order other than pause and rollback came without a revision.
    #[error(
        "this order needs the revision that you last saw (now {now}; see /admin/status), so that it cannot override a newer order of somebody else"
    )]
    NoRevision {
        /// The present revision.
        now: u64,
    },
    /// The order names another revision than the present one.
    #[error(
        "things have changed since revision {expected} (now {now}); look at the status again and repeat the order if it still makes sense"
    )]
    Stale {
        /// The revision that the order names.
        expected: u64,
        /// The present revision.
        now: u64,
    },
    /// An undo without a former stable that is still loaded.
    #[error(
        "there is no promotion to undo, or the former stable is no longer kept (rollout.keep_previous); load it as a canary instead"
    )]
    NoPrevious,
    /// The rollout's state machine does not accept the order: why.
    #[error("{0}")]
    Refused(String),
    /// The model could not be loaded, or must not be: it was rejected before, or the device has failed.
    #[error("{0}")]
    Load(String),
    /// The order says what both models should find in replies, but nothing is read.
    #[error(
        "`expect` says what the models should find in each other's replies, but none are read: rollout.cross_read is 0, rollout.on_disagreement is \"off\", or rollout.evidence is not \"exact\""
    )]
    NothingRead,
    /// The canary can do less than stable, and nobody has allowed that: what, one line each.
    #[error(
        "the canary can do less than stable: {}; use --allow (\"allow\": true, or rollout.allow_less = true for the configured canary) to load it anyway",
        .0.join("; ")
    )]
    Less(Vec<String>),
    /// The vote's reply is not, or no longer, among those remembered.
    #[error("no such completion, or it was too long ago; feedback takes the id of a recent reply")]
    UnknownCompletion,
    /// The vote's value is out of range, or its comment and tags are too long: which.
    #[error("{0}")]
    BadFeedback(String),
    /// The task that loads a model panicked or was cancelled: which.
    #[error("{0}")]
    Engine(String),
    /// The order is accepted, but the ledger has not recorded it in time; what it raises waits until it has.
    #[error(
        "the order is accepted, but the ledger could not be written for {seconds} s ({why}); a higher weight takes effect only once it is written"
    )]
    NotDurable {
        /// Seconds that the ledger was waited for.
        seconds: u64,
        /// What keeps the ledger from being written.
        why: String,
    },
}
