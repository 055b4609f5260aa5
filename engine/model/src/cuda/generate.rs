//! Sampling on a GPU: prompts in batches, all completions of a group over one shared prompt, and a decoding step that is
//! one graph.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use rayon::prelude::*;

use super::forward::{Context, Stream};
use super::step::Slots;
use super::tape::{Layout, tree};
use super::workspace::{CONTROL, GraphKey, How, PREFILL, Step, USED, Workspace, batch_of};
use super::{Block, CudaDecoder, CudaTape, State};
use crate::adapter::Deltas;
use crate::backend::Generate;
use crate::completion::{Completion, Completions, GenerateOptions};
use crate::sampling::SampledToken;
use crate::sequence::{Active, Call, Results};
use querywright_kernels::Cache;
use querywright_kernels::device::{Buffer, Chunk, NextStep, Slot, View};
use querywright_types::{Error, Result};

/// What is kept of a sequence in flight: where its own cache rows begin.
struct Own {
    from: usize,
}

/// Prompts of a call that fit into the cache together.
struct Batch<'a> {
    /// With only these prompts.
    call: Call<'a>,
    /// The cache row at which each prompt begins.
    starts: Vec<usize>,
    /// The cache row behind the last prompt.
    prompt_rows: usize,
    how: How,
}

impl<'a> Batch<'a> {
    fn new(call: Call<'a>) -> Self {
        let mut starts = Vec::with_capacity(call.prompts.len());
        let mut end = call.prefix.len();
        for prompt in call.prompts {
            starts.push(end);
            end += prompt.tokens.len();
        }
        Self { call, starts, prompt_rows: end, how: How::of(call.options) }
    }

    /// Whether a grammar says what a completion may consist of.
    fn restricted(&self) -> bool {
        self.call.prompts.iter().any(|prompt| prompt.grammar.is_some())
    }

    /// The cache row behind a prompt.
    fn end(&self, prompt: usize) -> usize {
        self.starts[prompt] + self.call.prompts[prompt].tokens.len()
    }

    fn sequence(&self, prompt: usize, completion: usize) -> Active<Own> {
        let options = self.call.options;
        let from = self.prompt_rows + (prompt * options.completions + completion) * own_rows(options);
        Active::new(&self.call, prompt, completion, Own { from })
    }
}

impl Generate for CudaDecoder {
    type Tape = CudaTape;

    /// The workspace keeps the prefix that was computed last.
    fn prefix(&self, _: &[u32], _: &Deltas) -> Result<Option<Arc<Cache>>> {
        Ok(None)
    }

    /// A teacher-forced pass costs a small part of what sampling token by token does.
    fn records(&self, _: usize, _: usize) -> bool {
        false
    }

    fn generate(&self, call: &Call<'_>, _: Option<&Arc<Cache>>) -> Result<Vec<Vec<Completion>>> {
        self.config.check_tokens(call.prefix)?;
        call.prompts.iter().try_for_each(|p| self.config.check_tokens(&p.tokens))?;
        let mut state = self.lock();
        self.place(&mut state, call.deltas)?;
        let held = state.workspace.as_ref().map_or(0, |w| self.workspace_bytes(&state, w.rows, w.batch));
        let limit = (self.device.available()? + held) / USED.1 * USED.0;
        let mut all = Vec::with_capacity(call.prompts.len());
        let mut rest = call.prompts;
        while !rest.is_empty() {
            let (mut prompt_rows, mut sequences) = (call.prefix.len(), 0);
            let fits = rest.iter().enumerate().take_while(|(place, p)| {
                prompt_rows += p.tokens.len();
                sequences += call.options.completions;
                let rows = prompt_rows + sequences * own_rows(call.options) + 1;
                let passing = self.prefill_bytes(&state, call, &rest[..=*place]);
                self.workspace_bytes(&state, rows, batch_of(sequences)) + passing <= limit
            });
            // A prompt that does not fit by itself is tried, for the error that says by how much.
            let (now, later) = rest.split_at(fits.count().max(1));
            all.extend(self.generate_together(&mut state, &Batch::new(Call { prompts: now, ..*call }))?);
            rest = later;
        }
        Ok(all)
    }

    fn generate_recorded(&self, call: &Call<'_>) -> Result<(Completions, Option<CudaTape>)> {
        Ok((self.generate(call, None)?, None))
    }
}

