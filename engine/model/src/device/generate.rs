//! Generation: prompts in batches, all completions of a group over one shared prompt, and a decoding step that is one
//! graph.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::OnceLock;

use rayon::prelude::*;

use super::pass::{Activations, Sight, Stream};
use super::tape::{Layout, tree};
use super::{DeviceDecoder, Layer, State};
use crate::error::Result;
use crate::kernels::device::{Buffer, Graph, Slot, View};
use crate::model::generate::{Completion, Ending, Finish, GenerateOptions, PromptTokens};
use crate::model::host::Deltas;
use crate::model::sampling::{Draw, Sampler};

/// Prompt tokens that one pass takes at most.
const PREFILL: usize = 8192;

/// The share of free memory that a call may take; buffers are up to an eighth larger than what they are asked to hold.
const USED: (usize, usize) = (4, 5);

/// Words of 32 bits that a row of a decoding step reads: its number in 0..1 (two of them), token, position, cache row and
/// slot.
const CONTROL: usize = 10;

/// Buffers of generation. They stay, with the graphs that know where they are, until larger ones are needed.
pub(super) struct Workspace {
    /// First, so that they are dropped before what they refer to.
    graphs: HashMap<GraphKey, Graph>,
    /// Keys and values of each layer: (rows, 2 · key width).
    cache: Vec<Buffer>,
    rows: usize,
    /// The tokens whose keys and values are in the cache's first rows.
    prefix: Vec<u32>,
    batch: usize,
    step: Step,
}

impl Workspace {
    /// The prefix was computed with other weights.
    pub(super) fn forget_prefix(&mut self) {
        self.prefix.clear();
    }
}

/// Buffers of a decoding step.
struct Step {
    control: Buffer,
    x: Buffer,
    activations: Activations,
    hidden: Buffer,
    logits: Buffer,
    drawn: Buffer,
}

/// What a captured step depends on besides its buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct GraphKey {
    rows: usize,
    how: How,
}

/// How tokens are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum How {
    Greedy,
    /// At a scale of the logits (the bits of an f32).
    Plain(u32),
    /// On the host: distributions that are cut or bent.
    Host,
}

impl How {
    fn of(options: &GenerateOptions) -> Self {
        let sampling = options.sampling;
        match () {
            () if sampling.is_plain() => Self::Plain((1.0 / sampling.temperature).to_bits()),
            () if sampling.temperature == 0.0 && sampling.repetition_penalty == 1.0 => Self::Greedy,
            () => Self::Host,
        }
    }
}

/// A sequence in flight.
struct Active {
    prompt: usize,
    completion: usize,
    sampler: Sampler,
    tokens: Vec<u32>,
    log_probabilities: Vec<f32>,
    entropies: Vec<f32>,
    own_from: usize,
    ended: Option<(String, Finish)>,
}

/// A call's prompts, those of them that fit into the cache together.
struct Call<'a> {
    prefix: &'a [u32],
    prompts: &'a [PromptTokens],
    /// The cache row at which each prompt begins.
    starts: Vec<usize>,
    options: &'a GenerateOptions<'a>,
    ending: &'a Ending<'a>,
    how: How,
}

impl DeviceDecoder {
    pub(crate) fn generate(
        &self,
        prefix: &[u32],
        prompts: &[PromptTokens],
        deltas: &Deltas,
        options: &GenerateOptions,
        ending: &Ending<'_>,
    ) -> Result<Vec<Vec<Completion>>> {
        self.check(prefix)?;
        prompts.iter().try_for_each(|p| self.check(&p.tokens))?;
        let mut state = self.lock();
        self.place(&mut state, deltas)?;
        let held = state.workspace.as_ref().map_or(0, |w| self.workspace_bytes(&state, w.rows, w.batch));
        let limit = (self.device.available()? + held) / USED.1 * USED.0;
        let mut all = Vec::with_capacity(prompts.len());
        let mut rest = prompts;
        while !rest.is_empty() {
            let (mut prompt_rows, mut sequences) = (prefix.len(), 0);
            let fits = rest.iter().take_while(|p| {
                prompt_rows += p.tokens.len();
                sequences += options.completions;
                let rows = prompt_rows + sequences * own_rows(options) + 1;
                let passing = self.prefill_bytes(&state, prompt_rows, sequences);
                self.workspace_bytes(&state, rows, sequences.next_power_of_two()) + passing <= limit
            });
            // A prompt that does not fit by itself is tried, for the error that says by how much.
            let (now, later) = rest.split_at(fits.count().max(1));
            let mut starts = Vec::with_capacity(now.len());
            let mut end = prefix.len();
            for prompt in now {
                starts.push(end);
                end += prompt.tokens.len();
            }
            let call = Call { prefix, prompts: now, starts, options, ending, how: How::of(options) };
            all.extend(self.generate_together(&mut state, &call, end)?);
            rest = later;
        }
        Ok(all)
    }

