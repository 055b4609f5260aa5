//! The backward pass: from the weights of log-probabilities to the gradients of deltas.
//!
//! A pass keeps the input of every block. Where memory allows, it keeps what the blocks computed, too; else each block is
//! computed again in the backward pass (gradient checkpointing), which costs a third more.

use super::forward::{Activations, Context, Stream, pairs};
use super::tape::{Layout, tree};
use super::{Block, CudaDecoder, CudaGradients, CudaTape, Group, State, widest};
use crate::adapter::Deltas;
use crate::backend::{self, BackendTape, Learn};
use crate::objective::{Objective, Predictions};
use querywright_kernels::TokenStatistics;
use querywright_kernels::device::{AttentionGradient, Buffer, Format, Matrix, PackedTree, PlannedKeys, RotatedRows};
use querywright_types::{Error, Result};

/// The share of free memory that kept activations may take.
const KEPT: (usize, usize) = (1, 2);

/// Rows of a tape that are learned from at once, at least and at most: below, a device is not busy; above, nothing is gained.
const LEAST_ROWS: usize = 4096;
const MOST_ROWS: usize = 1 << 16;

/// A pass over a tape.
struct Forward {
    /// The residual stream before each block, (rows, hidden) in single precision; none where nothing is kept.
    inputs: Vec<Buffer>,
    /// The residual stream behind the last block.
    last: Buffer,
    /// What each block computed, or room for one.
    kept: Vec<Activations>,
    angles: Buffer,
    ends: (Buffer, Buffer),
    /// How the gradient of keys is divided; of a pass that is learned from.
    plan: Option<PlannedKeys>,
    rows: usize,
}

/// Buffers of a backward pass.
struct Buffers {
    /// The gradient of the residual stream, in single precision, and as products read it.
    dx: Buffer,
    dy: Buffer,
    /// Of the inputs of the four groups; the first and the third share one.
    dh: Buffer,
    dattended: Buffer,
    dactivated: Buffer,
    dgate_up: Buffer,
    dqkv: Buffer,
    delta: Buffer,
}

/// The backward pass through the blocks, from the last one to the lowest that has a delta.
#[derive(Clone, Copy)]
struct Pass<'a> {
    decoder: &'a CudaDecoder,
    state: &'a State,
    forward: &'a Forward,
    buffers: &'a Buffers,
    /// Takes the gradients of deltas.
    sums: &'a CudaGradients,
    lowest: usize,
}

/// Refuses predictions by rows that the tape does not have.
fn check(tape: &CudaTape, predictions: &Predictions) -> Result<()> {
    let (rows, wrong) = (tape.rows(), predictions.rows.iter().find(|row| **row >= tape.rows()));
    if wrong.is_none() && predictions.rows.len() == predictions.targets.len() {
        return Ok(());
    }
    let found =
        format!("{} rows up to {wrong:?} of {rows} for {} tokens", predictions.rows.len(), predictions.targets.len());
    Err(Error::argument("predictions", found, "ask the tape for its predictions"))
}

impl Learn for CudaDecoder {
    type Gradients = CudaGradients;