impl CudaDecoder {
    fn generate_together(&self, state: &mut State, batch: &Batch<'_>) -> Result<Vec<Vec<Completion>>> {
        let sequences = batch.call.prompts.len() * batch.call.options.completions;
        // One row more, where padding writes.
        let rows = batch.prompt_rows + sequences * own_rows(batch.call.options) + 1;
        let passing = self.prefill_bytes(state, &batch.call, batch.call.prompts);
        self.make_workspace(state, rows, sequences, passing)?;
        let State { blocks, workspace: Some(workspace), .. } = state else {
            return Err(Error::bug("generation on a GPU", "no workspace where one was made"));
        };
        let mut results = Results::new(&batch.call);
        let mut active = self.prefill(blocks, workspace, batch)?;
        results.collect(&mut active, |_, _, _| {});
        while !active.is_empty() {
            // What may come next is known when a token is.
            match batch.how {
                How::Greedy | How::Plain(_) if !batch.restricted() => {
                    self.run(blocks, workspace, batch, &mut active)?
                }
                _ => self.step(blocks, workspace, batch, &mut active)?,
            }
            results.collect(&mut active, |_, _, _| {});
        }
        results.complete()
    }

    /// Computes the prefix, unless it is there, and the prompts; samples the first token of each completion.
    fn prefill(&self, blocks: &[Block], workspace: &mut Workspace, batch: &Batch<'_>) -> Result<Vec<Active<Own>>> {
        let call = &batch.call;
        let known = workspace.prefix == call.prefix && !call.prefix.is_empty();
        // What is about to be overwritten is not known any more, even if the pass fails.
        if !known {
            workspace.prefix.clear();
        }
        let mut layout = Layout::default();
        layout.push(call.prefix, 0, batch.prompt_rows);
        for (index, prompt) in call.prompts.iter().enumerate() {
            layout.push(&prompt.tokens, call.prefix.len(), batch.end(index));
        }
        let ends = layout.upload_ends(&self.device, self.format)?;
        if !known && !call.prefix.is_empty() {
            // In a pass of its own: the passes over prompts then have the same shapes, and sums the same order, whether
            // the prefix was there or not.
            self.fill(blocks, &workspace.cache, &layout, &ends, 0..call.prefix.len())?;
            workspace.prefix = call.prefix.to_vec();
        }
        let mut active = Vec::with_capacity(call.prompts.len() * call.options.completions);
        let (mut first, mut next) = (call.prefix.len(), 0);
        while next < call.prompts.len() {
            let (begin, mut end) = (next, first);
            while next < call.prompts.len() && (next == begin || batch.end(next) - first <= PREFILL) {
                (end, next) = (batch.end(next), next + 1);
            }
            let x = self.fill(blocks, &workspace.cache, &layout, &ends, first..end)?;
            active.append(&mut self.first_tokens(batch, begin..next, &x, first)?);
            first = end;
        }
        Ok(active)
    }

    /// Samples the first token of each completion of these prompts, whose residual stream `x` has cache row `first` as its
    /// first row.
    fn first_tokens(
        &self,
        batch: &Batch<'_>,
        prompts: Range<usize>,
        x: &Buffer,
        first: usize,
    ) -> Result<Vec<Active<Own>>> {
        let (device, hidden) = (&self.device, self.config.hidden_size);
        let mut fresh = Vec::new();
        let mut last_rows = Vec::new();
        for prompt in prompts {
            for completion in 0..batch.call.options.completions {
                last_rows.push((batch.end(prompt) - 1 - first) as i32);
                fresh.push(batch.sequence(prompt, completion));
            }
        }
        let chunk = self.head_rows();
        let rows = chunk.min(fresh.len());
        let normed = device.allocate(rows * hidden * self.format.bytes())?;
        let logits = device.allocate(4 * rows * self.config.vocab_size)?;
        for (fresh, wanted) in fresh.chunks_mut(chunk).zip(last_rows.chunks(chunk)) {
            let wanted = device.upload(wanted)?;
            self.logits(x.view(), Some(wanted.view()), normed.view(), logits.view(), fresh.len())?;
            let uniforms: Vec<f64> = fresh.iter_mut().map(|a| uniform(a, batch.how)).collect();
            let (uniforms, sampled) = (device.upload(&uniforms)?, device.allocate(12 * fresh.len())?);
            let sampled = self.sample_each(batch, logits.view(), uniforms.view(), sampled.view(), fresh)?;
            push(&batch.call, fresh, sampled)?;
        }
        Ok(fresh)
    }

