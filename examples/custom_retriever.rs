//! A retriever of your own, in Rust: one method that ranks a batch, and a card that says what it is.
//!
//! ```text
//! cargo run --release --example custom_retriever
//! ```

use std::sync::Arc;

use querywright::catalog::{Catalog, demo};
use querywright::error::Fault;
use querywright::stack::Identity;
use querywright::types::{Deadline, Hit, Ordinal, QueryLanguage, Ranking, Request, Retriever, RetrieverCard};
use querywright::{Result, Stack};

/// Ranks products by how many words of the request their titles hold.
struct Titles {
    card: RetrieverCard,
    titles: Vec<String>,
}

impl Titles {
    fn new(catalog: &Arc<Catalog>) -> Self {
        // The digest keys the caches: it must change when a ranking could.
        let card = RetrieverCard::new("titles", format!("titles-1-{}", catalog.digest()))
            .with_languages([QueryLanguage::Plain])
            .with_content("products of a shop")
            .with_documents(catalog.len());
        Self { card, titles: catalog.documents().map(|document| document.title().to_lowercase()).collect() }
    }

    fn rank(&self, request: &Request) -> Ranking {
        let words: Vec<String> = request.text.split_whitespace().map(str::to_lowercase).collect();
        let score = |title: &String| words.iter().filter(|word| title.contains(word.as_str())).count() as f32;
        let mut hits: Vec<Hit> = (0..)
            .zip(&self.titles)
            .map(|(doc, title): (Ordinal, _)| Hit { doc, score: score(title) })
            .filter(|hit| hit.score > 0.0 && !request.exclude.contains(&hit.doc))
            .collect();
        hits.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.doc.cmp(&b.doc)));
        hits.truncate(request.k);
        Ranking { hits }
    }
}

impl Retriever for Titles {
    fn card(&self) -> &RetrieverCard {
        &self.card
    }

    fn retrieve(&self, requests: &[Request], _: Deadline) -> Vec<Result<Ranking, Fault>> {
        requests.iter().map(|request| Ok(self.rank(request))).collect()
    }
}

fn main() -> Result<()> {
    let shop = demo::demo(demo::SEED)?;
    let titles = Titles::new(&shop.catalog);
    let stack = Stack::builder().catalog(shop.catalog).retriever(titles).rewriter(Identity).build()?;
    for hit in &stack.search("mattress topper twin", 5)?.hits {
        println!("{:8.3}  {}", hit.score, hit.title);
    }
    Ok(())
}
