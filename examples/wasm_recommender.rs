//! A third party's recommender in a sandbox: load it, grant it something, search with it.
//!
//! ```text
//! cargo run --release --example wasm_recommender
//! cargo run --release --example wasm_recommender -- hello/dist/hello.wasm
//! ```

use std::path::PathBuf;
use std::sync::Arc;

use querywright::catalog::demo;
use querywright::plugin::{Grant, Limits, Plugin, PluginOptions, Services};
use querywright::stack::Identity;
use querywright::types::Retriever;
use querywright::{Result, Stack};

fn main() -> Result<()> {
    let shop = demo::demo(demo::SEED)?;
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/plugins/bm25/dist/bm25.wasm");
    let component = std::env::args_os().nth(1).map_or_else(|| PathBuf::from(own), PathBuf::from);
    // What the plugin's manifest asks for and this grants, it may have. Everything else is denied.
    let options = PluginOptions {
        grant: Grant {
            log: true,
            limits: Limits { memory_mib: 128, call_ms: 200, ..Limits::default() },
            ..Grant::default()
        },
        services: Services {
            log: Some(Arc::new(|id, level, line| eprintln!("{id} {level:?}: {line}"))),
            ..Services::default()
        },
        content: "products of a shop".into(),
        ..PluginOptions::default()
    };
    let plugin = Plugin::open(&component, &shop.catalog, options)?;
    println!("{} {}, reads {:?}", plugin.card().name, plugin.card().version, plugin.card().languages);
    println!("may use {:?}", plugin.capabilities());
    let stack = Stack::builder().catalog(shop.catalog).retriever(plugin).rewriter(Identity).build()?;
    // A fault of the plugin would be a typed error here; the next search would find a fresh instance.
    for hit in &stack.search("cold feet in bed", 5)?.hits {
        println!("{:8.3}  {}", hit.score, hit.title);
    }
    Ok(())
}
