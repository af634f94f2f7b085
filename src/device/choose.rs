//! Which device the models run on: the CPU, or a GPU whose kernels have passed the self-test.
//!
//! A GPU is used only after every kernel has given its known answers on that GPU. Otherwise a build for another
//! architecture could silently give wrong numbers.

use serin_kernels::cuda::{Card, CardError, OpenError, SelfTestError, open, self_test};
use std::fmt;
use std::sync::Arc;

/// The device that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first CUDA GPU if there is one and this build can use it, else the processor.
    #[default]
    Auto,
    /// The processor, even if there is a card.
    Cpu,
    /// A card by its name: `cuda`, `cuda:1`.
    Card(String),
}

/// What models are loaded onto.
#[derive(Debug, Clone)]
pub enum Device {
    /// The processor; weights and KV cache are in host memory.
    Cpu,
    /// A card; [`DeviceChoice::open`] returns only those that have passed their self-test.
    Card(Arc<dyn Card>),
}

/// Why a device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// There is no such card, or this build, its driver or its libraries cannot use it.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A kernel gave a wrong answer in the card's self-test.
    #[error(
        "{card} (compute capability {}.{}) gives wrong results: {what}; this build does not support this GPU: build serin for it, or use --device cpu",
        .capability.0, .capability.1
    )]
    Wrong {
        /// Name of the card.
        card: String,
        /// Its compute capability, major and minor.
        capability: (u32, u32),
        /// Which kernel gave what.
        what: String,
    },
    /// The card failed before its self-test was over.
    #[error("{card} failed its self-test: {why}")]
    Failed {
        /// Name of the card.
        card: String,
        /// Its own error.
        why: CardError,
    },
}

impl DeviceChoice {
    /// Parses `auto`, `cpu`, `cuda` or `cuda:N`; fails for anything else.
    pub fn parse(text: &str) -> Result<DeviceChoice, String> {
        let number =
            |n: &str| !n.is_empty() && n.len() < 4 && n.bytes().all(|b| b.is_ascii_digit());
        match text {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            "cuda" | "emulated" | "pessimistic" => Ok(DeviceChoice::Card(text.to_owned())),
            _ if text.strip_prefix("cuda:").is_some_and(number) => {
                Ok(DeviceChoice::Card(text.to_owned()))
            }
            _ => Err(format!("`{text}` is none of `auto`, `cpu`, `cuda`, `cuda:N`")),
        }
    }

    /// Opens the device, and runs a card's self-test. Fails if the named card cannot be opened, or if a kernel's answer
    /// is wrong. `auto` falls back to the CPU where no card can be opened.
    pub fn open(&self) -> Result<Device, DeviceError> {
        let card = match self {
            DeviceChoice::Cpu => return Ok(Device::Cpu),
            DeviceChoice::Card(name) => open::open(name)?,
            DeviceChoice::Auto => match open::open("cuda") {
                Ok(card) => card,
                Err(OpenError::NotBuilt { .. }) => return Ok(Device::Cpu),
                Err(error) if error.is_absence() => {
                    tracing::info!(%error, "models run on the CPU");
                    return Ok(Device::Cpu);
                }
                Err(error) => {
                    tracing::warn!(%error, "the GPU is not used; models run on the CPU");
                    return Ok(Device::Cpu);
                }
            },
        };
        prove(&card)?;
        Ok(Device::Card(card))
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DeviceChoice::Auto => "auto: a CUDA GPU if there is one, else the CPU",
            DeviceChoice::Cpu => "the CPU",
            DeviceChoice::Card(name) => name,
        })
    }
}

/// Runs every kernel against its known answers.
fn prove(card: &Arc<dyn Card>) -> Result<(), DeviceError> {
    let properties = card.properties();
    let checks = self_test(card).map_err(|error| match error {
        SelfTestError::Wrong(what) => {
            let (card, capability) = (properties.name.clone(), properties.capability);
            DeviceError::Wrong { card, capability, what }
        }
        SelfTestError::Card(why) => DeviceError::Failed { card: properties.name.clone(), why },
    })?;
    tracing::info!(card = %properties.name, checks, "the GPU's kernels give their known answers");
    Ok(())
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("the CPU"),
            Device::Card(card) => f.write_str(&card.properties().name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices_are_parsed() {
        for (text, choice) in [
            ("auto", DeviceChoice::Auto),
            ("cpu", DeviceChoice::Cpu),
            ("cuda", DeviceChoice::Card("cuda".into())),
            ("cuda:12", DeviceChoice::Card("cuda:12".into())),
        ] {
            assert_eq!(DeviceChoice::parse(text), Ok(choice));
        }
        for bad in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:00001", "CUDA"] {
            assert!(DeviceChoice::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_card_proves_itself_before_it_is_used() {
        let opened = DeviceChoice::Card("emulated".into()).open().unwrap();
        let Device::Card(card) = opened else { panic!("no card") };
        let memory = card.memory().unwrap();
        assert_eq!(memory.free, memory.total, "the self-test keeps nothing");
        assert!(matches!(DeviceChoice::Cpu.open(), Ok(Device::Cpu)));
    }
}
