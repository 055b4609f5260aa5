//! `adapter_config.json`: every key of PEFT's `LoraConfig` is done, changes nothing here, or is refused by its name.

use std::path::Path;

use serde_json::Value;

use super::patterns::Patterns;
use crate::adapter::Projection;
use crate::config::keys::says_nothing;
use crate::foreign::{not_json, without_mark};
use querywright_types::{Error, Result};

/// Keys that say where the adapter comes from or how it was trained, and do not change what it computes.
const UNUSED: [&str; 16] = [
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "auto_mapping",
    "peft_version",
    "lora_dropout",
    "megatron_core",
    "qalora_group_size",
    "runtime_config",
    // It ties what modules_to_save or an adapter of the embedding would change, and both are refused.
    "ensure_weight_tying",
    // How the first factors were found: those of EVA leave the base model as it is.
    "eva_config",
    // A backward pass of its own, the same forward pass.
    "velora_config",
    // Read by their own functions.
    "exclude_modules",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
];

/// Beginnings of `init_lora_weights` that leave the base model as it is.
const PLAIN_BEGINNINGS: [&str; 6] = ["true", "false", "gaussian", "eva", "orthogonal", "mica"];
/// Those that take the first factors out of the base model's weights, so that the adapter belongs to changed ones.
const CHANGED_BASES: [&str; 5] = ["pissa", "olora", "corda", "lora_ga", "loftq"];

/// Modules that every model has and that lie in no layer.
const OUTSIDE: [&str; 2] = ["lm_head", "model.embed_tokens"];

/// The largest alpha that is a scale and no mistake.
const MOST_ALPHA: f64 = 1e9;

/// What decides the numbers of an adapter.
#[derive(Debug)]
pub(super) struct PeftConfig {
    pub(super) r: usize,
    alpha: f64,
    ranks: Patterns,
    alphas: Patterns,
    /// Whether deltas are scaled by alpha over the root of the rank.
    rank_stabilised: bool,
    targets: Targets,
}

/// The modules that the configuration names.
#[derive(Debug, Default)]
struct Targets {
    /// Names or ends of names; none where a regular expression or nothing is given: then the weights tell.
    named: Option<Vec<String>>,
    all_linear: bool,
    excluded: Vec<String>,
    /// All where there is none.
    layers: Option<Vec<u64>>,
}

impl PeftConfig {
    /// Reads a configuration; `path` is its place, for messages.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Self> {
        let bytes = without_mark(text.as_bytes());
        let json: Value = serde_json::from_slice(bytes).map_err(|e| not_json(path, bytes, e))?;
        let keys = Keys { path, json: &json };
        let object = json.as_object().ok_or_else(|| keys.refused("it is no JSON object"))?;
        match keys.text("peft_type")? {
            Some("LORA") => {}
            Some(other) => return Err(keys.refused(format!("peft_type is {other}"))),
            None => return Err(keys.missing("peft_type")),
        }
        let r = keys.whole("r")?;
        if !(1..=1 << 16).contains(&r) {
            return Err(keys.refused(format!("r is {r}")));
        }
        let alpha = match json.get("lora_alpha") {
            None => return Err(keys.missing("lora_alpha")),
            Some(value) => value.as_f64().ok_or_else(|| keys.mistyped("lora_alpha", value, "a number"))?,
        };
        for (key, value) in object {
            keys.check(key, value)?;
        }
        let (ranks, alphas) = (keys.patterns("rank_pattern")?, keys.patterns("alpha_pattern")?);
        if let Some(bad) = ranks.values().find(|r| !((1.0..=65_536.0).contains(r) && r.fract() == 0.0)) {
            return Err(keys.refused(format!("rank_pattern has a rank of {bad}")));
        }
        // In single precision a larger one is infinite.
        if let Some(bad) = alphas.values().chain([alpha]).find(|alpha| alpha.abs() > MOST_ALPHA) {
            return Err(keys.refused(format!("lora_alpha, or one of alpha_pattern, is {bad}")));
        }
        Ok(Self { r, alpha, ranks, alphas, rank_stabilised: keys.flag("use_rslora")?, targets: keys.targets()? })
    }

    /// The rank and the alpha of most modules.
    pub(super) fn common(&self) -> (usize, f32) {
        (self.r, self.scaled(self.r, self.alpha))
    }

    /// The rank and the alpha of one module.
    pub(super) fn rank_and_alpha(&self, layer: usize, projection: Projection) -> (usize, f32) {
        let module = module(layer, projection);
        let r = self.ranks.of(&module).map_or(self.r, |r| r as usize);
        (r, self.scaled(r, self.alphas.of(&module).unwrap_or(self.alpha)))
    }

    /// The alpha that scales by `alpha / r`, whichever way the file says it.
    fn scaled(&self, r: usize, alpha: f64) -> f32 {
        if self.rank_stabilised { alpha as f32 * (r as f32).sqrt() } else { alpha as f32 }
    }

    /// Holds what a file has factors of against what the configuration names: PEFT leaves out what is not named, and
    /// begins anew what is not there.
    pub(super) fn check_places(&self, file: &Path, found: &[(usize, Projection)], layers: usize) -> Result<()> {
        if let Some(outside) = OUTSIDE.iter().find(|module| self.targets.names_outside(module)) {
            let lacking = format!("lacks factors of {outside}, which target_modules names");
            let remedy = "copy the adapter again, it may be cut off; adapters of layers alone are supported";
            return Err(Error::model(file, lacking, remedy));
        }
        for layer in 0..layers {
            for projection in Projection::ALL {
                let named = self.targets.name(layer, &module(layer, projection));
                let there = found.contains(&(layer, projection));
                if named == Some(true) && !there {
                    let lacking = format!("lacks factors of {}, which target_modules names", module(layer, projection));
                    let remedy = "copy the adapter again, it may be cut off, or use the model it was trained on";
                    return Err(Error::model(file, lacking, remedy));
                }
                if named == Some(false) && there {
                    let spare = format!(
                        "holds factors of {}, which target_modules, exclude_modules and layers_to_transform leave out",
                        module(layer, projection)
                    );
                    return Err(Error::model(file, spare, "weights and adapter_config.json belong to two adapters"));
                }
            }
        }
        Ok(())
    }
}