    fn tape(&self, deltas: &Deltas, prefix: &[u32], groups: &[backend::Group<'_>]) -> Result<CudaTape> {
        CudaTape::of(self, deltas, prefix, groups)
    }

    fn replace(&self, tape: &mut CudaTape, _: &Deltas, completions: &[(usize, usize, &[u32])]) -> Result<()> {
        tape.replace(self, completions)
    }

    fn retain(&self, tape: &mut CudaTape, prompts: &[usize]) -> Result<()> {
        tape.retain(prompts)
    }

    /// So many that their activations need not be computed again, where that is enough to keep the device busy. It follows
    /// from the device's size and not from what is free, so that a run that goes on has the micro-batches that it had;
    /// unless others take so much that not even these rows would fit.
    fn rows_at_once(&self) -> Result<usize> {
        let state = self.lock();
        let (blocks, hidden) = (state.blocks.len(), self.config.hidden_size);
        let activations = self.activation_bytes(&state.blocks);
        let kept = blocks * (activations + 4 * hidden);
        let again = 2 * activations + 4 * hidden * (blocks + 3);
        let held = state.workspace.as_ref().map_or(0, |w| self.workspace_bytes(&state, w.rows, w.batch));
        let info = self.device.info()?;
        let weights = self.config.parameters() as usize * self.format.bytes();
        let room = info.total.saturating_sub(weights) / KEPT.1 * KEPT.0;
        let fits = (info.free + held) / 9 * 8 / again.max(1);
        Ok((room / kept.max(1)).clamp(LEAST_ROWS, MOST_ROWS).min(fits.max(LEAST_ROWS)))
    }

    fn bytes(&self, _: &CudaTape) -> usize {
        0
    }

    fn predicted(&self, tape: &CudaTape, predictions: &Predictions, temperature: f32) -> Result<Vec<TokenStatistics>> {
        if predictions.rows.is_empty() {
            return Ok(Vec::new());
        }
        check(tape, predictions)?;
        let mut state = self.lock();
        self.place(&mut state, &tape.deltas)?;
        self.make_room(&mut state, tape, false)?;
        let forward = self.forward(&state, tape, false)?;
        self.statistics(forward.last.view(), predictions, temperature)
    }

    fn zero_gradients(&self, deltas: &Deltas) -> Result<CudaGradients> {
        CudaGradients::zeros(&self.device, deltas)
    }

    /// Recomputes all predictions that have a weight.
    fn backward(
        &self,
        tape: &CudaTape,
        objective: Objective<'_>,
        deltas: &Deltas,
        gradients: &mut CudaGradients,
    ) -> Result<Vec<Option<TokenStatistics>>> {
        let Predictions { rows, targets, .. } = objective.predictions;
        let mut formed: Vec<Option<TokenStatistics>> = vec![None; rows.len()];
        let asked: Vec<usize> =
            (0..rows.len()).filter(|i| objective.weights.get(*i).is_some_and(|w| *w != (0.0, 0.0))).collect();
        let lowest = deltas.iter().position(|layer| layer.iter().any(Option::is_some));
        let (Some(lowest), false) = (lowest, asked.is_empty()) else { return Ok(formed) };
        self.config.check_tokens(targets)?;
        check(tape, objective.predictions)?;
        let mut state = self.lock();
        self.place(&mut state, deltas)?;
        self.make_room(&mut state, tape, true)?;
        let forward = self.forward(&state, tape, true)?;
        let buffers = self.buffers(&state, forward.rows)?;
        let found = self.head_backward(&forward, &buffers, &asked, objective)?;
        asked.iter().zip(found).for_each(|(i, found)| formed[*i] = Some(found));
        let (decoder, blocks) = (self, state.blocks.len());
        let pass = Pass { decoder, state: &state, forward: &forward, buffers: &buffers, sums: gradients, lowest };
        (lowest..blocks).rev().try_for_each(|index| pass.block(index))?;
        Ok(formed)
    }
}

impl CudaDecoder {
    /// Frees what generation keeps for its next call where a pass over so many rows would not fit beside it.
    fn make_room(&self, state: &mut State, tape: &CudaTape, learn: bool) -> Result<()> {
        if state.workspace.is_none() {
            return Ok(());
        }
        let rows = tape.rows();
        // Inputs of blocks, and the gradients around the last norm.
        let streams = if learn { state.blocks.len() + 3 } else { 1 };
        let passes = if learn { 2 } else { 1 };
        let row = passes * self.activation_bytes(&state.blocks) + 4 * streams * self.config.hidden_size;
        let partial = if learn { tape.layout().plan(self.format).bytes(self.heads) } else { 0 };
        let logits = self.head_rows() * self.config.vocab_size * 8;
        // Buffers are up to an eighth larger than what they are asked to hold.
        let needed = (rows * row + logits + partial) / 8 * 9;
        if needed > self.device.available()? {
            state.workspace = None;
        }
        Ok(())
    }

