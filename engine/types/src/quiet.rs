//! Panics of libraries that read files of strangers, as values.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Does `work`. A panic in it, on this thread, becomes an error with the panic's text, and nothing is printed.
///
/// For calls into libraries that panic over a damaged file where they should return an error; not for code of this
/// project. The first call puts a hook before the one that is set: panics elsewhere are reported as before.
///
/// # Errors
/// The panic's text.
pub fn quietly<T>(work: impl FnOnce() -> T) -> std::result::Result<T, String> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                before(panic);
            }
        }));
    });
    let outer = QUIET.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    QUIET.set(outer);
    done.map_err(|panic| match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (None, Some(text)) => text.clone(),
        (None, None) => "a panic without a text".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_text_and_what_follows_goes_on() {
        assert_eq!(quietly(|| [1, 2].len()), Ok(2));
        assert_eq!(quietly(|| -> usize { panic!("no {}", 7) }), Err("no 7".to_owned()));
        assert_eq!(quietly(|| quietly(|| -> u8 { panic!("inner") })), Ok(Err("inner".to_owned())));
        assert!(!QUIET.get());
    }
}
