//! The current weight and the deployment of each arm: what every request reads.
//!
//! It is a small value behind a read-write lock; a request holds the lock for a hash and an `Arc` clone. It does not
//! know why the weight is what it is.

use super::deployment::Deployment;
use super::pick::{NoCanary, RouteInput, pick, session_hash};
use crate::rollout::{Arm, Origin, Weight};
use std::sync::Arc;

/// The pointers and the weight; by default nothing is loaded yet.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    /// Id of the running rollout; part of the sticky hash.
    pub rollout: Arc<str>,
    /// Stage epoch, so that an outcome can be told from one of an earlier weight.
    pub stage: u64,
    /// The canary's share, as the rollout has it.
    pub weight: Weight,
    /// The share that is routed to it: less while a part of the traffic is held back on stable.
    pub routed: Weight,
    /// `None` until stable is loaded.
    pub stable: Option<Arc<Deployment>>,
    /// `None` while no canary is in service.
    pub canary: Option<Arc<Deployment>>,
    /// The version that left service last of those that took longer sequences than what stayed.
    pub withdrawn: Option<Withdrawn>,
}

/// A version that took longer sequences and serves no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withdrawn {
    /// Its name.
    pub version: Arc<str>,
    /// The longest sequence it took, in tokens.
    pub max: usize,
}

/// Where one request goes.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// The arm that serves the request.
    pub arm: Arm,
    /// The version that was on this arm when the request was routed.
    pub deployment: Arc<Deployment>,
    /// Stage epoch in force now.
    pub stage: u64,
    /// False for pinned requests, which no verdict may count.
    pub judged: bool,
    /// How it was routed; the party is for the caller to fill in.
    pub origin: Origin,
    /// Of a canary: stable, and the weight in force.
    pub beside: Option<(Arc<Deployment>, Weight)>,
}

/// Why there is nowhere to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoute {
    /// The canary was asked for and is not there.
    NoCanary,
    /// Stable is still loading.
    NotLoaded,
}

impl Routes {
    /// Takes the canary out of service, if there is one.
    pub fn remove_canary(&mut self) -> Option<Arc<Deployment>> {
        let canary = self.canary.take();
        self.left(canary)
    }

    /// Puts a version into stable's place; returns the one that was there.
    pub fn replace_stable(&mut self, stable: Arc<Deployment>) -> Option<Arc<Deployment>> {
        let former = self.stable.replace(stable);
        self.left(former)
    }

    /// A version has left service: remembered if it took longer sequences than stable does now.
    fn left(&mut self, left: Option<Arc<Deployment>>) -> Option<Arc<Deployment>> {
        if let (Some(left), Some(stable)) = (&left, &self.stable)
            && left.max_len() > stable.max_len()
        {
            let (version, max) = (left.version.clone(), left.max_len());
            self.withdrawn = Some(Withdrawn { version, max });
        }
        left
    }

    /// The arm for a request: by pin, key or `draw`, uniform in [0, 1). Fails if that arm is not loaded.
    pub fn assign(
        &self,
        key: Option<&str>,
        pin: Option<Arm>,
        draw: f64,
    ) -> Result<Assignment, NoRoute> {
        let input = RouteInput {
            rollout: &self.rollout,
            key,
            pin,
            draw,
            weight: self.routed,
            canary_up: self.canary.is_some(),
        };
        let route = pick(&input).map_err(|NoCanary| NoRoute::NoCanary)?;
        let to = self.to(route.arm, !route.pinned)?;
        let cluster = key.filter(|_| route.sticky).map(session_hash);
        let origin = Origin { party: None, cluster, routed: Some(self.routed) };
        Ok(Assignment { origin, ..to })
    }

    /// A request's assignment to that arm, whatever the weight. Fails if it is not loaded.
    pub fn to(&self, arm: Arm, judged: bool) -> Result<Assignment, NoRoute> {
        let (deployment, missing) = match arm {
            Arm::Stable => (&self.stable, NoRoute::NotLoaded),
            Arm::Canary => (&self.canary, NoRoute::NoCanary),
        };
        let deployment = deployment.clone().ok_or(missing)?;
        let stable = self.stable.clone().filter(|_| arm == Arm::Canary);
        let beside = stable.map(|stable| (stable, self.routed));
        let origin = Origin { party: None, cluster: None, routed: Some(self.routed) };
        Ok(Assignment { arm, deployment, stage: self.stage, judged, origin, beside })
    }
}
