//! The backward pass: from the weights of log-probabilities to the gradients of deltas.

use super::{HostDecoder, HostGradients, HostTape, Recording};
use crate::adapter::{Deltas, Projection};
use crate::backend::{Group, Learn};
use crate::objective::{Objective, Predictions};
use querywright_kernels::{
    Angles, Attended, LoraGradient, TokenStatistics, Tree, WeightedToken, apply_backward, attend_backward,
    log_probabilities, log_probabilities_backward, sampled_backward, swiglu, swiglu_backward,
};
use querywright_types::Result;

/// One in so many predictions is recomputed although the sampler kept its distribution, so that the gap between the
/// sampler's numbers and the trainer's is measured and not assumed.
const CHECKED: usize = 32;

/// Rows that go through the feed-forward half together: few enough for their buffers to stay in the cache.
const CHUNK: usize = 384;

impl Learn for HostDecoder {
    type Gradients = HostGradients;

    fn tape(&self, deltas: &Deltas, prefix: &[u32], groups: &[Group<'_>]) -> Result<HostTape> {
        HostTape::of(self, deltas, prefix, groups)
    }

    fn replace(&self, tape: &mut HostTape, deltas: &Deltas, completions: &[(usize, usize, &[u32])]) -> Result<()> {
        tape.replace(self, deltas, completions)
    }

    fn retain(&self, tape: &mut HostTape, prompts: &[usize]) -> Result<()> {
        tape.retain(self, prompts)
    }

    fn rows_at_once(&self) -> Result<usize> {
        Ok(4096)
    }

    fn bytes(&self, tape: &HostTape) -> usize {
        tape.recording().rows() * Recording::bytes_per_row(self)
    }

    fn zero_gradients(&self, deltas: &Deltas) -> Result<HostGradients> {
        Ok(HostGradients::zeros(deltas))
    }

    fn predicted(&self, tape: &HostTape, predictions: &Predictions, temperature: f32) -> Result<Vec<TokenStatistics>> {
        self.config.check_tokens(&predictions.targets)?;
        let hidden = self.hidden(tape.recording(), &predictions.rows);
        Ok(log_probabilities(&self.head, &hidden, predictions.within(), temperature))
    }

    /// Recomputes one in [`CHECKED`] of the predictions whose distribution the sampler kept.
    fn backward(
        &self,
        tape: &HostTape,
        objective: Objective<'_>,
        deltas: &Deltas,
        gradients: &mut HostGradients,
    ) -> Result<Vec<Option<TokenStatistics>>> {
        let Objective { predictions, temperature, weights, sampled } = objective;
        self.config.check_tokens(&predictions.targets)?;
        let recording = tape.recording();
        let token = |i: usize| {
            let statistics = *sampled.get(i).filter(|s| s.log_probability.is_finite())?;
            let distribution = recording.distribution(predictions.rows[i])?;
            Some(WeightedToken { distribution, token: predictions.targets[i], statistics, weights: weights[i] })
        };
        let weighted = (0..weights.len()).filter(|i| weights[*i] != (0.0, 0.0) && !predictions.is_forced(*i));
        let (kept, formed): (Vec<usize>, Vec<usize>) = weighted.partition(|i| i % CHECKED > 0 && token(*i).is_some());
        let again = predictions.select(&formed);
        let own: Vec<(f32, f32)> = formed.iter().map(|i| weights[*i]).collect();
        let width = self.config.hidden_size;
        let hidden = self.hidden(recording, &again.rows);
        let mut dhidden = vec![0.0; (formed.len() + kept.len()) * width];
        let (dformed, dkept) = dhidden.split_at_mut(hidden.len());
        let found = log_probabilities_backward(&self.head, &hidden, again.within(), temperature, &own, dformed);
        let mut statistics = vec![None; weights.len()];
        formed.iter().zip(found).for_each(|(i, found)| statistics[*i] = Some(found));
        let tokens: Vec<WeightedToken<'_>> = kept.iter().filter_map(|i| token(*i)).collect();
        sampled_backward(&self.head, &tokens, temperature, dkept);
        let rows = formed.iter().chain(&kept).map(|i| predictions.rows[*i]);
        // A row may predict several tokens: the end of a prompt predicts the first one of every completion.
        let mut dnormed = vec![0.0; recording.rows() * width];
        for (row, from) in rows.zip(dhidden.chunks_exact(width)) {
            dnormed[row * width..(row + 1) * width].iter_mut().zip(from).for_each(|(to, d)| *to += d);
        }
        let mut dx = vec![0.0; dnormed.len()];
        self.norm.add_backward(recording.last(), &dnormed, &mut dx);
        // Below the lowest block with a delta no gradient is needed.
        let lowest = deltas.iter().position(|layer| layer.iter().any(Option::is_some));
        let mut pass = Pass::new(self, recording, tape.tree(), deltas);
        for index in (lowest.unwrap_or(self.blocks.len())..self.blocks.len()).rev() {
            pass.block(index, &mut gradients.0[index], &mut dx, Some(index) == lowest);
        }
        Ok(statistics)
    }
}

impl HostDecoder {
    /// The hidden states after the last norm of recorded rows.
    fn hidden(&self, recording: &Recording, rows: &[usize]) -> Vec<f32> {
        let width = self.config.hidden_size;
        let mut last = Vec::with_capacity(rows.len() * width);
        rows.iter().for_each(|row| last.extend_from_slice(&recording.last()[row * width..][..width]));
        let mut hidden = vec![0.0; last.len()];
        self.norm.apply(&last, &mut hidden);
        hidden
    }
}

/// Buffers of one backward pass; each has as many rows as the recording, those of the feed-forward half a chunk's.
struct Pass<'a> {
    decoder: &'a HostDecoder,
    recording: &'a Recording,
    tree: Tree,
    deltas: &'a Deltas,
    angles: Angles,
    /// What a block's layers read, and its gradient.
    h: Vec<f32>,
    dh: Vec<f32>,
    activated: Vec<f32>,
    dactivated: Vec<f32>,
    dgate_up: Vec<f32>,
    dattended: Vec<f32>,
    dqkv: Vec<f32>,
}

