//! Python's methods of texts, lists and dicts, as far as templates can call them: those that change nothing.
//!
//! Places are counted in characters, and white space is Python's. minijinja-contrib has the methods that are not here.

use minijinja::value::{ValueKind, from_args};
use minijinja::{Error, ErrorKind, FormatStyle, State, Value};

use crate::limits::Budget;
use crate::operators;

type Done = Result<Value, Error>;

/// Calls a method that minijinja does not know.
pub(super) fn call(budget: &Budget, state: &State, value: &Value, name: &str, arguments: &[Value]) -> Done {
    match (value.as_str(), value.kind()) {
        (Some(text), _) => match text_method(budget, text, name, arguments) {
            Err(e) if e.kind() == ErrorKind::UnknownMethod => minijinja_contrib(state, value, name, arguments),
            done => done,
        },
        (None, ValueKind::Map) if name == "copy" => from_args::<()>(arguments).map(|()| value.clone()),
        (None, ValueKind::Seq | ValueKind::Iterable) => list_method(budget, value, name, arguments),
        _ => minijinja_contrib(state, value, name, arguments),
    }
}

fn minijinja_contrib(state: &State, value: &Value, name: &str, arguments: &[Value]) -> Done {
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, arguments)
}

fn list_method(budget: &Budget, value: &Value, name: &str, arguments: &[Value]) -> Done {
    match name {
        "copy" => from_args::<()>(arguments).map(|()| value.clone()),
        "count" | "index" => {
            let (wanted,): (&Value,) = from_args(arguments)?;
            let items = budget.items(value)?;
            if name == "count" {
                return Ok(Value::from(items.iter().filter(|item| *item == wanted).count()));
            }
            items.iter().position(|item| item == wanted).map(Value::from).ok_or_else(|| failed("it is not in the list"))
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn text_method(budget: &Budget, text: &str, name: &str, arguments: &[Value]) -> Done {
    if let Some(is) = name.strip_prefix("is") {
        return test(text, is).and_then(|is| from_args::<()>(arguments).map(|()| Value::from(is)));
    }
    match name {
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(arguments)?;
            let parts = partition(text, separator, name == "partition")?;
            Ok(parts.into_iter().map(Value::from).collect())
        }
        "split" | "rsplit" => {
            let (separator, most, named): (Option<Value>, Option<Value>, minijinja::value::Kwargs) =
                from_args(arguments)?;
            let separator = separator.or(named.get("sep")?).filter(|s| !s.is_none());
            let most = most.or(named.get("maxsplit")?).and_then(|n| n.as_i64()).unwrap_or(-1);
            named.assert_all_used()?;
            split(text, separator.as_ref(), usize::try_from(most).unwrap_or(usize::MAX), name == "split")
        }
        "splitlines" => {
            let (keep,): (Option<bool>,) = from_args(arguments)?;
            Ok(Value::from(lines(text, keep.unwrap_or(false))))
        }
        "removeprefix" | "removesuffix" => {
            let (part,): (&str,) = from_args(arguments)?;
            let cut = if name == "removeprefix" { text.strip_prefix(part) } else { text.strip_suffix(part) };
            Ok(Value::from(cut.unwrap_or(text)))
        }
        "find" | "rfind" | "index" | "rindex" | "count" => place(text, name, arguments),
        "startswith" | "endswith" => affix(text, name == "startswith", arguments),
        "replace" => {
            let (from, to, count): (&str, &str, Option<i64>) = from_args(arguments)?;
            operators::replace(budget, text, from, to, count).map(Value::from)
        }
        "join" => {
            let (items,): (&Value,) = from_args(arguments)?;
            operators::join(budget, text, items).map(Value::from)
        }
        "format" => operators::format(budget, FormatStyle::StrFormat, text, arguments).map(Value::from),
        "center" | "ljust" | "rjust" | "zfill" => padded(budget, text, name, arguments),
        "expandtabs" => {
            let (size,): (Option<usize>,) = from_args(arguments)?;
            expanded(budget, text, size.unwrap_or(8))
        }
        "casefold" => from_args::<()>(arguments).map(|()| Value::from(text.to_lowercase().replace('ß', "ss"))),
        "swapcase" => {
            let () = from_args(arguments)?;
            let swapped = |c: char| match c {
                c if c.is_uppercase() => c.to_lowercase().collect::<String>(),
                c => c.to_uppercase().collect(),
            };
            Ok(Value::from(text.chars().map(swapped).collect::<String>()))
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

/// Python's `is…` methods. Most are false for an empty text.
fn test(text: &str, is: &str) -> Result<bool, Error> {
    let all = |what: fn(char) -> bool| !text.is_empty() && text.chars().all(what);
    let cased = |right: fn(char) -> bool, wrong: fn(char) -> bool| text.chars().any(right) && !text.chars().any(wrong);
    Ok(match is {
        "space" => all(char::is_whitespace),
        "alpha" => all(char::is_alphabetic),
        "alnum" => all(char::is_alphanumeric),
        "digit" | "numeric" | "decimal" => all(char::is_numeric),
        "ascii" => text.is_ascii(),
        "lower" => cased(char::is_lowercase, char::is_uppercase),
        "upper" => cased(char::is_uppercase, char::is_lowercase),
        "printable" => !text.chars().any(|c| c.is_control() || (c.is_whitespace() && c != ' ')),
        "identifier" => all(|c| c == '_' || c.is_alphanumeric()) && !text.starts_with(|c: char| c.is_numeric()),
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    })
}

fn partition<'t>(text: &'t str, separator: &'t str, first: bool) -> Result<[&'t str; 3], Error> {
    if separator.is_empty() {
        return Err(failed("the separator is empty"));
    }
    let cut = if first { text.split_once(separator) } else { text.rsplit_once(separator) };
    Ok(match cut {
        Some((before, after)) => [before, separator, after],
        None if first => [text, "", ""],
        None => ["", "", text],
    })
}

/// Parts between separators, or words where none is given. What is left after `most` cuts stays whole.
fn split(text: &str, separator: Option<&Value>, most: usize, from_start: bool) -> Done {
    let parts: Vec<&str> = match separator {
        Some(separator) => {
            let separator = separator.as_str().ok_or_else(|| failed("the separator is no text"))?;
            if separator.is_empty() {
                return Err(failed("the separator is empty"));
            }
            let pieces = most.saturating_add(1);
            if from_start {
                text.splitn(pieces, separator).collect()
            } else {
                let mut parts: Vec<&str> = text.rsplitn(pieces, separator).collect();
                parts.reverse();
                parts
            }
        }
        None => words(text, most, from_start),
    };
    Ok(parts.into_iter().map(Value::from).collect())
}

/// Words, as Python's `split` without a separator: the part that is not cut keeps the white space at its far end.
fn words(text: &str, most: usize, from_start: bool) -> Vec<&str> {
    let near = |text: &'_ str| if from_start { text.len() - text.trim_start().len() } else { text.trim_end().len() };
    let (mut parts, mut rest) = (Vec::new(), text);
    loop {
        let (before, after) = rest.split_at(near(rest));
        rest = if from_start { after } else { before };
        if rest.is_empty() {
            break;
        }
        let cut = if from_start { rest.find(char::is_whitespace) } else { rest.rfind(char::is_whitespace) };
        let Some(at) = cut.filter(|_| parts.len() < most) else {
            parts.push(rest);
            break;
        };
        let (before, after) = rest.split_at(at);
        parts.push(if from_start { before } else { after.trim_start() });
        rest = if from_start { after } else { before };
    }
    if !from_start {
        parts.reverse();
    }
    parts
}

fn lines(text: &str, keep: bool) -> Vec<Value> {
    let is_end = |c: char| "\n\r\u{b}\u{c}\u{1c}\u{1d}\u{1e}\u{85}\u{2028}\u{2029}".contains(c);
    let (mut lines, mut rest) = (Vec::new(), text);
    while let Some(at) = rest.find(is_end) {
        let (line, end) = rest.split_at(at);
        let size = if end.starts_with("\r\n") { 2 } else { end.chars().next().map_or(1, char::len_utf8) };
        lines.push(Value::from(if keep { rest.get(..at + size).unwrap_or(line) } else { line }));
        rest = end.get(size..).unwrap_or("");
    }
    if !rest.is_empty() {
        lines.push(Value::from(rest));
    }
    lines
}

/// A range of characters as Python's `start` and `end` give it, as the characters before it and its text.
fn section(text: &str, start: Option<i64>, end: Option<i64>) -> (usize, &str) {
    let count = text.chars().count();
    let bound = |at: Option<i64>, otherwise: usize| match at {
        None => otherwise,
        Some(at) if at < 0 => count.saturating_sub(usize::try_from(at.unsigned_abs()).unwrap_or(usize::MAX)),
        Some(at) => usize::try_from(at).unwrap_or(usize::MAX).min(count),
    };
    let (start, end) = (bound(start, 0), bound(end, count));
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    (start, text.get(byte(start)..byte(end.max(start))).unwrap_or(""))
}

/// Where a text is, from 0, or how often.
fn place(text: &str, name: &str, arguments: &[Value]) -> Done {
    let (wanted, start, end): (&str, Option<i64>, Option<i64>) = from_args(arguments)?;
    let (before, within) = section(text, start, end);
    if name == "count" {
        return Ok(Value::from(within.matches(wanted).count()));
    }
    let found = if name.starts_with('r') { within.rfind(wanted) } else { within.find(wanted) };
    match found.and_then(|at| within.get(..at)) {
        Some(skipped) => Ok(Value::from(before + skipped.chars().count())),
        None if name.ends_with("find") => Ok(Value::from(-1)),
        None => Err(failed("substring not found")),
    }
}

fn affix(text: &str, at_start: bool, arguments: &[Value]) -> Done {
    let (wanted, start, end): (&Value, Option<i64>, Option<i64>) = from_args(arguments)?;
    let (_, within) = section(text, start, end);
    let holds = |affix: &Value| match affix.as_str() {
        Some(affix) => Ok(if at_start { within.starts_with(affix) } else { within.ends_with(affix) }),
        None => Err(failed("a text or a tuple of texts is asked for")),
    };
    if wanted.as_str().is_some() {
        return holds(wanted).map(Value::from);
    }
    for affix in wanted.try_iter()? {
        if holds(&affix)? {
            return Ok(Value::from(true));
        }
    }
    Ok(Value::from(false))
}

fn padded(budget: &Budget, text: &str, name: &str, arguments: &[Value]) -> Done {
    let (width, fill): (i64, Option<&str>) = from_args(arguments)?;
    let width = usize::try_from(width).unwrap_or(0);
    budget.check(width.saturating_mul(4))?;
    let missing = width.saturating_sub(text.chars().count());
    let fill = if name == "zfill" { "0" } else { fill.unwrap_or(" ") };
    if fill.chars().count() != 1 {
        return Err(failed("the fill character must be exactly one character long"));
    }
    // Where both sides cannot be equal, Python's `center` takes the left for odd widths.
    let left = match name {
        "ljust" => 0,
        "center" => missing / 2 + (missing & width & 1),
        _ => missing,
    };
    let (sign, digits) = match text.chars().next() {
        Some('+' | '-') if name == "zfill" => text.split_at(1),
        _ => ("", text),
    };
    Ok(Value::from([sign, &fill.repeat(left), digits, &fill.repeat(missing - left)].concat()))
}

fn expanded(budget: &Budget, text: &str, size: usize) -> Done {
    budget.check(size.saturating_mul(text.len()) / 64)?;
    let (mut out, mut column) = (String::new(), 0);
    for c in text.chars() {
        match c {
            '\t' if size == 0 => {}
            '\t' => {
                let spaces = size - column % size;
                out.extend(std::iter::repeat_n(' ', spaces));
                column += spaces;
            }
            '\n' | '\r' => {
                out.push(c);
                column = 0;
            }
            c => {
                out.push(c);
                column += 1;
            }
        }
    }
    Ok(Value::from(out))
}

fn failed(what: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.to_owned())
}