    /// A forward pass over a tape's rows; `learn` keeps what the backward pass needs.
    fn forward(&self, state: &State, tape: &CudaTape, learn: bool) -> Result<Forward> {
        let (device, hidden) = (&self.device, self.config.hidden_size);
        let layout: Layout = tape.layout();
        let rows = layout.tokens.len();
        let ends = layout.upload_ends(device, self.format)?;
        let plan = learn.then(|| device.plan_keys(&layout.plan(self.format), self.heads)).transpose()?;
        let (tokens, positions) = (device.upload(&layout.tokens)?, device.upload(&layout.positions)?);
        let residual = || device.allocate(4 * rows * hidden);
        let mut last = residual()?;
        let angles = self.angles(rows)?;
        self.embed((tokens.view(), positions.view()), last.view(), angles.view(), rows)?;
        let count = state.blocks.len();
        let keep = learn && {
            let free = device.available()?;
            count * rows * self.activation_bytes(&state.blocks) <= free / KEPT.1 * KEPT.0
        };
        let mut inputs = Vec::new();
        let mut kept = Vec::new();
        let mut a = self.activations(&state.blocks, rows)?;
        for (index, block) in state.blocks.iter().enumerate() {
            let context = Context::Tree(tree(&ends, rows));
            let at = (rows, angles.view());
            if learn {
                let output = residual()?;
                if keep && index > 0 {
                    kept.push(std::mem::replace(&mut a, self.activations(&state.blocks, rows)?));
                }
                let stream = Stream { input: last.view(), middle: a.middle.view(), output: output.view() };
                self.block((index, block), &a, stream, at, context)?;
                inputs.push(std::mem::replace(&mut last, output));
            } else {
                let stream = Stream { input: last.view(), middle: last.view(), output: last.view() };
                self.block((index, block), &a, stream, at, context)?;
            }
        }
        kept.push(a);
        Ok(Forward { inputs, last, kept, angles, ends, plan, rows })
    }

    fn buffers(&self, state: &State, rows: usize) -> Result<Buffers> {
        let blocks = &state.blocks;
        let buffer = |width: usize| self.device.allocate(rows * width * self.format.bytes());
        let hidden = self.config.hidden_size;
        Ok(Buffers {
            dx: self.device.zeros(4 * rows * hidden)?,
            dy: buffer(hidden)?,
            dh: buffer(widest(blocks, 0).max(widest(blocks, 2)))?,
            dattended: buffer(widest(blocks, 1))?,
            dactivated: buffer(widest(blocks, 3))?,
            dgate_up: buffer(2 * self.config.intermediate_size)?,
            dqkv: buffer(self.heads.width())?,
            delta: self.device.allocate(4 * rows * self.config.num_attention_heads)?,
        })
    }

    /// From the predictions that are asked for to the gradient of the residual stream behind the last block.
    fn head_backward(
        &self,
        forward: &Forward,
        buffers: &Buffers,
        asked: &[usize],
        objective: Objective<'_>,
    ) -> Result<Vec<TokenStatistics>> {
        let (device, hidden, vocabulary) = (&self.device, self.config.hidden_size, self.config.vocab_size);
        let Predictions { rows, targets, .. } = objective.predictions;
        let chunk = self.head_rows().min(asked.len());
        let normed = device.allocate(chunk * hidden * self.format.bytes())?;
        let logits = device.allocate(4 * chunk * vocabulary)?;
        let dlogits = device.allocate(chunk * vocabulary * self.format.bytes())?;
        let dhidden = device.allocate(4 * asked.len() * hidden)?;
        let mut found = Vec::with_capacity(asked.len());
        for (nth, part) in asked.chunks(chunk).enumerate() {
            let count = part.len();
            let wanted: Vec<i32> = part.iter().map(|i| rows[*i] as i32).collect();
            let named: Vec<u32> = part.iter().map(|i| targets[*i]).collect();
            let weights: Vec<f32> =
                part.iter().flat_map(|i| [objective.weights[*i].0, objective.weights[*i].1]).collect();
            let (wanted, named, weights) = (device.upload(&wanted)?, device.upload(&named)?, device.upload(&weights)?);
            self.logits(forward.last.view(), Some(wanted.view()), normed.view(), logits.view(), count)?;
            let out = device.allocate(8 * count)?;
            let derivatives = Matrix::new(dlogits.view(), self.format, count, vocabulary);
            let asks = (named.view(), weights.view());
            let within = self.within(objective.predictions, part.iter().copied())?;
            let scale = 1.0 / objective.temperature;
            device.statistics_backward(logits.view(), asks, out.view(), derivatives, scale, within.as_ref())?;
            let to = Matrix::new(dhidden.view().from(4 * nth * chunk * hidden), Format::F32, count, hidden);
            device.multiply((derivatives, false), (self.head(), false), to, 1.0, 0.0)?;
            let mut numbers = vec![0f32; 2 * count];
            device.read(out.view(), &mut numbers)?;
            found.extend(pairs(&numbers));
        }
        self.scatter(forward, buffers, &dhidden, asked.iter().map(|i| rows[*i]))?;
        Ok(found)
    }

