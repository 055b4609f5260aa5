//! `tojson` as transformers defines it: Python's `json.dumps`, without escapes for HTML.

use std::fmt::Write;
use std::sync::Arc;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

use crate::limits::Budget;

/// How `json.dumps` writes.
struct Layout {
    ensure_ascii: bool,
    indent: Option<String>,
    between_items: String,
    after_key: String,
    sort_keys: bool,
}

/// The filter: `tojson(ensure_ascii=false, indent=none, separators=none, sort_keys=false)`.
pub(super) fn filter(
    budget: Arc<Budget>,
) -> impl Fn(Value, Option<Value>, Option<Value>, Option<Value>, Kwargs) -> Result<Value, Error> {
    move |value: Value, ensure_ascii: Option<Value>, indent: Option<Value>, separators: Option<Value>, named: Kwargs| {
        let option = |given: Option<Value>, name: &str| -> Result<Option<Value>, Error> {
            let named: Option<Value> = named.get(name)?;
            Ok(given.or(named).filter(|v| !v.is_none() && !v.is_undefined()))
        };
        let (ensure_ascii, sort_keys) = (option(ensure_ascii, "ensure_ascii")?, option(None, "sort_keys")?);
        let indent = match option(indent, "indent")? {
            Some(text) if text.as_str().is_some() => text.as_str().map(str::to_owned),
            Some(spaces) => Some(" ".repeat(spaces.as_usize().unwrap_or_default().min(99))),
            None => None,
        };
        let (mut between_items, mut after_key) =
            (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned());
        if let Some(pair) = option(separators, "separators")? {
            let pair = budget.items(&pair)?;
            let [first, second] = pair.as_slice() else { return Err(unusable("separators are two texts")) };
            (between_items, after_key) = (budget.text(first)?, budget.text(second)?);
        }
        named.assert_all_used()?;
        let is_set = |option: Option<Value>| option.is_some_and(|v| v.is_true());
        let layout = Layout {
            ensure_ascii: is_set(ensure_ascii),
            indent,
            between_items,
            after_key,
            sort_keys: is_set(sort_keys),
        };
        let mut out = String::new();
        write(&budget, &layout, &value, 0, &mut out)?;
        Ok(Value::from_safe_string(out))
    }
}

fn write(budget: &Budget, layout: &Layout, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
    budget.check(out.len())?;
    let (open, close, mut keys) = match value.kind() {
        ValueKind::Map => ('{', '}', Some(budget.items(value)?)),
        ValueKind::Seq | ValueKind::Iterable => ('[', ']', None),
        _ => return scalar(layout, value, out),
    };
    if layout.sort_keys {
        keys.iter_mut().for_each(|keys| keys.sort());
    }
    let items = match &keys {
        Some(keys) => keys.clone(),
        None => budget.items(value)?,
    };
    out.push(open);
    let new_line = |out: &mut String, depth: usize| {
        if let Some(indent) = &layout.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(indent.as_str(), depth));
        }
    };
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push_str(&layout.between_items);
        }
        new_line(out, depth + 1);
        if keys.is_some() {
            key(layout, item, out)?;
            out.push_str(&layout.after_key);
            write(budget, layout, &value.get_item(item)?, depth + 1, out)?;
        } else {
            write(budget, layout, item, depth + 1, out)?;
        }
    }
    if !items.is_empty() {
        new_line(out, depth);
    }
    out.push(close);
    budget.check(out.len())
}

fn key(layout: &Layout, value: &Value, out: &mut String) -> Result<(), Error> {
    match value.as_str() {
        Some(name) => quoted(layout, name, out),
        None => {
            let mut name = String::new();
            scalar(layout, value, &mut name)?;
            quoted(layout, &name, out);
        }
    }
    Ok(())
}

fn scalar(layout: &Layout, value: &Value, out: &mut String) -> Result<(), Error> {
    match (value.as_str(), value.kind()) {
        (Some(text), _) => quoted(layout, text, out),
        (None, ValueKind::None) => out.push_str("null"),
        (None, ValueKind::Bool) => out.push_str(if value.is_true() { "true" } else { "false" }),
        (None, ValueKind::Number) => {
            let number = value.to_string();
            out.push_str(match number.as_str() {
                "inf" => "Infinity",
                "-inf" => "-Infinity",
                number => number,
            });
        }
        (None, kind) => return Err(unusable(&format!("{kind} has no JSON"))),
    }
    Ok(())
}

fn quoted(layout: &Layout, text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' || (layout.ensure_ascii && !(' '..='~').contains(&c)) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a text does not fail.
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

fn unusable(what: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("tojson: {what}"))
}