    /// Bytes of a workspace: keys and values of so many rows, and the buffers of a step of so many sequences.
    fn workspace_bytes(&self, state: &State, rows: usize, batch: usize) -> usize {
        let (hidden, vocabulary) = (self.config.hidden_size, self.config.vocab_size);
        let cached = state.layers.len() * 2 * self.heads.key_width() * self.format.bytes();
        let step = self.activation_bytes(&state.layers) + (4 + self.format.bytes()) * hidden + 4 * vocabulary;
        rows * cached + batch * (step + 4 * CONTROL + 12)
    }

    /// Bytes of a pass over prompts, and of drawing the first tokens.
    fn prefill_bytes(&self, state: &State, rows: usize, sequences: usize) -> usize {
        let (hidden, vocabulary) = (self.config.hidden_size, self.config.vocab_size);
        let logits = 4 * vocabulary + hidden * self.format.bytes();
        rows.min(PREFILL) * (self.activation_bytes(&state.layers) + 4 * hidden)
            + sequences.min(self.head_rows()) * logits
    }

    fn generate_together(
        &self,
        state: &mut State,
        call: &Call<'_>,
        prompt_rows: usize,
    ) -> Result<Vec<Vec<Completion>>> {
        let sequences = call.prompts.len() * call.options.completions;
        // One row more, where padding writes.
        let rows = prompt_rows + sequences * own_rows(call.options) + 1;
        self.make_workspace(state, rows, sequences)?;
        let mut active = self.prefill(state, call, prompt_rows)?;
        let mut results: Vec<Vec<Option<Completion>>> = vec![vec![None; call.options.completions]; call.prompts.len()];
        collect(&mut active, &mut results);
        while !active.is_empty() {
            let draws = self.step(state, call, &mut active)?;
            take(&mut active, draws, call.ending)?;
            collect(&mut active, &mut results);
        }
        Ok(results.into_iter().map(|of_prompt| of_prompt.into_iter().flatten().collect()).collect())
    }

    fn make_workspace(&self, state: &mut State, rows: usize, batch: usize) -> Result<()> {
        let batch = batch.next_power_of_two();
        if state.workspace.as_ref().is_some_and(|w| w.rows >= rows && w.batch >= batch) {
            return Ok(());
        }
        // What there is goes first: both at once may not fit. It grows in both sizes, where that fits.
        if let Some(old) = state.workspace.take() {
            let (most_rows, most_batch) = (rows.max(old.rows), batch.max(old.batch));
            drop(old);
            if self.workspace_bytes(state, most_rows, most_batch) <= self.device.available()? / USED.1 * USED.0 {
                return self.new_workspace(state, most_rows, most_batch);
            }
        }
        self.new_workspace(state, rows, batch)
    }

    fn new_workspace(&self, state: &mut State, rows: usize, batch: usize) -> Result<()> {
        let bytes = rows * 2 * self.heads.key_width() * self.format.bytes();
        let cache = state.layers.iter().map(|_| self.device.allocate(bytes)).collect::<Result<_>>()?;
        let (hidden, vocabulary) = (self.config.hidden_size, self.config.vocab_size);
        let step = Step {
            control: self.device.allocate(4 * CONTROL * batch)?,
            x: self.device.allocate(4 * batch * hidden)?,
            activations: self.activations(&state.layers, batch)?,
            hidden: self.device.allocate(batch * hidden * self.format.bytes())?,
            logits: self.device.allocate(4 * batch * vocabulary)?,
            drawn: self.device.allocate(12 * batch)?,
        };
        state.workspace = Some(Workspace { cache, rows, prefix: Vec::new(), batch, step, graphs: HashMap::new() });
        Ok(())
    }

