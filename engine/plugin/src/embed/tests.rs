use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use wasmtime::{AsContextMut, Store};

use super::super::capability::{Grant, Wanted};
use super::super::engine::{self, Metering};
use super::super::limits::Limits;
use super::super::services::Services;
use super::*;

type Encode = Box<dyn Fn(&[String], TextRole) -> Result<Vec<Vec<f32>>> + Send + Sync>;

/// An encoder of two dimensions that counts its calls.
struct Fake {
    encode: Encode,
    calls: AtomicUsize,
}

impl Fake {
    fn new(encode: impl Fn(&[String], TextRole) -> Result<Vec<Vec<f32>>> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { encode: Box::new(encode), calls: AtomicUsize::new(0) })
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

impl TextEncoder for Fake {
    fn dimensions(&self) -> usize {
        2
    }

    fn encode(&self, texts: &[String], role: TextRole, _: Deadline) -> Result<Vec<Vec<f32>>> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        (self.encode)(texts, role)
    }
}

/// Its vectors tell documents from queries.
fn telling() -> Arc<Fake> {
    Fake::new(|texts, role| {
        let vector = if role == TextRole::Query { [0.0, 1.0] } else { [1.0, 0.0] };
        Ok(vec![vector.to_vec(); texts.len()])
    })
}

fn store(encoder: Arc<Fake>, limits: Limits, metering: Metering) -> Store<State> {
    let wanted = Wanted { embed: true, ..Wanted::default() };
    let capabilities = Arc::new(wanted.granted(&limits, &Grant { embed: true, ..Grant::default() }));
    let services = Arc::new(Services { encoder: Some(encoder), ..Services::default() });
    let engine = engine::for_loading(metering).unwrap();
    let mut store = Store::new(&engine, State::new(&"a".into(), &capabilities, &services));
    store.data_mut().limiter.start_call(Duration::from_secs(60), Duration::from_secs(60));
    store
}

fn clocked(encoder: &Arc<Fake>, limits: Limits) -> Store<State> {
    store(encoder.clone(), limits, Metering::Clock)
}

fn ask(store: &mut Store<State>, texts: &[&str]) -> wasmtime::Result<Vectors> {
    let texts = texts.iter().map(|text| (*text).to_owned()).collect();
    call(store.as_context_mut(), texts, TextRole::Document)
}

/// The error of a call that traps.
fn trap(found: wasmtime::Result<Vectors>) -> Trap {
    *found.unwrap_err().downcast_ref::<Trap>().unwrap()
}

#[test]
fn documents_and_queries_are_told_apart_and_no_text_has_no_vector() {
    let encoder = telling();
    let mut store = clocked(&encoder, Limits::default());
    assert_eq!(ask(&mut store, &["x", "y"]).unwrap().unwrap(), vec![vec![1.0, 0.0]; 2]);
    let query = call(store.as_context_mut(), vec!["x".into()], TextRole::Query).unwrap().unwrap();
    assert_eq!(query, [[0.0, 1.0]]);
    assert!(ask(&mut store, &[]).unwrap().unwrap().is_empty() && encoder.calls() == 2);
}

#[test]
fn a_call_has_no_more_texts_and_bytes_encoded_than_its_limits_say() {
    let too_large = |found: wasmtime::Result<Vectors>| matches!(found.unwrap(), Err(EmbedError::TooLarge));
    let encoder = telling();
    let mut store = clocked(&encoder, Limits { embed_texts: 3, ..Limits::default() });
    assert!(ask(&mut store, &["a", "b"]).unwrap().is_ok());
    assert!(too_large(ask(&mut store, &["c", "d"])), "two and two are four");
    assert!(ask(&mut store, &["c"]).unwrap().is_ok());
    assert!(too_large(ask(&mut store, &[""])));
    assert_eq!((encoder.calls(), store.data().limiter.reached()), (2, Some("limits.embed_texts = 3")));
    store.data_mut().limiter.start_call(Duration::from_secs(60), Duration::from_secs(60));
    assert!(ask(&mut store, &["a", "b", "c"]).unwrap().is_ok(), "each call has its own");

    // A text of four bytes and a vector of two numbers move twelve.
    let mut store = clocked(&encoder, Limits { host_bytes: 30, ..Limits::default() });
    assert!(ask(&mut store, &["four", "four"]).unwrap().is_ok());
    assert!(too_large(ask(&mut store, &["four"])));
    assert_eq!(encoder.calls(), 4);
}

