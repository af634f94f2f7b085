//! The rollout's plain types as they are written: JSON that people can read and floats that return
//! exactly.
//!
//! The one place to extend when a policy, an order or a decision gains a field: each mirror takes its
//! original apart by name, so a new field does not compile until it is written here too. Why mirrors
//! and not derives on the originals: the rollout is std only, and what is on disk must not change
//! because somebody renames a field. A policy field that an old ledger lacks reads as its default.

use std::time::Duration;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::rollout::{Advance, Arm, ConfirmAt, Counts, EvidenceRule, Mode, Policy, Weight};

mod decision;

pub(super) use decision::exact;

/// A type of the rollout and how it is written.
pub(super) trait Mirrored: Sized {
    /// What is written.
    type Wire: Serialize + DeserializeOwned;

    /// To be written.
    fn to_wire(&self) -> Self::Wire;

    /// As read; the text says what is wrong.
    fn from_wire(wire: Self::Wire) -> Result<Self, String>;
}

/// For `#[serde(with = "wire::mirror")]`.
pub(super) mod mirror {
    use super::*;

    pub(in crate::ledger) fn serialize<T: Mirrored, S: Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.to_wire().serialize(serializer)
    }

    pub(in crate::ledger) fn deserialize<'de, T: Mirrored, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        T::from_wire(T::Wire::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl<T: Mirrored> Mirrored for Box<T> {
    type Wire = T::Wire;

    fn to_wire(&self) -> T::Wire {
        T::to_wire(self)
    }

    fn from_wire(wire: T::Wire) -> Result<Box<T>, String> {
        T::from_wire(wire).map(Box::new)
    }
}

/// Types that are written as they are.
macro_rules! written_as_they_are {
    ($($type:ty),*) => {
        $(impl Mirrored for $type {
            type Wire = $type;

            fn to_wire(&self) -> $type {
                *self
            }

            fn from_wire(wire: $type) -> Result<$type, String> {
                Ok(wire)
            }
        })*
    };
}

written_as_they_are!(u32, u64, f64, bool, Duration);

impl<T: Mirrored> Mirrored for Vec<T> {
    type Wire = Vec<T::Wire>;

    fn to_wire(&self) -> Vec<T::Wire> {
        self.iter().map(T::to_wire).collect()
    }

    fn from_wire(wire: Vec<T::Wire>) -> Result<Vec<T>, String> {
        wire.into_iter().map(T::from_wire).collect()
    }
}

impl<T: Mirrored> Mirrored for Option<T> {
    type Wire = Option<T::Wire>;

    fn to_wire(&self) -> Option<T::Wire> {
        self.as_ref().map(T::to_wire)
    }

    fn from_wire(wire: Option<T::Wire>) -> Result<Option<T>, String> {
        wire.map(T::from_wire).transpose()
    }
}

impl Mirrored for Weight {
    type Wire = u8;

    fn to_wire(&self) -> u8 {
        self.percent()
    }

    fn from_wire(wire: u8) -> Result<Weight, String> {
        Weight::new(wire).ok_or_else(|| format!("a weight of {wire} %"))
    }
}

impl Mirrored for Arm {
    type Wire = String;

    fn to_wire(&self) -> String {
        self.as_str().to_owned()
    }

    fn from_wire(wire: String) -> Result<Arm, String> {
        named(&Arm::BOTH, |arm| arm.as_str(), &wire)
    }
}

/// Enums that are written as one of a list of names.
macro_rules! written_by_name {
    ($($type:ty: [$($name:literal => $item:expr),*]),* $(,)?) => {
        $(impl Mirrored for $type {
            type Wire = String;

            fn to_wire(&self) -> String {
                let all = [$(($name, $item)),*];
                let found = all.iter().find(|(_, item)| item == self);
                found.map_or_else(String::new, |(name, _)| (*name).to_owned())
            }

            fn from_wire(wire: String) -> Result<$type, String> {
                let all = [$(($name, $item)),*];
                let found = all.iter().find(|(name, _)| *name == wire);
                let unknown = || format!("the name {wire:?} is not known to this build");
                found.map(|(_, item)| *item).ok_or_else(unknown)
            }
        })*
    };
}

written_by_name! {
    Advance: ["auto" => Advance::Auto, "manual" => Advance::Manual, "dry_run" => Advance::DryRun],
    Mode: ["best_effort" => Mode::BestEffort, "strict" => Mode::Strict],
    EvidenceRule: ["e_value" => EvidenceRule::EValue, "none" => EvidenceRule::None],
}

/// The weight before which to confirm; none for the promotion.
impl Mirrored for ConfirmAt {
    type Wire = Option<u8>;

    fn to_wire(&self) -> Option<u8> {
        match self {
            ConfirmAt::Before(weight) => Some(weight.percent()),
            ConfirmAt::Promote => None,
        }
    }

    fn from_wire(wire: Option<u8>) -> Result<ConfirmAt, String> {
        let weight = Option::<Weight>::from_wire(wire)?;
        Ok(weight.map_or(ConfirmAt::Promote, ConfirmAt::Before))
    }
}

/// The item of that name.
fn named<T: Copy>(all: &[T], name: impl Fn(T) -> &'static str, wire: &str) -> Result<T, String> {
    let found = all.iter().find(|item| name(**item) == wire);
    found.copied().ok_or_else(|| format!("the name {wire:?} is not known to this build"))
}

/// Writes a struct's mirror from one list of its fields. A field of a new type needs a [`Mirrored`].
macro_rules! mirror_struct {
    ($of:ident as $wire:ident { $($field:ident: $type:ty),* $(,)? }) => {
        #[derive(Debug, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub(super) struct $wire {
            $($field: <$type as Mirrored>::Wire),*
        }

        impl Mirrored for $of {
            type Wire = $wire;

            fn to_wire(&self) -> $wire {
                let $of { $($field),* } = self;
                $wire { $($field: $field.to_wire()),* }
            }

            fn from_wire(wire: $wire) -> Result<$of, String> {
                let $wire { $($field),* } = wire;
                Ok($of { $($field: Mirrored::from_wire($field)?),* })
            }
        }

        impl Default for $wire {
            fn default() -> $wire {
                $of::default().to_wire()
            }
        }
    };
}

mirror_struct! {
    Policy as PolicyWire {
        steps: Vec<Weight>,
        bake: Duration,
        min_requests: u64,
        advance: Advance,
        confirm: Vec<ConfirmAt>,
        mode: Mode,
        evidence: EvidenceRule,
        alpha: f64,
        alone_allowance: f64,
        max_key_share: f64,
        rollback_min_requests: u64,
        rollback_min_errors: u64,
        max_error_ratio: f64,
        max_latency_ratio: f64,
        min_throughput_ratio: f64,
        warmup_requests: u64,
        fault_streak: u32,
        dedup_window: Duration,
        stall_after: Duration,
    }
}

mirror_struct! {
    Counts as CountsWire {
        requests: u64,
        errors: u64,
        deduplicated: u64,
        cancels: u64,
        rejected: u64,
        invalid: u64,
        other_stage: u64,
        unjudged: u64,
        warmup: u64,
        over_share: u64,
        retries: u64,
        output_tokens: u64,
        votes_up: u64,
        votes_down: u64,
    }
}
