//! A plugin that misbehaves on demand, for the host's tests. The text that it gets chooses what it does wrong.
//!
//! | where | text | what happens |
//! |---|---|---|
//! | the first document's first field | `load:loop`, `commit:loop` | never returns |
//! | | `load:trap`, `commit:trap` | traps |
//! | | `load:memory`, `commit:memory` | allocates without end |
//! | | `load:crumbs`, `commit:crumbs` | allocates without end, a few bytes at a time |
//! | | `load:recurse`, `commit:recurse` | recurses without end |
//! | | `load:fault`, `commit:fault` | a fault of a million control characters |
//! | a request's text | `loop`, `trap`, `recurse`, `memory`, `crumbs` | the same |
//! | | `nan`, `infinite`, `minus-infinite` | a score that is not finite |
//! | | `unknown`, `duplicate`, `unsorted`, `excluded`, `many` | hits that break the contract |
//! | | `fewer`, `more` | another number of answers than requests |
//! | | `huge-list`, `huge-text` | five million hits; a fault of 50 million characters |
//! | | `flood` | 100,000 lines of log with escape codes |
//! | | `count` | how often it was called, as a score: a state that is kept |
//! | | `remember:X`, `recall`, `repeat` | keeps X; gives its length as a score; says X as a fault |
//! | | `address` | an address in its memory as a score |
//! | anything else | | one hit: item 0 |
//!
//! What needs a component of another shape, or bytes that no compiler writes, is in `tests/forged.rs` and beside it: compile bombs,
//! names that forge a line, bytes that flood the host while fuel is counted. The flood of names to look up is in
//! `engine/plugin/src/look_up.rs`.

use std::cell::RefCell;

use querywright_plugin::bindings::exports::querywright::plugin::recommender::Guest;
use querywright_plugin::host::{Level, log};
use querywright_plugin::{Card, Document, Fault, Hit, QueryLanguage, Request, card};

/// What is kept between calls.
#[derive(Default)]
struct State {
    first: String,
    asked: u32,
    kept: String,
    hoard: Vec<Vec<u8>>,
    crumbs: Vec<Box<[u8]>>,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

/// The plugin.
pub struct Hostile;

fn forever() -> ! {
    let mut turn = 0u64;
    loop {
        turn = std::hint::black_box(turn.wrapping_add(1));
    }
}

fn trap() -> ! {
    querywright_plugin::log_panics();
    panic!("on demand")
}

fn hoard() -> ! {
    loop {
        let block = std::hint::black_box(vec![1u8; 1 << 20]);
        STATE.with_borrow_mut(|state| state.hoard.push(block));
    }
}

fn crumbs() -> ! {
    loop {
        STATE.with_borrow_mut(|state| state.crumbs.push(std::hint::black_box(Box::new([1; 24]))));
    }
}

#[allow(unconditional_recursion, reason = "that is the point")]
fn nest(depth: u64) -> u64 {
    let local = std::hint::black_box([depth; 64]);
    nest(depth + 1) + local[(depth % 64) as usize]
}

fn misbehave(what: &str) {
    match what {
        "loop" => forever(),
        "trap" => trap(),
        "memory" => hoard(),
        "crumbs" => crumbs(),
        "recurse" => {
            std::hint::black_box(nest(0));
        }
        _ => {}
    }
}

/// Control characters that must not reach a terminal.
fn bells() -> Result<(), Fault> {
    Err(Fault::Invalid("\u{7}".repeat(1_000_000)))
}

fn hits(list: &[(u32, f32)]) -> Result<Vec<Hit>, Fault> {
    Ok(list.iter().map(|(item, score)| Hit { item: *item, score: *score }).collect())
}

fn answer(request: &Request) -> Result<Vec<Hit>, Fault> {
    let asked = STATE.with_borrow_mut(|state| {
        state.asked += 1;
        state.asked
    });
    match request.text.as_str() {
        "nan" => hits(&[(0, f32::NAN)]),
        "infinite" => hits(&[(0, f32::INFINITY)]),
        "minus-infinite" => hits(&[(0, f32::NEG_INFINITY)]),
        "unknown" => hits(&[(u32::MAX, 1.0)]),
        "duplicate" => hits(&[(0, 1.0), (0, 1.0)]),
        "unsorted" => hits(&[(0, 1.0), (1, 2.0)]),
        "excluded" => hits(&[(request.exclude.first().copied().unwrap_or(0), 1.0)]),
        "many" => hits(&vec![(0, 1.0); request.k as usize + 1]),
        "huge-list" => hits(&vec![(0, 1.0); 5_000_000]),
        "huge-text" => Err(Fault::Internal("\u{1b}[31m".repeat(10_000_000))),
        "flood" => {
            (0..100_000).for_each(|line| log(Level::Error, &format!("\u{1b}[2J\nline {line}\r")));
            hits(&[(0, 1.0)])
        }
        "count" => hits(&[(0, asked as f32)]),
        "recall" => hits(&[(0, STATE.with_borrow(|state| state.kept.len() as f32))]),
        "repeat" => Err(Fault::Internal(STATE.with_borrow(|state| state.kept.clone()))),
        "address" => hits(&[(0, std::ptr::from_ref(&*Box::new(asked)).addr() as f32)]),
        text => {
            misbehave(text);
            if let Some(kept) = text.strip_prefix("remember:") {
                STATE.with_borrow_mut(|state| kept.clone_into(&mut state.kept));
            }
            hits(&[(0, 1.0)])
        }
    }
}

impl Guest for Hostile {
    fn describe() -> Card {
        card("hostile", "0.1.0", QueryLanguage::Plain)
    }

    fn load(documents: Vec<Document>) -> Result<(), Fault> {
        let text = documents.first().and_then(|document| document.fields.first()).map(|field| field.value.clone());
        let text = text.unwrap_or_default();
        if let Some(what) = text.strip_prefix("load:") {
            if what == "fault" {
                return bells();
            }
            misbehave(what);
        }
        STATE.with_borrow_mut(|state| {
            if state.first.is_empty() {
                state.first = text;
            }
        });
        Ok(())
    }

    fn commit() -> Result<(), Fault> {
        let first = STATE.with_borrow(|state| state.first.clone());
        match first.strip_prefix("commit:") {
            Some("fault") => bells(),
            what => {
                misbehave(what.unwrap_or_default());
                Ok(())
            }
        }
    }

    fn recommend(requests: Vec<Request>) -> Vec<Result<Vec<Hit>, Fault>> {
        let mut answers: Vec<_> = requests.iter().map(answer).collect();
        if requests.iter().any(|request| request.text == "fewer") {
            answers.pop();
        }
        if requests.iter().any(|request| request.text == "more") {
            answers.push(hits(&[(0, 1.0)]));
        }
        answers
    }
}

#[cfg(target_arch = "wasm32")]
querywright_plugin::bindings::export_plugin!(Hostile with_types_in querywright_plugin::bindings);
