//! Measures the cost of a model's steps before it serves: some decodes of 1 to 64 sequences, with short and
//! long contexts, and some prompts. No sequence uses the KV blocks yet.
//!
//! The time is bounded: measuring ends within its budget, a slow model is measured at fewer sizes, and
//! smaller sizes come first. It knows how steps are laid out, but not models or clocks. [`super::work`]
//! evaluates the times.

use super::runner::Capacity;
use super::scheduler::SchedulerConfig;
use super::work::{CostModel, Load};
use crate::device::{Batch, Row};
use crate::model::{Draw, SamplingParams};
use std::ops::Range;
use std::time::Duration;

/// Tokens of a short prompt, and of a long one.
const SHORT: usize = 8;
const LONG: usize = 128;
/// Number of sequences with long prompts.
const FAR: usize = 2;
/// The most sequences measured; costs of more are on the line through the last two points.
const MOST: usize = 64;
const REPEATS: usize = 4;
/// No larger size is measured after a step that took this long.
const SLOW: Duration = Duration::from_millis(250);

/// Measures for about `budget`. `step` runs a batch and returns its duration; `None` stops the measurement,
/// and the results so far are used.
pub(super) fn measure(
    capacity: &Capacity,
    config: &SchedulerConfig,
    budget: Duration,
    step: impl FnMut(&Batch, &[Draw<'_>]) -> Option<Duration>,
) -> Option<CostModel> {
    let mut run = Run { capacity, config, left: budget, step, steps: Vec::new() };
    run.all();
    CostModel::fit(&run.steps)
}

struct Run<'a, F> {
    capacity: &'a Capacity,
    config: &'a SchedulerConfig,
    left: Duration,
    step: F,
    steps: Vec<(Load, Duration)>,
}

impl<F: FnMut(&Batch, &[Draw<'_>]) -> Option<Duration>> Run<'_, F> {
    /// Measures everything, or until something stops it.
    fn all(&mut self) -> Option<()> {
        self.decode(1, SHORT)?;
        self.decode(2, SHORT)?;
        self.mixed(2, SHORT)?;
        let (growth, most) = ((LONG / SHORT) as u32, SLOW.min(self.left));
        if self.steps.iter().all(|(_, took)| *took * growth < most) {
            self.decode(FAR, LONG)?;
        }
        let mut rows = 4;
        while rows <= MOST.min(self.config.max_running) {
            self.decode(rows, SHORT)?;
            rows *= 2;
        }
        Some(())
    }

    /// Prompts of `rows` sequences, one after the other, and then their next token several times.
    fn decode(&mut self, rows: usize, prompt: usize) -> Option<()> {
        let longest = self.capacity.longest().min(self.config.max_batch_tokens);
        let fits = rows * self.blocks_of(prompt) <= self.capacity.blocks && prompt < longest;
        if !fits {
            return None;
        }
        for row in 0..rows {
            self.time(&self.batch(row..row + 1, prompt, 0..prompt))?;
        }
        for _ in 0..REPEATS {
            self.time(&self.batch(0..rows, prompt, prompt..prompt + 1))?;
        }
        Some(())
    }

    /// A prompt together with the next token of `rows` other sequences, whose prompts [`Run::decode`] has
    /// computed; several times. Not measured if there is no room for one more sequence.
    fn mixed(&mut self, rows: usize, prompt: usize) -> Option<()> {
        let room = (rows + 1) * self.blocks_of(prompt) <= self.capacity.blocks
            && rows + prompt <= self.config.max_batch_tokens
            && rows < self.config.max_running;
        let mut batch = self.batch(0..rows, prompt, prompt..prompt + 1);
        self.add(&mut batch, rows, prompt, 0..prompt);
        for _ in 0..if room { REPEATS } else { 0 } {
            self.time(&batch)?;
        }
        Some(())
    }

    fn time(&mut self, batch: &Batch) -> Option<()> {
        // As most requests sample: drawing costs more than taking the largest logit.
        let params = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
        let tokens = vec![0; batch.rows.first()?.total];
        let draw = Draw {
            params: &params,
            tokens: &tokens,
            unknown: 0,
            prompt_len: tokens.len(),
            guide: None,
        };
        let draws = vec![draw; batch.rows.iter().filter(|row| row.sample).count()];
        let took = (self.step)(batch, &draws)?;
        let loads = batch.rows.iter().map(|row| Load::of_row(row.len, row.context));
        self.steps.push((loads.fold(Load::default(), Load::and), took));
        self.left = self.left.checked_sub(took)?;
        (took < SLOW).then_some(())
    }

    /// The tokens in `span` of each of these sequences, whose prompts are `prompt` tokens long.
    fn batch(&self, rows: Range<usize>, prompt: usize, span: Range<usize>) -> Batch {
        let mut batch = Batch::default();
        rows.for_each(|row| self.add(&mut batch, row, prompt, span.clone()));
        batch
    }

    /// Adds a row. Each sequence has its own blocks, which are the same in every batch with this prompt
    /// length.
    fn add(&self, batch: &mut Batch, row: usize, prompt: usize, span: Range<usize>) {
        let (own, size) = (self.blocks_of(prompt), self.capacity.block_size);
        let first = row * own;
        batch.rows.push(Row {
            start: batch.tokens.len(),
            len: span.len(),
            context: span.end,
            total: span.end,
            table: batch.tables.len(),
            table_len: own,
            // A prompt's last step also yields a token.
            sample: true,
            scored: 0,
            drawn: None,
        });
        batch.tables.extend((first..first + own).map(|block| block as u32));
        for position in span {
            batch.tokens.push(((row * 31 + position) % self.capacity.vocab) as u32);
            batch.positions.push(position as u32);
            batch.slots.push((first * size + position) as u32);
        }
    }

    /// Number of blocks for a prompt and the token after it.
    fn blocks_of(&self, prompt: usize) -> usize {
        (prompt + 1).div_ceil(self.capacity.block_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capacity(blocks: usize) -> Capacity {
        in_blocks_of(16, blocks)
    }

    fn in_blocks_of(block_size: usize, blocks: usize) -> Capacity {
        Capacity { blocks, block_size, vocab: 100, max_len: 4096, rope_switch: None }
    }

    fn took(batch: &Batch, each: Duration) -> Option<Duration> {
        Some(each * batch.tokens.len() as u32)
    }

    #[test]
    fn every_batch_is_sound_in_blocks_of_any_size_and_no_two_sequences_share_a_block() {
        for size in [1, 3, 8, 9, 16, 100, 128, 129, 1000] {
            every_batch_is_sound(in_blocks_of(size, 8192 / size + 64), size);
        }
    }

    fn every_batch_is_sound(capacity: Capacity, size: usize) {
        let (mut seen, mut both) = (0, 0);
        let config = SchedulerConfig::default();
        let model = measure(&capacity, &config, Duration::from_secs(9), |batch, draws| {
            crate::engine::runner::check(batch, &capacity).expect("within bounds");
            assert_eq!(draws.len(), batch.rows.iter().filter(|row| row.sample).count());
            let mut tables = batch.tables.clone();
            tables.sort_unstable();
            tables.dedup();
            assert_eq!(tables.len(), batch.tables.len());
            for row in &batch.rows {
                let table = &batch.tables[row.table..row.table + row.table_len];
                let span = row.start..row.start + row.len;
                for (slot, position) in batch.slots[span.clone()].iter().zip(&batch.positions[span])
                {
                    assert_eq!(*slot as usize / size, table[*position as usize / size] as usize);
                    assert_eq!(*slot as usize % size, *position as usize % size);
                }
            }
            seen = seen.max(batch.rows.len());
            both += usize::from(
                batch.rows.iter().any(|row| row.len == 1)
                    && batch.rows.iter().any(|row| row.len > 1),
            );
            took(batch, Duration::from_micros(100))
        });
        assert!(model.is_some());
        assert_eq!((seen, both), (64, REPEATS), "blocks of {size}");
    }

    #[test]
    fn it_ends_within_its_budget_and_measures_a_slow_model_at_few_sizes() {
        let config = SchedulerConfig::default();
        let mut spent = Duration::ZERO;
        let budget = Duration::from_millis(40);
        let slow = Duration::from_millis(1);
        let model = measure(&capacity(512), &config, budget, |batch, _| {
            let time = took(batch, slow)?;
            spent += time;
            Some(time)
        });
        assert!(spent < 2 * budget, "{spent:?}");
        assert!(model.is_some(), "two sizes suffice");
        let never = measure(&capacity(512), &config, budget, |_, _| None);
        assert_eq!(never, None);
        let mut steps = 0;
        let tight = measure(&capacity(1), &config, budget, |batch, _| {
            steps += 1;
            took(batch, Duration::from_micros(1))
        });
        assert_eq!((tight, steps), (None, 1 + REPEATS), "there is room for one sequence");
    }
}
