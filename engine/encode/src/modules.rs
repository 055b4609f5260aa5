//! What sentence-transformers keeps beside an encoder: `modules.json` and the folders of its modules, the longest text,
//! prompts, and how vectors are compared. What changes the vectors and is not computed is refused by its key.

use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use crate::json::Json;
use crate::pooling::{Dense, DenseActivation, Pooling, Step};
use querywright_model::files::Folder;
use querywright_types::{Error, Result};

/// How two vectors are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Similarity {
    /// By their angle: every vector has length 1.
    Cosine,
    /// By their product.
    Dot,
}

/// What the folder of a sentence encoder says beside the encoder itself.
#[derive(Debug)]
pub(crate) struct Modules {
    pub(crate) steps: Vec<Step>,
    /// Whether the folder says how tokens are pooled.
    pub(crate) says_pooling: bool,
    /// Whether a prompt's own tokens are pooled, too.
    pub(crate) include_prompt: bool,
    pub(crate) max_tokens: Option<usize>,
    pub(crate) lower_case: bool,
    pub(crate) query_prompt: String,
    pub(crate) document_prompt: String,
    pub(crate) similarity: Option<Similarity>,
    pub(crate) truncate: Option<usize>,
    /// The files that were read.
    pub(crate) files: Vec<PathBuf>,
}

/// Old names of `sentence_bert_config.json`, one of which is there.
const TRANSFORMER: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

impl Modules {
    /// Reads a folder whose encoder has vectors of `width` values.
    pub(crate) fn of(folder: &Path, width: usize) -> Result<Self> {
        let mut modules = Self {
            steps: vec![Step::Pool(vec![Pooling::Mean])],
            says_pooling: false,
            include_prompt: true,
            max_tokens: None,
            lower_case: false,
            query_prompt: String::new(),
            document_prompt: String::new(),
            similarity: None,
            truncate: None,
            files: Vec::new(),
        };
        let path = folder.join("modules.json");
        if let Some(list) = Json::list(&path)? {
            modules.files.push(path);
            modules.steps.clear();
            modules.says_pooling = true;
            modules.chain(folder, &list, width)?;
        }
        modules.transformer(folder)?;
        modules.prompts(folder)?;
        Ok(modules)
    }

    /// The modules, in their order: the encoder, then what becomes of its vectors.
    fn chain(&mut self, folder: &Path, list: &[Json], mut width: usize) -> Result<()> {
        for (at, module) in list.iter().enumerate() {
            let kind = module.text("type")?.unwrap_or("");
            let place = within(folder, module)?;
            let pooled = !self.steps.is_empty();
            match kind.rsplit('.').next().unwrap_or(kind) {
                "Transformer" if at == 0 && place == folder => {}
                "Pooling" if at > 0 && !pooled => {
                    let modes = self.pooling(&place.join("config.json"), width)?;
                    width *= modes.len();
                    self.steps.push(Step::Pool(modes));
                }
                "Normalize" if pooled => {
                    let config = Json::optional(&place.join("config.json"))?;
                    config.as_ref().map_or(Ok(()), of_sentences)?;
                    self.steps.push(Step::Normalize);
                }
                "Dense" if pooled => {
                    let dense = self.dense(&place, width)?;
                    width = dense.outputs();
                    self.steps.push(Step::Dense(dense));
                }
                // Of training.
                "Dropout" if pooled => {}
                _ => {
                    let remedy = "Transformer at the top of the folder, then Pooling, then Dense and Normalize are \
                                  computed, in this order; choose such a model";
                    return Err(module.refused("type", remedy));
                }
            }
        }
        match self.steps.first() {
            Some(Step::Pool(_)) => Ok(()),
            _ => {
                let found = "modules without a Pooling: there is no vector of a whole text";
                Err(Error::model(folder.join("modules.json"), found, "choose a sentence encoder"))
            }
        }
    }

    fn pooling(&mut self, path: &Path, width: usize) -> Result<Vec<Pooling>> {
        let json = Json::required(path)?;
        self.files.push(path.to_owned());
        for key in ["embedding_dimension", "word_embedding_dimension"] {
            if json.whole(key)?.is_some_and(|stated| stated != width) {
                return Err(json.refused(key, format!("the encoder's vectors have {width} values; fetch it again")));
            }
        }
        self.include_prompt = json.flag("include_prompt")?.unwrap_or(true);
        let named = |value: &Value| {
            let mode = value.as_str().and_then(|name| Pooling::parse(name).ok());
            mode.ok_or_else(|| json.refused("pooling_mode", "that is not computed; choose another model"))
        };
        let modes: Vec<Pooling> = match json.get("pooling_mode") {
            Some(Value::Array(modes)) => modes.iter().map(named).collect::<Result<_>>()?,
            Some(mode) => vec![named(mode)?],
            None => flags(&json)?,
        };
        if modes.is_empty() {
            return Err(json.refused("pooling_mode", "it must name a mode"));
        }
        if modes.iter().enumerate().any(|(at, mode)| modes.iter().take(at).any(|earlier| earlier == mode)) {
            return Err(json.refused("pooling_mode", "it must name each mode once; fetch the model again"));
        }
        Ok(modes)
    }

