//! `config.json` of an encoder: the architecture and its sizes. What would be computed in another way is refused by its
//! key, and so is what is no encoder.

use crate::json::Json;
use querywright_kernels::Activation;
use querywright_model::files::asks_for_another_family;
use querywright_types::{Error, Result};

/// What `model_type` may be.
pub(crate) const SUPPORTED: &str =
    "bert, roberta, xlm-roberta, camembert, distilbert and modernbert are read; choose such a model";

/// Positions are tables in memory, and a window over all of them is computed for ModernBERT.
const MOST_POSITIONS: usize = 1 << 17;

/// Layers, at most; the largest encoders have some dozens.
const MOST_LAYERS: usize = 1024;

/// The families that are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Architecture {
    Bert,
    /// Also XLM-R and CamemBERT: positions are counted from the padding token's number.
    Roberta,
    DistilBert,
    ModernBert,
}

/// An encoder's sizes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shape {
    pub(crate) architecture: Architecture,
    pub(crate) vocab_size: usize,
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) positions: usize,
    /// Rows of the token types; 0 where there are none.
    pub(crate) types: usize,
    pub(crate) norm_eps: f64,
    pub(crate) activation: Activation,
    pub(crate) pad_token: u32,
    /// ModernBERT's windows.
    pub(crate) window: Option<Window>,
}

/// Layers of ModernBERT that see their neighbours alone.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Window {
    /// Every so many layers see everything, the first included.
    pub(crate) global_every: usize,
    /// How many tokens the others see, half of them on each side.
    pub(crate) tokens: usize,
    pub(crate) global_theta: f64,
    pub(crate) local_theta: f64,
}

impl Shape {
    pub(crate) fn of(json: &Json) -> Result<Self> {
        let architecture = match json.text("model_type")? {
            Some("bert") => Architecture::Bert,
            Some("roberta" | "xlm-roberta" | "camembert") => Architecture::Roberta,
            Some("distilbert") => Architecture::DistilBert,
            Some("modernbert") => Architecture::ModernBert,
            _ => return Err(json.refused("model_type", SUPPORTED)),
        };
        refuse_unsupported(json)?;
        refuse_nulls(json)?;
        let shape = match architecture {
            Architecture::Bert | Architecture::Roberta => bert(json, architecture)?,
            Architecture::DistilBert => distilbert(json)?,
            Architecture::ModernBert => modernbert(json)?,
        };
        shape.validated(json)
    }

    /// The tokens that a text may have, those around it included.
    pub(crate) fn most_tokens(&self) -> usize {
        match self.architecture {
            // The first positions are the padding token's and those before it.
            Architecture::Roberta => self.positions.saturating_sub(self.pad_token as usize + 1),
            _ => self.positions,
        }
    }

    fn validated(self, json: &Json) -> Result<Self> {
        let wrong = |found: String, remedy: &str| Err(Error::model(json.path(), found, remedy));
        let sizes = [self.vocab_size, self.hidden_size, self.intermediate_size, self.heads];
        if sizes.contains(&0) {
            return wrong("a size is 0".into(), "fetch the model again");
        }
        if !self.hidden_size.is_multiple_of(self.heads) {
            let found = format!("a width of {} over {} heads", self.hidden_size, self.heads);
            return wrong(found, "the first must be a multiple of the second; fetch the model again");
        }
        if self.window.is_some() && !(self.hidden_size / self.heads).is_multiple_of(2) {
            let found = format!("heads of width {}", self.hidden_size / self.heads);
            return wrong(found, "rotary positions need an even one; fetch the model again");
        }
        if !(1..=MOST_POSITIONS).contains(&self.most_tokens()) || self.positions > MOST_POSITIONS {
            let found = format!("max_position_embeddings is {}", self.positions);
            return wrong(found, "it must be at least 1 for a token, and at most 131072; fetch the model again");
        }
        if !(self.norm_eps.is_finite() && self.norm_eps >= 0.0) {
            return wrong(format!("the norms' epsilon is {}", self.norm_eps), "fetch the model again");
        }
        Ok(self)
    }
}

