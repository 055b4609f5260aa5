//! What a step costs in memory and time: estimates from the shapes of model and step alone. Nothing is measured.

use querywright_model::{LoraConfig, ModelConfig};

use super::{Arithmetic, MachineProfile};

/// Memory at most, unless a person says otherwise.
const MOST_MEMORY: u64 = 3 << 30;
/// Share of the machine's memory that a run may take, where that is less.
const MEMORY_SHARE: f64 = 0.75;
/// The program itself: model file, tokenizer, caches of keys and values, logits, buffers. Measured with SmolLM2-135M.
const PROGRAM: u64 = 384 << 20;
/// Bytes of memory for each byte of the catalogue's text: catalogue, index, word counts.
const TEXT_FACTOR: u64 = 4;
/// Bytes of memory for each value of an adapter: itself, its packed copies, gradient, two moments.
const ADAPTER_BYTES: u64 = 32;
/// What a recording takes beyond its rows: the block that is copied while rows are dropped.
const RECORDING_FACTOR: f64 = 1.05;
/// Room for recorded rows, at least and at most.
const TAPE: (u64, u64) = (256 << 20, 4096 << 20);
/// Tokens of a micro-batch at most.
const MOST_MICRO_BATCH: usize = 4096;
/// Share of the length allowed that completions use as a rule.
const COMPLETION_SHARE: f64 = 0.6;

/// The shape of a step, in tokens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) prompts: usize,
    pub(super) group: usize,
    /// What all prompts share.
    pub(super) prefix: usize,
    /// A prompt behind the prefix: as a rule, and a long one.
    pub(super) prompt: (f64, usize),
    /// A completion at most.
    pub(super) completion: usize,
}

impl Step {
    /// Rows that recording the step takes at most.
    pub(super) fn rows(&self) -> usize {
        self.prefix + self.prompts * (self.prompt.1 + self.group * (self.completion - 1))
    }

    /// Tokens of one group at most.
    fn group_rows(&self) -> usize {
        self.prompt.1 + self.group * self.completion
    }

    /// Tokens that it has as a rule.
    fn usual_rows(&self) -> f64 {
        let completions = self.group as f64 * self.completion as f64 * COMPLETION_SHARE;
        self.prefix as f64 + self.prompts as f64 * (self.prompt.0 + completions)
    }
}

/// How the memory of a run is divided.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Memory {
    /// Weights, adapter, catalogue and program.
    pub(super) fixed: u64,
    /// Bytes of a recorded row.
    pub(super) row: usize,
    pub(super) tape_mib: usize,
    /// None on a GPU, which knows its own memory.
    pub(super) micro_batch_tokens: Option<usize>,
    /// Whether the whole step is recorded while it is sampled.
    pub(super) recorded: bool,
    /// Bytes of recordings at once.
    held: u64,
    /// What the run may take.
    pub(super) limit: u64,
}

impl Memory {
    /// The peak that is expected.
    pub(super) fn peak(&self) -> u64 {
        self.fixed + (self.held as f64 * RECORDING_FACTOR) as u64
    }
}

/// Values that products read: all weights, the head included.
fn packed(model: &ModelConfig) -> u64 {
    let embedding = (model.vocab_size * model.hidden_size) as u64;
    if model.tie_word_embeddings { model.parameters() } else { model.parameters() - embedding }
}

/// Values of an adapter of all linear layers.
fn adapter(model: &ModelConfig, lora: &LoraConfig) -> u64 {
    let (hidden, wide) = (model.hidden_size, model.intermediate_size);
    let (queries, keys) = (model.num_attention_heads * model.head_dim, model.num_key_value_heads * model.head_dim);
    let attention = 2 * (hidden + queries) + 2 * (hidden + keys);
    (model.num_hidden_layers * lora.r * (attention + 3 * (hidden + wide))) as u64
}

/// Room for recordings: what a limit leaves beside weights, their transposes, adapter, catalogue and program.
pub(super) fn memory(machine: &MachineProfile, lora: &LoraConfig, text_bytes: usize, step: &Step) -> Memory {
    let model = &machine.model;
    if machine.arithmetic == Arithmetic::Gpu {
        // Recordings lie in the device's memory, which its own allocator bounds.
        let tape_mib = (TAPE.1 >> 20) as usize;
        let limit = u64::MAX;
        return Memory { fixed: PROGRAM, row: 0, tape_mib, micro_batch_tokens: None, recorded: true, held: 0, limit };
    }
    let bf16 = machine.arithmetic == Arithmetic::Avx512Bf16;
    let embedding = 4 * (model.vocab_size * model.hidden_size) as u64;
    let weights = 2 * packed(model) * if bf16 { 2 } else { 4 } + embedding;
    let fixed = weights + ADAPTER_BYTES * adapter(model, lora) + TEXT_FACTOR * text_bytes as u64 + PROGRAM;
    let most = machine.memory.map_or(MOST_MEMORY, |bytes| (bytes as f64 * MEMORY_SHARE) as u64);
    let limit = most.min(MOST_MEMORY);
    let tape = (limit.saturating_sub(fixed) as f64 / RECORDING_FACTOR) as u64;
    let tape_mib = (tape.clamp(TAPE.0, TAPE.1) >> 20) as usize;
    let row = model.recorded_row_bytes(bf16);
    let room = (tape_mib << 20) / row.max(1);
    let micro = room.saturating_sub(step.prefix).clamp(step.group_rows(), MOST_MICRO_BATCH.max(step.group_rows()));
    let recorded = step.rows() <= room;
    // A group is never cut, however little room there is.
    let forced = if recorded { 0 } else { ((micro + step.prefix) * row) as u64 };
    let held = forced.max((tape_mib as u64) << 20);
    Memory { fixed, row, tape_mib, micro_batch_tokens: Some(micro), recorded, held, limit }
}

