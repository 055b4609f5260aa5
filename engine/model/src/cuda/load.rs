//! Copies a model's weights to a device.

use std::sync::Mutex;

use super::{CudaDecoder, Group, Part, State};
use crate::config::ModelConfig;
use crate::source::ModelSource;
use crate::tensor::Tensor;
use crate::weights::{GROUPS, GroupTensors, Pack, Weights};
use querywright_kernels::Precision;
use querywright_kernels::device::{Buffer, Device, Format, HeadShape, Matrix};
use querywright_types::{Error, Observe, Result};

/// Copies weights to a device in a format.
struct Packer<'a> {
    device: &'a Device,
    format: Format,
    config: &'a ModelConfig,
}

impl Packer<'_> {
    /// Writes a matrix in single precision into a buffer of the format.
    fn place(&self, weight: &Tensor, to: Matrix<'_>) -> Result<()> {
        let from = self.device.upload(weight.values())?;
        self.device.place(Matrix::new(from.view(), Format::F32, to.rows, to.columns), to, 1.0)?;
        // The values in single precision are given back before the next ones come.
        self.device.synchronize()
    }

    fn table(&self, weight: &Tensor) -> Result<Buffer> {
        let (rows, columns) = (self.config.vocab_size, self.config.hidden_size);
        let buffer = self.device.allocate(rows * columns * self.format.bytes())?;
        self.place(weight, Matrix::new(buffer.view(), self.format, rows, columns))?;
        Ok(buffer)
    }
}

impl Pack for Packer<'_> {
    type Norm = Buffer;
    type Group = Group;
    type Embedding = Buffer;
    type Head = Option<Buffer>;

    fn norm(&self, weight: &Tensor) -> Result<Buffer> {
        self.device.upload(weight.values())
    }

    fn group(&self, tensors: &GroupTensors<'_>) -> Result<Group> {
        let shapes = tensors.projections.iter().map(|p| p.shape(self.config));
        let (input, output) = shapes.fold((0, 0), |(_, sum), (input, output)| (input, sum + output));
        let weight = self.device.allocate(output * input * self.format.bytes())?;
        let mut parts = Vec::with_capacity(tensors.projections.len());
        let mut bias = Vec::new();
        let mut column = 0;
        for projection in tensors.projections {
            let (_, output) = projection.shape(self.config);
            let to = weight.view().from(column * input * self.format.bytes());
            self.place(&tensors.weight(*projection)?, Matrix::new(to, self.format, output, input))?;
            if let Some(own) = tensors.bias(*projection)? {
                bias.extend_from_slice(own.values());
            }
            parts.push(Part { projection: *projection, column, output, low: None, scale: 0.0 });
            column += output;
        }
        // The kernels add a bias to queries, keys and values alone, and to all of them.
        if !bias.is_empty() && (bias.len() != output || tensors.projections != GROUPS[0]) {
            return Err(Error::bug("weights on a GPU", format!("{} biases for {:?}", bias.len(), tensors.projections)));
        }
        let bias = (!bias.is_empty()).then(|| self.device.upload(&bias)).transpose()?;
        Ok(Group { input, output, weight, bias, low: None, room: 0, parts })
    }

    fn embedding(&self, weight: Tensor) -> Result<Buffer> {
        self.table(&weight)
    }

    fn head(&self, weight: &Tensor, tied: bool) -> Result<Option<Buffer>> {
        (!tied).then(|| self.table(weight)).transpose()
    }
}

impl CudaDecoder {
    /// Opens device `ordinal` and copies a model's weights to it. `observer` is told after each layer how many of how many
    /// are done.
    pub(crate) fn load(
        ordinal: usize,
        source: &ModelSource,
        precision: Precision,
        observer: &dyn Observe,
    ) -> Result<Self> {
        let device = Device::open(ordinal)?;
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
        if config.attention_output_bias || config.mlp_bias {
            let found = "biases of layers behind attention (attention_bias, mlp_bias)";
            return Err(Error::device(device.name(), found, "they are for the processor: use --device cpu"));
        }
        let (dim, scale) = (config.head_dim as i32, config.attention_scale());
        let heads = HeadShape { queries: queries as i32, keys: keys as i32, dim, scale };
        let packer = Packer { device: &device, format, config: &config };
        let Weights { embedding, blocks, norm, head } = Weights::load(source, &packer, observer)?;
        let frequencies = device.upload(&config.rope_frequencies())?;
        let state = Mutex::new(State { blocks, placed: Some(Vec::new()), workspace: None });
        Ok(Self { device, config, format, heads, embedding, head, norm, frequencies, state })
    }
}