fn bert(json: &Json, architecture: Architecture) -> Result<Shape> {
    let default_pad = if architecture == Architecture::Roberta { 1 } else { 0 };
    let types = json.whole("type_vocab_size")?.unwrap_or(2);
    if architecture == Architecture::Roberta && types == 0 {
        return Err(json.refused("type_vocab_size", "it must be at least 1; fetch the model again"));
    }
    Ok(Shape {
        architecture,
        vocab_size: json.need("vocab_size")?,
        hidden_size: json.need("hidden_size")?,
        intermediate_size: json.need("intermediate_size")?,
        layers: layers(json, "num_hidden_layers")?,
        heads: json.need("num_attention_heads")?,
        positions: json.whole("max_position_embeddings")?.unwrap_or(512),
        types,
        norm_eps: json.number("layer_norm_eps")?.unwrap_or(1e-12),
        activation: activation(json, "hidden_act")?,
        pad_token: pad_token(json, default_pad)?,
        window: None,
    })
}

fn distilbert(json: &Json) -> Result<Shape> {
    Ok(Shape {
        architecture: Architecture::DistilBert,
        vocab_size: json.need("vocab_size")?,
        hidden_size: json.need("dim")?,
        intermediate_size: json.need("hidden_dim")?,
        layers: layers(json, "n_layers")?,
        heads: json.need("n_heads")?,
        positions: json.whole("max_position_embeddings")?.unwrap_or(512),
        types: 0,
        norm_eps: 1e-12,
        activation: activation(json, "activation")?,
        pad_token: pad_token(json, 0)?,
        window: None,
    })
}

fn modernbert(json: &Json) -> Result<Shape> {
    for key in ["attention_bias", "mlp_bias", "norm_bias"] {
        if json.flag(key)? == Some(true) {
            return Err(json.refused(key, "that is not computed; choose another model of the family"));
        }
    }
    let layers = layers(json, "num_hidden_layers")?;
    let global_every = json.whole("global_attn_every_n_layers")?.unwrap_or(3);
    if global_every == 0 {
        return Err(json.refused("global_attn_every_n_layers", "it must be at least 1; fetch the model again"));
    }
    let kind = |layer: usize| if layer.is_multiple_of(global_every) { "full_attention" } else { "sliding_attention" };
    if let Some(types) = json.get("layer_types") {
        let same = types.as_array().is_some_and(|types| {
            types.len() == layers && types.iter().enumerate().all(|(at, found)| found.as_str() == Some(kind(at)))
        });
        if !same {
            let remedy = "layers that see everything must stand at global_attn_every_n_layers; choose another model";
            return Err(json.refused("layer_types", remedy));
        }
    }
    let positions = json.whole("max_position_embeddings")?.unwrap_or(8192);
    let tokens = json.whole("local_attention")?;
    // Half a window lies on each side: a larger one sees no more.
    if tokens.is_some_and(|tokens| tokens > positions.saturating_mul(2)) {
        let remedy = format!("it must be at most twice max_position_embeddings ({positions}); fetch the model again");
        return Err(json.refused("local_attention", remedy));
    }
    let global_theta = theta(json, "global_rope_theta", "full_attention")?.unwrap_or(160_000.0);
    let window = Window {
        global_every,
        tokens: tokens.unwrap_or(128),
        global_theta,
        // Null says: the same as the others.
        local_theta: theta(json, "local_rope_theta", "sliding_attention")?.unwrap_or(
            match json.is_null("local_rope_theta") {
                true => global_theta,
                false => 10_000.0,
            },
        ),
    };
    let activation = activation(json, "hidden_activation")?;
    if activation != Activation::Gelu {
        return Err(json.refused("hidden_activation", "gelu alone is computed; choose another model of the family"));
    }
    Ok(Shape {
        architecture: Architecture::ModernBert,
        vocab_size: json.need("vocab_size")?,
        hidden_size: json.need("hidden_size")?,
        intermediate_size: json.need("intermediate_size")?,
        layers,
        heads: json.need("num_attention_heads")?,
        positions,
        types: 0,
        norm_eps: json.number("norm_eps")?.unwrap_or(1e-5),
        activation,
        pad_token: pad_token(json, 50_283)?,
        window: Some(window),
    })
}

