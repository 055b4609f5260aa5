//! What one rendering may make: the weight of a value, and of all values together.
//!
//! A value weighs the bytes of its texts and one for each item, wherever it is shared: what is cheap to hold, a list of
//! lists of one text, can be endless to print, to compare or to walk.

use std::fmt::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

use crate::text;

/// Limits of a template whose values weigh nothing; each grows with the weight of what is given.
const STEPS: u64 = 400_000;
const ONE_VALUE: u64 = 256 << 10;
const ALL_VALUES: u64 = 16 << 20;
/// How much a value, and all values, may outweigh what is given.
const ONE_TO_GIVEN: u64 = 8;
const ALL_TO_GIVEN: u64 = 512;
/// Values within values.
const MAX_DEPTH: usize = 64;
/// What can be given at all.
const MAX_GIVEN: u64 = 256 << 20;

/// What is left of one rendering's limits.
#[derive(Debug)]
pub(crate) struct Budget {
    steps: u64,
    one_value: u64,
    left: AtomicU64,
}

impl Budget {
    /// The limits for a template that is given these values.
    pub(crate) fn for_values<'a>(given: impl Iterator<Item = &'a Value>) -> Result<Arc<Self>, Error> {
        let mut room = MAX_GIVEN;
        for value in given {
            weigh(value, 0, &mut room)?;
        }
        let given = MAX_GIVEN - room;
        Ok(Arc::new(Self {
            steps: STEPS + given,
            one_value: ONE_VALUE + ONE_TO_GIVEN * given,
            left: AtomicU64::new(ALL_VALUES + ALL_TO_GIVEN * given),
        }))
    }

    /// The instructions that may run.
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    /// The weight that one value may have, to be asked before it is made.
    pub(crate) fn check(&self, weight: usize) -> Result<(), Error> {
        if weight as u64 > self.one_value { Err(too_large("a value")) } else { Ok(()) }
    }

    /// Charges for a weight.
    pub(crate) fn charge(&self, weight: u64) -> Result<(), Error> {
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(weight));
        taken.map(drop).map_err(|_| too_large("what the template makes in all"))
    }

    /// Weighs and charges a value. Iterators become lists, since they may be walked without end.
    pub(crate) fn weighed(&self, value: Value) -> Result<Value, Error> {
        let value = match value.kind() {
            ValueKind::Iterable => Value::from(self.items(&value)?),
            _ => value,
        };
        let mut room = self.one_value;
        weigh(&value, 0, &mut room)?;
        self.charge(self.one_value - room)?;
        Ok(value)
    }

    /// Charges for the weight of values that are walked.
    pub(crate) fn read(&self, values: &[Value]) -> Result<u64, Error> {
        let mut room = u64::MAX;
        values.iter().try_for_each(|value| match value.kind() {
            // One that may have no end was made a list before it is walked.
            ValueKind::Iterable => Ok(()),
            _ => weigh(value, 0, &mut room),
        })?;
        let weight = u64::MAX - room;
        self.charge(weight).map(|()| weight)
    }

    /// The items of a sequence, at most as many as one value may weigh.
    pub(crate) fn items(&self, value: &Value) -> Result<Vec<Value>, Error> {
        let mut items = Vec::new();
        for item in value.try_iter()? {
            self.check(items.len())?;
            items.push(item);
        }
        Ok(items)
    }

    /// A value's text, as Python's `str` gives it.
    pub(crate) fn text(&self, value: &Value) -> Result<String, Error> {
        let mut out = Bounded { text: String::new(), most: self.one_value };
        match value.as_str() {
            Some(text) => out.write_str(text),
            None => text::write(value, &mut out),
        }
        .map_err(|_| too_large("a text"))?;
        self.charge(out.text.len() as u64)?;
        Ok(out.text)
    }

    /// A value's JSON without spaces.
    pub(crate) fn json(&self, value: &Value) -> Result<String, Error> {
        let mut room = self.one_value;
        weigh(value, 0, &mut room)?;
        let text = serde_json::to_string(value).map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
        self.charge(text.len() as u64)?;
        Ok(text)
    }

    /// Refuses to store what holds a namespace: one that held itself would have no end.
    pub(crate) fn storable(&self, value: Value) -> Result<Value, Error> {
        if holds_namespace(&value, 0) {
            return Err(Error::new(ErrorKind::InvalidOperation, "a namespace cannot be kept in a namespace"));
        }
        Ok(value)
    }
}

fn weigh(value: &Value, depth: usize, room: &mut u64) -> Result<(), Error> {
    let mut take = |weight: usize| {
        *room = room.checked_sub(weight as u64).ok_or_else(|| too_large("a value"))?;
        Ok(())
    };
    if let Some(text) = value.as_str() {
        return take(1 + text.len());
    }
    take(1)?;
    if depth > MAX_DEPTH {
        return Err(Error::new(ErrorKind::InvalidOperation, format!("values nest more than {MAX_DEPTH} deep")));
    }
    match value.kind() {
        ValueKind::Map => {
            for key in value.try_iter()? {
                weigh(&key, depth + 1, room)?;
                weigh(&value.get_item(&key)?, depth + 1, room)?;
            }
        }
        ValueKind::Seq | ValueKind::Iterable => {
            for item in value.try_iter()? {
                weigh(&item, depth + 1, room)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// Whether a value is a namespace or holds one. What is asked has been weighed, so it has an end.
fn holds_namespace(value: &Value, depth: usize) -> bool {
    let is_one = value.as_object().is_some_and(|object| object.type_name().ends_with("::Namespace"));
    let mut within = match value.kind() {
        _ if is_one || depth > MAX_DEPTH => return true,
        ValueKind::Map | ValueKind::Seq | ValueKind::Iterable => value.try_iter().into_iter().flatten(),
        _ => return false,
    };
    let is_map = value.kind() == ValueKind::Map;
    within.any(|item| {
        let held = if is_map { value.get_item(&item).unwrap_or_default() } else { Value::UNDEFINED };
        holds_namespace(&item, depth + 1) || holds_namespace(&held, depth + 1)
    })
}

pub(crate) fn too_large(what: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("{what} grows too large"))
}

/// A text that refuses to grow beyond a number of bytes.
struct Bounded {
    text: String,
    most: u64,
}

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if (self.text.len() + text.len()) as u64 > self.most {
            return Err(fmt::Error);
        }
        self.text.push_str(text);
        Ok(())
    }
}