    /// A pass over rows of a layout whose keys and values go to the cache; gives their residual stream.
    fn fill(
        &self,
        blocks: &[Block],
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
        let (x, angles) = (device.allocate(4 * rows * self.config.hidden_size)?, self.angles(rows)?);
        let a = self.activations(blocks, rows)?;
        self.embed((tokens.view(), positions.view()), x.view(), angles.view(), rows)?;
        for (index, block) in blocks.iter().enumerate() {
            let stream = Stream { input: x.view(), middle: x.view(), output: x.view() };
            let context = Context::Cached { tree: tree(ends, range.end), first, cache, rows: cache_rows.view() };
            self.block((index, block), &a, stream, (rows, angles.view()), context)?;
        }
        Ok(x)
    }

    /// Steps until fewer rows will do, or all sequences have ended. The host works one step behind the device, which
    /// writes itself what its next step reads: the host reads a step's tokens while the next one runs, in vain for a
    /// sequence that has just ended.
    fn run(
        &self,
        blocks: &[Block],
        workspace: &mut Workspace,
        batch: &Batch<'_>,
        active: &mut [Active<Own>],
    ) -> Result<()> {
        let chunks = self.chunks(batch, active);
        let rows = self.write_control(workspace, batch, active, &chunks)?;
        let key = GraphKey { rows, how: batch.how, chunks: (!chunks.is_empty()).then_some(chunks.len()) };
        let most = batch.call.options.sampling.max_completion_length;
        let (mut sent, mut read) = (0, 0);
        loop {
            let going = || active.iter().filter(|a| a.ended.is_none());
            let left = going().map(|a| most.saturating_sub(a.tokens.len())).max().unwrap_or_default();
            let ahead = sent - read;
            if ahead < 2 && ahead < left && batch_of(going().count()) >= rows {
                if sent > 0 {
                    let uniforms: Vec<f64> = active.iter_mut().map(|a| uniform(a, batch.how)).collect();
                    self.device.write(workspace.step.control.view(), &uniforms)?;
                }
                self.launch(blocks, workspace, key)?;
                let Step { sampled, mailboxes, .. } = &mut workspace.step;
                self.device.post(sampled.view(), 3 * active.len(), &mut mailboxes[sent % 2])?;
                sent += 1;
                if ahead == 0 {
                    continue;
                }
            }
            if read == sent {
                return Ok(());
            }
            let words = self.device.receive(&workspace.step.mailboxes[read % 2], 3 * active.len())?;
            let sampled = tokens(&words, active)?;
            push(&batch.call, active, sampled)?;
            read += 1;
        }
    }

    /// One step whose tokens are sampled on the host, or among those that a grammar allows.
    fn step(
        &self,
        blocks: &[Block],
        workspace: &mut Workspace,
        batch: &Batch<'_>,
        active: &mut [Active<Own>],
    ) -> Result<()> {
        let rows = self.write_control(workspace, batch, active, &[])?;
        self.launch(blocks, workspace, GraphKey { rows, how: How::Host, chunks: None })?;
        let Step { control, logits, sampled, .. } = &workspace.step;
        let sampled = self.sample_each(batch, logits.view(), control.view(), sampled.view(), active)?;
        push(&batch.call, active, sampled)
    }

    /// Writes what a step of these sequences reads, and says how many rows it has.
    fn write_control(
        &self,
        workspace: &Workspace,
        batch: &Batch<'_>,
        active: &mut [Active<Own>],
        chunks: &[Chunk],
    ) -> Result<usize> {
        let rows = batch_of(active.len()).min(workspace.batch);
        let words = control(batch, active, rows, workspace.rows - 1, chunks);
        self.device.write(workspace.step.control.view(), &words)?;
        Ok(rows)
    }

