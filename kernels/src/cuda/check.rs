//! Known answers: a kernel's results on a GPU, compared with the expected ones.
//!
//! Each kernel family lists its cases once. Tests run all of them on the emulated GPU, with several thread orders. A
//! server runs the quick ones on its GPU before it uses it. The references are plain loops in f64 that share no code
//! with the kernels.

#[cfg(all(test, feature = "emulator"))]
use super::card::Stream;
use super::card::{Card, CardError, Pool};
use std::fmt;
use std::sync::Arc;

/// How many cases are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// A few per kernel, every kernel once: milliseconds on a card.
    Quick,
    /// Every size class, odd ones too.
    Full,
}

/// One case's outcome.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// The kernel that was launched.
    pub kernel: &'static str,
    /// What it was given, for people.
    pub case: String,
    /// Largest error of all outputs, relative to the largest expected magnitude (infinite for what is not a
    /// number where one was expected).
    pub error: f64,
    /// The largest error that is allowed, as a share like `error`.
    pub limit: f64,
}

impl Check {
    /// Compares outputs with what they should be; `limit` is the largest relative error that is allowed. Outputs are to
    /// be poisoned before the launch.
    pub fn compare(
        kernel: &'static str,
        case: impl Into<String>,
        got: &[f32],
        expected: &[f64],
        limit: f64,
    ) -> Check {
        Check { kernel, case: case.into(), error: relative_error(got, expected), limit }
    }

    /// Compares whole numbers with what they should be: they have to be equal.
    pub fn equal<T: PartialEq + fmt::Debug>(
        kernel: &'static str,
        case: impl Into<String>,
        got: &[T],
        expected: &[T],
    ) -> Check {
        let error = if got == expected { 0.0 } else { f64::INFINITY };
        let mut case = case.into();
        if let Some(at) = got.iter().zip(expected).position(|(a, b)| a != b) {
            case = format!("{case}: at {at} {:?} instead of {:?}", got[at], expected[at]);
        }
        Check { kernel, case, error, limit: 0.0 }
    }

    /// Whether the error is within the limit; NaN is not.
    pub fn holds(&self) -> bool {
        self.error <= self.limit
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Check { kernel, case, error, limit } = self;
        write!(f, "{kernel}, {case}: error {error:.2e}, limit {limit:.0e}")
    }
}

/// The largest difference over the largest expected magnitude.
pub fn relative_error(got: &[f32], expected: &[f64]) -> f64 {
    if got.len() != expected.len() {
        return f64::INFINITY;
    }
    let scale = expected.iter().fold(0.0f64, |most, v| most.max(v.abs())).max(1e-30);
    let differences = got.iter().zip(expected).map(|(got, want)| (f64::from(*got) - want).abs());
    differences.fold(0.0, |most, d| if d.is_nan() { f64::INFINITY } else { f64::max(most, d) })
        / scale
}

/// Numbers for cases: seeded, the same everywhere (SplitMix64).
#[derive(Debug, Clone)]
pub struct Numbers(u64);

impl Numbers {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Numbers {
        Numbers(seed)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A random number from 0 to `limit`, `limit` excluded.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.bits() % limit.max(1) as u64) as usize
    }

    /// A random number in -1..1.
    pub fn number(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }

    /// `count` random numbers in -1..1.
    pub fn numbers(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.number()).collect()
    }
}

/// Where cases run: a card and a pool to take memory from.
#[derive(Debug, Clone)]
pub struct Bench {
    /// The device, real or emulated.
    pub card: Arc<dyn Card>,
    /// The memory pool that buffers come from.
    pub pool: Pool,
}

/// One family's cases.
pub type Family = fn(&Bench, Size) -> Result<Vec<Check>, CardError>;

/// Runs every family on the emulated card in several orders of threads, and demands every answer.
#[cfg(all(test, feature = "emulator"))]
pub(crate) fn prove(family: Family) {
    use crate::cuda::emulated::{EmulatedCard, Pace};
    let prompt = [0, 1, 12345].map(|order| (order, EmulatedCard::start(64 << 20)));
    let pessimistic = EmulatedCard::pessimistic(64 << 20, Pace::default());
    let mut cards: Vec<_> = prompt.into_iter().chain([(54321, pessimistic)]).collect();
    if cfg!(feature = "races") {
        // Whether accesses race does not depend on the order in which they come.
        cards.truncate(1);
    }
    for (order, card) in cards {
        card.set_order(order);
        let card: Arc<dyn Card> = Arc::new(card);
        let pool = card.create_pool().unwrap();
        let bench = Bench { card: card.clone(), pool };
        let checks = family(&bench, Size::Full).unwrap();
        assert!(!checks.is_empty());
        for check in checks {
            assert!(
                check.holds(),
                "{check} (threads in order {order}, {})",
                card.properties().name
            );
        }
        [Stream::Compute, Stream::Load]
            .iter()
            .for_each(|stream| card.synchronise(*stream).unwrap());
        assert_eq!(card.pool_usage(pool).unwrap().used, 0, "a case keeps memory");
    }
}

#[cfg(all(test, feature = "emulator"))]
impl Bench {
    /// An emulated card with so many bytes of memory, and a pool of it.
    pub(crate) fn emulated(bytes: u64) -> Bench {
        let card: Arc<dyn Card> = Arc::new(crate::cuda::emulated::EmulatedCard::start(bytes));
        let pool = card.create_pool().unwrap();
        Bench { card, pool }
    }
}

/// Demands that a shape is refused, by an error that says `part`.
#[cfg(all(test, feature = "emulator"))]
pub(crate) fn refused(result: Result<(), CardError>, part: &str) {
    match result {
        Err(CardError::Shape(what)) => assert!(what.contains(part), "{what}"),
        other => panic!("{other:?}"),
    }
}
