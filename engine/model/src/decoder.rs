//! A decoder where it runs: on the processor ([`HostDecoder`]) or on a GPU ([`DeviceDecoder`]). What generates and what
//! learns goes through here and does not know which.

use super::device::{DeviceDecoder, DeviceGradients, DeviceTape};
use super::generate::PromptTokens;
use super::host::{Deltas, HostDecoder, Objective, Predictions, Recording};
use super::source::ModelSource;
use super::tape::HostTape;
use super::{Adapter, GenerateOptions, ModelConfig, Projection};
use crate::error::{Error, Result};
use crate::kernels::device::{Device, DeviceInfo};
use crate::kernels::{LoraGradient, Precision, TokenStatistics};

/// Where a model runs, as the user writes it: `auto`, `cpu`, or `cuda:0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first GPU where this program and this machine can use one, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// This GPU.
    Cuda(usize),
}

impl std::str::FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let ordinal = text.strip_prefix("cuda").map(|rest| rest.strip_prefix(':').unwrap_or(rest));
        match (text, ordinal) {
            ("auto", _) => Ok(Self::Auto),
            ("cpu", _) => Ok(Self::Cpu),
            (_, Some("")) => Ok(Self::Cuda(0)),
            (_, Some(ordinal)) if ordinal.parse::<u16>().is_ok() => Ok(Self::Cuda(ordinal.parse().unwrap_or_default())),
            _ => Err(Error::argument("device", format!("found \"{text}\""), "give auto, cpu, or cuda:0")),
        }
    }
}

impl std::fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl serde::Serialize for DeviceChoice {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for DeviceChoice {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = <std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A decoder with frozen base weights.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a process holds one or two")]
pub enum Decoder {
    /// On the processor.
    Host(HostDecoder),
    /// On a GPU.
    Device(DeviceDecoder),
}

impl Decoder {
    /// Loads a model on the processor. `progress` is told after each layer how many of how many are done.
    ///
    /// # Errors
    /// A model that cannot be read.
    pub fn load(source: &ModelSource, precision: Precision, progress: &dyn Fn(usize, usize)) -> Result<Self> {
        Ok(Self::Host(HostDecoder::load(source, precision, progress)?))
    }

    /// Loads a model where it is to run.
    ///
    /// # Errors
    /// A model that cannot be read, a device that cannot be used or has too little memory.
    pub fn load_on(
        choice: DeviceChoice,
        source: &ModelSource,
        precision: Precision,
        progress: &dyn Fn(usize, usize),
    ) -> Result<Self> {
        let there = |ordinal| DeviceDecoder::load(Device::open(ordinal)?, source, precision, progress);
        match choice {
            DeviceChoice::Cpu => Self::load(source, precision, progress),
            DeviceChoice::Cuda(ordinal) => Ok(Self::Device(there(ordinal)?)),
            // Weights of 8 bits are asked for to run on the processor.
            DeviceChoice::Auto if precision == Precision::Int8 => Self::load(source, precision, progress),
            DeviceChoice::Auto => match there(0) {
                Ok(device) => Ok(Self::Device(device)),
                // None there, or one that this model does not fit on.
                Err(Error::Device { .. }) => Self::load(source, precision, progress),
                Err(error) => Err(error),
            },
        }
    }

    /// The model's shapes.
    pub fn config(&self) -> &ModelConfig {
        match self {
            Self::Host(host) => host.config(),
            Self::Device(device) => device.config(),
        }
    }

    /// The decoder, where it runs on the processor.
    pub fn host(&self) -> Option<&HostDecoder> {
        match self {
            Self::Host(host) => Some(host),
            Self::Device(_) => None,
        }
    }

    /// The GPU that it runs on, if it does.
    ///
    /// # Errors
    /// A device that is lost.
    pub fn device(&self) -> Result<Option<DeviceInfo>> {
        match self {
            Self::Host(_) => Ok(None),
            Self::Device(device) => device.info().map(Some),
        }
    }

    /// Whether recording a generation of these prompts saves the learner a pass, and is possible within `room` bytes.
    pub fn records(&self, prefix: usize, prompts: &[PromptTokens], options: &GenerateOptions, room: usize) -> bool {
        match self {
            Self::Host(host) => {
                let rows = prefix + super::generate::rows_of(prompts, options);
                rows.saturating_mul(Recording::bytes_per_row(host)) <= room
            }
            // There a pass over given tokens costs a small part of what drawing them one by one does.
            Self::Device(_) => false,
        }
    }

    /// Gradients of zero for all deltas.
    ///
    /// # Errors
    /// Too little memory on a device.
    pub fn zero_gradients(&self, deltas: &Deltas) -> Result<GradientSum> {
        Ok(match self {
            Self::Host(_) => GradientSum::Host(HostDecoder::zero_gradients(deltas)),
            Self::Device(device) => GradientSum::Device(device.zero_gradients(deltas)?),
        })
    }

    /// Log-probabilities and entropies of predictions of a tape.
    ///
    /// # Errors
    /// A token outside the vocabulary, a tape of another decoder; a device with too little memory, or that is lost.
    pub fn predicted(&self, tape: &Tape, predictions: &Predictions, temperature: f32) -> Result<Vec<TokenStatistics>> {
        match (self, tape) {
            (Self::Host(host), Tape::Host(tape)) => host.predicted(tape.recording(), predictions, temperature),
            (Self::Device(device), Tape::Device(tape)) => device.predicted(tape, predictions, temperature),
            _ => Err(elsewhere()),
        }
    }

