//! From words to products, requests and grades, by a seeded generator.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::vocabulary::{ProductType, Split, Vocabulary, Wish};

/// Products of each type.
const PRODUCTS_PER_TYPE: usize = 24;
/// Requests in a hundred that carry a wish for an attribute.
const WISHES_PER_CENT: usize = 30;

/// Grade of a product of the right type, when the request has no wish.
const GRADE_TYPE: i32 = 2;
/// Grade of a product of the right type with the attribute that was wished for.
const GRADE_WISH_MET: i32 = 3;
/// Grade of a product of the right type that lacks the attribute that was wished for.
const GRADE_WISH_UNMET: i32 = 1;

/// A product of the catalogue.
#[derive(Debug, Clone)]
pub(super) struct Product {
    /// Position of its type in the vocabulary.
    pub kind: usize,
    pub id: String,
    pub title: String,
    pub text: String,
    pub brand: String,
    pub category: String,
    /// (name, value), sorted by name.
    pub attributes: Vec<(String, String)>,
}

/// A shopper's request.
#[derive(Debug, Clone)]
pub(super) struct ShopperRequest {
    pub split: Split,
    pub id: String,
    /// What the shopper writes.
    pub text: String,
    /// The ideal query: the type's trade name and the wished value.
    pub oracle: String,
    /// (position of a product, grade), in the order of the catalogue.
    pub grades: Vec<(usize, i32)>,
}

/// The whole demonstration.
#[derive(Debug, Clone)]
pub(super) struct Shop {
    pub products: Vec<Product>,
    pub requests: Vec<ShopperRequest>,
}

/// Generates the demonstration. The same seed gives the same bytes on every machine.
pub(super) fn generate(words: &Vocabulary, seed: u64) -> Shop {
    let mut random = Random(ChaCha8Rng::seed_from_u64(seed));
    let mut products = Vec::new();
    for (kind, of) in words.types.iter().enumerate() {
        products.extend(stock(words, kind, of, &mut random));
    }
    // Ties in a ranking go by position: no type may come first by accident of the tables' order.
    random.shuffle(&mut products);
    for (i, product) in products.iter_mut().enumerate() {
        product.id = format!("p{:04}", i + 1);
    }
    let mut requests = Vec::new();
    for split in Split::ALL {
        let mut asked = ask(words, split, &products, &mut random);
        random.shuffle(&mut asked);
        for (i, request) in asked.iter_mut().enumerate() {
            request.id = format!("{}-{:04}", split.name(), i + 1);
        }
        requests.append(&mut asked);
    }
    Shop { products, requests }
}

/// The products of one type: different combinations of its attribute values, each of another brand while brands last.
fn stock(words: &Vocabulary, kind: usize, of: &ProductType, random: &mut Random) -> Vec<Product> {
    let mut variants: Vec<Vec<(String, String)>> = vec![Vec::new()];
    for (name, values) in &of.attributes {
        variants = variants
            .iter()
            .flat_map(|v| values.iter().map(|x| v.iter().cloned().chain([(name.clone(), x.clone())]).collect()))
            .collect();
    }
    random.shuffle(&mut variants);
    let mut brands = words.shop.brands.clone();
    random.shuffle(&mut brands);
    let mut products = Vec::with_capacity(PRODUCTS_PER_TYPE);
    for (attributes, brand) in variants.into_iter().take(PRODUCTS_PER_TYPE).zip(brands.iter().cycle()) {
        let mut shown: Vec<&str> = attributes.iter().map(|a| a.1.as_str()).collect();
        random.shuffle(&mut shown);
        shown.truncate(2);
        products.push(Product {
            kind,
            id: String::new(),
            title: format!("{brand} {} {}", title_case(&shown.join(" ")), title_case(&of.name)),
            text: describe(words, of, random),
            brand: brand.clone(),
            category: of.category.clone(),
            attributes,
        });
    }
    products
}

/// A description: what it is and for whom, some features, and talk.
fn describe(words: &Vocabulary, of: &ProductType, random: &mut Random) -> String {
    format!(
        "{} for {}. This {} comes with {}. {}",
        capitalise(&random.pick(&of.synonyms, 1).concat()),
        random.pick(&of.uses, 2).join(" and "),
        of.name,
        random.pick(&of.features, 3).join(", "),
        random.pick(&words.shop.talk, 2).join(" "),
    )
}

/// The requests of one split: one for each need phrase of each type.
fn ask(words: &Vocabulary, split: Split, products: &[Product], random: &mut Random) -> Vec<ShopperRequest> {
    let frames = words.frames.of(split);
    let mut requests = Vec::new();
    for (kind, of) in words.types.iter().enumerate() {
        let wishes: Vec<&Wish> =
            words.wishes.iter().filter(|w| of.attributes.values().flatten().any(|v| *v == w.value)).collect();
        for need in of.needs.of(split) {
            let wish = if random.below(100) < WISHES_PER_CENT { random.pick(&wishes, 1).pop() } else { None };
            let frame = match wish {
                Some(_) => random.pick(&frames.wish, 1),
                None => random.pick(&frames.plain, 1),
            };
            let clause = wish.map_or(String::new(), |w| random.pick(w.clauses.of(split), 1).concat());
            requests.push(ShopperRequest {
                split,
                id: String::new(),
                text: frame
                    .concat()
                    .replace("{Need}", &capitalise(need))
                    .replace("{need}", need)
                    .replace("{wish}", &clause),
                oracle: wish.map_or(of.name.clone(), |w| format!("{} {}", of.name, w.value)),
                grades: grades(products, kind, wish.map(|w| w.value.as_str())),
            });
        }
    }
    requests
}

/// The grades of a request for a type, with or without a wish; products of other types are not judged.
fn grades(products: &[Product], kind: usize, wish: Option<&str>) -> Vec<(usize, i32)> {
    let grade = |p: &Product| match wish {
        None => GRADE_TYPE,
        Some(value) if p.attributes.iter().any(|a| a.1 == value) => GRADE_WISH_MET,
        Some(_) => GRADE_WISH_UNMET,
    };
    products.iter().enumerate().filter(|(_, p)| p.kind == kind).map(|(i, p)| (i, grade(p))).collect()
}

fn capitalise(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

fn title_case(text: &str) -> String {
    text.split(' ').map(capitalise).collect::<Vec<_>>().join(" ")
}

/// Random numbers made of the generator's own output, so that the data do not change with a library's way of sampling.
struct Random(ChaCha8Rng);

impl Random {
    /// A number below `n` (0 when `n` is 0); the bias of n / 2^32 does not matter here.
    fn below(&mut self, n: usize) -> usize {
        ((u64::from(self.0.next_u32()) * n as u64) >> 32) as usize
    }

    /// Fisher and Yates.
    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// `n` different items in random order; fewer where there are fewer.
    fn pick<T: Clone>(&mut self, items: &[T], n: usize) -> Vec<T> {
        let mut items = items.to_vec();
        self.shuffle(&mut items);
        items.truncate(n);
        items
    }
}