/// A module's path in the model.
fn module(layer: usize, projection: Projection) -> String {
    format!("model.layers.{layer}.{}", projection.path())
}

impl Targets {
    /// Whether the configuration names a module that lies in no layer; "all-linear" and numbers of layers mean none of those.
    fn names_outside(&self, module: &str) -> bool {
        let matches =
            |name: &String| module.strip_suffix(name.as_str()).is_some_and(|p| p.is_empty() || p.ends_with('.'));
        let named = self.named.as_ref().is_some_and(|names| names.iter().any(matches));
        named && !self.all_linear && self.layers.is_none() && !self.excluded.iter().any(matches)
    }

    /// Whether a module is named; none where that is not known.
    fn name(&self, layer: usize, module: &str) -> Option<bool> {
        let matches =
            |name: &String| module.strip_suffix(name.as_str()).is_some_and(|p| p.is_empty() || p.ends_with('.'));
        if self.excluded.iter().any(matches) || self.layers.as_ref().is_some_and(|l| !l.contains(&(layer as u64))) {
            return Some(false);
        }
        self.all_linear.then_some(true).or_else(|| Some(self.named.as_ref()?.iter().any(matches)))
    }
}

/// The keys of a configuration, with the file's name for messages.
struct Keys<'a> {
    path: &'a Path,
    json: &'a Value,
}

impl<'a> Keys<'a> {
    fn refused(&self, found: impl Into<String>) -> Error {
        Error::model(self.path, found, "plain LoRA adapters are supported")
    }

    fn missing(&self, key: &str) -> Error {
        Error::model(self.path, format!("{key} is missing"), "give a folder that PEFT or this program wrote")
    }