    /// From the gradients of predicting rows' hidden states to that of the residual stream behind the last block.
    fn scatter(
        &self,
        forward: &Forward,
        buffers: &Buffers,
        dhidden: &Buffer,
        rows: impl Iterator<Item = usize>,
    ) -> Result<()> {
        let (device, hidden) = (&self.device, self.config.hidden_size);
        // A row may predict several tokens: the end of a prompt predicts the first one of every completion.
        let mut places: Vec<(i32, i32)> = rows.enumerate().map(|(place, row)| (row as i32, place as i32)).collect();
        places.sort_unstable();
        let of_row: Vec<&[(i32, i32)]> = places.chunk_by(|a, b| a.0 == b.0).collect();
        let targets: Vec<i32> = of_row.iter().map(|places| places[0].0).collect();
        let mut offsets = vec![0i32];
        offsets.extend(of_row.iter().scan(0, |end, places| {
            *end += places.len() as i32;
            Some(*end)
        }));
        let order: Vec<i32> = places.iter().map(|(_, place)| *place).collect();
        let dnormed = device.zeros(4 * forward.rows * hidden)?;
        let (order, offsets, targets) = (device.upload(&order)?, device.upload(&offsets)?, device.upload(&targets)?);
        let lists = (order.view(), offsets.view(), targets.view());
        device.gather_sums(dhidden.view(), lists, dnormed.view(), of_row.len(), hidden)?;
        let dnormed = Matrix::new(dnormed.view(), Format::F32, forward.rows, hidden);
        let (x, dx) = (forward.last.view(), buffers.dx.view());
        device.rms_norm_backward(x, self.norm.view(), dnormed, (dx, None), self.config.rms_norm_eps)?;
        let dx = Matrix::new(dx, Format::F32, forward.rows, hidden);
        device.place(dx, Matrix::new(buffers.dy.view(), self.format, forward.rows, hidden), 1.0)
    }
}

impl Pass<'_> {
    /// One block: `buffers.dx` is the gradient of its output, `buffers.dy` the same as products read it; both become that of
    /// its input (not in the lowest one).
    fn block(&self, index: usize) -> Result<()> {
        let Self { decoder, state, forward, buffers, .. } = *self;
        let CudaDecoder { device, config, format, heads, .. } = decoder;
        let (format, heads, rows) = (*format, *heads, forward.rows);
        let (hidden, wide, eps) = (config.hidden_size, config.intermediate_size, config.rms_norm_eps);
        let block: &Block = &state.blocks[index];
        let input = &forward.inputs[index];
        let tree: PackedTree<'_> = tree(&forward.ends, rows);
        let a = match forward.kept.as_slice() {
            [room] => {
                if state.blocks.len() > 1 {
                    // The gradient of the output is in `dx`; what the block gave is not needed a second time.
                    let output = forward.inputs.get(index + 1).unwrap_or(&forward.last);
                    let stream = Stream { input: input.view(), middle: room.middle.view(), output: output.view() };
                    decoder.block((index, block), room, stream, (rows, forward.angles.view()), Context::Tree(tree))?;
                }
                room
            }
            kept => &kept[index],
        };
        let [qkv_group, output_group, gate_up_group, down] = &block.groups;
        let dy = Matrix::new(buffers.dy.view(), format, rows, hidden);

        let dactivated = decoder.input(down, &buffers.dactivated, rows);
        self.group(down, index, decoder.input(down, &a.activated, rows), dy, dactivated)?;
        device.swiglu_backward(a.gate_up.view(), dactivated, buffers.dgate_up.view())?;
        let dgate_up = Matrix::new(buffers.dgate_up.view(), format, rows, 2 * wide);
        let dwide = decoder.input(gate_up_group, &buffers.dh, rows);
        self.group(gate_up_group, index, decoder.input(gate_up_group, &a.wide_h, rows), dgate_up, dwide)?;
        let both = (buffers.dx.view(), Some(dy.view));
        device.rms_norm_backward(a.middle.view(), block.mlp_norm.view(), dwide, both, eps)?;

        let attended = decoder.input(output_group, &a.attended, rows);
        let dattended = decoder.input(output_group, &buffers.dattended, rows);
        self.group(output_group, index, attended, dy, dattended)?;
        let qkv = Matrix::new(a.qkv.view(), format, rows, heads.width());
        let (log_sums, delta) = (a.log_sums.view(), buffers.delta.view());
        let dqkv = buffers.dqkv.view();
        let (out, dout) = (attended, dattended);
        let plan = forward.plan.as_ref().ok_or_else(|| Error::bug("backward pass on a GPU", "no plan of its keys"))?;
        device.attend_backward(AttentionGradient { qkv, tree, plan, heads, out, dout, log_sums, delta, dqkv })?;
        let (raw, angles) = (a.raw.as_ref().unwrap_or(&a.qkv).view(), forward.angles.view());
        device.rotate_backward(&decoder.rotation(block), RotatedRows { raw, rotated: dqkv, angles, rows })?;
        let dqkv = Matrix::new(dqkv, format, rows, heads.width());
        let dh = decoder.input(qkv_group, &buffers.dh, rows);
        self.group(qkv_group, index, decoder.input(qkv_group, &a.h, rows), dqkv, dh)?;
        if index != self.lowest {
            device.rms_norm_backward(input.view(), block.attention_norm.view(), dh, both, eps)?;
        }
        Ok(())
    }

