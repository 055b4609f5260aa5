//! What a retriever says of itself.

/// The languages that a retriever can read queries in. A language that a component does not know is read as plain words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum QueryLanguage {
    /// A bag of words; operators mean nothing.
    #[default]
    Plain,
    /// AND, OR, NOT, quotes, brackets, field:term and term^boost.
    Boolean,
    /// A sentence or a passage, compared by meaning.
    Natural,
}

impl QueryLanguage {
    /// Its name in configurations and cards: "plain", "boolean", "natural".
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Boolean => "boolean",
            Self::Natural => "natural",
        }
    }
}

/// What a retriever says of itself. The rewriter's prompt is built from it.
///
/// ```
/// use querywright_types::{QueryLanguage, RetrieverCard};
///
/// let card = RetrieverCard::new("titles", "3f9a").with_languages([QueryLanguage::Plain]).with_content("movies");
/// assert_eq!(card.content, "movies");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct RetrieverCard {
    /// Its name, for people and for runs: "bm25".
    pub name: String,
    /// Its version; may be empty.
    pub version: String,
    /// A digest of everything that decides its rankings (catalogue, parameters, version): the key of caches.
    pub digest: String,
    /// The languages that it reads, the preferred one first; never empty.
    pub languages: Vec<QueryLanguage>,
    /// The fields that `field:term` may name; empty when it has none.
    pub fields: Vec<String>,
    /// Whether it reads the text of a request. One that does not gives every text the same ranking.
    pub reads_text: bool,
    /// Whether it reads the history of a request.
    pub reads_history: bool,
    /// What the catalogue holds, in a few words for the prompt: "movies", "industrial products".
    pub content: String,
    /// How many documents there are, so that every ordinal is below it; none where the retriever does not know.
    pub documents: Option<usize>,
}

impl RetrieverCard {
    /// A card of a retriever that reads plain words, over "documents".
    pub fn new(name: impl Into<String>, digest: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            version: String::new(),
            digest: digest.into(),
            languages: vec![QueryLanguage::Plain],
            fields: Vec::new(),
            reads_text: true,
            reads_history: false,
            content: "documents".to_owned(),
            documents: None,
        }
    }

    /// With a version.
    pub fn with_version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// With the languages that it reads, the preferred one first. An empty list means plain words.
    pub fn with_languages(mut self, languages: impl IntoIterator<Item = QueryLanguage>) -> Self {
        self.languages = languages.into_iter().collect();
        if self.languages.is_empty() {
            self.languages.push(QueryLanguage::Plain);
        }
        self
    }

    /// With the fields that `field:term` may name.
    pub fn with_fields(mut self, fields: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.fields = fields.into_iter().map(Into::into).collect();
        self
    }

    /// Says whether it reads the text of a request.
    pub fn with_text(mut self, reads_text: bool) -> Self {
        self.reads_text = reads_text;
        self
    }

    /// Says whether it reads the history of a request.
    pub fn with_history(mut self, reads_history: bool) -> Self {
        self.reads_history = reads_history;
        self
    }

    /// With what the catalogue holds, in a few words for the prompt.
    pub fn with_content(mut self, content: impl Into<String>) -> Self {
        self.content = content.into();
        self
    }

    /// With the number of documents, which bounds the ordinals.
    pub fn with_documents(mut self, documents: usize) -> Self {
        self.documents = Some(documents);
        self
    }
}
