//! The decoder on a GPU: the same passes as on the processor, over the kernels of [`kernels::device`](crate::kernels::device).
//!
//! A layer and its low-rank delta are one product there, too: the delta's `s·B` stands in further columns of the layer's
//! weights, and `x·Aᵀ` in further columns of the layer's input. The residual stream and all sums are in single precision,
//! what products read in bf16.
//!
//! Rows of a pass lie in depth-first order (prefix, a prompt, its completions, the next prompt), so that who may see whom
//! is one number a row. A decoding step is captured once for each batch size and then sent as one graph.

mod backward;
mod generate;
mod gradients;
mod pass;
mod tape;

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::adapter::Projection;
use super::config::ModelConfig;
use super::host::Deltas;
use super::source::ModelSource;
use crate::error::{Error, Result};
use crate::kernels::device::{Buffer, Device, DeviceInfo, Format, HeadShape, Matrix, View};
use crate::kernels::{LoraDelta, Precision};
use generate::Workspace;
pub use gradients::DeviceGradients;
pub use tape::DeviceTape;

/// Layers that read the same rows, in the order of a block.
const GROUPS: [&[Projection]; 4] = [
    &[Projection::Query, Projection::Key, Projection::Value],
    &[Projection::Output],
    &[Projection::Gate, Projection::Up],
    &[Projection::Down],
];

/// A decoder whose weights lie on a GPU. One pass runs at a time; calls from several threads wait for each other.
pub struct DeviceDecoder {
    device: Device,
    config: ModelConfig,
    format: Format,
    heads: HeadShape,
    /// (vocabulary, hidden).
    embedding: Buffer,
    /// The same shape, in models that do not share it with the embedding.
    head: Option<Buffer>,
    norm: Buffer,
    frequencies: Buffer,
    state: Mutex<State>,
}

impl std::fmt::Debug for DeviceDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceDecoder")
            .field("device", &self.device)
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

/// What passes change.
struct State {
    layers: Vec<Layer>,
    /// The deltas whose factors stand in the layers; none while that is not known.
    placed: Option<Vec<[Option<LoraDelta>; Projection::COUNT]>>,
    workspace: Option<Workspace>,
}

struct Layer {
    attention_norm: Buffer,
    mlp_norm: Buffer,
    query_norm: Option<Buffer>,
    key_norm: Option<Buffer>,
    /// Of queries, keys and values together.
    bias: Option<Buffer>,
    /// As in [`GROUPS`].
    groups: [Group; 4],
}

/// Layers that read the same rows.
struct Group {
    input: usize,
    /// Of all of them.
    output: usize,
    /// (output, input + room): the weights, and behind them the `s·B` of every delta in its own columns.
    weight: Buffer,
    /// (room, input): the A of every delta in its own rows.
    low: Option<Buffer>,
    room: usize,
    parts: Vec<Part>,
}

/// One layer of a group.
#[derive(Clone, Copy)]
struct Part {
    projection: Projection,
    /// Its first row in the weights, which is its first column in the outputs.
    column: usize,
    output: usize,
    /// The first column of its delta in the room, and the delta's rank.
    low: Option<(usize, usize)>,
    scale: f32,
}

impl Group {
    fn stride(&self) -> usize {
        self.input + self.room
    }

    fn weight(&self, format: Format) -> Matrix<'_> {
        Matrix::new(self.weight.view(), format, self.output, self.stride())
    }
}