/// A rotary base: a key of its own in older files, and in `rope_parameters` by the kind of layer in newer ones.
fn theta(json: &Json, key: &str, kind: &str) -> Result<Option<f64>> {
    let own = json.number(key)?;
    let Some(parameters) = json.section("rope_parameters")? else { return Ok(own) };
    let Some(section) = parameters.section(kind)? else {
        return Err(json.refused("rope_parameters", format!("it must say {kind}; choose another model")));
    };
    if !matches!(section.text("rope_type")?, None | Some("default")) {
        return Err(section.refused("rope_type", "\"default\" alone is computed; choose another model"));
    }
    let inner = section.number("rope_theta")?;
    match (own, inner) {
        (Some(own), Some(inner)) if own != inner => {
            Err(json.refused(key, format!("rope_parameters.{kind}.rope_theta is {inner}; fetch the model again")))
        }
        (own, inner) => Ok(inner.or(own)),
    }
}

fn layers(json: &Json, key: &str) -> Result<usize> {
    let layers = json.need(key)?;
    if !(1..=MOST_LAYERS).contains(&layers) {
        let remedy = format!("it must be at least 1 and at most {MOST_LAYERS}; fetch the model again");
        return Err(json.refused(key, remedy));
    }
    Ok(layers)
}

fn pad_token(json: &Json, default: u32) -> Result<u32> {
    let id = json.whole("pad_token_id")?.map_or(Ok(default), u32::try_from);
    id.map_err(|_| json.refused("pad_token_id", "it must be a token's number; fetch the model again"))
}

fn activation(json: &Json, key: &str) -> Result<Activation> {
    match json.text(key)? {
        None | Some("gelu" | "gelu_python") => Ok(Activation::Gelu),
        Some("gelu_new" | "gelu_fast" | "gelu_pytorch_tanh") => Ok(Activation::GeluTanh),
        Some("relu") => Ok(Activation::Relu),
        Some(_) => Err(json.refused(key, "gelu, gelu_new and relu are computed; choose another model of the family")),
    }
}

/// Refuses null where transformers has a number or a name by default: it would compute with nothing.
fn refuse_nulls(json: &Json) -> Result<()> {
    let keys = [
        "max_position_embeddings",
        "type_vocab_size",
        "layer_norm_eps",
        "norm_eps",
        "hidden_act",
        "activation",
        "hidden_activation",
        "local_attention",
        "global_attn_every_n_layers",
        "global_rope_theta",
    ];
    match keys.into_iter().find(|key| json.is_null(key)) {
        // Newer files say it in rope_parameters.
        Some("global_rope_theta") if json.says("rope_parameters") => Ok(()),
        Some(key) => Err(json.refused(key, "leave the key out for its default, or fetch the model again")),
        None => Ok(()),
    }
}

/// Refuses what would be computed wrongly.
fn refuse_unsupported(json: &Json) -> Result<()> {
    if !matches!(json.text("position_embedding_type")?, None | Some("absolute")) {
        return Err(json.refused("position_embedding_type", "absolute positions are computed; choose another model"));
    }
    for key in ["is_decoder", "add_cross_attention", "pruned_heads", "is_encoder_decoder"] {
        if json.says(key) {
            return Err(json.refused(key, "that is not computed; choose another model of the family"));
        }
    }
    if let Some(key) = json.keys().find(|key| json.get(key).is_some_and(|value| asks_for_another_family(key, value))) {
        return Err(json.refused(key, "that is not computed; choose another model of the family"));
    }
    if json.says("quantization_config") {
        return Err(json.refused("quantization_config", "choose the weights in F32, BF16 or F16"));
    }
    if let Some(map) = json.section("auto_map")?
        && map.get("AutoModel").is_some()
    {
        return Err(json.refused("auto_map", "the model is computed by a program of its own; choose another one"));
    }
    Ok(())
}
