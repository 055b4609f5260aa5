//! `rewriter.toml`: which rewriter a folder serves. `tune` writes one, and training beside the best adapter.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::base::BaseConfig;
use querywright_types::{Error, Output, Result, RetrieverCard};
use serde::{Deserialize, Serialize};

/// More is no file of settings.
const MAX_BYTES: u64 = 1 << 20;
/// What to do about a file that cannot be used.
const REMEDY: &str = "give a file that `querywright tune` or `train` wrote, in its folder";

/// What is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Serve {
    /// The words as they came: nothing was better.
    Raw,
    /// The base, without a model.
    Tuned,
    /// The model with the adapter that lies beside the file.
    Trained,
}

/// The content of the file. Unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RewriterFile {
    /// What is served.
    pub serve: Serve,
    /// The model of an adapter, as `--rewriter` names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// How sure the model must be for its rewrite to be used ([`Rewrite::confidence`](querywright_types::Rewrite)). Counts
    /// for [`Serve::Trained`] alone. Absent: every rewrite is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f64>,
    /// The name of the retriever that it was made for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retriever: Option<String>,
    /// The weight of covisitation in that retriever, which `--retriever bm25+covisitation` of the command line takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub covisitation: Option<f64>,
    /// The weight of the vectors' ranking beside that of BM25, fused by ranks, which `--retriever hybrid` takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hybrid: Option<f64>,
    /// The same, fused by scores, which `--retriever hybrid-scores` takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hybrid_scores: Option<f64>,
    /// How a request becomes a query without a model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseConfig>,
}

impl RewriterFile {
    /// Its name in a folder.
    pub const NAME: &str = "rewriter.toml";

    /// A file that serves this, and says nothing else.
    pub fn new(serve: Serve) -> Self {
        Self {
            serve,
            model: None,
            confidence: None,
            retriever: None,
            covisitation: None,
            hybrid: None,
            hybrid_scores: None,
            base: None,
        }
    }

    /// A base without a model.
    pub fn tuned(base: BaseConfig, retriever: &RetrieverCard) -> Self {
        Self { retriever: Some(retriever.name.clone()), base: Some(base), ..Self::new(Serve::Tuned) }
    }

    /// The file that `text` names: itself, or in a folder. None where there is none.
    pub fn at(text: &str) -> Option<PathBuf> {
        let path = Path::new(text);
        if path.is_dir() {
            let inside = path.join(Self::NAME);
            return inside.is_file().then_some(inside);
        }
        (path.extension().is_some_and(|e| e == "toml") && path.is_file()).then(|| path.to_owned())
    }

    /// Reads the file, and what stands in files beside it.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Argument`] when its content cannot be used.
    pub fn read(path: &Path) -> Result<Self> {
        let mut file = Self::settings(path)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        file.base.as_mut().map_or(Ok(()), |base| base.load(folder))?;
        Ok(file)
    }

    /// As [`read`](Self::read), without what stands in files beside it.
    ///
    /// # Errors
    /// Those of [`read`](Self::read) for the file itself.
    pub fn settings(path: &Path) -> Result<Self> {
        let refused = |found: String| Error::argument(path.display().to_string(), found, REMEDY);
        let mut text = String::new();
        let file = fs::File::open(path).map_err(|e| Error::read(path, e))?;
        file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(|e| Error::read(path, e))?;
        if text.len() as u64 > MAX_BYTES {
            return Err(refused(format!("it has more than {MAX_BYTES} bytes")));
        }
        let file: Self = toml::from_str(&text).map_err(|e| refused(e.message().to_owned()))?;
        match file.confidence {
            Some(least) if !(least.is_finite() && least <= 0.0) => {
                let remedy = "give the mean of log-probabilities, a number that is at most 0, or leave it out";
                Err(Error::argument(format!("{}: confidence", path.display()), least.to_string(), remedy))
            }
            _ => Ok(file),
        }
    }

    /// Writes the file, and before it what its base keeps in a file beside it.
    ///
    /// # Errors
    /// [`Error::Io`], and those of [`to_toml`](Self::to_toml).
    pub fn write(&self, output: Output) -> Result<()> {
        let folder = output.path().parent().unwrap_or(Path::new(".")).to_owned();
        self.base.as_ref().map_or(Ok(()), |base| base.write_files(&folder))?;
        output.write(self.to_toml()?.as_bytes())
    }

    /// The text of the file.
    ///
    /// # Errors
    /// [`Error::Bug`] where it cannot be written as TOML.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::bug("rewrite::rewriter_file", e.to_string()))
    }
}

#[cfg(feature = "model")]
mod open {
    use std::sync::Arc;

