//! A sentence encoder: texts to vectors.

use std::fs::File;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::backbone::Backbone;
use crate::json::Json;
use crate::modules::{Modules, Similarity};
use crate::pooling::{Pooling, Step, normalize, pooled};
use crate::shape::Shape;
use querywright_data::digest::sha256_of;
use querywright_kernels::Precision;
use querywright_model::Tokenizer;
use querywright_model::files::Folder;
use querywright_types::{Deadline, Error, Observe, Progress, Result, hex};

/// Tokens that are computed together at most.
const BATCH_TOKENS: usize = 768;

/// Texts of more tokens than this are computed one after the other, each on all threads: every thread would have the
/// activations of one in memory.
const LONG_TOKENS: usize = 1024;

/// Texts whose tokens are in memory at once.
const TEXTS_AT_ONCE: usize = 8192;

/// What a text is: models know them apart by what stands before them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputType {
    /// What is searched for.
    Query,
    /// What is found.
    Document,
}

/// What takes the place of what an encoder's folder says. The default leaves everything as it says.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EncoderConfig {
    /// What is put before a query. Default: the prompt `query` of `config_sentence_transformers.json`, or nothing. E5
    /// needs "query: ".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query_prefix: Option<String>,
    /// What is put before a document. Default: the prompt `document`, `passage` or `corpus`, or nothing. E5 needs
    /// "passage: ".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document_prefix: Option<String>,
    /// How the vectors of tokens become one. Default: what `modules.json` says; mean where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pooling: Option<Pooling>,
    /// Tokens of a text that are read, those around it included. Default: `max_seq_length`, else what the tokenizer and
    /// the model allow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<usize>,
    /// How vectors are compared. Default: `similarity_fn_name`, else by the cosine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub similarity: Option<Similarity>,
    /// How the products of linear layers are computed. Default `f32`: the vectors are those of sentence-transformers within
    /// 1e-4.
    #[serde(skip_serializing_if = "is_f32")]
    pub precision: EncoderPrecision,
}

/// How the products of an encoder's linear layers are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum EncoderPrecision {
    /// In single precision.
    #[default]
    F32,
    /// In bf16 with sums in single precision: faster where the processor multiplies bf16, and on others not. Vectors differ
    /// in the third digit.
    Bf16,
}

fn is_f32(precision: &EncoderPrecision) -> bool {
    *precision == EncoderPrecision::F32
}

/// An encoder in memory. Encoding takes `&self` from any number of threads.
pub struct Encoder {
    path: PathBuf,
    backbone: Backbone,
    tokenizer: Tokenizer,
    shape: Shape,
    steps: Vec<Step>,
    settings: Settings,
    width: usize,
    digest: String,
    warnings: Vec<String>,
}

