//! The encoders themselves, by candle-transformers.

use candle_core::{Device, Tensor};
use candle_transformers::models::bert::{self, BertModel};
use candle_transformers::models::modernbert::{self, ModernBert};
use candle_transformers::models::xlm_roberta::{self, XLMRobertaModel};

use candle_nn::Activation;

use crate::shape::{Architecture, Shape, Window};
use crate::weights;
use querywright_model::files::Folder;
use querywright_types::{Error, Result};

use std::path::Path;

/// An encoder in memory.
pub(crate) enum Backbone {
    /// Also DistilBERT, which is a BERT without token types. candle's own computes another GELU than transformers.
    Bert(Box<BertModel>),
    Roberta(Box<XLMRobertaModel>),
    Modern(Box<ModernBert>),
}

impl Backbone {
    pub(crate) fn load(folder: &Folder, path: &Path, shape: &Shape) -> Result<Self> {
        match (shape.architecture, &shape.window) {
            (Architecture::Bert | Architecture::DistilBert, _) => {
                let config = bert_config(shape)?;
                let model = weights::load(folder, path, shape, |tensors| BertModel::load(tensors, &config))?;
                Ok(Self::Bert(Box::new(model)))
            }
            (Architecture::Roberta, _) => {
                let config = roberta_config(shape);
                let model = weights::load(folder, path, shape, |tensors| XLMRobertaModel::new(&config, tensors))?;
                Ok(Self::Roberta(Box::new(model)))
            }
            (Architecture::ModernBert, Some(window)) => {
                let config = modern_config(shape, window);
                let model = weights::load(folder, path, shape, |tensors| ModernBert::load(tensors, &config))?;
                Ok(Self::Modern(Box::new(model)))
            }
            (Architecture::ModernBert, None) => Err(Error::bug("encoder", "a ModernBERT without its windows")),
        }
    }

    /// The vectors of the tokens of some texts of one length, text by text and token by token.
    pub(crate) fn forward(&self, texts: &[&[u32]]) -> Result<Vec<f32>> {
        let broken = |e: candle_core::Error| Error::bug("encoder", e.to_string());
        let length = texts.first().map_or(0, |ids| ids.len());
        let ids = Tensor::from_vec(texts.concat(), (texts.len(), length), &Device::Cpu).map_err(broken)?;
        let vectors = match self {
            Self::Bert(model) => ids.zeros_like().and_then(|types| model.forward(&ids, &types, None)),
            Self::Roberta(model) => {
                let (types, all) = (ids.zeros_like().map_err(broken)?, ids.ones_like().map_err(broken)?);
                model.forward(&ids, &all, &types, None, None, None)
            }
            Self::Modern(model) => ids.ones_like().and_then(|all| model.forward(&ids, &all)),
        };
        vectors.and_then(|vectors| vectors.flatten_all()?.to_vec1()).map_err(broken)
    }
}

fn bert_config(shape: &Shape) -> Result<bert::Config> {
    let hidden_act = match shape.activation {
        Activation::Gelu => bert::HiddenAct::Gelu,
        Activation::GeluPytorchTanh => bert::HiddenAct::GeluApproximate,
        Activation::Relu => bert::HiddenAct::Relu,
        other => return Err(Error::bug("encoder", format!("the activation {other:?}"))),
    };
    Ok(bert::Config {
        vocab_size: shape.vocab_size,
        hidden_size: shape.hidden_size,
        num_hidden_layers: shape.layers,
        num_attention_heads: shape.heads,
        intermediate_size: shape.intermediate_size,
        hidden_act,
        max_position_embeddings: shape.positions,
        type_vocab_size: shape.types.max(1),
        layer_norm_eps: shape.norm_eps,
        pad_token_id: shape.pad_token as usize,
        // Without it candle does not look for the tensors under a second name.
        model_type: None,
        ..bert::Config::default()
    })
}

fn roberta_config(shape: &Shape) -> xlm_roberta::Config {
    xlm_roberta::Config {
        hidden_size: shape.hidden_size,
        layer_norm_eps: shape.norm_eps,
        attention_probs_dropout_prob: 0.0,
        hidden_dropout_prob: 0.0,
        num_attention_heads: shape.heads,
        position_embedding_type: "absolute".to_owned(),
        intermediate_size: shape.intermediate_size,
        hidden_act: shape.activation,
        num_hidden_layers: shape.layers,
        vocab_size: shape.vocab_size,
        max_position_embeddings: shape.positions,
        type_vocab_size: shape.types,
        pad_token_id: shape.pad_token,
    }
}

fn modern_config(shape: &Shape, window: &Window) -> modernbert::Config {
    modernbert::Config {
        vocab_size: shape.vocab_size,
        hidden_size: shape.hidden_size,
        num_hidden_layers: shape.layers,
        num_attention_heads: shape.heads,
        intermediate_size: shape.intermediate_size,
        max_position_embeddings: shape.positions,
        layer_norm_eps: shape.norm_eps,
        pad_token_id: shape.pad_token,
        global_attn_every_n_layers: window.global_every,
        global_rope_theta: window.global_theta,
        local_attention: window.tokens,
        local_rope_theta: window.local_theta,
        classifier_config: None,
    }
}