#[test]
fn a_call_ends_with_its_time_whatever_the_encoder_does() {
    let encoder = Fake::new(|texts, _| {
        std::thread::sleep(Duration::from_secs(4));
        Ok(vec![vec![1.0, 0.0]; texts.len()])
    });
    let mut store = clocked(&encoder, Limits::default());
    store.data_mut().limiter.start_call(Duration::from_millis(60), Duration::from_millis(60));
    let begun = Instant::now();
    assert_eq!(trap(ask(&mut store, &["x"])), Trap::Interrupt);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    // One that gives up by itself, as it should.
    let punctual = Fake::new(|_, _| {
        std::thread::sleep(Duration::from_millis(80));
        Err(Error::Deadline(Duration::from_millis(60)))
    });
    let mut store = clocked(&punctual, Limits::default());
    store.data_mut().limiter.start_call(Duration::from_millis(60), Duration::from_millis(60));
    assert_eq!(trap(ask(&mut store, &["x"])), Trap::Interrupt);
}

#[test]
fn where_fuel_is_counted_the_clock_ends_no_call_but_by_its_backstop() {
    let mut store = store(telling(), Limits::default(), Metering::Fuel);
    store.set_fuel(10_000_000).unwrap();
    store.data_mut().limiter.start_call(Duration::ZERO, Duration::from_secs(60));
    assert!(ask(&mut store, &["x"]).unwrap().is_ok());
    store.data_mut().limiter.start_call(Duration::ZERO, Duration::ZERO);
    assert_eq!(trap(ask(&mut store, &["x"])), Trap::Interrupt);
}

#[test]
fn encoding_takes_fuel_by_the_text_alone_and_before_the_encoder_is_asked() {
    let spent = |texts: &[&str]| {
        let mut store = store(telling(), Limits::default(), Metering::Fuel);
        store.set_fuel(1_000_000_000).unwrap();
        ask(&mut store, texts).unwrap().unwrap();
        1_000_000_000 - store.get_fuel().unwrap()
    };
    let (long, longer) = ("word ".repeat(1_000), "word ".repeat(2_000));
    assert_eq!(spent(&["tea"]), spent(&["pot"]));
    assert!(spent(&["tea"]) > 500_000 && spent(&[&long]) > 200_000_000);
    assert!(spent(&[&longer]) < spent(&[&long]) + 10_000, "what is not read costs its bytes alone");
    let encoder = telling();
    let mut store = store(encoder.clone(), Limits::default(), Metering::Fuel);
    store.set_fuel(1_000_000).unwrap();
    assert_eq!(trap(ask(&mut store, &["tea", "pot"])), Trap::OutOfFuel);
    assert_eq!(encoder.calls(), 0);
}

#[test]
fn what_failed_is_told_the_log_and_a_plugin_reads_a_fixed_sentence() {
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let failure = |encode: Arc<Fake>| {
        let mut store = clocked(&encode, Limits::default());
        let (log, sink) = (lines.clone(), store.data().services.encoder.clone());
        let log = move |_: &str, _: LogLevel, line: &str| log.lock().unwrap().push(line.to_owned());
        store.data_mut().services =
            Arc::new(Services { log: Some(Arc::new(log)), encoder: sink, ..Services::default() });
        let said = match ask(&mut store, &["x", "y"]).unwrap() {
            Err(EmbedError::Failed(said)) => said,
            other => panic!("{other:?}"),
        };
        assert!(store.data().encoder_failed);
        (said, lines.lock().unwrap().pop().unwrap())
    };
    let (said, logged) = failure(Fake::new(|_, _| Err(Error::model("/secret/place", "it is\u{1b} broken", "mend it"))));
    assert_eq!(said, "the model cannot be used");
    assert!(logged.contains("/secret/place") && !logged.contains('\u{1b}'), "{logged}");
    let vectors: [(Vec<Vec<f32>>, &str); 3] = [
        (vec![vec![1.0, 0.0]], "1 vectors for 2 texts"),
        (vec![vec![1.0, 0.0], vec![1.0]], "of 1 elements, not of 2"),
        (vec![vec![1.0, 0.0], vec![f32::NAN, 0.0]], "NaN"),
    ];
    for (vectors, part) in vectors {
        let (said, logged) = failure(Fake::new(move |_, _| Ok(vectors.clone())));
        assert!(logged.contains(part) && !said.contains(part), "{logged}");
    }
    let (_, logged) = failure(Fake::new(|_, _| panic!("on purpose")));
    assert!(logged.contains("it panicked"), "a panic ends neither the process nor its thread: {logged}");
}

#[test]
fn a_tokenizer_is_given_no_more_than_the_beginning_of_a_text() {
    let encoder = Fake::new(|texts, _| {
        assert!(texts[0].len() <= LONGEST_TEXT && texts[0].len() > LONGEST_TEXT - 3 && texts[1] == "short");
        Ok(vec![vec![1.0, 0.0]; texts.len()])
    });
    let mut store = clocked(&encoder, Limits::default());
    assert!(ask(&mut store, &[&"中".repeat(40_000), "short"]).unwrap().is_ok());
}
