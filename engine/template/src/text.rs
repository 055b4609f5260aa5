//! Values as text, as Python writes them.

use std::fmt;

use minijinja::Value;
use minijinja::value::ValueKind;

/// Writes what Python's `str` gives.
pub(crate) fn write(value: &Value, out: &mut dyn fmt::Write) -> fmt::Result {
    match (value.as_str(), value.kind()) {
        (Some(text), _) => out.write_str(text),
        (None, ValueKind::Seq | ValueKind::Iterable) => {
            out.write_char('[')?;
            for (index, item) in value.try_iter().into_iter().flatten().enumerate() {
                out.write_str(if index > 0 { ", " } else { "" })?;
                represent(&item, out)?;
            }
            out.write_char(']')
        }
        (None, ValueKind::Map) => {
            out.write_char('{')?;
            for (index, key) in value.try_iter().into_iter().flatten().enumerate() {
                out.write_str(if index > 0 { ", " } else { "" })?;
                represent(&key, out)?;
                out.write_str(": ")?;
                represent(&value.get_item(&key).unwrap_or_default(), out)?;
            }
            out.write_char('}')
        }
        _ => write!(out, "{value}"),
    }
}

/// Writes what Python's `repr` gives: texts in quotes, single ones if the text does not speak against them.
fn represent(value: &Value, out: &mut dyn fmt::Write) -> fmt::Result {
    let Some(text) = value.as_str() else { return write(value, out) };
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.write_char(quote)?;
    for c in text.chars() {
        match c {
            '\n' => out.write_str("\\n")?,
            '\r' => out.write_str("\\r")?,
            '\t' => out.write_str("\\t")?,
            '\\' => out.write_str("\\\\")?,
            c if c == quote => write!(out, "\\{c}")?,
            c if c.is_control() => write!(out, "\\x{:02x}", u32::from(c))?,
            c => out.write_char(c)?,
        }
    }
    out.write_char(quote)
}
