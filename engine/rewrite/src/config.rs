//! The configuration of prompts: the section `prompt` of a run.

mod conversation;
mod document;
mod mode;
mod rerank;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::BaseConfig;
use querywright_types::{Error, Output, QueryLanguage, Result};

pub use conversation::ConversationConfig;
pub use document::DocumentConfig;
pub use mode::Mode;
pub use rerank::RerankConfig;

/// The copy of a template in an adapter's folder.
const TEMPLATE_FILE: &str = "prompt.jinja";
/// Bytes of an adapter's settings, at most.
const MAX_BYTES: u64 = 1 << 20;
/// Bytes of a template's file, at most.
pub(crate) const MAX_TEMPLATE_BYTES: u64 = 256 << 10;

/// The form of prompts and answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PromptStyle {
    /// A text to complete, with examples. The answer is the rest of the line. For small and base models.
    #[default]
    FewShot,
    /// A conversation. The answer is one line.
    Chat,
    /// A conversation. The answer is reasoning between think tags, then JSON with the key `query` between answer tags.
    ThinkAnswer,
}

/// The task that queries serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Task {
    /// Find what a request in words asks for.
    #[default]
    Search,
    /// Sequential recommendation: find the next item after a history, given as titles.
    Recommend,
    /// Find what a message of a conversation asks for, given what was said before it. The first message of a conversation
    /// goes as it is, and no model is asked.
    Conversation,
}

/// The words that an answer may consist of. What is not allowed is masked token by token, in training as in serving.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Vocabulary {
    /// Any text.
    #[default]
    Free,
    /// Words of the catalogue that stand in at least two documents and in at most a tenth of them, and words of the
    /// request. No word is an answer, too: the original query.
    Catalog,
    /// Candidate words of the first search, and words of the request. No word is an answer, too.
    Feedback,
}

impl Vocabulary {
    /// Whether any text may be written.
    pub fn is_free(&self) -> bool {
        *self == Self::Free
    }
}

/// A request with the query that it should become.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Example {
    /// The request; empty in [`Task::Recommend`].
    #[serde(default)]
    pub request: String,
    /// The titles of the history, oldest first; empty in [`Task::Search`].
    #[serde(default)]
    pub history: Vec<String>,
    /// What was said before the request, oldest first, in [`Task::Conversation`].
    // What was written before there was this key has the same digest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub turns: Vec<String>,
    /// The query as the model should write it.
    pub search: String,
    /// The reasoning, for [`PromptStyle::ThinkAnswer`].
    #[serde(default)]
    pub thought: String,
    /// What a first search proposed, for prompts that show [candidates](PromptConfig::candidates): words in
    /// [`Task::Search`], titles in [`Task::Recommend`], the best first. `search` picks some of them. In [`Mode::Rerank`] what is
    /// shown of documents, and `search` has their labels in the best order (`B A C`).
    // What was written before there was this key has the same digest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<String>,
}

