//! The `[rollout]` table: how a canary is judged, as typed and as resolved.
//!
//! Every key is optional; the defaults are [`Policy`]'s. This file only checks the form of each key;
//! [`Policy::validate`] checks the values and whether they fit together.

use super::ConfigError;
use super::values::{Time, value};
use crate::rollout::{
    Advance, ConfirmAt, EvidenceRule, Expect, Mode, Policy, QualityActions, SignalAction, Weight,
};
use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRollout {
    steps: Option<Steps>,
    bake: Option<Time>,
    min_requests: Option<u64>,
    advance: Option<Advance>,
    confirm: Option<Vec<String>>,
    mode: Option<Mode>,
    evidence: Option<EvidenceRule>,
    holdback: Option<f64>,
    quality: Option<QualityActions>,
    cross_read: Option<f64>,
    expect: Option<Expect>,
    on_disagreement: Option<SignalAction>,
    max_kl: Option<f64>,
    max_differing: Option<f64>,
    max_excess: Option<f64>,
    max_implausible: Option<f64>,
    alpha: Option<f64>,
    alone_allowance: Option<f64>,
    max_key_share: Option<f64>,
    rollback_min_requests: Option<u64>,
    rollback_min_errors: Option<u64>,
    max_error_ratio: Option<f64>,
    max_latency_ratio: Option<f64>,
    min_throughput_ratio: Option<f64>,
    warmup_requests: Option<u64>,
    fault_streak: Option<u32>,
    dedup_window: Option<Time>,
    stall_after: Option<Time>,
    ttft_floor: Option<Time>,
    pub(super) keep_previous: Option<Time>,
    pub(super) retry_window: Option<Time>,
    pub(super) well_after: Option<Time>,
    pub(super) shadow: Option<f64>,
    pub(super) allow_less: Option<bool>,
}

/// Percentages, or the name of a plan.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "steps are a list such as [5, 25, 50, 100], or \"double\"")]
enum Steps {
    Listed(Vec<i64>),
    Named(NamedSteps),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum NamedSteps {
    Double,
}

fn set<T>(slot: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *slot = given;
    }
}

/// Sets the policy's fields whose keys have the same names.
macro_rules! set_all {
    ($policy:expr, $raw:expr; $($key:ident),*) => { $(set(&mut $policy.$key, $raw.$key);)* };
}

impl RawRollout {
    /// Fills in the defaults and checks every value.
    pub(super) fn resolve(self) -> Result<Policy, ConfigError> {
        let mut policy = Policy::default();
        match &self.steps {
            None => {}
            Some(Steps::Named(NamedSteps::Double)) => policy.steps = Policy::double_steps(),
            Some(Steps::Listed(steps)) => {
                policy.steps =
                    steps.iter().map(|p| weight("rollout.steps", *p)).collect::<Result<_, _>>()?;
            }
        }
        if let Some(points) = &self.confirm {
            policy.confirm = points.iter().map(|p| confirm_at(p)).collect::<Result<_, _>>()?;
        }
        set_all!(policy, self; advance, mode, evidence, quality, min_requests, alpha);
        set_all!(policy, self; alone_allowance, max_key_share, warmup_requests, fault_streak);
        set_all!(policy, self; rollback_min_requests, rollback_min_errors);
        set_all!(policy, self; max_error_ratio, max_latency_ratio, min_throughput_ratio);
        let read = &mut policy.cross_read;
        set(&mut read.share, self.cross_read);
        set(&mut read.action, self.on_disagreement);
        set_all!(read, self; expect, max_kl, max_differing, max_excess, max_implausible);
        set(&mut policy.holdback, self.holdback.map(share).transpose()?);
        set(&mut policy.bake, self.bake.map(|t| t.0));
        set(&mut policy.dedup_window, self.dedup_window.map(|t| t.0));
        set(&mut policy.stall_after, self.stall_after.map(|t| t.0));
        set(&mut policy.ttft_floor, self.ttft_floor.map(|t| t.0));
        policy.validate().map_err(|e| value("rollout", e.to_string()))?;
        Ok(policy)
    }
}

/// "promote", or the percentage before which a person has to agree.
fn confirm_at(text: &str) -> Result<ConfirmAt, ConfigError> {
    const KEY: &str = "rollout.confirm";
    if text == "promote" {
        return Ok(ConfirmAt::Promote);
    }
    let percent = text.parse().map_err(|_| {
        value(KEY, format!("\"{text}\" is neither \"promote\" nor a step such as \"50\""))
    })?;
    Ok(ConfirmAt::Before(weight(KEY, percent)?))
}

/// A share of 0 to 0.5, in whole percent.
fn share(share: f64) -> Result<Weight, ConfigError> {
    let percent = (share * 100.0).round();
    let whole = (0.0..=50.0).contains(&percent).then_some(percent as u8).and_then(Weight::new);
    whole.ok_or_else(|| {
        value("rollout.holdback", format!("{share} is not a share of the traffic from 0 to 0.5"))
    })
}

fn weight(key: &'static str, percent: i64) -> Result<Weight, ConfigError> {
    let weight = u8::try_from(percent).ok().and_then(Weight::new);
    weight.ok_or_else(|| value(key, format!("{percent} is not a percentage from 0 to 100")))
}