    use super::{Error, Path, REMEDY, Result, RetrieverCard, RewriterFile, Serve};
    use crate::{Feedback, LanguageModel, PromptConfig, PromptEncoder, Prompter, Tuned};
    use querywright_model::{Adapter, Decoder, SamplingConfig, Tokenizer};
    use querywright_stack::Identity;
    use querywright_types::Rewriter;

    /// Gives what a rewriter's file names or needs and does not hold. What has a default is needed by some files alone.
    pub trait Resolver {
        /// The card of the retriever that is asked.
        fn card(&self) -> &RetrieverCard;

        /// The model of this name, loaded.
        ///
        /// # Errors
        /// A model that cannot be found or loaded.
        fn model(&self, name: &str) -> Result<(Arc<Decoder>, Tokenizer)>;

        /// The words that a base or a choice with feedback asks for. Default: there is no source of them.
        ///
        /// # Errors
        /// A source that cannot be had.
        fn feedback(&self) -> Result<Feedback> {
            let remedy = "implement Resolver::feedback, with the words of Rm3 over an index";
            Err(Error::argument("base.feedback.weight", "above 0, and no source of feedback", remedy))
        }

        /// The prompts as text. Default: without titles of a history's items, and with [`feedback`](Self::feedback)
        /// where the base or a choice asks for it.
        ///
        /// # Errors
        /// Those of [`Prompter::new`].
        fn prompter(&self, prompt: PromptConfig) -> Result<Prompter> {
            let asks = prompt.feedback_key().is_some();
            let prompter = Prompter::new(prompt, self.card())?;
            if asks { Ok(prompter.with_feedback(self.feedback()?)) } else { Ok(prompter) }
        }

        /// The prompts in a model's tokens. Default: for answers that are free; those of a vocabulary need
        /// [`PromptEncoder::restricted`].
        ///
        /// # Errors
        /// Those of [`PromptEncoder::new`].
        fn encoder(&self, prompter: Prompter, tokenizer: &Tokenizer) -> Result<Arc<PromptEncoder>> {
            Ok(Arc::new(PromptEncoder::new(prompter, tokenizer.clone())?))
        }
    }

    impl RewriterFile {
        /// The rewriter that this file, which lies in `folder`, serves: what `--rewriter` of the command line opens.
        ///
        /// # Errors
        /// [`Error::Argument`] when the file lacks a key or a file beside it, or does not fit the retriever's card;
        /// those of `resolver`, and of [`Adapter::load`]. All but the adapter's weights are looked at before the model.
        pub fn open(&self, folder: &Path, resolver: &dyn Resolver) -> Result<Box<dyn Rewriter>> {
            let missing = |key: &str| {
                Error::argument(folder.join(Self::NAME).display().to_string(), format!("{key} is missing"), REMEDY)
            };
            match self.serve {
                Serve::Raw => Ok(Box::new(Identity)),
                Serve::Tuned => {
                    let base = self.base.clone().ok_or_else(|| missing("base"))?;
                    let feedback = (base.feedback.weight > 0.0).then(|| resolver.feedback()).transpose()?;
                    Ok(Box::new(Tuned::new(base, resolver.card(), feedback)?))
                }
                Serve::Trained => {
                    let name = self.model.as_ref().ok_or_else(|| missing("model"))?;
                    let prompt = PromptConfig::read(folder)?.ok_or_else(|| missing(PromptConfig::FILE))?;
                    let sampling = SamplingConfig::greedy(prompt.max_answer_tokens);
                    let prompter = resolver.prompter(prompt)?;
                    Adapter::find(folder)?;
                    let (decoder, tokenizer) = resolver.model(name)?;
                    let encoder = resolver.encoder(prompter, &tokenizer)?;
                    let adapter = Adapter::load(folder, decoder.config())?;
                    let model = LanguageModel::new("trained", decoder, tokenizer, encoder, Some(adapter), sampling)?;
                    Ok(Box::new(match self.confidence {
                        Some(least) => model.with_confidence(least as f32),
                        None => model,
                    }))
                }
            }
        }
    }
}