/// Operations a second, in billions, that products reach on one thread, and on all: n threads do as much as n^0.75.
pub(super) fn speed(machine: &MachineProfile) -> (f64, f64) {
    let one = match machine.arithmetic {
        Arithmetic::Gpu => return (5000.0, 5000.0),
        Arithmetic::Avx512Bf16 => 200.0,
        Arithmetic::Avx512 => 100.0,
        Arithmetic::Avx2 => 50.0,
        Arithmetic::Portable => 8.0,
    };
    (one, one * (machine.threads.max(1) as f64).powf(0.75))
}

/// Seconds of a step: four operations a weight and token, two more where the pass is not recorded.
pub(super) fn step_seconds(machine: &MachineProfile, step: &Step, recorded: bool) -> f64 {
    let passes = if recorded { 4.0 } else { 6.0 };
    passes * packed(&machine.model) as f64 * step.usual_rows() / (1e9 * speed(machine).1)
}

/// Seconds of an evaluation of so many queries: two operations a weight and token.
pub(super) fn evaluation_seconds(machine: &MachineProfile, step: &Step, queries: usize) -> f64 {
    let tokens = queries as f64 * (step.prompt.0 + step.completion as f64 * COMPLETION_SHARE);
    2.0 * packed(&machine.model) as f64 * tokens / (1e9 * speed(machine).1)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{machine, smollm2};
    use super::*;

    const STEP: Step = Step { prompts: 24, group: 4, prefix: 130, prompt: (14.0, 20), completion: 14 };

    #[test]
    fn the_estimates_have_the_order_of_what_was_measured_with_smollm2() {
        assert_eq!((packed(&smollm2()), adapter(&smollm2(), &LoraConfig::default())), (134_515_008, 4_884_480));
        // Eight prompts of 48 tokens with eight completions of 32 took 3.07 s; the estimate counts shorter ones.
        let step = Step { prompts: 8, group: 8, prefix: 0, prompt: (48.0, 48), completion: 32 };
        let seconds = step_seconds(&machine(2, Arithmetic::Avx512Bf16), &step, true);
        assert!((2.0..4.0).contains(&seconds), "{seconds}");
        // What was resident beside the recordings was 1.64 GiB in f32.
        let fixed = memory(&machine(2, Arithmetic::Avx2), &LoraConfig::default(), 4 << 20, &STEP).fixed;
        assert!((1.5..1.8).contains(&(fixed as f64 / (1u64 << 30) as f64)), "{fixed}");
    }

    #[test]
    fn memory_stays_below_three_gibibytes_and_below_the_machines_own_wherever_weights_leave_room() {
        for arithmetic in [Arithmetic::Avx512Bf16, Arithmetic::Avx512, Arithmetic::Avx2, Arithmetic::Portable] {
            let found = memory(&machine(2, arithmetic), &LoraConfig::default(), 10 << 20, &STEP);
            assert!(found.recorded && found.peak() <= 3 << 30, "{arithmetic:?}: {found:?}");
            let small = MachineProfile { memory: Some(3 << 30), ..machine(2, arithmetic) };
            let found = memory(&small, &LoraConfig::default(), 10 << 20, &STEP);
            assert!(found.peak() <= found.limit && found.limit < (5 << 30) / 2, "{arithmetic:?}: {found:?}");
        }
    }

    #[test]
    fn a_step_that_cannot_be_recorded_is_cut_into_micro_batches_that_fit_and_hold_a_group() {
        let long = Step { prompts: 64, prompt: (150.0, 300), ..STEP };
        let found = memory(&machine(2, Arithmetic::Avx2), &LoraConfig::default(), 0, &long);
        assert!(
            !found.recorded && (found.micro_batch_tokens.unwrap() + 130) * found.row <= found.tape_mib << 20,
            "{found:?}"
        );
        assert!(found.micro_batch_tokens.unwrap() >= long.group_rows(), "{found:?}");
        let slower = step_seconds(&machine(2, Arithmetic::Avx2), &long, false);
        assert!(slower > step_seconds(&machine(2, Arithmetic::Avx2), &long, true));
    }
}
