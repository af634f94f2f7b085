//! The target of a run: a model in this process, or a server.
//!
//! Both run the same plan. A target prepares the requests of a block before the block begins, so that no figure
//! includes encoding. It does not know about blocks, rounds, or the other version.

mod local;
mod sse;
mod url;

pub use local::Local;
pub use url::{Endpoint, Server, Url};

use super::plan::{Planned, Point};
use super::prompts::Source;
use super::replies::{Answered, Reply};
use super::sample::{Memory, Sample};

/// What all requests of a run have in common.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Where prompts come from.
    pub source: Source,
    /// Most tokens of a reply; with `ignore_eos` exactly so many.
    pub output_tokens: usize,
    /// Go on past the end of the reply.
    pub ignore_eos: bool,
    /// Temperature; `None`: as the model's makers recommend.
    pub temperature: Option<f32>,
    /// Of prompts and contexts.
    pub seed: u64,
}

impl Setting {
    /// Most tokens of the reply to a prompt.
    fn reply_tokens(&self, prompt: usize) -> usize {
        let own = self.source.entry(prompt).and_then(|entry| entry.max_tokens);
        own.unwrap_or(self.output_tokens)
    }
}

/// A request that can be sent at once.
pub enum Ready {
    /// To a model in this process.
    Local(Box<local::Prepared>),
    /// The body of a request to a server.
    Url(serde_json::Value),
}

/// One version.
pub enum Target {
    /// In this process.
    Local(Box<Local>),
    /// A server.
    Url(Box<Url>),
}

impl Target {
    /// Makes requests ready for a point.
    ///
    /// # Errors
    ///
    /// Why the model cannot take one of them.
    pub async fn prepare(
        &self,
        setting: &Setting,
        point: &Point,
        planned: &[Planned],
    ) -> Result<Vec<Ready>, String> {
        match self {
            Target::Local(local) => local.prepare(setting, point, planned).await,
            Target::Url(url) => Ok(url.prepare(setting, point, planned)),
        }
    }

    /// Sends one now; returns its figures, and when its last token came. Fails if the model or the server does not
    /// answer, or if the request was prepared for another target.
    pub async fn ask(&self, ready: Ready) -> Result<(Sample, std::time::Instant), String> {
        match (self, ready) {
            (Target::Local(local), Ready::Local(prepared)) => local.ask(*prepared).await,
            (Target::Url(url), Ready::Url(body)) => url.ask(&body).await,
            _ => Err("a request of another target".to_owned()),
        }
    }

    /// The model's memory now.
    pub fn memory(&self) -> Memory {
        match self {
            Target::Local(local) => local.memory(),
            Target::Url(_) => Memory::default(),
        }
    }
}

/// Has one or two versions of a kind answer a prompt, and finds out how far they agree on A's reply.
///
/// # Errors
///
/// Which version could not answer, and why.
pub async fn answered(
    targets: &[Target],
    setting: &Setting,
    planned: &Planned,
) -> Result<Answered, String> {
    let local = targets.iter().map(|target| match target {
        Target::Local(local) => Some(&**local),
        Target::Url(_) => None,
    });
    if let Some(local) = local.collect::<Option<Vec<&Local>>>() {
        return local::answered(&local, setting, planned).await;
    }
    let url = targets.iter().filter_map(|target| match target {
        Target::Local(_) => None,
        Target::Url(url) => Some(&**url),
    });
    url::answered(&url.collect::<Vec<_>>(), setting, planned).await
}

/// Whether a reply has the right answer, for prompts that have one.
fn graded(mut reply: Reply, source: &Source, number: usize) -> Reply {
    let expected = source.entry(number).and_then(|entry| entry.expected.as_deref());
    reply.right = expected.map(|expected| super::prompts::is_right(&reply.text, expected));
    reply
}
