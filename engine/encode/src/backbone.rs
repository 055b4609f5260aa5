//! The encoders themselves: the vectors of the tokens of some texts, by our own kernels.
//!
//! Texts lie one behind the other without padding; all but attention goes over their tokens as if they were one text. A
//! row is summed in one order, so that the vectors of a text are the same, bit for bit, whatever is computed beside it.

use std::path::Path;

use crate::bert::Bert;
use crate::modernbert::ModernBert;
use crate::shape::{Architecture, Shape};
use crate::weights::Weights;
use querywright_kernels::Precision;
use querywright_model::files::Folder;
use querywright_types::{Error, Result};

/// An encoder in memory.
pub(crate) enum Backbone {
    /// BERT, RoBERTa and DistilBERT.
    Bert(Bert),
    Modern(ModernBert),
}

impl Backbone {
    pub(crate) fn load(folder: &Folder, path: &Path, shape: &Shape, precision: Precision) -> Result<Self> {
        let mut weights = Weights::of(folder, path, shape.architecture, precision);
        let model = match (shape.architecture, &shape.window) {
            (Architecture::ModernBert, Some(window)) => Self::Modern(ModernBert::load(&mut weights, shape, window)?),
            (Architecture::ModernBert, None) => return Err(Error::bug("encoder", "a ModernBERT without its windows")),
            _ => Self::Bert(Bert::load(&mut weights, shape)?),
        };
        weights.finish(shape)?;
        Ok(model)
    }

    /// The vectors of the tokens of some texts, text by text and token by token.
    pub(crate) fn forward(&self, texts: &[&[u32]]) -> Result<Vec<f32>> {
        match self {
            Self::Bert(model) => model.forward(texts),
            Self::Modern(model) => model.forward(texts),
        }
    }
}
