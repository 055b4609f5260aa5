//! The documents that a model puts into order, and what a prompt shows of them.

use std::sync::Arc;

use anyhow::Result;
use querywright::Error;
use querywright::catalog::Catalog;
use querywright::rewrite::{PromptConfig, Shortlist};
use querywright::types::{
    Deadline, DocumentName, Fault, Ordinal, Ranking, Request, Retriever, RetrieverCard, retrieve,
};

use crate::first_pass::FirstPass;
use crate::ranker::Ranker;

/// What the retriever finds, shown as `prompt.rerank` says.
pub fn of(ranker: &Ranker, prompt: &PromptConfig) -> Result<Shortlist> {
    let (catalog, fields) = (ranker.catalog.clone(), prompt.rerank.fields.clone());
    if let Some(field) = fields.iter().find(|field| !catalog.field_names().contains(field)) {
        let remedy = format!("the documents have the fields {}", catalog.field_names().join(", "));
        return Err(Error::argument("prompt.rerank.fields", format!("\"{field}\""), remedy).into());
    }
    let timed = Timed { retriever: ranker.retriever.clone(), first: ranker.first.clone() };
    Ok(Shortlist::new(Arc::new(timed), Arc::new(move |document| shown(&catalog, &fields, document))))
}

/// A document's fields, one behind the other; without any its title, or where it has none all of its text.
fn shown(catalog: &Catalog, fields: &[String], document: Ordinal) -> String {
    if document as usize >= catalog.len() {
        return String::new();
    }
    let document = catalog.document(document);
    if !fields.is_empty() {
        let value = |name: &String| document.fields().find(|(field, _)| field == name).map(|(_, value)| value);
        return fields.iter().filter_map(value).collect::<Vec<_>>().join(" ");
    }
    match document.title().trim() {
        "" => document.text_of_all_fields(),
        title => title.to_owned(),
    }
}

/// Counts the time of its searches as that of first searches.
struct Timed {
    retriever: Arc<dyn Retriever>,
    first: FirstPass,
}

impl Retriever for Timed {
    fn card(&self) -> &RetrieverCard {
        self.retriever.card()
    }

    fn retrieve(&self, requests: &[Request], deadline: Deadline) -> Vec<Result<Ranking, Fault>> {
        self.first.timed(|| retrieve(self.retriever.as_ref(), requests, deadline))
    }

    fn document(&self, document: Ordinal) -> Option<DocumentName> {
        self.retriever.document(document)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bm25, prompts};
    use querywright::catalog::CatalogBuilder;
    use querywright::retrieve::Bm25Config;
    use querywright::rewrite::{Mode, Prompt, RerankConfig};
    use querywright::types::Query;

    fn ranker() -> Ranker {
        let mut builder = CatalogBuilder::new();
        let documents = [("steel kettle", "two litres"), ("", "kettle without a name"), ("copper kettle", "one litre")];
        for (n, (title, text)) in documents.iter().enumerate() {
            builder.push(&format!("d{n}"), [("title", *title), ("text", *text)]).unwrap();
        }
        let catalog = Arc::new(builder.finish());
        let index = bm25::index(&catalog, Bm25Config::default(), None).unwrap();
        Ranker::new(catalog, index.clone(), Some(index))
    }

    #[test]
    fn candidates_are_shown_by_their_titles_or_by_the_fields_that_are_asked_for() {
        let ranker = ranker();
        let shown = |fields: &[&str]| {
            let fields = fields.iter().map(|field| (*field).to_owned()).collect();
            let rerank = RerankConfig { fields, ..RerankConfig::default() };
            let prompt = PromptConfig { mode: Mode::Rerank, candidates: 3, rerank, ..PromptConfig::default() };
            let prompter = prompts::prompter(&prompt, &ranker).map_err(|error| error.to_string())?;
            match prompter.prompt(&Query::text("kettle")).unwrap() {
                Prompt::Completion { query, .. } => Ok(query),
                other => panic!("{other:?}"),
            }
        };
        let prompt = shown(&[]).unwrap();
        for part in [". steel kettle\n", ". kettle without a name\n", ". copper kettle\n", "\nOrder:"] {
            assert!(prompt.contains(part), "{part:?} in {prompt}");
        }
        assert!(shown(&["text", "title"]).unwrap().contains(". two litres steel kettle\n"));
        let refused: String = shown(&["brand"]).unwrap_err();
        assert!(refused.starts_with("prompt.rerank.fields: \"brand\"") && refused.contains("title, text"), "{refused}");
        assert!(ranker.first.spent().is_some());
    }
}