    fn dense(&mut self, place: &Path, width: usize) -> Result<Dense> {
        let json = Json::required(&place.join("config.json"))?;
        of_sentences(&json)?;
        if json.says("use_residual") {
            return Err(json.refused("use_residual", "that is not computed; choose another model"));
        }
        let activation = match json.text("activation_function")?.map(|name| name.rsplit('.').next().unwrap_or(name)) {
            None | Some("Tanh") => DenseActivation::Tanh,
            Some("Identity") => DenseActivation::Identity,
            Some("ReLU") => DenseActivation::Relu,
            Some("Sigmoid") => DenseActivation::Sigmoid,
            Some(_) => {
                let remedy = "Identity, Tanh, ReLU and Sigmoid are computed; choose another model";
                return Err(json.refused("activation_function", remedy));
            }
        };
        let (inputs, outputs) = (json.need("in_features")?, json.need("out_features")?);
        if inputs != width || outputs == 0 {
            let key = if outputs == 0 { "out_features" } else { "in_features" };
            return Err(json.refused(key, format!("the vectors before it have {width} values; fetch the model again")));
        }
        let weights = Folder::open(place)?;
        let mut wanted = vec![("linear.weight", vec![outputs, inputs])];
        if json.flag("bias")?.unwrap_or(true) {
            wanted.push(("linear.bias", vec![outputs]));
        }
        if let Some(strange) = weights.names().find(|name| !wanted.iter().any(|(known, _)| known == name)) {
            let found = format!("it holds the tensor {strange}, which a linear layer does not read");
            return Err(Error::model(place, found, "fetch the model again"));
        }
        let mut values = wanted.iter().map(|(name, shape)| linear(&weights, place, name, shape));
        let weight =
            values.next().transpose()?.ok_or_else(|| Error::bug("encoder modules", "a layer without weights"))?;
        let bias = values.next().transpose()?;
        drop(values);
        // Its config.json and all weights, in shards or not.
        self.files.extend(weights.files());
        Ok(Dense { weight, bias, inputs, activation })
    }

    /// The longest text, and what a newer file says of inputs that are no texts.
    fn transformer(&mut self, folder: &Path) -> Result<()> {
        let mut files = TRANSFORMER.iter().map(|name| folder.join(name)).filter(|path| path.is_file());
        let Some(path) = files.next() else { return Ok(()) };
        let json = Json::required(&path)?;
        self.max_tokens = json.whole("max_seq_length")?;
        if self.max_tokens == Some(0) {
            return Err(json.refused("max_seq_length", "it must be at least 1; fetch the model again"));
        }
        self.lower_case = json.flag("do_lower_case")?.unwrap_or(false);
        let one_vector = "a text must have one vector, of the encoder's last layer; choose another model";
        for (key, right) in [("transformer_task", "feature-extraction"), ("module_output_name", "token_embeddings")] {
            if json.text(key)?.is_some_and(|given| given != right) {
                return Err(json.refused(key, one_vector));
            }
        }
        for key in ["query_length", "document_length", "query_expansion"] {
            if json.says(key) {
                return Err(json.refused(key, one_vector));
            }
        }
        for key in ["processing_kwargs", "tokenizer_args", "processor_kwargs", "model_args", "model_kwargs"] {
            if json.says(key) {
                return Err(json.refused(key, "that is not read; choose another model"));
            }
        }
        if let Some(config) = json.section("modality_config")? {
            let output = config
                .section("text")?
                .map(|text| text.text("method_output_name").map(|n| n == Some("last_hidden_state")));
            if output.transpose()? != Some(true) {
                return Err(json.refused("modality_config", one_vector));
            }
        }
        self.files.push(path);
        Ok(())
    }