impl DeviceDecoder {
    /// Copies a model's weights to a device.
    pub(super) fn load(
        device: Device,
        source: &ModelSource,
        precision: Precision,
        progress: &dyn Fn(usize, usize),
    ) -> Result<Self> {
        let config = source.config().clone();
        let format = match precision {
            Precision::F32 => Format::F32,
            Precision::Auto | Precision::Bf16 => Format::Bf16,
            Precision::Int8 => {
                let remedy = "weights of 8 bits are for the processor: take precision auto, or device cpu";
                return Err(Error::argument("precision", format!("int8 on {}", device.name()), remedy));
            }
        };
        let (queries, keys) = (config.num_attention_heads, config.num_key_value_heads);
        if config.head_dim > 128 || queries / keys > 16 {
            let found = format!("heads of {} values, {} queries to a key", config.head_dim, queries / keys);
            let remedy = "at most 128 and 16 run on a GPU; use --device cpu";
            return Err(Error::device(device.name(), found, remedy));
        }
        let heads = HeadShape { queries: queries as i32, keys: keys as i32, dim: config.head_dim as i32 };
        let values = |name: &str| Ok::<_, Error>(source.tensor(name)?.flatten_all()?.to_vec1::<f32>()?);
        let vector = |name: &str| device.upload(&values(name)?);
        let table = |name: &str| -> Result<Buffer> {
            let (rows, columns) = (config.vocab_size, config.hidden_size);
            let buffer = device.allocate(rows * columns * format.bytes())?;
            let from = device.upload(&values(name)?)?;
            let from = Matrix::new(from.view(), Format::F32, rows, columns);
            device.place(from, Matrix::new(buffer.view(), format, rows, columns), 1.0)?;
            // The values in single precision are given back before the next ones come.
            device.synchronize()?;
            Ok(buffer)
        };
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for index in 0..config.num_hidden_layers {
            let prefix = format!("model.layers.{index}");
            let group = |projections: &[Projection]| -> Result<Group> {
                let shapes = projections.iter().map(|p| p.shape(&config));
                let (input, output) = shapes.fold((0, 0), |(_, sum), (input, output)| (input, sum + output));
                let weight = device.allocate(output * input * format.bytes())?;
                let mut parts = Vec::with_capacity(projections.len());
                let mut column = 0;
                for projection in projections {
                    let (_, output) = projection.shape(&config);
                    let from = device.upload(&values(&format!("{prefix}.{}.weight", projection.path()))?)?;
                    let to = weight.view().from(column * input * format.bytes());
                    let from = Matrix::new(from.view(), Format::F32, output, input);
                    device.place(from, Matrix::new(to, format, output, input), 1.0)?;
                    device.synchronize()?;
                    parts.push(Part { projection: *projection, column, output, low: None, scale: 0.0 });
                    column += output;
                }
                Ok(Group { input, output, weight, low: None, room: 0, parts })
            };
            let mut bias = Vec::new();
            for projection in GROUPS[0] {
                let name = format!("{prefix}.{}.bias", projection.path());
                if source.has(&name) {
                    bias.extend(values(&name)?);
                }
            }
            let norm = |name: &str| vector(&format!("{prefix}.{name}.weight"));
            let [qkv, output, gate_up, down] = GROUPS.map(group);
            layers.push(Layer {
                attention_norm: norm("input_layernorm")?,
                mlp_norm: norm("post_attention_layernorm")?,
                query_norm: config.qk_norm.then(|| norm("self_attn.q_norm")).transpose()?,
                key_norm: config.qk_norm.then(|| norm("self_attn.k_norm")).transpose()?,
                bias: (!bias.is_empty()).then(|| device.upload(&bias)).transpose()?,
                groups: [qkv?, output?, gate_up?, down?],
            });
            progress(index + 1, config.num_hidden_layers);
        }
        Ok(Self {
            embedding: table("model.embed_tokens.weight")?,
            head: (!config.tie_word_embeddings).then(|| table("lm_head.weight")).transpose()?,
            norm: vector("model.norm.weight")?,
            frequencies: device.upload(&config.rope_frequencies())?,
            state: Mutex::new(State { layers, placed: Some(Vec::new()), workspace: None }),
            device,
            config,
            format,
            heads,
        })
    }

    /// The model's shapes.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The device that it runs on.
    ///
    /// # Errors
    /// A device that is lost.
    pub fn info(&self) -> Result<DeviceInfo> {
        self.device.info()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn embedding(&self) -> Matrix<'_> {
        Matrix::new(self.embedding.view(), self.format, self.config.vocab_size, self.config.hidden_size)
    }