/// What decides a vector beside the weights.
#[derive(Debug)]
struct Settings {
    query_prefix: String,
    document_prefix: String,
    max_tokens: usize,
    lower_case: bool,
    similarity: Similarity,
    truncate: Option<usize>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").field("path", &self.path).field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Encoder {
    /// Opens a Hugging Face folder of a BERT, RoBERTa, XLM-R, CamemBERT, DistilBERT or ModernBERT, with what
    /// sentence-transformers keeps beside it. A folder without `modules.json` is pooled by the mean, as
    /// sentence-transformers does it, and a warning says so.
    ///
    /// # Errors
    /// [`Error::Model`] for files that are missing, damaged or ask for what is not computed; [`Error::Argument`] for a
    /// setting without meaning.
    pub fn open(path: &Path, config: &EncoderConfig) -> Result<Self> {
        if path.is_file() {
            let remedy = "give the folder that holds config.json, tokenizer.json and model.safetensors";
            return Err(Error::model(path, "a file where a sentence encoder's folder belongs", remedy));
        }
        let json = Json::required(&path.join("config.json"))?;
        let shape = Shape::of(&json)?;
        let modules = Modules::of(path, shape.hidden_size)?;
        let tokenizer = Tokenizer::from_file(&path.join("tokenizer.json"))?;
        if tokenizer.vocab_size() > shape.vocab_size {
            let found = format!("{} tokens over an embedding of {} rows", tokenizer.vocab_size(), shape.vocab_size);
            let remedy = "the tokenizer belongs to another model; fetch the one that came with these weights";
            return Err(Error::model(path, found, remedy));
        }
        let settings = settings(path, &shape, &modules, config)?;
        let weights = Folder::open(path)?;
        let precision = match config.precision {
            EncoderPrecision::F32 => Precision::F32,
            EncoderPrecision::Bf16 => Precision::Bf16,
        };
        let backbone = Backbone::load(&weights, path, &shape, precision)?;
        let mut steps = modules.steps;
        if let Some(mode) = config.pooling {
            steps = replaced(steps, mode, path)?;
        }
        let mut warnings = Vec::new();
        if !modules.says_pooling && config.pooling.is_none() {
            let shown = path.display();
            warnings.push(format!("{shown} does not say how tokens are pooled (modules.json); the mean is taken: say pooling, as cls, where its authors took another"));
        }
        let full = width_of(&steps, shape.hidden_size);
        let width = settings.truncate.map_or(full, |most| most.min(full));
        let files = weights.files().into_iter().chain([path.join("tokenizer.json")]).chain(modules.files);
        let mut digest = digest_of(files, &steps, &settings)?;
        if config.precision != EncoderPrecision::F32 {
            digest = sha256_of(&[&digest, "bf16"]);
        }
        Ok(Self { path: path.to_owned(), backbone, tokenizer, shape, steps, settings, width, digest, warnings })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Values of a vector.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Tokens of a text that are read.
    pub fn max_tokens(&self) -> usize {
        self.settings.max_tokens
    }

    /// How vectors are compared. Where it is by the cosine, all have length 1, so that their product is it.
    pub fn similarity(&self) -> Similarity {
        self.settings.similarity
    }

    /// A digest of all that decides the vectors of documents: weights, tokenizer, pooling, prefix, length.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// What is put before a text of this role.
    pub fn prefix(&self, role: InputType) -> &str {
        match role {
            InputType::Query => &self.settings.query_prefix,
            InputType::Document => &self.settings.document_prefix,
        }
    }

    /// What does not stop its use and its owner should know.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The vectors of some texts, one behind the other, [`width`](Self::width) values each.
    ///
    /// A vector is the same, bit for bit, whatever is encoded beside it and on however many threads. Texts are computed
    /// together without padding; those of more than 1,024 tokens one after the other, so that their memory does not grow
    /// with the threads.
    ///
    /// # Errors
    /// [`Error::Deadline`] where it passed between two batches, [`Error::NotFinite`] where the model computes no numbers.
    pub fn encode<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
        role: InputType,
        deadline: Deadline,
        observer: &(dyn Observe + Sync),
    ) -> Result<Vec<f32>> {
        let mut vectors = Vec::with_capacity(texts.len() * self.width);
        for part in texts.chunks(TEXTS_AT_ONCE) {
            let done = vectors.len() / self.width.max(1);
            let tell = |more: usize| {
                observer.progress(Progress::new("encoding texts", (done + more) as u64, texts.len() as u64));
            };
            vectors.extend(self.encode_part(part, role, deadline, &tell)?);
        }
        Ok(vectors)
    }

    /// The tokens that [`encode`](Self::encode) reads of a text.
    ///
    /// # Errors
    /// A tokenizer that fails.
    pub fn count_tokens(&self, text: &str, role: InputType) -> Result<usize> {
        Ok(self.tokens(text, role)?.len())
    }

