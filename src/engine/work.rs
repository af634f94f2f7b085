//! Derives from a step's time the cost of one of its sequences, so that times from steps of different sizes
//! can be compared.
//!
//! Two equal models with different shares of the traffic run steps of different sizes, and larger steps take
//! longer. Comparing raw step times would therefore compare traffic, not models. So a sequence is charged only a part
//! of the step's time: what a step with this sequence alone would have taken. A cost model gives the size of that part;
//! it is measured when a model is loaded ([`super::calibration`]). Both arms of a rollout use the same cost model,
//! stable's.
//!
//! The part is a ratio: a machine that has become slower slows both arms equally, and this cancels out. The cost model
//! is not updated from later steps, which would bias it (docs/decisions/009). Pure.

use crate::device::Batch;
use std::time::Duration;

/// What a step's time depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Sequences that decode.
    pub decodes: usize,
    /// Number of tokens that these attend to.
    pub context: usize,
    /// Prompt tokens.
    pub prefill: usize,
}

impl Load {
    /// One row of `len` tokens; `context` includes the tokens before them.
    pub fn of_row(len: usize, context: usize) -> Load {
        match len {
            1 => Load { decodes: 1, context, prefill: 0 },
            len => Load { prefill: len, ..Load::default() },
        }
    }

    /// The load of all rows of a step.
    pub fn of_batch(batch: &Batch) -> Load {
        let rows = batch.rows.iter().map(|row| Load::of_row(row.len, row.context));
        rows.fold(Load::default(), Load::and)
    }

    /// Both loads in one step: each figure is the sum.
    pub fn and(self, other: Load) -> Load {
        Load {
            decodes: self.decodes + other.decodes,
            context: self.context + other.context,
            prefill: self.prefill + other.prefill,
        }
    }
}

/// The cost of a model's steps, in seconds, on the machine as it was when they were measured.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CostModel {
    /// Steps of a given number of decodes with almost no context, in rising order.
    decodes: Vec<(usize, f64)>,
    /// One more token of context, for one decode.
    context: f64,
    /// A step that only prefills: the fixed cost, and the cost per token.
    prefill: (f64, f64),
    /// The extra cost of a step that both decodes and prefills, beyond its decodes and its prompt tokens. On
    /// a GPU such a step is launched kernel by kernel, while a step that only decodes is replayed as a whole.
    mixed: f64,
}

impl CostModel {
    /// Fits the model to timed steps; `None` if they are not enough. The shortest time of each load is used,
    /// because any disturbance makes a step longer.
    pub fn fit(steps: &[(Load, Duration)]) -> Option<CostModel> {
        let least = |wanted: &dyn Fn(&Load) -> bool| {
            let mut kept: Vec<(Load, f64)> = Vec::new();
            for (load, took) in steps.iter().filter(|(load, _)| wanted(load)) {
                let took = took.as_secs_f64();
                match kept.iter_mut().find(|(known, _)| known == load) {
                    Some((_, known)) => *known = known.min(took),
                    None => kept.push((*load, took)),
                }
            }
            kept
        };
        let decoding = least(&|load| load.prefill == 0 && load.decodes > 0);
        let short = |load: &Load| load.context < SHORT * load.decodes;
        let mut decodes: Vec<(usize, f64)> = Vec::new();
        let near = decoding.iter().filter(|(load, _)| short(load));
        near.for_each(|(load, took)| decodes.push((load.decodes, *took)));
        decodes.sort_by_key(|(count, _)| *count);
        // More rows never take less time; where they seem to, the smaller step was disturbed.
        for i in (1..decodes.len()).rev() {
            decodes[i - 1].1 = decodes[i - 1].1.min(decodes[i].1);
        }
        if decodes.len() < 2 || decodes[0].0 != 1 {
            return None;
        }
        let mut model = CostModel { decodes, ..CostModel::default() };
        let far = decoding.iter().find(|(load, _)| !short(load));
        model.context = far.map_or(0.0, |(load, took)| {
            (took - model.of_decodes(load.decodes)).max(0.0) / load.context as f64
        });
        let mut prefills = least(&|load| load.decodes == 0 && load.prefill > 0);
        prefills.sort_by_key(|(load, _)| load.prefill);
        let (first, last) = (prefills.first()?, prefills.last()?);
        let tokens = (last.0.prefill - first.0.prefill) as f64;
        let slope = if tokens > 0.0 { ((last.1 - first.1) / tokens).max(0.0) } else { 0.0 };
        model.prefill = ((first.1 - slope * first.0.prefill as f64).max(0.0), slope);
        let mixed = least(&|load| load.decodes > 0 && load.prefill > 0);
        let over = mixed.iter().map(|(load, took)| took - model.cost(*load));
        model.mixed = over.reduce(f64::min).unwrap_or(0.0).max(0.0);
        Some(model)
    }