    /// Adds the gradient of an objective to `gradients`.
    ///
    /// Gives the log-probabilities and entropies of the predictions whose logits were formed anew: those that have a
    /// weight and of which the sampler kept no distribution, and some of the others.
    ///
    /// # Errors
    /// A token outside the vocabulary, a tape of another decoder; a device with too little memory, or that is lost.
    pub fn backward(
        &self,
        tape: &Tape,
        objective: Objective<'_>,
        deltas: &Deltas,
        gradients: &mut GradientSum,
    ) -> Result<Vec<Option<TokenStatistics>>> {
        match (self, tape, gradients) {
            (Self::Host(host), Tape::Host(tape), GradientSum::Host(gradients)) => {
                host.backward(tape.recording(), &tape.tree(), objective, deltas, gradients)
            }
            (Self::Device(device), Tape::Device(tape), GradientSum::Device(gradients)) => {
                device.backward(tape, objective, deltas, gradients)
            }
            _ => Err(elsewhere()),
        }
    }
}

/// Gradients of an adapter's factors, summed where the decoder runs.
#[derive(Debug)]
pub enum GradientSum {
    /// By layer and projection.
    Host(Vec<[Option<LoraGradient>; Projection::COUNT]>),
    /// On the device.
    Device(DeviceGradients),
}

impl GradientSum {
    /// Those of each of the adapter's variables, in the order of [`Adapter::parameters`].
    ///
    /// # Errors
    /// A device that is lost.
    pub fn read(&self, adapter: &Adapter) -> Result<Vec<Vec<f32>>> {
        match self {
            Self::Host(gradients) => Ok(adapter.flatten(gradients)),
            Self::Device(gradients) => gradients.read(),
        }
    }
}

/// What a generation leaves for learning: a prefix, prompts that continue it, and the completions of each.
#[derive(Debug, Clone)]
pub enum Tape {
    /// With the rows of the pass.
    Host(HostTape),
    /// The tokens alone.
    Device(DeviceTape),
}

impl Tape {
    /// Feeds a prefix, prompts that continue it and the completions of each.
    ///
    /// # Errors
    /// A token outside the vocabulary, a position outside the context.
    pub fn of(decoder: &Decoder, deltas: &Deltas, prefix: &[u32], groups: &[(&[u32], Vec<&[u32]>)]) -> Result<Self> {
        Ok(match decoder {
            Decoder::Host(host) => Self::Host(HostTape::of(host, deltas, prefix, groups)?),
            Decoder::Device(device) => Self::Device(DeviceTape::of(device, deltas, prefix, groups)?),
        })
    }

    /// Takes tokens that somebody else chose as completions of prompts, in the place of a completion: (prompt,
    /// completion, tokens).
    ///
    /// # Errors
    /// Those of [`of`](Self::of).
    pub fn replace(
        &mut self,
        decoder: &Decoder,
        deltas: &Deltas,
        completions: &[(usize, usize, &[u32])],
    ) -> Result<()> {
        match (decoder, self) {
            (Decoder::Host(host), Self::Host(tape)) => tape.replace(host, deltas, completions),
            (Decoder::Device(device), Self::Device(tape)) => tape.replace(device, completions),
            _ => Err(elsewhere()),
        }
    }

    /// Keeps these prompts alone, in this order.
    ///
    /// # Errors
    /// A tape of another decoder.
    pub fn retain(&mut self, decoder: &Decoder, prompts: &[usize]) -> Result<()> {
        match (decoder, self) {
            (Decoder::Host(host), Self::Host(tape)) => tape.retain(host, prompts),
            (Decoder::Device(_), Self::Device(tape)) => tape.retain(prompts),
            _ => return Err(elsewhere()),
        }
        Ok(())
    }

    /// The predictions of all completions' tokens, prompt by prompt; `tokens` are the completions of each prompt.
    ///
    /// The first token of a completion is predicted by the prompt's last row, every further one by the row of the token
    /// before it.
    pub fn predictions<'t>(&self, tokens: impl Iterator<Item = Vec<&'t [u32]>>) -> Predictions {
        match self {
            Self::Host(tape) => tape.predictions(tokens),
            Self::Device(tape) => tape.predictions(tokens),
        }
    }

    /// Rows of tokens.
    pub fn rows(&self) -> usize {
        match self {
            Self::Host(tape) => tape.recording().rows(),
            Self::Device(tape) => tape.rows(),
        }
    }

    /// Bytes that it takes.
    pub fn bytes(&self, decoder: &Decoder) -> usize {
        match (decoder, self) {
            (Decoder::Host(host), Self::Host(tape)) => tape.recording().rows() * Recording::bytes_per_row(host),
            _ => 0,
        }
    }
}

/// A tape and a decoder that do not belong together.
fn elsewhere() -> Error {
    Error::argument("tape", "it was recorded on another device than the decoder's", "use it with its own decoder")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_they_are_written() {
        let table = [
            ("auto", DeviceChoice::Auto),
            ("cpu", DeviceChoice::Cpu),
            ("cuda", DeviceChoice::Cuda(0)),
            ("cuda:3", DeviceChoice::Cuda(3)),
        ];
        for (text, choice) in table {
            assert_eq!(text.parse::<DeviceChoice>().unwrap(), choice);
            assert_eq!(choice.to_string().parse::<DeviceChoice>().unwrap(), choice);
        }
        for text in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:99999999"] {
            if let Ok(choice) = text.parse::<DeviceChoice>() {
                assert_eq!((text, choice), ("cuda:", DeviceChoice::Cuda(0)));
            }
        }
    }
}
