//! Models behind OpenAI-compatible servers: as a rewriter, and as the teacher of supervised steps.

use std::path::{Path, PathBuf};

use anyhow::Result;
use querywright::Error;
use querywright::catalog::{GivenPreference, GivenRewrite};
use querywright::rewrite::{PromptConfig, PromptStyle, Remote, RemoteConfig, Vocabulary, fetch_answers};
use querywright::train::{Labelled, Method, TeacherConfig, TrainConfig, checkpoint};
use querywright::types::Query;

use crate::progress::Bar;
use crate::prompts;
use crate::ranker::Ranker;

/// What a rewriter's name says of a server: `remote:FILE.toml`, or `remote:URL#MODEL`; none where it names something else.
pub fn at(text: &str) -> Result<Option<RemoteConfig>> {
    let Some(place) = text.strip_prefix("remote:") else { return Ok(None) };
    if place.starts_with("http://") || place.starts_with("https://") {
        let Some((url, model)) = place.split_once('#') else {
            let remedy = "write remote:URL#MODEL, or remote:FILE.toml with url and model in it";
            return Err(Error::argument("--rewriter", format!("\"{text}\" names no model"), remedy).into());
        };
        let prompt = PromptConfig { style: PromptStyle::Chat, ..PromptConfig::default() };
        let (url, model) = (url.to_owned(), model.to_owned());
        return Ok(Some(RemoteConfig { url, model, prompt, ..RemoteConfig::default() }));
    }
    let file = std::fs::read_to_string(place).map_err(|e| Error::read(Path::new(place), e))?;
    let mut config: RemoteConfig =
        toml::from_str(&file).map_err(|e| Error::configuration(place, &e.to_string(), e.message()))?;
    config.prompt.load(Path::new(place).parent().unwrap_or(Path::new(".")))?;
    Ok(Some(config))
}

/// A server's model as a rewriter for a retriever.
pub fn rewriter(config: RemoteConfig, ranker: &Ranker) -> Result<Remote> {
    let prompter = prompts::prompter(&config.prompt, ranker)?;
    Ok(Remote::new(config, ranker.retriever.card())?.with_prompter(prompter))
}

/// Makes sure, before a model is loaded, that the file is there that the run's method learns from: reads it, or fetches a
/// teacher's answers. What a run was begun with stays.
pub fn prepare(config: &TrainConfig, resume: bool, ranker: &Ranker, train: &[Labelled]) -> Result<()> {
    let Some(path) = config.pairs_file() else { return Ok(()) };
    let teacher = config.sft.teacher.as_ref().filter(|_| config.train.method == Method::Sft);
    let begun = resume && !checkpoint::list(&config.train.output_dir)?.is_empty();
    match teacher.filter(|_| !begun) {
        Some(teacher) => fetch(teacher, config, path, ranker, train),
        None if config.train.method == Method::Dpo => Ok(GivenPreference::read(&path).map(drop)?),
        None => Ok(GivenRewrite::read(&path).map(drop)?),
    }
}

fn fetch(
    teacher: &TeacherConfig,
    config: &TrainConfig,
    path: PathBuf,
    ranker: &Ranker,
    train: &[Labelled],
) -> Result<()> {
    let remote = rewriter(asked(teacher, &config.prompt), ranker).map_err(of_teacher)?;
    let queries: Vec<&Query> = train.iter().map(|(query, _)| query).collect();
    let bar = Bar::new(queries.len() as u64, "asking the teacher", "queries");
    let fetched = fetch_answers(&remote, &queries, &path, &bar).map_err(|e| of_teacher(e.into()))?;
    bar.finish();
    tell!(
        "{} of {} answers of {} are in {}",
        fetched.kept + fetched.answered,
        queries.len(),
        teacher.model,
        path.display()
    );
    if let Some(error) = fetched.first_failure {
        tell!("warning: {} queries have no answer that can be used, the first of them: {error}", fetched.failed);
    }
    if fetched.kept + fetched.answered == 0 {
        let remedy = "look at its answers with --rewriter remote:URL#MODEL, and set sft.teacher.prompt";
        return Err(Error::argument("sft.teacher", "it gave no answer that can be used", remedy).into());
    }
    Ok(())
}

/// How a teacher is asked: with its own prompt, or the run's as a conversation, which nobody can restrict.
fn asked(teacher: &TeacherConfig, own: &PromptConfig) -> RemoteConfig {
    let TeacherConfig { url, model, api_key_env, temperature, max_tokens, parallel, timeout_seconds, prompt } =
        teacher.clone();
    let prompt = prompt.unwrap_or_else(|| match own.style {
        PromptStyle::FewShot => {
            PromptConfig { style: PromptStyle::Chat, vocabulary: Vocabulary::Free, template: None, ..own.clone() }
        }
        _ => PromptConfig { vocabulary: Vocabulary::Free, ..own.clone() },
    });
    RemoteConfig { url, model, api_key_env, temperature, max_tokens, parallel, timeout_seconds, prompt }
}

/// A refusal of the client names its own keys.
fn of_teacher(error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<Error>() {
        Ok(Error::Argument { name, found, remedy, .. }) => match name.strip_prefix("remote.") {
            Some(key) => Error::argument(format!("sft.teacher.{key}"), found, remedy).into(),
            None => Error::argument(format!("sft.teacher: {name}"), found, remedy).into(),
        },
        Ok(error) if error.is_fault() => {
            anyhow::Error::from(error).context("the teacher cannot be asked; what it answered so far is kept")
        }
        Ok(error) => error.into(),
        Err(error) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_by_its_address_and_model_or_by_a_file() {
        let found = at("remote:http://localhost:8000/v1#some/model").unwrap().unwrap();
        assert_eq!((found.url.as_str(), found.model.as_str()), ("http://localhost:8000/v1", "some/model"));
        assert_eq!(found.prompt.style, PromptStyle::Chat);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "url = \"http://x/v1\"\nmodel = \"m\"\n[prompt]\nstyle = \"chat\"\n").unwrap();
        let name = |path: &Path| format!("remote:{}", path.display());
        assert_eq!(at(&name(file.path())).unwrap().unwrap().model, "m");
        std::fs::write(file.path(), "url = \"http://x/v1\"\nmodle = \"m\"\n").unwrap();
        let error = at(&name(file.path())).unwrap_err().to_string();
        assert!(error.contains("modle") && error.contains("`model`"), "{error}");
        assert!(at("remote:http://x/v1").unwrap_err().to_string().contains("names no model"));
        assert!(at("remote:absent.toml").unwrap_err().to_string().contains("absent.toml"));
        assert!(at("smollm2-135m").unwrap().is_none());
    }

    #[test]
    fn a_teacher_is_asked_by_the_run_s_prompt_as_a_conversation_that_nobody_restricts() {
        let own = PromptConfig { vocabulary: Vocabulary::Feedback, candidates: 3, ..PromptConfig::default() };
        let teacher = TeacherConfig { url: "http://x/v1".into(), model: "m".into(), ..TeacherConfig::default() };
        let prompt = asked(&teacher, &own).prompt;
        assert_eq!((prompt.style, prompt.vocabulary, prompt.candidates), (PromptStyle::Chat, Vocabulary::Free, 3));
        let given = PromptConfig { style: PromptStyle::ThinkAnswer, ..PromptConfig::default() };
        let teacher = TeacherConfig { prompt: Some(given.clone()), ..teacher };
        assert_eq!(asked(&teacher, &own).prompt, given);
        let error = of_teacher(Error::argument("remote.url", "\"\"", "give one").into()).to_string();
        assert!(error.starts_with("sft.teacher.url: "), "{error}");
    }
}