    fn prompts(&mut self, folder: &Path) -> Result<()> {
        let Some(json) = Json::optional(&folder.join("config_sentence_transformers.json"))? else { return Ok(()) };
        if !matches!(json.text("model_type")?, None | Some("SentenceTransformer")) {
            return Err(json.refused("model_type", "a text must have one vector; choose a sentence encoder"));
        }
        self.similarity = match json.text("similarity_fn_name")? {
            None => None,
            Some("cosine") => Some(Similarity::Cosine),
            Some("dot" | "dot_score") => Some(Similarity::Dot),
            Some(_) => {
                let remedy = "cosine and dot are computed; choose another model, or say `similarity` yourself";
                return Err(json.refused("similarity_fn_name", remedy));
            }
        };
        self.truncate = json.whole("truncate_dim")?;
        if self.truncate == Some(0) {
            return Err(json.refused("truncate_dim", "it must be at least 1; fetch the model again"));
        }
        let Some(prompts) = json.section("prompts")? else { return Ok(()) };
        let default = match json.text("default_prompt_name")? {
            None => "",
            Some(name) => match prompts.text(name)? {
                Some(prompt) => prompt,
                None => return Err(json.refused("default_prompt_name", "there is no prompt of that name")),
            },
        };
        let query = prompts.text("query")?;
        let documents = ["document", "passage", "corpus"].map(|name| prompts.text(name));
        let documents = documents.into_iter().collect::<Result<Vec<_>>>()?;
        // A default is for texts of no role: before documents, that of queries would be wrong.
        let roles = query.is_some() || documents.iter().any(Option::is_some);
        let of_role = |prompt: Option<&str>| if roles { prompt.unwrap_or("") } else { default }.to_owned();
        self.query_prompt = of_role(query);
        // Since its version 5 sentence-transformers writes an empty `document` beside the `passage` of the authors.
        self.document_prompt = of_role(documents.into_iter().flatten().find(|prompt| !prompt.is_empty()));
        Ok(())
    }
}

/// The folder of a module: within that of the model.
fn within(folder: &Path, module: &Json) -> Result<PathBuf> {
    let path = module.text("path")?.unwrap_or("");
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !plain {
        return Err(module.refused("path", "it must lie within the model's folder; fetch the model again"));
    }
    // A path of nothing is the folder itself.
    Ok(Path::new(path)
        .components()
        .filter(|part| *part != Component::CurDir)
        .fold(folder.to_owned(), |at, part| at.join(part)))
}

/// The modes of files before there was `pooling_mode`: a flag each.
fn flags(json: &Json) -> Result<Vec<Pooling>> {
    let keys = [
        ("pooling_mode_cls_token", Pooling::Cls),
        ("pooling_mode_max_tokens", Pooling::Max),
        ("pooling_mode_mean_tokens", Pooling::Mean),
        ("pooling_mode_mean_sqrt_len_tokens", Pooling::MeanSqrtLen),
        ("pooling_mode_weightedmean_tokens", Pooling::WeightedMean),
        ("pooling_mode_lasttoken", Pooling::LastToken),
    ];
    let is_other = |key: &&String| key.starts_with("pooling_mode_") && keys.iter().all(|(own, _)| own != *key);
    if let Some(key) = json.keys().find(|key| is_other(key) && json.says(key)) {
        return Err(json.refused(key, "that is not computed; choose another model"));
    }
    let mut modes = Vec::new();
    for (key, mode) in keys {
        // That of the mean alone is on where it is not said.
        if json.flag(key)?.unwrap_or(mode == Pooling::Mean) {
            modes.push(mode);
        }
    }
    match modes.is_empty() {
        true => Err(json.refused("pooling_mode_mean_tokens", "no mode is on; fetch the model again")),
        false => Ok(modes),
    }
}

/// Refuses a module that reads or writes anything but the vector of the text.
fn of_sentences(json: &Json) -> Result<()> {
    for key in ["module_input_name", "module_output_name"] {
        if !matches!(json.text(key)?, None | Some("sentence_embedding")) {
            return Err(json.refused(key, "the vector of the text alone is read and written; choose another model"));
        }
    }
    Ok(())
}

fn linear(weights: &Folder, place: &Path, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
    let fetch = "fetch the model again";
    match weights.shape(name) {
        None => return Err(Error::model(place, format!("tensor {name} is missing"), fetch)),
        Some(found) if found != shape => {
            let found = format!("tensor {name} has the shape {found:?} where config.json says {shape:?}");
            return Err(Error::model(place, found, fetch));
        }
        Some(_) => {}
    }
    let tensor = weights.read(name)?;
    match tensor.not_finite() {
        Some((at, value)) => Err(Error::model(place, format!("tensor {name} holds {value} (value {at})"), fetch)),
        None => Ok(tensor.into_values()),
    }
}
