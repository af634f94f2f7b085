//! Which instruction set the kernels use: detected once at run time, or forced for tests and comparisons.
//!
//! It does not know about kernels. An `Isa` value can only be created on a machine that has the instruction set
//! (`detect`, `available`). So holding one is the proof on which the kernels' `unsafe` calls of target features rest.

use std::sync::OnceLock;

/// Environment variable that caps what `Isa::best` picks: `scalar`, `avx2` or `avx512`.
pub const ISA_VARIABLE: &str = "SERIN_ISA";

/// The variable names no instruction set. Ignored, a slip of the pen would test or measure the wrong kernels.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{ISA_VARIABLE} is `{0}`, which is none of `scalar`, `avx2`, `avx512`")]
pub struct UnknownIsa(String);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Scalar,
    Avx2,
    Avx512,
}

/// An instruction set that this machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Isa(Level);

impl Isa {
    /// Plain Rust; the reference that the others are tested against.
    pub const SCALAR: Isa = Isa(Level::Scalar);

    /// All that this machine has, slowest first.
    pub fn available() -> Vec<Isa> {
        let mut found = vec![Isa::SCALAR];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            let avx512 = avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vnni");
            found.extend(avx2.then_some(Isa(Level::Avx2)));
            found.extend(avx512.then_some(Isa(Level::Avx512)));
        }
        found
    }

    /// The fastest that this machine has and `SERIN_ISA` allows; looked up once per process. Panics if the
    /// variable names none: a program asks `from_environment` first, so that only tests see it.
    pub fn best() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Isa::from_environment().unwrap_or_else(|error| panic!("{error}")))
    }

    /// The instruction set of [`Isa::best`] in this process's environment. Fails if the variable names no instruction
    /// set.
    pub fn from_environment() -> Result<Isa, UnknownIsa> {
        let name = std::env::var_os(ISA_VARIABLE);
        Isa::capped(name.as_ref().map(|name| name.to_string_lossy()).as_deref())
    }

    /// The fastest available that is not above the named one.
    fn capped(name: Option<&str>) -> Result<Isa, UnknownIsa> {
        let cap = match name {
            None | Some("avx512") => Level::Avx512,
            Some("avx2") => Level::Avx2,
            Some("scalar") => Level::Scalar,
            Some(other) => return Err(UnknownIsa(other.to_owned())),
        };
        Ok(Isa::available().into_iter().rfind(|isa| isa.0 <= cap).unwrap_or(Isa::SCALAR))
    }

    /// AVX2, FMA and F16C.
    pub fn has_avx2(self) -> bool {
        self.0 >= Level::Avx2
    }

    /// AVX-512 F, BW, VL, DQ and VNNI.
    pub fn has_avx512(self) -> bool {
        self.0 >= Level::Avx512
    }

    /// `scalar`, `avx2` or `avx512`, as in [`ISA_VARIABLE`].
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Scalar => "scalar",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cap_is_kept_and_names_round_trip() {
        assert_eq!(Isa::capped(Some("scalar")), Ok(Isa::SCALAR));
        for isa in Isa::available() {
            assert_eq!(Isa::capped(Some(isa.name())), Ok(isa));
        }
        assert_eq!(Isa::capped(None), Ok(*Isa::available().last().unwrap()));
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_right_words() {
        for name in ["", "AVX2", "avx-512", "sse"] {
            let error = Isa::capped(Some(name)).unwrap_err().to_string();
            assert!(error.contains("SERIN_ISA") && error.contains(&format!("`{name}`")), "{error}");
            for isa in Isa::available() {
                assert!(error.contains(isa.name()), "{error}");
            }
        }
    }
}