/// How prompts are rendered and answers used. Unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PromptConfig {
    /// The form of prompts and answers. Default: `few-shot`.
    pub style: PromptStyle,
    /// What a model is asked for, and whether the user's own words are kept. Default: `expand`.
    pub mode: Mode,
    /// The task that queries serve. Default: `search`.
    pub task: Task,
    /// The words that an answer may consist of. Other than `free` only with the style `few-shot`, in the modes `expand` and
    /// `rewrite`, and on the processor. Default: `free`.
    // What was written before there was this key has the same digest.
    #[serde(skip_serializing_if = "Vocabulary::is_free")]
    pub vocabulary: Vocabulary,
    /// How many candidates of a first search stand in a prompt, the best first; at most 100. In [`Task::Search`] they are
    /// words, in [`Task::Recommend`] titles, in [`Mode::Rerank`] the documents that are ordered. The prompter needs their
    /// source. Default: 0, none.
    #[serde(skip_serializing_if = "is_zero")]
    pub candidates: usize,
    /// The query language to ask for, one of the retriever's. Default: the one that the retriever prefers.
    pub language: Option<QueryLanguage>,
    /// The content of the catalogue in a few words. Default: the `content` of the retriever's card.
    pub content: Option<String>,
    /// The examples. Default: three built-in ones for the task, mode and language, about bees, bread and lullabies. An
    /// empty list means none.
    pub examples: Option<Vec<Example>>,
    /// A template file in place of the built-in one of the style. Beside an adapter a copy of it is kept.
    pub template: Option<PathBuf>,
    /// Characters of a request in the prompt, at most; the first ones are kept. Default: 400 (about 100 tokens).
    pub max_request_chars: usize,
    /// Titles of a history in the prompt, at most; the last ones are kept. Default: 10.
    pub max_history: usize,
    /// Characters of a title in the prompt, at most; the first ones are kept. Default: 100.
    pub max_title_chars: usize,
    /// The weight of an original word relative to a generated term in the mode `expand`: a boost where the retriever
    /// reads boosts, otherwise a number of repetitions. Above 0, at most 100. Default: 2, so a wrong term costs little.
    pub original_weight: f32,
    /// Generated terms that are used, at most, so that no policy drifts to endless expansion. Default: 32.
    pub max_terms: usize,
    /// Tokens of an answer, at most, in serving and evaluation. Default: 32. Training sets it to its
    /// `max_completion_length`.
    pub max_answer_tokens: usize,
    /// How the user's words become a query before anything is added to them; what `querywright tune` finds. Default: as
    /// they came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseConfig>,
    /// How a passage becomes a query, in the mode `document`.
    #[serde(skip_serializing_if = "DocumentConfig::is_default")]
    pub document: DocumentConfig,
    /// The ways to search that the model chooses from in the mode `choose`, by their names. The name
    /// [`SAME`](crate::SAME) is another one: what the query is without a model. In the style `few-shot` answers are
    /// restricted to the names, on the processor alone.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub choices: BTreeMap<String, BaseConfig>,
    /// What is shown of the documents that are ordered, in the mode `rerank`. In the style `few-shot` answers are restricted to
    /// their labels, each once, on the processor alone.
    #[serde(skip_serializing_if = "RerankConfig::is_default")]
    pub rerank: RerankConfig,
    /// How much of a conversation stands in a prompt, in the task `conversation`.
    #[serde(skip_serializing_if = "ConversationConfig::is_default")]
    pub conversation: ConversationConfig,
}

impl Default for PromptConfig {
    fn default() -> Self {
        Self {
            style: PromptStyle::default(),
            mode: Mode::default(),
            task: Task::default(),
            vocabulary: Vocabulary::default(),
            candidates: 0,
            language: None,
            content: None,
            examples: None,
            template: None,
            max_request_chars: 400,
            max_history: 10,
            max_title_chars: 100,
            original_weight: 2.0,
            max_terms: 32,
            max_answer_tokens: 32,
            base: None,
            document: DocumentConfig::default(),
            choices: BTreeMap::new(),
            rerank: RerankConfig::default(),
            conversation: ConversationConfig::default(),
        }
    }
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Where a file of a folder is; why not, if it is none or lies elsewhere.
fn within(folder: &Path, named: &Path) -> std::result::Result<PathBuf, String> {
    let refused = |why: &str| Err(format!("template = {:?} {why}; it is a file of the adapter's own folder", named));
    if !named.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return refused("leads out of the folder");
    }
    // With links followed, so that none leads out either.
    let real = |path: &Path| path.canonicalize().map_err(|e| format!("template = {named:?} cannot be read ({e})"));
    let path = folder.join(named);
    let target = real(&path)?;
    if !target.starts_with(real(folder)?) {
        return refused("is a link that leads out of the folder");
    }
    if !target.is_file() {
        return refused("is no file");
    }
    Ok(path)
}