#[cfg(feature = "model")]
pub use open::Resolver;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<RewriterFile> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(RewriterFile::NAME);
        fs::write(&path, text).unwrap();
        RewriterFile::read(&path)
    }

    #[test]
    fn what_is_written_is_read_back_and_files_of_before_have_no_confidence() {
        let file = RewriterFile {
            model: Some("smollm2-135m".into()),
            confidence: Some(-0.8312),
            base: Some(BaseConfig { phrases: 0.2, ..BaseConfig::default() }),
            ..RewriterFile::new(Serve::Trained)
        };
        let text = file.to_toml().unwrap();
        assert!(text.contains("confidence = -0.8312\n"), "{text}");
        assert_eq!(read(&text).unwrap(), file);
        let old = read("serve = \"trained\"\nmodel = \"smollm2-135m\"\nretriever = \"bm25\"\n").unwrap();
        assert_eq!((old.serve, old.confidence), (Serve::Trained, None));
        assert!(!RewriterFile::new(Serve::Raw).to_toml().unwrap().contains("confidence"));
    }

    #[test]
    fn what_cannot_be_used_is_refused_by_its_file_and_key() {
        let refused = |text: &str| read(text).unwrap_err().to_string();
        for least in ["0.5", "nan", "-inf", "inf"] {
            let said = refused(&format!("serve = \"trained\"\nconfidence = {least}\n"));
            assert!(said.contains("rewriter.toml: confidence: ") && said.contains("at most 0"), "{least}: {said}");
        }
        assert!(refused("serve = \"trained\"\nconfidense = -1\n").contains("`confidense`"));
        assert!(refused("serve = \"best\"\n").contains("rewriter.toml"));
        assert!(refused(&"#".repeat(2 << 20)).contains("more than"));
    }

    #[cfg(feature = "model")]
    mod opening {
        use std::sync::Arc;

        use super::*;
        use crate::PromptConfig;
        use querywright_model::{Adapter, Decoder, LoraConfig, ModelSource, Precision, Tokenizer};
        use querywright_types::{Deadline, Kept, Query, QueryLanguage};

        /// Knows one model.
        struct Tiny(RetrieverCard);

        impl Resolver for Tiny {
            fn card(&self) -> &RetrieverCard {
                &self.0
            }

            fn model(&self, name: &str) -> Result<(Arc<Decoder>, Tokenizer)> {
                assert_eq!(name, "tiny");
                let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny-qwen3");
                let source = ModelSource::open(&folder)?;
                Ok((Arc::new(Decoder::load(&source, Precision::F32, &())?), source.tokenizer()?))
            }
        }

        #[test]
        fn a_folder_is_opened_as_what_its_file_serves_with_the_confidence_that_it_names() {
            let tiny = Tiny(RetrieverCard::new("bm25", "d").with_languages([QueryLanguage::Boolean]));
            let folder = tempfile::tempdir().unwrap();
            let base = BaseConfig { phrases: 0.5, ..BaseConfig::default() };
            let prompt = PromptConfig { base: Some(base.clone()), ..PromptConfig::default() };
            let trained = RewriterFile {
                model: Some("tiny".into()),
                base: Some(base.clone()),
                ..RewriterFile::new(Serve::Trained)
            };
            let refused = |file: &RewriterFile| file.open(folder.path(), &tiny).err().unwrap().to_string();
            assert!(refused(&trained).contains("prompt.toml is missing"));
            prompt.write(folder.path()).unwrap();
            assert!(refused(&trained).contains("adapter_config.json"), "before the model is asked for");
            assert!(refused(&RewriterFile { model: None, ..trained.clone() }).contains("model is missing"));
            assert!(refused(&RewriterFile::new(Serve::Tuned)).contains("base is missing"));
            let (decoder, _) = tiny.model("tiny").unwrap();
            let adapter = Adapter::new(decoder.config(), LoraConfig::default(), 0).unwrap();
            adapter.save(folder.path(), "tiny").unwrap();

            let query = Query::text("tea pot");
            let rewrite = |file: &RewriterFile| {
                let opened = file.open(folder.path(), &tiny).unwrap();
                (opened.name().to_owned(), opened.rewrite(std::slice::from_ref(&query), Deadline::NONE).remove(0))
            };
            let (name, raw) = rewrite(&RewriterFile::new(Serve::Raw));
            assert_eq!((name.as_str(), raw.unwrap().text.as_str()), ("identity", "tea pot"));
            let (name, tuned) = rewrite(&RewriterFile::tuned(base, tiny.card()));
            assert_eq!((name.as_str(), tuned.unwrap().text.as_str()), ("tuned", "(tea pot) (\"tea pot\")^0.5"));
            let unsure = RewriterFile { confidence: Some(0.0), ..trained.clone() };
            let (name, kept) = rewrite(&unsure);
            let own = rewrite(&trained).1;
            assert_eq!((name.as_str(), kept.is_ok()), ("trained", own.is_ok()));
            if let (Ok(kept), Ok(own)) = (kept, own) {
                assert_eq!((kept.kept, own.kept), (Some(Kept::LowConfidence), None));
                assert_eq!(kept.text, "(tea pot) (\"tea pot\")^0.5", "what the query is without the model");
            }
        }
    }
}