    /// The part of a step's time that belongs to `own`: what it would have taken alone. `all` includes it.
    pub fn part(&self, own: Load, all: Load) -> f64 {
        let all = self.cost(all);
        if all > 0.0 { (self.cost(own) / all).clamp(0.0, 1.0) } else { 1.0 }
    }

    fn cost(&self, load: Load) -> f64 {
        let (base, token) = self.prefill;
        let base = match (load.decodes, load.prefill) {
            (_, 0) => 0.0,
            (0, _) => base,
            _ => self.mixed,
        };
        let decodes = self.of_decodes(load.decodes) + self.context * load.context as f64;
        decodes + base + token * load.prefill as f64
    }

    /// Interpolates between two measured numbers; beyond the largest, continues the last line.
    fn of_decodes(&self, count: usize) -> f64 {
        let Some(upper) = self.decodes.iter().position(|(known, _)| *known >= count) else {
            let [.., a, b] = &self.decodes[..] else { return 0.0 };
            return line(*a, *b, count);
        };
        match upper {
            _ if count == 0 => 0.0,
            0 => self.decodes[0].1,
            upper => line(self.decodes[upper - 1], self.decodes[upper], count),
        }
    }
}

/// Tokens of context per decode below which the context does not matter.
const SHORT: usize = 32;

fn line(a: (usize, f64), b: (usize, f64), at: usize) -> f64 {
    let slope = (b.1 - a.1) / (b.0 - a.0) as f64;
    a.1 + slope * (at as f64 - a.0 as f64)
}

/// Device time spent on one sequence, in comparable form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// On its prompt, up to the step that gave the first token.
    pub prefill: Duration,
    /// How much larger the largest of these steps was than this sequence alone, in half powers of two: 0 for a step
    /// of its own, 2 for twice as large. The cost model is not exact, so costs are compared at like sizes.
    pub crowd: u8,
    /// On its decodes in steps that only decode, and the number of these. The cost of a decode in a mixed
    /// step is not known precisely enough.
    pub decode: Duration,
    /// Number of the decodes that `decode` is the time of.
    pub decodes: u32,
    /// The time of its first matched step: a step that was run next to a step of another model with the same
    /// number of sequences.
    pub matched: Option<Duration>,
}

impl Work {
    /// Adds its part of a step. `first`: it has no token yet, so even a single row belongs to its prompt.
    pub(super) fn add(&mut self, step: &Step<'_>, own: Load, first: bool) {
        let (share, part) = match step.model {
            Some(model) => {
                let share = model.part(own, step.all);
                (share, step.took.mul_f64(share))
            }
            None => (1.0, step.took),
        };
        if first {
            self.prefill += part;
            self.crowd = self.crowd.max((2.0 * -share.max(1e-9).log2()).round() as u8);
        } else if own.prefill == 0 && step.all.prefill == 0 {
            self.decode += part;
            self.decodes += 1;
            self.matched = self.matched.or(step.matched.then_some(step.took));
        }
    }
}