impl<'a> Pass<'a> {
    fn new(decoder: &'a HostDecoder, recording: &'a Recording, tree: Tree, deltas: &'a Deltas) -> Self {
        let (rows, heads) = (recording.rows(), decoder.heads);
        let buffer = |width: usize| vec![0.0; rows * width];
        let (hidden, wide) = (decoder.config.hidden_size, decoder.config.intermediate_size);
        Self {
            decoder,
            recording,
            tree,
            deltas,
            angles: decoder.rope.angles(recording.positions()),
            h: buffer(hidden),
            dh: buffer(hidden),
            activated: vec![0.0; rows.min(CHUNK) * wide],
            dactivated: vec![0.0; rows.min(CHUNK) * wide],
            dgate_up: vec![0.0; rows.min(CHUNK) * 2 * wide],
            dattended: buffer(heads.queries * heads.dim),
            dqkv: buffer(heads.width()),
        }
    }

    /// One block: `dx` is the gradient of its output and becomes that of its input (not in the lowest one).
    fn block(
        &mut self,
        index: usize,
        sums: &mut [Option<LoraGradient>; Projection::COUNT],
        dx: &mut [f32],
        lowest: bool,
    ) {
        let HostDecoder { heads, rope, config, blocks, .. } = self.decoder;
        let (block, record) = (&blocks[index], self.recording.recorded(index));
        let (heads, hidden, wide) = (*heads, config.hidden_size, config.intermediate_size);
        let [qkv, output, gate_up_group, down_group] =
            block.groups.each_ref().map(|g| g.placed(self.deltas.get(index)));
        let [q, k, v, o, gate, up, down] = sums;

        let chunks = dx.chunks_mut(CHUNK * hidden).zip(record.middle.chunks(CHUNK * hidden));
        for ((dx, middle), gate_up) in chunks.zip(record.gate_up.chunks(CHUNK * 2 * wide)) {
            let rows = dx.len() / hidden;
            let (h, dh) = (&mut self.h[..rows * hidden], &mut self.dh[..rows * hidden]);
            let (activated, dactivated) = (&mut self.activated[..rows * wide], &mut self.dactivated[..rows * wide]);
            let dgate_up = &mut self.dgate_up[..rows * 2 * wide];
            swiglu(gate_up, wide, activated);
            apply_backward(&down_group, activated, dx, hidden, &mut [down.as_mut()], Some(dactivated));
            swiglu_backward(gate_up, wide, dactivated, dgate_up);
            block.mlp_norm.apply(middle, h);
            apply_backward(&gate_up_group, h, dgate_up, 2 * wide, &mut [gate.as_mut(), up.as_mut()], Some(dh));
            block.mlp_norm.add_backward(middle, dh, dx);
        }

        apply_backward(&output, record.attended, dx, hidden, &mut [o.as_mut()], Some(&mut self.dattended));
        self.dqkv.fill(0.0);
        let attended =
            Attended { qkv: record.qkv, out: record.attended, log_sums: record.log_sums, grad: &self.dattended };
        attend_backward(heads, &self.tree, attended, &mut self.dqkv);
        let (queries, keys) = (heads.queries * heads.dim, heads.keys * heads.dim);
        rope.rotate_back(&mut self.dqkv, heads.width(), queries + keys, &self.angles);
        if let (Some(query_norm), Some(key_norm)) = (&block.query_norm, &block.key_norm) {
            let both = queries + keys;
            query_norm.columns_backward(record.raw, both, &mut self.dqkv, heads.width(), 0..queries);
            key_norm.columns_backward(record.raw, both, &mut self.dqkv, heads.width(), queries..both);
        }
        block.attention_norm.apply(record.input, &mut self.h);
        let dh = (!lowest).then_some(self.dh.as_mut_slice());
        let sums = &mut [q.as_mut(), k.as_mut(), v.as_mut()];
        apply_backward(&qkv, &self.h, &self.dqkv, heads.width(), sums, dh);
        if !lowest {
            block.attention_norm.add_backward(record.input, &self.dh, dx);
        }
    }
}