    /// Computes the prefix, unless it is there, and the prompts; draws the first token of each completion.
    fn prefill(&self, state: &mut State, call: &Call<'_>, prompt_rows: usize) -> Result<Vec<Active>> {
        let State { layers, workspace: Some(workspace), .. } = state else { return Ok(Vec::new()) };
        let (device, hidden) = (&self.device, self.config.hidden_size);
        let known = if workspace.prefix == call.prefix { call.prefix.len() } else { 0 };
        // What is about to be overwritten is known no more, whatever happens.
        if known == 0 {
            workspace.prefix.clear();
        }
        let mut layout = Layout::default();
        layout.push(call.prefix, 0, prompt_rows);
        for (prompt, start) in call.prompts.iter().zip(&call.starts) {
            layout.push(&prompt.tokens, call.prefix.len(), start + prompt.tokens.len());
        }
        let ends = layout.upload_ends(device, self.format.tile())?;
        let mut active = Vec::with_capacity(call.prompts.len() * call.options.completions);
        if known < call.prefix.len() {
            // In a pass of its own: the passes over prompts then have the same shapes, and sums the same order, whether the
            // prefix was there or not.
            self.fill(layers, &workspace.cache, &layout, &ends, 0..call.prefix.len())?;
            workspace.prefix = call.prefix.to_vec();
        }
        let (mut first, mut next) = (call.prefix.len(), 0);
        while next < call.prompts.len() {
            let (begin, mut end) = (next, first);
            while next < call.prompts.len() {
                let after = call.starts[next] + call.prompts[next].tokens.len();
                if next > begin && after - first > PREFILL {
                    break;
                }
                (end, next) = (after, next + 1);
            }
            let x = self.fill(layers, &workspace.cache, &layout, &ends, first..end)?;
            let mut fresh = Vec::new();
            let mut last_rows = Vec::new();
            for prompt in begin..next {
                for completion in 0..call.options.completions {
                    last_rows.push((call.starts[prompt] + call.prompts[prompt].tokens.len() - 1 - first) as i32);
                    fresh.push(Active::new(call, prompt, completion, prompt_rows));
                }
            }
            let chunk = self.head_rows();
            let (normed, logits) = {
                let rows = chunk.min(fresh.len());
                (
                    device.allocate(rows * hidden * self.format.bytes())?,
                    device.allocate(4 * rows * self.config.vocab_size)?,
                )
            };
            for (fresh, wanted) in fresh.chunks_mut(chunk).zip(last_rows.chunks(chunk)) {
                let wanted = device.upload(wanted)?;
                self.logits(x.view(), Some(wanted.view()), normed.view(), logits.view(), fresh.len())?;
                let uniforms: Vec<f64> = fresh.iter_mut().map(|a| a.uniform(call.how)).collect();
                let (uniforms, drawn) = (device.upload(&uniforms)?, device.allocate(12 * fresh.len())?);
                self.draw(call.how, logits.view(), uniforms.view(), drawn.view(), fresh.len())?;
                let draws = self.drawn(call, logits.view(), drawn.view(), fresh)?;
                take(fresh, draws, call.ending)?;
            }
            active.append(&mut fresh);
            first = end;
        }
        Ok(active)
    }

