//! Write a recommender that runs in a sandbox inside Querywright.
//!
//! A plugin is a type that implements [`Recommender`], and one line that registers it:
//!
//! ```
//! use querywright_plugin::{Card, Document, Fault, Hit, QueryLanguage, Recommender, Request, rank};
//!
//! /// Ranks documents by the number of query words in their titles.
//! #[derive(Default)]
//! struct Titles(Vec<(u32, String)>);
//!
//! impl Recommender for Titles {
//!     fn card() -> Card {
//!         querywright_plugin::card("titles", "0.1.0", QueryLanguage::Plain)
//!     }
//!     fn load(&mut self, documents: Vec<Document>) -> Result<(), Fault> {
//!         self.0.extend(documents.iter().map(|d| (d.item, d.field("title").unwrap_or_default().to_lowercase())));
//!         Ok(())
//!     }
//!     fn recommend(&mut self, request: &Request) -> Result<Vec<Hit>, Fault> {
//!         let words: Vec<String> = request.text.split_whitespace().map(str::to_lowercase).collect();
//!         let score = |title: &str| words.iter().filter(|word| title.contains(word.as_str())).count() as f32;
//!         Ok(rank(self.0.iter().map(|(item, title)| (*item, score(title))), request))
//!     }
//! }
//!
//! querywright_plugin::register!(Titles);
//!
//! // Natively, without WebAssembly:
//! let documents = [("a", "Tea pot"), ("b", "Coffee pot")];
//! let documents = documents.iter().enumerate().map(|(i, (id, title))| Document::new(i as u32, id, &[("title",
//! title)])); let answers = querywright_plugin::testing::run::<Titles>(documents.collect(), &[Request::plain("pot of
//! tea", 10)]); assert_eq!(answers[0].as_ref().unwrap()[0].item, 0);
//! ```
//!
//! The host takes a snapshot of the plugin's memory after [`commit`](Recommender::commit) and starts any number of
//! instances from it. So what [`recommend`](Recommender::recommend) changes may or may not be seen by a later request.
//! The same request must always have the same answer.

/// The contract as generated code. Plugins use what is re-exported from it.
#[doc(hidden)]
#[allow(missing_docs)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "wit",
        world: "plugin",
        pub_export_macro: true,
        export_macro_name: "export_plugin",
        default_bindings_module: "querywright_plugin::bindings",
    });
}

pub mod host;
pub mod testing;

pub use bindings::exports::querywright::plugin::recommender::{Card, Document, Fault, Hit, Request};
pub use bindings::querywright::plugin::types::{Field, QueryLanguage};

/// A recommender. The host calls [`card`](Self::card) at any time, [`load`](Self::load) with the catalogue in batches,
/// [`commit`](Self::commit) once, and then [`recommend`](Self::recommend).
pub trait Recommender: Default {
    /// The plugin's name, and what it reads. [`card()`](crate::card) makes one. The host may call this before `load`,
    /// so name the fields that the plugin looks for, not those of the catalogue.
    fn card() -> Card;

    /// Loads the next batch of documents, in ascending order of their ordinals.
    ///
    /// # Errors
    /// A document that cannot be used, and why. The host then refuses the plugin.
    fn load(&mut self, documents: Vec<Document>) -> Result<(), Fault>;

