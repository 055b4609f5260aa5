//! The words that the demonstration is made of: tables in TOML beside this file, one a department of the shop.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use querywright_types::{Error, Result};

/// The departments, each a table of product types.
const DEPARTMENTS: [(&str, &str); 10] = [
    ("home.toml", include_str!("home.toml")),
    ("kitchen.toml", include_str!("kitchen.toml")),
    ("office.toml", include_str!("office.toml")),
    ("electronics.toml", include_str!("electronics.toml")),
    ("outdoor.toml", include_str!("outdoor.toml")),
    ("garden.toml", include_str!("garden.toml")),
    ("baby.toml", include_str!("baby.toml")),
    ("pets.toml", include_str!("pets.toml")),
    ("tools.toml", include_str!("tools.toml")),
    ("health.toml", include_str!("health.toml")),
];

/// What all departments share.
const WORDS: (&str, &str) = ("words.toml", include_str!("words.toml"));

/// The three splits, in the order in which requests are generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Split {
    Train,
    Dev,
    Test,
}

impl Split {
    pub(super) const ALL: [Self; 3] = [Self::Train, Self::Dev, Self::Test];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Dev => "dev",
            Self::Test => "test",
        }
    }
}

/// One value for each split.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct PerSplit<T> {
    train: T,
    dev: T,
    test: T,
}

impl<T> PerSplit<T> {
    pub(super) fn of(&self, split: Split) -> &T {
        match split {
            Split::Train => &self.train,
            Split::Dev => &self.dev,
            Split::Test => &self.test,
        }
    }
}

/// A product type: how the trade speaks of it, and the everyday needs that call for it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct ProductType {
    /// The trade name, part of the title of each of its products.
    pub name: String,
    /// Other trade names, one in each product's description.
    pub synonyms: Vec<String>,
    /// The path in the catalogue's tree.
    pub category: String,
    /// Where or by whom it is used.
    pub uses: Vec<String>,
    /// Sales features.
    pub features: Vec<String>,
    /// Attribute name -> values in trade vocabulary.
    pub attributes: BTreeMap<String, Vec<String>>,
    /// Needs in everyday words: clauses that never name the product.
    #[serde(flatten)]
    pub needs: PerSplit<Vec<String>>,
}

/// An attribute value that shoppers ask for in everyday words.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Wish {
    /// The value in trade vocabulary, as the attributes spell it.
    pub value: String,
    /// Everyday clauses.
    #[serde(flatten)]
    pub clauses: PerSplit<Vec<String>>,
}

/// Sentences around a need, without and with a wish.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Frames {
    /// Frames with `{need}` or, at the start of a sentence, `{Need}`.
    pub plain: Vec<String>,
    /// Frames that hold `{wish}` as well.
    pub wish: Vec<String>,
}

/// What belongs to the shop as a whole.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Shop {
    /// Invented brands.
    pub brands: Vec<String>,
    /// Sales talk that means nothing.
    pub talk: Vec<String>,
}

/// All words of the demonstration.
#[derive(Debug, Clone)]
pub(super) struct Vocabulary {
    pub types: Vec<ProductType>,
    pub frames: PerSplit<Frames>,
    pub wishes: Vec<Wish>,
    pub shop: Shop,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Department {
    product: Vec<ProductType>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Words {
    frames: PerSplit<Frames>,
    wish: Vec<Wish>,
    shop: Shop,
}

impl Vocabulary {
    /// Reads the embedded tables.
    pub(super) fn embedded() -> Result<Self> {
        let mut types = Vec::new();
        for table in DEPARTMENTS {
            types.extend(parse::<Department>(table)?.product);
        }
        let Words { frames, wish, shop } = parse(WORDS)?;
        Ok(Self { types, frames, wishes: wish, shop })
    }
}

fn parse<T: DeserializeOwned>((file, text): (&str, &str)) -> Result<T> {
    toml::from_str(text).map_err(|e: toml::de::Error| {
        let line = e.span().map(|s| 1 + text.bytes().take(s.start).filter(|b| *b == b'\n').count() as u64);
        Error::data(
            file,
            line,
            e.message(),
            "the demonstration's tables must match the types of vocabulary.rs beside them",
        )
    })
}