    fn head(&self) -> Matrix<'_> {
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        Matrix::new(head.view(), self.format, self.config.vocab_size, self.config.hidden_size)
    }

    fn check(&self, tokens: &[u32]) -> Result<()> {
        let size = self.config.vocab_size;
        match tokens.iter().find(|token| **token as usize >= size) {
            None => Ok(()),
            Some(token) => Err(Error::argument(
                "tokens",
                format!("token {token} lies outside the vocabulary of {size}"),
                "use the tokenizer that belongs to this model",
            )),
        }
    }

    /// Writes the factors of these deltas into the layers, unless they stand there.
    fn place(&self, state: &mut State, deltas: &Deltas) -> Result<()> {
        let same = |a: &Option<LoraDelta>, b: &Option<LoraDelta>| match (a, b) {
            (Some(a), Some(b)) => a.is(b),
            (None, None) => true,
            _ => false,
        };
        let stand = state.placed.as_ref().is_some_and(|placed| {
            placed.len() == deltas.len()
                && placed.iter().zip(deltas).all(|(a, b)| a.iter().zip(b).all(|(a, b)| same(a, b)))
        });
        if stand {
            return Ok(());
        }
        // Half of them may stand there when something fails.
        state.placed = None;
        let State { layers, workspace, .. } = state;
        if let Some(workspace) = workspace {
            workspace.forget_prefix();
        }
        for (index, layer) in layers.iter_mut().enumerate() {
            for group in &mut layer.groups {
                self.place_group(group, deltas.get(index), workspace)?;
            }
        }
        state.placed = Some(deltas.to_vec());
        Ok(())
    }

    /// Writes the factors of deltas that an optimiser has on the device: `values` are those of all, one behind the other in the
    /// order of [`Adapter::parameters`](crate::model::Adapter::parameters), in single precision. Where deltas of another shape
    /// stand in the layers, nothing is written: the next pass takes these from the host.
    ///
    /// # Errors
    /// Too few values, a device that is lost.
    pub fn take_values(&self, deltas: &Deltas, values: View<'_>) -> Result<()> {
        let alike = |a: &Option<LoraDelta>, b: &Option<LoraDelta>| match (a, b) {
            (Some(a), Some(b)) => a.rank() == b.rank() && a.scale() == b.scale(),
            (None, None) => true,
            _ => false,
        };
        let mut state = self.lock();
        let State { layers, placed, workspace } = &mut *state;
        let fits = placed.as_ref().is_some_and(|placed| {
            placed.len() == deltas.len()
                && placed.iter().flatten().zip(deltas.iter().flatten()).all(|(a, b)| alike(a, b))
        });
        if !fits {
            return Ok(());
        }
        // Half of them may stand there when something fails.
        *placed = None;
        if let Some(workspace) = workspace {
            workspace.forget_prefix();
        }
        let mut rest = values;
        let mut next = |rows: usize, columns: usize| {
            let own = Matrix::new(rest, Format::F32, rows, columns);
            rest = rest.from(4 * rows * columns);
            own
        };
        for group in layers.iter().flat_map(|layer| &layer.groups) {
            let Some(low) = &group.low else { continue };
            for part in &group.parts {
                let Some((from, rank)) = part.low else { continue };
                let place = low.view().from(from * group.input * self.format.bytes());
                let a = Matrix::new(place, self.format, rank, group.input);
                self.device.place(next(rank, group.input), a, 1.0)?;
                let b = group.weight(self.format).columns(group.input + from, rank).rows(part.column, part.output);
                self.device.place(next(part.output, rank), b, part.scale)?;
            }
        }
        *placed = Some(deltas.to_vec());
        Ok(())
    }

    /// Writes the factors of a group's deltas; where they need more room, the weights move.
    fn place_group(
        &self,
        group: &mut Group,
        deltas: Option<&[Option<LoraDelta>; Projection::COUNT]>,
        workspace: &mut Option<Workspace>,
    ) -> Result<()> {
        let delta = |part: &Part| deltas.and_then(|d| d[part.projection as usize].as_ref());
        let mut needed = 0;
        for part in &mut group.parts {
            part.low = delta(part).map(|d| (needed, d.rank()));
            part.scale = delta(part).map_or(0.0, LoraDelta::scale);
            // Tensor cores want columns in eights.
            needed += delta(part).map_or(0, |d| d.rank().next_multiple_of(8));
        }
        let (input, output) = (group.input, group.output);
        if needed > group.room {
            let low = self.device.allocate(needed * input * self.format.bytes())?;
            let weight = self.device.allocate(output * (input + needed) * self.format.bytes())?;
            let to = Matrix::new(weight.view(), self.format, output, input + needed).columns(0, input);
            self.device.move_rows(group.weight(self.format).columns(0, input), to)?;
            // Captured graphs know where the weights were: they go before the weights do.
            *workspace = None;
            (group.weight, group.low, group.room) = (weight, Some(low), needed);
        }
        let (Some(low), room) = (&group.low, group.room) else { return Ok(()) };
        let mut a = vec![0f32; room * input];
        let mut b = vec![0f32; output * room];
        for part in &group.parts {
            let (Some(delta), Some((from, rank))) = (delta(part), part.low) else { continue };
            let (factor_a, factor_b) = delta.factors();
            a[from * input..(from + rank) * input].copy_from_slice(factor_a);
            for (row, values) in factor_b.chunks_exact(rank).enumerate() {
                let to = (part.column + row) * room + from;
                b[to..to + rank].copy_from_slice(values);
                b[to..to + rank].iter_mut().for_each(|v| *v *= part.scale);
            }
        }
        let put = |values: &[f32], to: Matrix<'_>| {
            let from = self.device.upload(values)?;
            self.device.place(Matrix::new(from.view(), Format::F32, to.rows, to.columns), to, 1.0)
        };
        put(&a, Matrix::new(low.view(), self.format, room, input))?;
        put(&b, group.weight(self.format).columns(input, room))
    }
}