    /// From the gradient of a group's outputs to that of its input and those of its deltas.
    ///
    /// With `l = x Aᵀ` and `g = s dy B`: dA = gᵀ x, dB = s dyᵀ l, dx = dy W + g A.
    fn group(&self, group: &Group, index: usize, x: Matrix<'_>, dy: Matrix<'_>, dx: Matrix<'_>) -> Result<()> {
        let CudaDecoder { device, format, .. } = self.decoder;
        let bytes = format.bytes();
        let whole = Matrix { columns: group.stride(), ..dx };
        device.multiply((dy, false), (group.weight(*format), false), whole, 1.0, 0.0)?;
        let Some(low) = &group.low else { return Ok(()) };
        for part in &group.parts {
            let Some((from, rank)) = part.low else { continue };
            let shape = (rank, group.input, part.output);
            let (sum_a, sum_b) = self.sums.of(index, part.projection, shape)?;
            let gradient = Matrix { view: dx.view.from((group.input + from) * bytes), columns: rank, ..dx };
            device.multiply((gradient, true), (x, false), sum_a, 1.0, 1.0)?;
            let reduced = Matrix { view: x.view.from((group.input + from) * bytes), columns: rank, ..x };
            let own = Matrix { view: dy.view.from(part.column * bytes), columns: part.output, ..dy };
            device.multiply((own, true), (reduced, false), sum_b, part.scale, 1.0)?;
        }
        let all = Matrix { view: dx.view.from(group.input * bytes), columns: group.room, ..dx };
        let low = Matrix::new(low.view(), *format, group.room, group.input);
        device.multiply((all, false), (low, false), dx, 1.0, 1.0)
    }
}
