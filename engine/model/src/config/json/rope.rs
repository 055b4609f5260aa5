//! The section of rotary settings: `rope_parameters`, or `rope_scaling` in older files.

use serde_json::Value;

use super::{Fields, RopeScaling, keys, shown};
use querywright_types::{Error, Result};

/// The context that a model was trained with before scaling.
const ORIGINAL: &str = "original_max_position_embeddings";

/// The section, under either name.
pub(super) struct Section<'a> {
    pub(super) fields: &'a Fields<'a>,
    pub(super) key: &'a str,
    pub(super) section: &'a Value,
    /// The longest context.
    pub(super) context: usize,
}

impl Section<'_> {
    pub(super) fn scaling(&self) -> Result<Option<RopeScaling>> {
        match self.kind()? {
            None | Some("default") => self.only(&[]).map(|()| None),
            Some("linear") => {
                self.only(&["factor"])?;
                let factor = self.need("factor")?;
                // By a factor of 1 it is none.
                Ok((factor != 1.0).then_some(RopeScaling::Linear { factor }))
            }
            Some("llama3") => {
                self.only(&["factor", "low_freq_factor", "high_freq_factor", ORIGINAL])?;
                Ok(Some(RopeScaling::Llama3 {
                    factor: self.need("factor")?,
                    low_freq_factor: self.need("low_freq_factor")?,
                    high_freq_factor: self.need("high_freq_factor")?,
                    original_max_position_embeddings: self.original()?.ok_or_else(|| self.lacks(ORIGINAL))?,
                }))
            }
            Some("yarn") => self.yarn().map(Some),
            Some(other) => Err(Error::model(
                self.fields.path,
                format!("rope scaling of type \"{other}\" ({})", self.key),
                "\"default\", \"linear\", \"llama3\" and \"yarn\" are supported; choose such a model",
            )),
        }
    }

    fn yarn(&self) -> Result<RopeScaling> {
        let weights = ["attention_factor", "mscale", "mscale_all_dim"];
        let others = ["factor", ORIGINAL, "beta_fast", "beta_slow", "truncate", "finetuned"];
        self.only(&[weights.as_slice(), &others].concat())?;
        let factor = self.need("factor")?;
        // Zero is nothing to transformers, too.
        let said = |key: &str| Ok::<_, Error>(self.number(key)?.filter(|n| *n != 0.0));
        let attention_factor = match (self.number("attention_factor")?, said("mscale")?, said("mscale_all_dim")?) {
            (Some(given), ..) => given,
            (None, Some(one), Some(other)) => {
                RopeScaling::yarn_attention(factor, one) / RopeScaling::yarn_attention(factor, other)
            }
            (None, ..) => RopeScaling::yarn_attention(factor, 1.0),
        };
        let truncate = match self.section.get("truncate") {
            None => true,
            Some(Value::Bool(yes)) => *yes,
            Some(other) => return Err(self.fields.mistyped(&format!("{}.truncate", self.key), other, "true or false")),
        };
        Ok(RopeScaling::Yarn {
            factor,
            original_max_position_embeddings: self.original()?.unwrap_or(self.context),
            beta_fast: said("beta_fast")?.unwrap_or(32.0),
            beta_slow: said("beta_slow")?.unwrap_or(1.0),
            truncate,
            attention_factor,
        })
    }

    /// The type, under either name.
    fn kind(&self) -> Result<Option<&str>> {
        let of = |name: &str| match self.section.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(kind)) => Ok(Some(kind.as_str())),
            Some(other) => Err(self.fields.mistyped(&format!("{}.{name}", self.key), other, "a text")),
        };
        match (of("rope_type")?, of("type")?) {
            (Some(newer), Some(older)) if newer != older => {
                let found = format!("{}.rope_type is \"{newer}\", and type \"{older}\"", self.key);
                Err(self.fields.refused(found))
            }
            (newer, older) => Ok(newer.or(older)),
        }
    }

    /// The original context; it is written as a number with a fraction by some.
    fn original(&self) -> Result<Option<usize>> {
        let Some(number) = self.number(ORIGINAL)? else { return Ok(None) };
        if number.fract() != 0.0 || !(1.0..=1e9).contains(&number) {
            let value = &self.section[ORIGINAL];
            return Err(self.fields.mistyped(&format!("{}.{ORIGINAL}", self.key), value, "a whole number above 0"));
        }
        Ok(Some(number as usize))
    }

    /// A number, if the key is there and not null.
    fn number(&self, key: &str) -> Result<Option<f64>> {
        if self.section.get(key).is_some_and(Value::is_null) {
            return Ok(None);
        }
        self.fields.number(self.section, key)
    }

    fn need(&self, key: &str) -> Result<f64> {
        self.number(key)?.ok_or_else(|| self.lacks(key))
    }

    fn lacks(&self, key: &str) -> Error {
        Error::model(self.fields.path, format!("the rope scaling has no {key}"), "fetch the model again")
    }

    /// Refuses all keys but these, the type and the base, unless they say nothing.
    fn only(&self, read: &[&str]) -> Result<()> {
        let Some(section) = self.section.as_object() else { return Ok(()) };
        for (key, value) in section {
            let neutral = matches!(key.as_str(), "factor" | "attention_factor" | "partial_rotary_factor")
                && value.as_f64() == Some(1.0);
            let known = ["rope_type", "type", "rope_theta"].contains(&key.as_str()) || read.contains(&key.as_str());
            if !known && !neutral && !keys::says_nothing(value) {
                let without = if read.is_empty() { ", without a type that reads it" } else { "" };
                return Err(self.fields.refused(format!("{}.{key} is {}{without}", self.key, shown(value))));
            }
        }
        Ok(())
    }
}
