//! An encoder that is lent to a plugin: its setting, and the plugin host's view of it.

use crate::encoder::EncoderConfig;

/// The encoder that a plugin may use, in a configuration: `[retriever.embed]`.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbedConfig {
    /// The encoder: a name of `model list`, `hf:owner/name`, or a folder. It has no default.
    pub model: String,
    /// What takes the place of what the encoder's folder says. Default: nothing.
    #[serde(default)]
    pub encoder: EncoderConfig,
}

#[cfg(feature = "plugins")]
mod host {
    use querywright_data::digest::sha256_of;
    use querywright_plugin_host::{TextEncoder, TextRole};
    use querywright_types::{Deadline, Result};

    use crate::encoder::{Encoder, InputType};
    use crate::modules::Similarity;
    use crate::pooling::normalize;

    /// The encoder behind a plugin's `embed`. Vectors have the length 1, as its contract says, also those of an encoder
    /// whose own are compared by their product.
    impl TextEncoder for Encoder {
        fn dimensions(&self) -> usize {
            self.width()
        }

        fn digest(&self) -> Option<String> {
            // What a vector is may change with a version.
            let version = crate::store::FORMAT_VERSION.to_string();
            Some(sha256_of(&[&version, Encoder::digest(self), self.prefix(InputType::Query)]))
        }

        fn encode(&self, texts: &[String], role: TextRole, deadline: Deadline) -> Result<Vec<Vec<f32>>> {
            let role = match role {
                TextRole::Document => InputType::Document,
                TextRole::Query => InputType::Query,
            };
            let vectors = Encoder::encode(self, texts, role, deadline, &())?;
            let mut vectors: Vec<Vec<f32>> = vectors.chunks_exact(self.width().max(1)).map(<[f32]>::to_vec).collect();
            if self.similarity() == Similarity::Dot {
                vectors.iter_mut().for_each(|vector| normalize(vector));
            }
            Ok(vectors)
        }
    }
}

#[cfg(all(test, feature = "plugins"))]
mod tests;