    fn encode_part<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
        role: InputType,
        deadline: Deadline,
        tell: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<f32>> {
        let tokens = |text: &T| deadline.check().and_then(|()| self.tokens(text.as_ref(), role));
        let tokens: Vec<Vec<u32>> = texts.par_iter().map(tokens).collect::<Result<_>>()?;
        let mut order: Vec<usize> = (0..tokens.len()).collect();
        // Stable, so that the batches are the same each time. The longest go first: what is left for one thread is short.
        order.sort_by_key(|at| std::cmp::Reverse(tokens.get(*at).map_or(0, Vec::len)));
        let batches = batches(&order, &tokens);
        let done = std::sync::atomic::AtomicUsize::new(0);
        let compute = |batch: &Vec<usize>| {
            deadline.check()?;
            let ids: Vec<&[u32]> = batch.iter().filter_map(|at| tokens.get(*at)).map(Vec::as_slice).collect();
            let vectors = self.batch(&ids)?;
            tell(done.fetch_add(batch.len(), std::sync::atomic::Ordering::Relaxed) + batch.len());
            Ok(vectors)
        };
        let (long, short) = batches.split_at(long_batches(&batches, &tokens));
        let mut computed: Vec<Vec<f32>> = long.iter().map(compute).collect::<Result<_>>()?;
        computed.extend(short.par_iter().map(compute).collect::<Result<Vec<_>>>()?);
        let mut vectors = vec![0.0; texts.len() * self.width];
        for (batch, computed) in batches.iter().zip(computed) {
            for (at, vector) in batch.iter().zip(computed.chunks_exact(self.width)) {
                let start = at * self.width;
                vectors[start..start + self.width].copy_from_slice(vector);
            }
        }
        Ok(vectors)
    }

    /// The vectors of texts.
    fn batch(&self, texts: &[&[u32]]) -> Result<Vec<f32>> {
        let hidden = self.shape.hidden_size;
        let tokens = self.backbone.forward(texts)?;
        let mut rest = tokens.as_slice();
        let mut vectors = Vec::with_capacity(texts.len() * self.width);
        for length in texts.iter().map(|ids| ids.len()) {
            let Some((own, after)) = rest.split_at_checked(length * hidden) else {
                let found = format!("{} values of tokens, too few for {} texts", tokens.len(), texts.len());
                return Err(Error::bug("encode::encoder", found));
            };
            rest = after;
            let mut vector = pooled(&self.steps, own, hidden);
            vector.truncate(self.width);
            if self.settings.similarity == Similarity::Cosine {
                normalize(&mut vector);
            }
            if let Some(value) = vector.iter().find(|value| !value.is_finite()) {
                let found = format!("{value} in the vector of a text of {length} tokens ({})", self.path.display());
                return Err(Error::not_finite(found, "the model is damaged, or no encoder; choose another one"));
            }
            vectors.extend(vector);
        }
        Ok(vectors)
    }

    /// The tokens of a text, with its prefix before it and the model's own around it, cut to what is read.
    fn tokens(&self, text: &str, role: InputType) -> Result<Vec<u32>> {
        let mut text = format!("{}{text}", self.prefix(role));
        if self.settings.lower_case {
            text = text.to_lowercase();
        }
        let most = self.settings.max_tokens;
        let whole = self.tokenizer.encode(&text, true)?;
        if whole.len() <= most {
            return Ok(whole);
        }
        // The text is cut at its end, and what the model expects around it stays.
        let plain = self.tokenizer.encode(&text, false)?;
        let around = whole.len().saturating_sub(plain.len());
        let before = (0..=around).find(|at| whole.get(*at..*at + plain.len()) == Some(plain.as_slice()));
        let Some(before) = before.filter(|_| around < most) else {
            let found = format!("the tokens of a text cannot be cut to {most}");
            return Err(Error::model(&self.path, found, "give a larger max_tokens, or choose another model"));
        };
        let end = before + plain.len();
        let kept = plain.len().min(most - around);
        Ok([&whole[..before], &plain[..kept], &whole[end..]].concat())
    }
}

/// Indices of texts that are neighbours in `order` and have no more tokens together than a batch has; one at least.
fn batches(order: &[usize], tokens: &[Vec<u32>]) -> Vec<Vec<usize>> {
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    for at in order {
        // One that has no token takes some room, too: a batch ends.
        let length = tokens.get(*at).map_or(0, Vec::len).max(1);
        match batches.last_mut().filter(|_| length <= room) {
            Some(batch) => batch.push(*at),
            None => {
                batches.push(vec![*at]);
                room = BATCH_TOKENS.max(length);
            }
        }
        room -= length;
    }
    batches
}

/// How many batches are of texts too long to be computed side by side; they go first.
fn long_batches(batches: &[Vec<usize>], tokens: &[Vec<u32>]) -> usize {
    let length = |batch: &Vec<usize>| batch.first().and_then(|at| tokens.get(*at)).map_or(0, Vec::len);
    batches.partition_point(|batch| length(batch) > LONG_TOKENS)
}

