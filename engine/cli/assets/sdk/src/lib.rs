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
//! let documents = documents.iter().enumerate().map(|(i, (id, title))| Document::new(i as u32, id, &[("title", title)]));
//! let answers = querywright_plugin::testing::run::<Titles>(documents.collect(), &[Request::plain("pot of tea", 10)]);
//! assert_eq!(answers[0].as_ref().unwrap()[0].item, 0);
//! ```
//!
//! What `recommend` changes is not kept for certain: the host may ask a fresh copy of the plugin as it was after
//! [`commit`](Recommender::commit). The same request must always have the same answer.

/// The contract as generated code; plugins use what is re-exported from it.
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
    /// Who it is and what it reads; [`card`] makes one. May be asked before anything was loaded, so the fields of the
    /// catalogue are not known here: name those that you look for.
    fn card() -> Card;

    /// Takes the next documents, in ascending order of their ordinals.
    ///
    /// # Errors
    /// A document that cannot be used, and why: the host then refuses to start the plugin.
    fn load(&mut self, documents: Vec<Document>) -> Result<(), Fault>;

    /// The catalogue is complete: build what is searched. Default: nothing.
    ///
    /// # Errors
    /// What is missing: the host then refuses to start the plugin.
    fn commit(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    /// Ranks one request: best hit first, each item once, none that is excluded, at most `k`, finite scores. [`rank`] sees
    /// to all of it.
    ///
    /// # Errors
    /// What kept it from ranking. A query's text is never a reason.
    fn recommend(&mut self, request: &Request) -> Result<Vec<Hit>, Fault>;

    /// Ranks a batch, in order. Default: one after the other.
    fn recommend_all(&mut self, requests: &[Request]) -> Vec<Result<Vec<Hit>, Fault>> {
        requests.iter().map(|request| self.recommend(request)).collect()
    }
}

/// A card with one language, no fields, and no interest in histories.
pub fn card(name: &str, version: &str, language: QueryLanguage) -> Card {
    Card {
        name: name.to_owned(),
        version: version.to_owned(),
        languages: vec![language],
        fields: Vec::new(),
        reads_history: false,
    }
}

/// The hits of a request from scored items: those with a score above 0, without what is excluded, best first, equal
/// scores in the order of the items, at most `k`.
pub fn rank(scored: impl IntoIterator<Item = (u32, f32)>, request: &Request) -> Vec<Hit> {
    top(scored.into_iter().filter(|(_, score)| *score > 0.0), request)
}

/// As [`rank`], for scores that may be 0 or less and still mean something, such as inner products. What is not finite is
/// left out.
pub fn top(scored: impl IntoIterator<Item = (u32, f32)>, request: &Request) -> Vec<Hit> {
    let mut excluded = request.exclude.clone();
    excluded.sort_unstable();
    let order = |a: &Hit, b: &Hit| b.score.total_cmp(&a.score).then(a.item.cmp(&b.item));
    if request.k == 0 {
        return Vec::new();
    }
    let k = request.k as usize;
    // Twice as many as are wanted are kept; each time they are full, the better half stays and is the bar for the rest.
    let full = k.saturating_mul(2).max(64);
    let mut hits: Vec<Hit> = Vec::new();
    let mut bar: Option<Hit> = None;
    for (item, score) in scored {
        let hit = Hit { item, score };
        if bar.is_some_and(|bar| order(&hit, &bar).is_gt()) || !score.is_finite() {
            continue;
        }
        if excluded.binary_search(&item).is_ok() {
            continue;
        }
        hits.push(hit);
        if hits.len() == full {
            hits.select_nth_unstable_by(k - 1, order);
            hits.truncate(k);
            bar = hits.last().copied();
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
    /// A document from names and values of fields.
    pub fn new(item: u32, id: &str, fields: &[(&str, &str)]) -> Self {
        let field = |(name, value): &(&str, &str)| Field { name: (*name).to_owned(), value: (*value).to_owned() };
        Self { item, id: id.to_owned(), fields: fields.iter().map(field).collect() }
    }

    /// The value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|field| field.name == name).map(|field| field.value.as_str())
    }

    /// The values of all fields, a line each.
    pub fn text(&self) -> String {
        let values: Vec<&str> = self.fields.iter().map(|field| field.value.as_str()).collect();
        values.join("\n")
    }
}

impl Request {
    /// A request in plain words.
    pub fn plain(text: &str, k: u32) -> Self {
        Self { text: text.to_owned(), language: QueryLanguage::Plain, history: Vec::new(), exclude: Vec::new(), k }
    }
}

/// A plugin on its way: loading, then ready.
#[doc(hidden)]
#[derive(Default)]
pub struct Life<T> {
    plugin: T,
    ready: bool,
}

impl<T: Recommender> Life<T> {
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

/// Has the host told what a panic says, before it ends the call as a trap. (A part of `register!`.)
#[doc(hidden)]
pub fn tell_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| std::panic::set_hook(Box::new(|panic| host::log(host::Level::Error, &panic.to_string()))));
}

/// Makes a [`Recommender`] the plugin of this crate. Outside WebAssembly it does nothing.
#[macro_export]
macro_rules! register {
    ($plugin:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            std::thread_local! {
                static PLUGIN: std::cell::RefCell<$crate::Life<$plugin>> = std::cell::RefCell::default();
            }
            struct Guest;
            fn alive<T>(call: impl FnOnce(&mut $crate::Life<$plugin>) -> T) -> T {
                $crate::tell_panics();
                PLUGIN.with_borrow_mut(call)
            }
            impl $crate::bindings::exports::querywright::plugin::recommender::Guest for Guest {
                fn describe() -> $crate::Card {
                    <$plugin as $crate::Recommender>::card()
                }
                fn load(documents: Vec<$crate::Document>) -> Result<(), $crate::Fault> {
                    alive(|plugin| plugin.load(documents))
                }
                fn commit() -> Result<(), $crate::Fault> {
                    alive(|plugin| plugin.commit())
                }
                fn recommend(requests: Vec<$crate::Request>) -> Vec<Result<Vec<$crate::Hit>, $crate::Fault>> {
                    alive(|plugin| plugin.recommend(&requests))
                }
            }
    $crate::bindings::export_plugin!(Guest with_types_in $crate::bindings);
        };
    };
}