    /// The rows of a step in chunks that share a prompt, where that is less work than a block for each: padded, so that there
    /// are few numbers of chunks. Else none.
    fn chunks(&self, batch: &Batch<'_>, active: &[Active<Own>]) -> Vec<Chunk> {
        /// Rows of a prompt on average, from which on its keys are read for all of them together.
        const SHARED: usize = 3;
        let of_prompt = |a: &Active<Own>, b: &Active<Own>| a.prompt == b.prompt;
        let groups: Vec<&[Active<Own>]> = active.chunk_by(of_prompt).collect();
        if active.len() < SHARED * groups.len() || !self.device.shares_keys(self.heads, active.len()) {
            return Vec::new();
        }
        let (mut chunks, mut first) = (Vec::new(), 0);
        for group in groups {
            // Chunks of about the same size.
            let each = group.len().div_ceil(group.len().div_ceil(self.heads.chunk()));
            for part in group.chunks(each) {
                chunks.push(Chunk {
                    first,
                    count: part.len() as i32,
                    prefix: batch.call.prefix.len() as i32,
                    prompt_from: batch.starts[group[0].prompt] as i32,
                    prompt: batch.call.prompts[group[0].prompt].tokens.len() as i32,
                });
                first += part.len() as i32;
            }
        }
        let few = chunks.len().next_power_of_two().max(16).min(batch_of(active.len()));
        chunks.resize(few.max(chunks.len()), Chunk::default());
        chunks
    }

    /// Launches a step of so many rows, as one graph.
    fn launch(&self, blocks: &[Block], workspace: &mut Workspace, key: GraphKey) -> Result<()> {
        let GraphKey { rows, how, chunks } = key;
        let Step { control, x, angles, activations, hidden, logits, sampled, .. } = &workspace.step;
        let word = |at: usize| control.view().from(4 * at * rows);
        let (uniforms, tokens, positions) = (word(0), word(2), word(3));
        let (cache_rows, slots, ends) = (word(4), word(5), word(10));
        let launch = || -> Result<()> {
            self.embed((tokens, positions), x.view(), angles.view(), rows)?;
            let chunks = chunks.map(|count| (word(11), count));
            let context = Slots { slots, chunks, angles: angles.view(), cache: &workspace.cache, rows: cache_rows };
            for (index, block) in blocks.iter().enumerate() {
                self.step_block((index, block), activations, x.view(), rows, context)?;
            }
            self.step_logits(x.view(), hidden.view(), logits.view(), rows)?;
            let scale = match how {
                How::Greedy => None,
                How::Plain(scale) => Some(f32::from_bits(scale)),
                How::Host => return Ok(()),
            };
            let next = NextStep { tokens, positions, cache_rows, slots, ends, spare: workspace.rows - 1 };
            let shape = (rows, self.config.vocab_size);
            self.device.sample(logits.view(), uniforms, sampled.view(), shape, scale, Some(next))
        };
        match workspace.graphs.get(&key) {
            // What a graph launches cannot be told apart from outside.
            _ if self.device.profiles() => launch(),
            Some(graph) => self.device.send(graph),
            None if workspace.launched.contains(&key) => {
                let graph = self.device.capture(launch)?;
                self.device.send(&graph)?;
                workspace.graphs.insert(key, graph);
                Ok(())
            }
            None => {
                // Kernels and cuBLAS load what they need at their first launch, which a capture does not allow.
                launch()?;
                workspace.launched.insert(key);
                Ok(())
            }
        }
    }

    /// A token for each sequence from the logits of its row; `out` takes what the device samples.
    fn sample_each(
        &self,
        batch: &Batch<'_>,
        logits: View<'_>,
        uniforms: View<'_>,
        out: View<'_>,
        active: &mut [Active<Own>],
    ) -> Result<Vec<SampledToken>> {
        let (vocabulary, count) = (self.config.vocab_size, active.len());
        let scale = match batch.how {
            How::Greedy => None,
            How::Plain(scale) => Some(f32::from_bits(scale)),
            How::Host => {
                let mut rows = vec![0f32; count * vocabulary];
                self.device.read(logits, &mut rows)?;
                let sample = |(a, logits): (&mut Active<Own>, &mut [f32])| {
                    let allowed = a.allowed();
                    a.sample(&batch.call, logits, allowed.as_deref())
                };
                return active.iter_mut().zip(rows.chunks_exact_mut(vocabulary)).map(sample).collect();
            }
        };
        let shape = (count, vocabulary);
        if batch.restricted() {
            let allowed: Vec<Option<Arc<[u32]>>> = active.iter().map(Active::allowed).collect();
            let within = self.device.within(allowed.iter().map(Option::as_deref))?;
            self.device.sample_within(logits, uniforms, out, shape, scale, &within)?;
        } else {
            self.device.sample(logits, uniforms, out, shape, scale, None)?;
        }
        let mut words = vec![0u32; 3 * count];
        self.device.read(out, &mut words)?;
        tokens(&words, active)
    }
}

