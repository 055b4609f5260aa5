//! A plugin is exchanged while it serves: nobody waits, and one that does not load changes nothing.
//!
//! ```text
//! cargo run --release --example hot_reload
//! ```

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use querywright::catalog::demo;
use querywright::plugin::{Plugin, PluginOptions, PluginSlot};
use querywright::types::{Deadline, Request, Retriever};
use querywright::{Error, Result};

fn main() -> Result<()> {
    let shop = demo::demo(demo::SEED)?;
    let component = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/plugins/bm25/dist/bm25.wasm"));
    let load = || Plugin::open(&component, &shop.catalog, PluginOptions::default());
    let request = Request::plain("cold feet in bed", 1);
    let slot = PluginSlot::new(load()?);
    let stop = AtomicBool::new(false);
    let served = std::thread::scope(|scope| -> Result<usize> {
        let server = scope.spawn(|| {
            let mut served = 0;
            while !stop.load(Ordering::Relaxed) {
                served +=
                    usize::from(slot.current().retrieve(std::slice::from_ref(&request), Deadline::NONE)[0].is_ok());
            }
            served
        });
        let answers = |plugin: &Plugin| match plugin.retrieve(std::slice::from_ref(&request), Deadline::NONE).remove(0)
        {
            Ok(ranking) if !ranking.hits.is_empty() => Ok(()),
            Ok(_) => Err(Error::argument("the new plugin", "it finds nothing", "keep the old one")),
            Err(fault) => Err(fault.into()),
        };
        let exchanged = slot.reload(load, answers).map(|_| ());
        // Bytes that are no component: the one that serves stays.
        let broken = || Plugin::from_bytes("broken", b"not a component", &shop.catalog, PluginOptions::default(), &());
        let refused = slot.reload(broken, answers).map(|_| ());
        stop.store(true, Ordering::Relaxed);
        let served = server.join().unwrap_or(0);
        exchanged?;
        if let Err(error) = refused {
            println!("kept the old one: {error}");
        }
        Ok(served)
    })?;
    println!("{served} searches were answered meanwhile");
    Ok(())
}