/// A finished step.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// Its duration: the device's own measurement, or else the caller's wait.
    pub took: Duration,
    /// The load of all its sequences together.
    pub all: Load,
    /// The costs by which sequences are charged; with `None` each is charged the whole step.
    pub model: Option<&'a CostModel>,
    /// Whether the step was sized to match one of another lane, so that their times can be compared.
    pub matched: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A machine whose steps take these times.
    fn real(load: Load) -> f64 {
        let rows = if load.decodes > 0 { 4e-3 + 1e-3 * load.decodes as f64 } else { 0.0 };
        let base = match (load.decodes, load.prefill) {
            (_, 0) => 0.0,
            (0, _) => 3e-3,
            _ => 5e-3,
        };
        rows + base + 2e-5 * load.context as f64 + 5e-4 * load.prefill as f64
    }

    fn decoding(decodes: usize, each: usize) -> Load {
        Load { decodes, context: decodes * each, prefill: 0 }
    }

    fn measured() -> CostModel {
        let loads = [1, 2, 4, 8, 16].map(|n| decoding(n, 0)).into_iter();
        let prefills = [16, 128].map(|prefill| Load { prefill, ..Load::default() });
        let mixed = Load { prefill: 16, ..decoding(4, 0) };
        let loads = loads.chain([decoding(4, 200), mixed]).chain(prefills);
        let steps: Vec<_> = loads.map(|load| (load, Duration::from_secs_f64(real(load)))).collect();
        CostModel::fit(&steps).expect("enough")
    }

    #[test]
    fn too_little_is_no_model() {
        let step = |load| (load, Duration::from_millis(1));
        assert_eq!(CostModel::fit(&[]), None);
        assert_eq!(
            CostModel::fit(&[step(decoding(1, 0)), step(decoding(2, 0))]),
            None,
            "no prefill"
        );
        let prefill = step(Load { prefill: 8, ..Load::default() });
        assert_eq!(CostModel::fit(&[step(decoding(2, 0)), step(decoding(4, 0)), prefill]), None);
    }

    #[test]
    fn a_disturbed_measurement_is_outvoted() {
        let ms = |load, ms| (load, Duration::from_millis(ms));
        let prefill = Load { prefill: 8, ..Load::default() };
        let steps = [
            ms(decoding(1, 1), 50),
            ms(decoding(1, 1), 5),
            ms(decoding(2, 1), 30),
            ms(decoding(4, 1), 8),
            ms(prefill, 9),
        ];
        let model = CostModel::fit(&steps).unwrap();
        assert_eq!(model.decodes, [(1, 0.005), (2, 0.008), (4, 0.008)]);
    }

    proptest! {
        /// Whatever else is in the step, and however fast the machine is at the moment, a sequence is charged
        /// what it would have cost alone.
        #[test]
        fn a_sequence_is_charged_what_it_costs_alone(
            others in 0usize..60, each in 1usize..2000, own in 1usize..2000, prefill in 0usize..300,
            pace in 0.2f64..5.0,
        ) {
            let model = measured();
            let own = Load::of_row(1, own);
            let all = own.and(decoding(others, each)).and(Load { prefill, ..Load::default() });
            let took = pace * real(all);
            let charged = took * model.part(own, all);
            let alone = pace * real(own);
            prop_assert!((charged / alone - 1.0).abs() < 0.02, "{charged} against {alone}");
        }

        #[test]
        fn a_prompt_is_charged_what_it_costs_alone_in_whatever_company(
            others in 1usize..60, own in 2usize..300, pace in 0.2f64..5.0,
        ) {
            let model = measured();
            let own = Load::of_row(own, own);
            let all = own.and(decoding(others, 0));
            let charged = pace * real(all) * model.part(own, all);
            prop_assert!((charged / (pace * real(own)) - 1.0).abs() < 0.02, "{charged}");
        }

        #[test]
        fn a_prompt_alone_is_charged_the_whole_step(prefill in 2usize..3000) {
            let own = Load::of_row(prefill, prefill);
            prop_assert!((measured().part(own, own) - 1.0).abs() < 1e-9);
        }

        #[test]
        fn a_part_is_never_more_than_the_whole(
            rows in 1usize..300, context in 0usize..100_000, prefill in 0usize..5000, len in 1usize..50
        ) {
            let own = Load::of_row(len, 100);
            let all = own.and(Load { decodes: rows, context, prefill });
            let part = measured().part(own, all);
            prop_assert!((0.0..=1.0).contains(&part));
        }
    }

    #[test]
    fn decodes_beside_a_prompt_are_not_counted() {
        let (own, ms) = (Load::of_row(1, 10), Duration::from_millis);
        let step = |took, all| Step { took: ms(took), all, model: None, matched: true };
        let (prompt, mut work) = (Load::of_row(20, 20), Work::default());
        work.add(&step(7, prompt), prompt, true);
        work.add(&step(1, own), own, true);
        work.add(&step(5, own.and(prompt)), own, false);
        work.add(&step(3, own), own, false);
        work.add(&step(9, prompt), prompt, false);
        let matched = Some(ms(3));
        assert_eq!(
            work,
            Work { prefill: ms(8), crowd: work.crowd, decode: ms(3), decodes: 1, matched }
        );
    }
}