    /// Builds what is searched. The host calls it once, after the last batch. Default: nothing.
    ///
    /// # Errors
    /// What is missing. The host then refuses the plugin.
    fn commit(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    /// Ranks one request: best hit first, each item once, no excluded item, at most `k` hits, finite scores. [`rank`]
    /// ensures all of that.
    ///
    /// # Errors
    /// Why there is no ranking. The text of a query is never a reason.
    fn recommend(&mut self, request: &Request) -> Result<Vec<Hit>, Fault>;

    /// Ranks a batch. Answers come in the order of the requests. Default: [`recommend`](Self::recommend) for each.
    fn recommend_all(&mut self, requests: &[Request]) -> Vec<Result<Vec<Hit>, Fault>> {
        requests.iter().map(|request| self.recommend(request)).collect()
    }
}

/// A card with one query language and no fields, of a plugin that does not read histories.
pub fn card(name: &str, version: &str, language: QueryLanguage) -> Card {
    Card {
        name: name.to_owned(),
        version: version.to_owned(),
        languages: vec![language],
        fields: Vec::new(),
        reads_history: false,
    }
}

/// The hits of a request from scored items: at most `k`, best first, without excluded items and scores of 0 or less.
/// Equal scores are ordered by item.
pub fn rank(scored: impl IntoIterator<Item = (u32, f32)>, request: &Request) -> Vec<Hit> {
    top(scored.into_iter().filter(|(_, score)| *score > 0.0), request)
}

/// As [`rank`], but with scores of 0 or less, such as inner products. Scores that are not finite are left out.
pub fn top(scored: impl IntoIterator<Item = (u32, f32)>, request: &Request) -> Vec<Hit> {
    let mut excluded = request.exclude.clone();
    excluded.sort_unstable();
    let order = |a: &Hit, b: &Hit| b.score.total_cmp(&a.score).then(a.item.cmp(&b.item));
    if request.k == 0 {
        return Vec::new();
    }
    let k = request.k as usize;
    // Keeps up to 2k hits. When they are full, the best k stay, and later hits must beat the worst of them.
    let full = k.saturating_mul(2).max(64);
    let mut hits: Vec<Hit> = Vec::new();
    let mut worst_kept: Option<Hit> = None;
    for (item, score) in scored {
        let hit = Hit { item, score };
        if worst_kept.is_some_and(|worst| order(&hit, &worst).is_gt()) || !score.is_finite() {
            continue;
        }
        if excluded.binary_search(&item).is_ok() {
            continue;
        }
        hits.push(hit);
        if hits.len() == full {
            hits.select_nth_unstable_by(k - 1, order);
            hits.truncate(k);
            worst_kept = hits.last().copied();
        }
    }
    if k < hits.len() {
        hits.select_nth_unstable_by(k - 1, order);
        hits.truncate(k);
    }
    hits.sort_unstable_by(order);
    hits
}

impl Document {
    /// A document from the names and values of its fields.
    pub fn new(item: u32, id: &str, fields: &[(&str, &str)]) -> Self {
        let field = |(name, value): &(&str, &str)| Field { name: (*name).to_owned(), value: (*value).to_owned() };
        Self { item, id: id.to_owned(), fields: fields.iter().map(field).collect() }
    }

    /// The value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|field| field.name == name).map(|field| field.value.as_str())
    }

    /// The values of all fields, one line each.
    pub fn text(&self) -> String {
        let values: Vec<&str> = self.fields.iter().map(|field| field.value.as_str()).collect();
        values.join("\n")
    }
}

impl Request {
    /// A request in plain words, without history and exclusions.
    pub fn plain(text: &str, k: u32) -> Self {
        Self { text: text.to_owned(), language: QueryLanguage::Plain, history: Vec::new(), exclude: Vec::new(), k }
    }
}

/// A plugin with its state: loading, then ready. (Used by `register!`.)
#[doc(hidden)]
#[derive(Default)]
pub struct Lifecycle<T> {
    plugin: T,
    ready: bool,
}

impl<T: Recommender> Lifecycle<T> {
    #[doc(hidden)]
    pub fn load(&mut self, documents: Vec<Document>) -> Result<(), Fault> {
        if self.ready { Err(Fault::NotReady) } else { self.plugin.load(documents) }
    }

    #[doc(hidden)]
    pub fn commit(&mut self) -> Result<(), Fault> {
        if self.ready {
            return Err(Fault::NotReady);
        }
        self.plugin.commit()?;
        self.ready = true;
        Ok(())
    }

    #[doc(hidden)]
    pub fn recommend(&mut self, requests: &[Request]) -> Vec<Result<Vec<Hit>, Fault>> {
        if !self.ready {
            return requests.iter().map(|_| Err(Fault::NotReady)).collect();
        }
        self.plugin.recommend_all(requests)
    }
}

/// Logs the message of a panic before the panic ends the call as a trap. (Used by `register!`.)
#[doc(hidden)]
pub fn log_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| std::panic::set_hook(Box::new(|panic| host::log(host::Level::Error, &panic.to_string()))));
}

/// Exports a [`Recommender`] as the plugin of this crate. Outside WebAssembly it does nothing.
#[macro_export]
macro_rules! register {
    ($plugin:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            std::thread_local! {
                static PLUGIN: std::cell::RefCell<$crate::Lifecycle<$plugin>> = std::cell::RefCell::default();
            }
            struct Guest;
            fn with_plugin<T>(call: impl FnOnce(&mut $crate::Lifecycle<$plugin>) -> T) -> T {
                $crate::log_panics();
                PLUGIN.with_borrow_mut(call)
            }
            impl $crate::bindings::exports::querywright::plugin::recommender::Guest for Guest {
                fn describe() -> $crate::Card {
                    <$plugin as $crate::Recommender>::card()
                }
                fn load(documents: Vec<$crate::Document>) -> Result<(), $crate::Fault> {
                    with_plugin(|plugin| plugin.load(documents))
                }
                fn commit() -> Result<(), $crate::Fault> {
                    with_plugin(|plugin| plugin.commit())
                }
                fn recommend(requests: Vec<$crate::Request>) -> Vec<Result<Vec<$crate::Hit>, $crate::Fault>> {
                    with_plugin(|plugin| plugin.recommend(&requests))
                }
            }
    $crate::bindings::export_plugin!(Guest with_types_in $crate::bindings);
        };
    };
}
