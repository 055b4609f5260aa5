//! The stack that `search` and `serve` put together.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use querywright::catalog::Dataset;
use querywright::stack::Stack;

use crate::grant::Grants;
use crate::open;
use crate::ranker::Ranker;
use crate::weights::Weights;

/// What is searched, and how.
#[derive(clap::Args)]
pub struct StackArgs {
    /// A data folder, a registry name, or demo
    #[arg(long, default_value = "demo")]
    pub data: String,
    /// bm25, with settings behind a colon (bm25:k1=0.9,b=0.4), dense or hybrid with a model behind a colon
    /// (dense:bge-small-en-v1.5), or a plugin's .wasm file; for next items with +covisitation behind it, or by histories
    /// alone: popularity, covisitation, sasrec or gru4rec, the last two with settings behind a colon (sasrec:epochs=50)
    #[arg(long, default_value = "bm25")]
    pub retriever: String,
    /// identity, rm3, hyde, query2doc or rerank (hyde:MODEL), a model's name or path, MODEL+ADAPTER_DIR, or what tune or
    /// train wrote (runs/x/best)
    #[arg(long, default_value = "identity")]
    pub rewriter: String,
    #[command(flatten)]
    pub weights: Weights,
    /// Hits at most
    #[arg(short, long, default_value_t = 10)]
    pub k: usize,
    /// Milliseconds that a search may take, rewrite and retrieval together; a rewrite that is not ready after three
    /// quarters of them is not waited for, and the query is searched for as it is
    #[arg(long, value_name = "MS")]
    pub deadline: Option<u64>,
    /// Keep the index in this folder and open it again next time
    #[arg(long, value_name = "DIR")]
    pub index: Option<PathBuf>,
    #[command(flatten)]
    pub grants: Grants,
}

/// A stack, and what it was made of.
pub struct Opened {
    pub dataset: Dataset,
    pub ranker: Ranker,
    pub stack: Stack,
}

impl StackArgs {
    pub fn open(&self) -> Result<Opened> {
        let dataset = crate::dataset::open(&self.data, false)?;
        let ranker = open::retriever(&self.retriever, &self.rewriter, &dataset, self.index.as_deref(), &self.grants)?;
        let mut builder = Stack::builder().catalog(dataset.catalog.clone()).retriever(ranker.retriever.clone());
        // A stack without a rewriter says that the original query was searched for.
        if self.rewriter != "identity" {
            builder = builder.rewriter(open::rewriter(&self.rewriter, &ranker, None, &self.weights)?);
        }
        if let Some(ms) = self.deadline {
            builder = builder.deadline(Duration::from_millis(ms));
        }
        let stack = builder.build()?;
        Ok(Opened { dataset, ranker, stack })
    }
}