    /// A pass over rows of a layout whose keys and values go to the cache; gives their residual stream.
    fn fill(
        &self,
        layers: &[Layer],
        cache: &[Buffer],
        layout: &Layout,
        ends: &(Buffer, Buffer),
        range: Range<usize>,
    ) -> Result<Buffer> {
        let (device, rows, first) = (&self.device, range.len(), range.start);
        let tokens = device.upload(&layout.tokens[range.clone()])?;
        let positions = device.upload(&layout.positions[range.clone()])?;
        let cache_rows: Vec<i32> = range.clone().map(|row| row as i32).collect();
        let cache_rows = device.upload(&cache_rows)?;
        let x = device.allocate(4 * rows * self.config.hidden_size)?;
        let a = self.activations(layers, rows)?;
        device.embed(self.embedding(), tokens.view(), x.view(), rows)?;
        for (index, layer) in layers.iter().enumerate() {
            let stream = Stream { input: x.view(), middle: x.view(), output: x.view() };
            let sight = Sight::Cached { tree: tree(ends, range.end), first, cache, rows: cache_rows.view() };
            self.block((index, layer), &a, stream, (rows, positions.view()), sight)?;
        }
        Ok(x)
    }

    /// The next token of every sequence.
    fn step(&self, state: &mut State, call: &Call<'_>, active: &mut [Active]) -> Result<Vec<Draw>> {
        let State { layers, workspace: Some(workspace), .. } = state else { return Ok(Vec::new()) };
        let rows = active.len().next_power_of_two().min(workspace.batch);
        let control = control(call, active, rows, workspace.rows - 1);
        let Step { control: there, x, activations, hidden, logits, drawn } = &workspace.step;
        self.device.write(there.view(), &control)?;
        let key = GraphKey { rows, how: call.how };
        let launch = || -> Result<()> {
            let word = |at: usize| there.view().from(4 * at * rows);
            let (uniforms, tokens, positions, cache_rows, slots) = (word(0), word(2), word(3), word(4), word(5));
            self.device.embed(self.embedding(), tokens, x.view(), rows)?;
            for (index, layer) in layers.iter().enumerate() {
                let stream = Stream { input: x.view(), middle: x.view(), output: x.view() };
                let sight = Sight::Slots { slots, cache: &workspace.cache, rows: cache_rows };
                self.block((index, layer), activations, stream, (rows, positions), sight)?;
            }
            self.logits(x.view(), None, hidden.view(), logits.view(), rows)?;
            self.draw(call.how, logits.view(), uniforms, drawn.view(), rows)
        };
        match workspace.graphs.get(&key) {
            Some(graph) => self.device.send(graph)?,
            None => {
                // Kernels and cuBLAS load what they need at their first launch, which a capture does not allow.
                launch()?;
                let graph = self.device.capture(launch)?;
                workspace.graphs.insert(key, graph);
            }
        }
        let Step { logits, drawn, .. } = &workspace.step;
        self.drawn(call, logits.view(), drawn.view(), active)
    }

    fn draw(&self, how: How, logits: View<'_>, uniforms: View<'_>, drawn: View<'_>, rows: usize) -> Result<()> {
        let shape = (rows, self.config.vocab_size);
        match how {
            How::Greedy => self.device.draw(logits, uniforms, drawn, shape, 1.0, true),
            How::Plain(scale) => self.device.draw(logits, uniforms, drawn, shape, f32::from_bits(scale), false),
            How::Host => Ok(()),
        }
    }

    /// What was drawn, or is drawn now, for each sequence.
    fn drawn(&self, call: &Call<'_>, logits: View<'_>, drawn: View<'_>, active: &mut [Active]) -> Result<Vec<Draw>> {
        if call.how == How::Host {
            let vocabulary = self.config.vocab_size;
            let mut rows = vec![0f32; active.len() * vocabulary];
            self.device.read(logits, &mut rows)?;
            let draw = |(a, logits): (&mut Active, &mut [f32])| {
                let prompt = call.prompts.get(a.prompt).map_or(&[][..], |p| &p.tokens);
                a.sampler.draw(logits, &[call.prefix, prompt, &a.tokens])
            };
            return Ok(active.iter_mut().zip(rows.chunks_exact_mut(vocabulary)).map(draw).collect());
        }
        let mut words = vec![0u32; 3 * active.len()];
        self.device.read(drawn, &mut words)?;
        let (words, _) = words.as_chunks::<3>();
        let draw = |[token, log_probability, entropy]: &[u32; 3]| {
            Draw::new(*token, f32::from_bits(*log_probability), f32::from_bits(*entropy))
        };
        Ok(words.iter().map(draw).collect())
    }
}