/// What the folder says, and what stands in its place.
fn settings(path: &Path, shape: &Shape, modules: &Modules, config: &EncoderConfig) -> Result<Settings> {
    let tokenizer = Json::optional(&path.join("tokenizer_config.json"))?;
    if let Some(json) = tokenizer.as_ref().filter(|json| json.text("truncation_side").is_ok_and(|s| s == Some("left")))
    {
        return Err(json.refused("truncation_side", "texts are cut at their end; choose another model"));
    }
    // A model without a limit says 1e30.
    let declared = tokenizer.as_ref().map(|json| json.number("model_max_length")).transpose()?.flatten();
    let declared = declared.filter(|most| (1.0..1e9).contains(most)).map(|most| most as usize);
    let most = shape.most_tokens();
    if config.max_tokens.is_some_and(|given| !(3..=most).contains(&given)) {
        let found = format!("found {}", config.max_tokens.unwrap_or_default());
        return Err(Error::argument(
            "max_tokens",
            found,
            format!("give a number from 3 to {most}, which the model has"),
        ));
    }
    let max_tokens = config.max_tokens.or(modules.max_tokens).or(declared).unwrap_or(most).min(most);
    let given = |own: &Option<String>, prompt: &str| own.clone().unwrap_or_else(|| prompt.to_owned());
    let settings = Settings {
        query_prefix: given(&config.query_prefix, &modules.query_prompt),
        document_prefix: given(&config.document_prefix, &modules.document_prompt),
        max_tokens,
        lower_case: modules.lower_case,
        similarity: config.similarity.or(modules.similarity).unwrap_or(Similarity::Cosine),
        truncate: modules.truncate,
    };
    let has_prefix = !(settings.query_prefix.is_empty() && settings.document_prefix.is_empty());
    if has_prefix && !modules.include_prompt {
        let remedy = "a prompt's own tokens are pooled with the text's; choose another model";
        return Err(Error::model(
            path.join("modules.json"),
            "a Pooling with include_prompt false, and prompts",
            remedy,
        ));
    }
    Ok(settings)
}

/// The steps with another pooling.
fn replaced(steps: Vec<Step>, mode: Pooling, path: &Path) -> Result<Vec<Step>> {
    let one = |step: &Step| !matches!(step, Step::Pool(modes) if modes.len() != 1);
    if !steps.iter().all(one) && steps.iter().any(|step| matches!(step, Step::Dense(_))) {
        let found = format!("{} pools in several ways before a linear layer", path.display());
        return Err(Error::argument("pooling", found, "leave it out: the layer needs all of them"));
    }
    let other = |step| if matches!(step, Step::Pool(_)) { Step::Pool(vec![mode]) } else { step };
    Ok(steps.into_iter().map(other).collect())
}

fn width_of(steps: &[Step], hidden: usize) -> usize {
    steps.iter().fold(hidden, |width, step| match step {
        Step::Pool(modes) => width * modes.len(),
        Step::Dense(dense) => dense.outputs(),
        Step::Normalize => width,
    })
}

/// The digest of files, of the steps behind the encoder, and of the settings that shape a document's vector.
fn digest_of(files: impl Iterator<Item = PathBuf>, steps: &[Step], settings: &Settings) -> Result<String> {
    let mut hasher = Sha256::new();
    for path in files {
        let mut file = File::open(&path).map_err(|e| Error::read(&path, e))?;
        let length = file.metadata().map_err(|e| Error::read(&path, e))?.len();
        // The length goes first, so that moving bytes from one file to the next changes the digest.
        hasher.update(length.to_le_bytes());
        std::io::copy(&mut file, &mut hasher).map_err(|e| Error::read(&path, e))?;
    }
    for step in steps {
        hasher.update(match step {
            Step::Pool(modes) => format!("pool {modes:?};"),
            Step::Dense(dense) => format!("dense {:?};", dense.activation),
            Step::Normalize => "normalize;".to_owned(),
        });
    }
    let Settings { query_prefix: _, document_prefix, max_tokens, lower_case, similarity, truncate } = settings;
    hasher.update(format!("{document_prefix:?} {max_tokens} {lower_case} {similarity:?} {truncate:?}"));
    Ok(hex(hasher.finalize()))
}

#[cfg(test)]
mod tests;