    fn mistyped(&self, key: &str, value: &Value, right: &str) -> Error {
        Error::model(self.path, format!("{key} is {value}"), format!("it must be {right}"))
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>> {
        match self.json.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.mistyped(key, other, "a text")),
        }
    }

    fn whole(&self, key: &str) -> Result<usize> {
        let value = self.json.get(key).ok_or_else(|| self.missing(key))?;
        let number = value.as_u64().and_then(|n| usize::try_from(n).ok());
        number.ok_or_else(|| self.mistyped(key, value, "a whole number"))
    }

    fn flag(&self, key: &str) -> Result<bool> {
        match self.json.get(key) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(yes)) => Ok(*yes),
            Some(other) => Err(self.mistyped(key, other, "true or false")),
        }
    }

    /// Refuses a key that asks for more than a plain adapter.
    fn check(&self, key: &str, value: &Value) -> Result<()> {
        match key {
            "peft_type" | "r" | "lora_alpha" | "use_rslora" | "target_modules" | "layers_to_transform" => return Ok(()),
            _ if UNUSED.contains(&key) => return Ok(()),
            "init_lora_weights" => return self.check_beginning(value),
            "bias" if value == "none" => return Ok(()),
            "task_type" if value == "CAUSAL_LM" => return Ok(()),
            _ if says_nothing(value) => return Ok(()),
            _ => {}
        }
        let shown = value.to_string();
        let short = if shown.chars().count() > 80 { "set".to_owned() } else { shown };
        let unknown = if KNOWN.contains(&key) { "" } else { ", a key that is not known" };
        Err(self.refused(format!("{key} is {short}{unknown}")))
    }

    fn check_beginning(&self, value: &Value) -> Result<()> {
        let name = match value {
            Value::Null => return Ok(()),
            Value::Bool(yes) => yes.to_string(),
            Value::String(name) => name.to_lowercase(),
            other => return Err(self.mistyped("init_lora_weights", other, "true, false, or a text")),
        };
        if CHANGED_BASES.iter().any(|changed| name.starts_with(changed)) {
            let found =
                format!("init_lora_weights is {value}: the adapter belongs to a base model with changed weights");
            let remedy = "convert it to a plain adapter with PEFT: save_pretrained(DIR, \
                          path_initial_model_for_weight_conversion=…)";
            return Err(Error::model(self.path, found, remedy));
        }
        if PLAIN_BEGINNINGS.contains(&name.as_str()) {
            return Ok(());
        }
        Err(self.refused(format!("init_lora_weights is {value}, which is not known")))
    }

    fn targets(&self) -> Result<Targets> {
        let mut targets = Targets::default();
        match self.json.get("target_modules") {
            Some(Value::String(name)) if name == "all-linear" => targets.all_linear = true,
            // A regular expression.
            None | Some(Value::Null | Value::String(_)) => {}
            Some(list) => targets.named = Some(self.texts("target_modules", list)?),
        }
        match self.json.get("exclude_modules") {
            None | Some(Value::Null) => {}
            // With a regular expression on what is left out, what is named alone does not tell.
            Some(Value::String(text)) => {
                if !text.is_empty() {
                    targets = Targets::default();
                }
            }
            Some(list) => targets.excluded = self.texts("exclude_modules", list)?,
        }
        targets.layers = match self.json.get("layers_to_transform") {
            None | Some(Value::Null) => None,
            Some(Value::Array(items)) if items.is_empty() => None,
            Some(value) => {
                let items = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
                let layers: Option<Vec<u64>> = items.iter().map(Value::as_u64).collect();
                let right = "a whole number or a list of them";
                Some(layers.ok_or_else(|| self.mistyped("layers_to_transform", value, right))?)
            }
        };
        match self.json.get("layers_pattern") {
            _ if targets.layers.is_none() => {}
            None => {}
            Some(value) if says_nothing(value) || value == "layers" || *value == serde_json::json!(["layers"]) => {}
            Some(other) => return Err(self.refused(format!("layers_pattern is {other}"))),
        }
        Ok(targets)
    }

    fn patterns(&self, key: &str) -> Result<Patterns> {
        let value = self.json.get(key).unwrap_or(&Value::Null);
        Patterns::parse(value).map_err(|found| self.refused(format!("{key} {found}")))
    }

    fn texts(&self, key: &str, value: &Value) -> Result<Vec<String>> {
        let items = value.as_array().and_then(|items| items.iter().map(|i| i.as_str().map(str::to_owned)).collect());
        items.ok_or_else(|| self.mistyped(key, value, "a text or a list of texts"))
    }
}

/// Keys of PEFT's that are refused where they say something.
const KNOWN: [&str; 20] = [
    "bias",
    "task_type",
    "fan_in_fan_out",
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "modules_to_save",
    "megatron_config",
    "trainable_token_indices",
    "loftq_config",
    "corda_config",
    "lora_ga_config",
    "kasa_config",
    "monteclora_config",
    "arrow_config",
    "alora_invocation_tokens",
    "layer_replication",
    "target_parameters",
    "enable_lora",
];