/// The text of a template's file, which must not be large.
pub(crate) fn read_template(path: &Path) -> Result<String> {
    let mut text = String::new();
    let file = fs::File::open(path).map_err(|e| Error::read(path, e))?;
    file.take(MAX_TEMPLATE_BYTES + 1).read_to_string(&mut text).map_err(|e| Error::read(path, e))?;
    if text.len() as u64 > MAX_TEMPLATE_BYTES {
        return Err(Error::argument(
            "prompt.template",
            format!("{} has more than {MAX_TEMPLATE_BYTES} bytes", path.display()),
            "a template defines the macros instruction(), request(query) and response(example), and nothing of this size",
        ));
    }
    Ok(text)
}

impl PromptConfig {
    /// The file in an adapter's folder with the prompt configuration that the adapter was trained with.
    pub const FILE: &str = "prompt.toml";

    /// Writes [`Self::FILE`] into an adapter's folder, and beside it a copy of the template, if there is one. Both are
    /// written beside what is there, and put in its place when both are whole.
    ///
    /// # Errors
    /// [`Error::Io`] when the template cannot be read or a file cannot be written; what was there is then still there.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(Self::FILE);
        let (mut kept, mut copy) = (self.clone(), None);
        if let Some(template) = &self.template {
            copy = Some((Output::open(folder.join(TEMPLATE_FILE))?, read_template(template)?));
            kept.template = Some(TEMPLATE_FILE.into());
        }
        self.write_files(folder)?;
        let text = toml::to_string(&kept).map_err(|e| Error::write(&path, std::io::Error::other(e)))?;
        let (output, template) = copy.unzip();
        let copy = output.zip(template.as_deref().map(str::as_bytes));
        Output::write_together(copy.into_iter().chain([(Output::open(path)?, text.as_bytes())]))
    }

    /// Reads [`Self::FILE`] of an adapter's folder. None where the file is missing, as with adapters of other programs.
    /// Its template is a file of the same folder: whoever wrote the adapter does not choose what else is read.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read, [`Error::Model`] when its content cannot be used.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(Self::FILE);
        if !path.exists() {
            return Ok(None);
        }
        let remedy = "correct it, or remove the file for the defaults";
        let refused = |found: String| Error::model(&path, found, remedy);
        // A pipe might never end.
        if !path.is_file() {
            return Err(refused("it is no file".to_owned()));
        }
        let mut text = String::new();
        let file = fs::File::open(&path).map_err(|e| Error::read(&path, e))?;
        file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(|e| Error::read(&path, e))?;
        if text.len() as u64 > MAX_BYTES {
            return Err(refused(format!("it has more than {MAX_BYTES} bytes")));
        }
        let mut config: Self = toml::from_str(&text).map_err(|e| refused(e.message().to_owned()))?;
        if let Some(template) = &config.template {
            config.template = Some(within(folder, template).map_err(refused)?);
        }
        config.load(folder)?;
        Ok(Some(config))
    }

    /// Writes what bases keep in files of their own into `folder`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_files(&self, folder: &Path) -> Result<()> {
        self.base.iter().chain(self.choices.values()).try_for_each(|base| base.write_files(folder))
    }

    /// Reads what bases keep in files of their own, in `folder`.
    ///
    /// # Errors
    /// Those of [`BaseConfig::load`].
    pub fn load(&mut self, folder: &Path) -> Result<()> {
        self.base.iter_mut().chain(self.choices.values_mut()).try_for_each(|base| base.load(folder))
    }

    /// The key of a weight of feedback, where the base or one of the choices has one: then a
    /// [`Prompter`](crate::Prompter) needs a source of feedback.
    pub fn feedback_key(&self) -> Option<String> {
        let wants = |base: &BaseConfig| base.feedback.weight > 0.0;
        if self.base.as_ref().is_some_and(wants) {
            return Some("base.feedback.weight".to_owned());
        }
        let choice = self.choices.iter().find(|(_, base)| wants(base));
        choice.map(|(name, _)| format!("prompt.choices.{name}.feedback.weight"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(template: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("adapter/sub")).unwrap();
        for file in ["outside.jinja", "adapter/mine.jinja", "adapter/sub/mine.jinja"] {
            fs::write(folder.path().join(file), "x").unwrap();
        }
        let toml = format!("template = {template:?}\n");
        fs::write(folder.path().join("adapter").join(PromptConfig::FILE), toml).unwrap();
        folder
    }

    #[test]
    fn a_template_beside_an_adapter_is_read_from_its_folder_alone() {
        let read = |template: &str| PromptConfig::read(&folder(template).path().join("adapter"));
        for good in ["mine.jinja", "sub/mine.jinja"] {
            assert!(read(good).unwrap().unwrap().template.unwrap().ends_with(good), "{good}");
        }
        for bad in [
            "../outside.jinja",
            "/etc/hostname",
            "sub/../../outside.jinja",
            "./../outside.jinja",
            "sub",
            "",
            "none.jinja",
        ] {
            let said = read(bad).unwrap_err().to_string();
            assert!(said.contains("prompt.toml") && said.contains("template = "), "{bad}: {said}");
        }
        assert_eq!(PromptConfig::read(tempfile::tempdir().unwrap().path()).unwrap(), None);
    }

    #[test]
    #[cfg(unix)]
    fn a_link_out_of_the_folder_is_refused_and_one_within_is_not() {
        let folder = folder("link.jinja");
        let adapter = folder.path().join("adapter");
        let link = adapter.join("link.jinja");
        std::os::unix::fs::symlink("../outside.jinja", &link).unwrap();
        assert!(PromptConfig::read(&adapter).unwrap_err().to_string().contains("leads out of the folder"));
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("sub/mine.jinja", &link).unwrap();
        assert!(PromptConfig::read(&adapter).unwrap().is_some());
    }

    #[test]
    fn what_is_written_beside_an_adapter_is_read_back_with_its_template() {
        let (own, adapter) = (folder("mine.jinja"), tempfile::tempdir().unwrap());
        let template = Some(own.path().join("outside.jinja"));
        let config = PromptConfig { template, max_terms: 7, ..PromptConfig::default() };
        config.write(adapter.path()).unwrap();
        drop(own);
        let read = PromptConfig::read(adapter.path()).unwrap().unwrap();
        assert_eq!(read.max_terms, 7);
        assert_eq!(fs::read_to_string(read.template.unwrap()).unwrap(), "x");
        assert!(fs::read_to_string(adapter.path().join(PromptConfig::FILE)).unwrap().contains("\"prompt.jinja\""));
    }

    #[test]
    fn a_configuration_that_cannot_be_written_whole_leaves_the_one_that_is_there() {
        let (own, adapter) = (folder("mine.jinja"), tempfile::tempdir().unwrap());
        let template = Some(own.path().join("outside.jinja"));
        let config = PromptConfig { template, ..PromptConfig::default() };
        let copy = adapter.path().join(TEMPLATE_FILE);
        fs::write(&copy, "old").unwrap();
        fs::create_dir(adapter.path().join(PromptConfig::FILE)).unwrap();
        assert!(config.write(adapter.path()).unwrap_err().to_string().contains("prompt.toml"));
        assert_eq!(fs::read_to_string(&copy).unwrap(), "old");
        assert_eq!(fs::read_dir(adapter.path()).unwrap().count(), 2, "nothing half-written stays behind");
    }

    #[test]
    fn a_large_template_or_configuration_is_refused() {
        let (folder, config) = (folder("mine.jinja"), PromptConfig::default());
        let large = folder.path().join("outside.jinja");
        fs::write(&large, "x".repeat(300_000)).unwrap();
        let config = PromptConfig { template: Some(large), ..config };
        assert!(config.write(folder.path()).unwrap_err().to_string().contains("more than"));
        fs::write(folder.path().join("adapter").join(PromptConfig::FILE), "#".repeat(2 << 20)).unwrap();
        assert!(PromptConfig::read(&folder.path().join("adapter")).unwrap_err().to_string().contains("more than"));
    }
}