/// Cache rows of a completion: its last token is never fed.
fn own_rows(options: &GenerateOptions) -> usize {
    options.sampling.max_completion_length.saturating_sub(1)
}

/// What a step's rows read. Rows beyond the sequences see one row that nobody else does.
fn control(call: &Call<'_>, active: &mut [Active], rows: usize, trash: usize) -> Vec<u32> {
    let mut words = vec![0u32; CONTROL * rows];
    let nobody = Slot { own_from: trash as i32, own: 1, ..Slot::default() };
    for row in 0..rows {
        let mut put = |at: usize, value: u32| words[at] = value;
        let slot = match active.get_mut(row) {
            Some(a) => {
                let bits = a.uniform(call.how).to_bits();
                put(2 * row, bits as u32);
                put(2 * row + 1, (bits >> 32) as u32);
                let (prefix, prompt) = (call.prefix.len(), call.prompts[a.prompt].tokens.len());
                let fed = a.tokens.len() - 1;
                put(2 * rows + row, a.tokens[fed]);
                put(3 * rows + row, (prefix + prompt + fed) as u32);
                put(4 * rows + row, (a.own_from + fed) as u32);
                Slot {
                    prefix: prefix as i32,
                    prompt_from: call.starts[a.prompt] as i32,
                    prompt: prompt as i32,
                    own_from: a.own_from as i32,
                    own: fed as i32 + 1,
                }
            }
            None => {
                put(4 * rows + row, trash as u32);
                nobody
            }
        };
        slot.values().into_iter().enumerate().for_each(|(i, value)| put(5 * rows + 5 * row + i, value as u32));
    }
    words
}

impl Active {
    fn new(call: &Call<'_>, prompt: usize, completion: usize, prompt_rows: usize) -> Self {
        let GenerateOptions { sampling, completions, seed, .. } = call.options;
        Self {
            prompt,
            completion,
            sampler: Sampler::new((*sampling).clone(), *seed, call.prompts[prompt].stream, completion),
            tokens: Vec::new(),
            log_probabilities: Vec::new(),
            entropies: Vec::new(),
            own_from: prompt_rows + (prompt * completions + completion) * own_rows(call.options),
            ended: None,
        }
    }

    /// The number that decides its next token, where a device draws it.
    fn uniform(&mut self, how: How) -> f64 {
        if matches!(how, How::Plain(_)) { self.sampler.uniform() } else { 0.0 }
    }

    fn take(&mut self, draw: Draw, ending: &Ending<'_>) -> Result<()> {
        self.tokens.push(draw.token);
        self.log_probabilities.push(draw.statistics.log_probability);
        self.entropies.push(draw.statistics.entropy);
        self.ended = ending.of(&self.tokens)?;
        Ok(())
    }
}

/// Gives every sequence its token. To find out which ones end, their texts are read, on all of the host's threads: the device
/// waits.
fn take(active: &mut [Active], draws: Vec<Draw>, ending: &Ending<'_>) -> Result<()> {
    static READERS: OnceLock<Option<rayon::ThreadPool>> = OnceLock::new();
    // Who waits in a pool's thread may be given other work of that pool, which may want the decoder that is held here.
    let readers = match rayon::current_thread_index() {
        None => READERS.get_or_init(|| rayon::ThreadPoolBuilder::new().build().ok()).as_ref(),
        Some(_) => None,
    };
    match readers {
        Some(readers) => {
            readers.install(|| active.par_iter_mut().zip(draws).try_for_each(|(a, draw)| a.take(draw, ending)))
        }
        None => active.iter_mut().zip(draws).try_for_each(|(a, draw)| a.take(draw, ending)),
    }
}

/// Moves finished sequences to their place in `results`.
fn collect(active: &mut Vec<Active>, results: &mut [Vec<Option<Completion>>]) {
    let mut still = Vec::with_capacity(active.len());
    for mut a in active.drain(..) {
        let Some((text, finish)) = a.ended.take() else {
            still.push(a);
            continue;
        };
        let Active { prompt, completion, tokens, log_probabilities, entropies, .. } = a;
        results[prompt][completion] = Some(Completion { tokens, log_probabilities, entropies, text, finish });
    }
    *active = still;
}