/// Tokens as the device samples them, one for each sequence. What it sampled for one that has ended says nothing.
fn tokens(words: &[u32], active: &[Active<Own>]) -> Result<Vec<SampledToken>> {
    let (words, _) = words.as_chunks::<3>();
    let read = |([token, log_probability, entropy], a): (&[u32; 3], &Active<Own>)| match a.ended {
        Some(_) => SampledToken::new(*token, 0.0, 0.0),
        None => SampledToken::new(*token, f32::from_bits(*log_probability), f32::from_bits(*entropy)),
    };
    words.iter().zip(active).map(read).collect()
}

/// Cache rows of a completion: its last token is no input.
fn own_rows(options: &GenerateOptions) -> usize {
    options.sampling.max_completion_length.saturating_sub(1)
}

/// The number that decides a sequence's next token, where the device samples it.
fn uniform(a: &mut Active<Own>, how: How) -> f64 {
    if matches!(how, How::Plain(_)) { a.sampler.uniform() } else { 0.0 }
}

/// What a step's rows read. Rows beyond the sequences see one row that no sequence sees.
fn control(batch: &Batch<'_>, active: &mut [Active<Own>], rows: usize, spare: usize, chunks: &[Chunk]) -> Vec<u32> {
    let mut words = vec![0u32; CONTROL * rows];
    let padding = Slot { own_from: spare as i32, own: 1, ..Slot::default() };
    for row in 0..rows {
        let mut put = |at: usize, value: u32| words[at] = value;
        let slot = match active.get_mut(row) {
            Some(a) => {
                let bits = uniform(a, batch.how).to_bits();
                put(2 * row, bits as u32);
                put(2 * row + 1, (bits >> 32) as u32);
                let (prefix, prompt) = (batch.call.prefix.len(), batch.call.prompts[a.prompt].tokens.len());
                let last = a.tokens.len() - 1;
                put(2 * rows + row, a.tokens[last]);
                put(3 * rows + row, (prefix + prompt + last) as u32);
                put(4 * rows + row, (a.state.from + last) as u32);
                Slot {
                    prefix: prefix as i32,
                    prompt_from: batch.starts[a.prompt] as i32,
                    prompt: prompt as i32,
                    own_from: a.state.from as i32,
                    own: last as i32 + 1,
                }
            }
            None => {
                put(4 * rows + row, spare as u32);
                padding
            }
        };
        slot.values().into_iter().enumerate().for_each(|(i, value)| put(5 * rows + 5 * row + i, value as u32));
        let end = active.get(row).map_or(0, |a| a.state.from + own_rows(batch.call.options));
        words[10 * rows + row] = end as u32;
    }
    for (word, value) in words[11 * rows..].iter_mut().zip(chunks.iter().flat_map(|chunk| chunk.values())) {
        *word = value as u32;
    }
    words
}

/// Gives every sequence that has not ended its token. To find out which ones end, their texts are read, on all of the host's threads: the device
/// waits.
fn push(call: &Call<'_>, active: &mut [Active<Own>], sampled: Vec<SampledToken>) -> Result<()> {
    static READERS: OnceLock<Option<rayon::ThreadPool>> = OnceLock::new();
    // A thread of a pool that waits may be given other work of that pool, which may want the decoder that is held here.
    let readers = match rayon::current_thread_index() {
        None => READERS.get_or_init(|| rayon::ThreadPoolBuilder::new().build().ok()).as_ref(),
        Some(_) => None,
    };
    let give = |(a, token): (&mut Active<Own>, SampledToken)| match a.ended {
        Some(_) => Ok(()),
        None => a.push(call, token),
    };
    match readers {
        Some(readers) => readers.install(|| active.par_iter_mut().zip(sampled).try_for_each(give)),
        None => active.iter_mut().zip(sampled).try_for_each(give),
    }
}
