//! Everything that a run needs besides its configuration: model, retriever, data.

use std::sync::Arc;

use querywright_data::catalog::Catalog;
use querywright_model::{Decoder, Tokenizer};
use querywright_rewrite::{Mode, PromptEncoder, Prompter};
use querywright_types::{Deadline, Error, Judgements, Query, Result, Retriever, Rewrite};
use rayon::prelude::*;

/// A query with its judgements.
pub type Labelled = (Query, Judgements);

/// Everything that a run needs besides its configuration.
pub struct Materials {
    /// The model's name, for adapters and tables.
    pub model_name: String,
    /// The base model.
    pub decoder: Arc<Decoder>,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Makes prompts and reads answers.
    pub encoder: Arc<PromptEncoder>,
    /// The environment: what gives the reward.
    pub retriever: Arc<dyn Retriever>,
    /// The documents that are searched.
    pub catalog: Arc<Catalog>,
    /// Queries to train on.
    pub train: Vec<Labelled>,
    /// Queries that choose the best adapter.
    pub dev: Vec<Labelled>,
    /// A digest of the model's weights.
    pub model_digest: String,
}

impl std::fmt::Debug for Materials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Materials")
            .field("model_name", &self.model_name)
            .field("retriever", self.retriever.card())
            .field("train", &self.train.len())
            .field("dev", &self.dev.len())
            .finish_non_exhaustive()
    }
}

/// The queries that a model is asked for and can learn from: without the first messages of conversations, which go as they
/// are, and in the mode `rerank` without those whose candidates have all one grade, so that every order earns the same. A query
/// that the retriever fails stays.
///
/// # Errors
/// Those of [`Prompter::listed`], and [`Error::Argument`] where none is left.
pub fn learnable(train: Vec<Labelled>, prompter: &Prompter) -> Result<Vec<Labelled>> {
    let teaches = |(query, judgements): &Labelled| -> Result<bool> {
        if prompter.config().mode != Mode::Rerank {
            return Ok(!prompter.is_first_message(query));
        }
        let listed = match prompter.original(query).and_then(|o| prompter.listed(query, &o, Deadline::NONE)) {
            Err(error) if error.is_fault() => return Ok(true),
            listed => listed?,
        };
        let mut gains = listed.iter().map(|document| judgements.grade(*document).unwrap_or(0).max(0));
        let first = gains.next();
        Ok(!prompter.is_first_message(query) && gains.any(|gain| Some(gain) != first))
    };
    let teaches = train.par_iter().map(teaches).collect::<Result<Vec<bool>>>()?;
    let count = train.len();
    let train: Vec<Labelled> =
        train.into_iter().zip(teaches).filter_map(|(one, teaches)| teaches.then_some(one)).collect();
    if train.is_empty() {
        let found = format!("none of {count} queries is one that a model is asked for and that it can improve");
        let remedy =
            "give more prompt.candidates or, for conversations, queries with \"turns\"; or choose another split";
        return Err(Error::argument("data.train", found, remedy));
    }
    Ok(train)
}

impl Materials {
    /// What each training query is without a model: its own words, or what the base makes of them.
    ///
    /// # Errors
    /// Those of the base's source of feedback.
    pub(super) fn originals(&self) -> Result<Vec<Rewrite>> {
        self.train.par_iter().map(|(query, _)| self.encoder.prompter().original(query)).collect()
    }

    /// Refuses a split without a query to train on or to choose by.
    pub(super) fn require_usable(&self) -> Result<()> {
        for (key, queries) in [("data.train", &self.train), ("data.dev", &self.dev)] {
            if queries.is_empty() {
                let found = "the split has no query with a relevant document";
                return Err(Error::argument(key, found, "choose another split"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::fixture::Fixture;
    use querywright_rewrite::{PromptConfig, Task};

    #[test]
    fn queries_that_no_answer_can_change_are_not_trained_on() {
        let fixture = Fixture::ordering();
        let labelled =
            |id: &str, text: &str, grades: &[(u32, i32)]| (Query::new(id, text), Judgements::new(grades.to_vec()));
        let ids = |train: Vec<Labelled>, prompter: &Prompter| -> Result<Vec<String>> {
            Ok(learnable(train, prompter)?.into_iter().map(|(query, _)| query.id).collect())
        };
        // "thing" finds documents 0, 1 and 2; nothing else finds any.
        let train = vec![
            labelled("in order", "thing", &[(0, 1)]),
            labelled("elsewhere", "thing", &[(7, 1)]),
            labelled("all as good", "thing", &[(0, 1), (1, 1), (2, 1)]),
            labelled("in no order", "thing", &[(2, 1), (1, 0)]),
            labelled("not found", "nothing", &[(0, 1)]),
        ];
        let prompter = fixture.materials.encoder.prompter();
        assert_eq!(ids(train.clone(), prompter).unwrap(), ["in order", "in no order"]);
        let error = ids(train[1..3].to_vec(), prompter).unwrap_err().to_string();
        assert!(error.starts_with("data.train: none of 2 queries") && error.contains("prompt.candidates"), "{error}");

        let config = PromptConfig { task: Task::Conversation, ..PromptConfig::default() };
        let talk = Prompter::new(config, fixture.materials.retriever.card()).unwrap();
        let (first, judged) = labelled("first", "thing", &[(0, 1)]);
        let second = (Query::new("second", "and then").with_turns(["thing"]), judged.clone());
        assert_eq!(ids(vec![(first, judged), second], &talk).unwrap(), ["second"]);
    }
}
