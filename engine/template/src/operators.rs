//! Operators and the filters of Jinja that can grow what they are given, within a budget.

use std::sync::Arc;

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, FormatStyle, State, Value, format_filter};

use crate::compile::filter;
use crate::limits::{Budget, too_large};
use crate::template::Style;

/// Spaces of an indentation, columns of a field, and items of a batch, at most.
const MAX_WIDTH: usize = 999;

/// Puts operators and filters into an environment.
pub(crate) fn install(environment: &mut Environment<'static>, budget: &Arc<Budget>, style: Style) {
    let with = || Arc::clone(budget);
    let b = with();
    environment.set_formatter(move |out, _, value| {
        let written = match (value.as_str(), style) {
            (Some(text), _) => b.charge(text.len() as u64).map(|()| out.write_str(text))?,
            (None, Style::Chat) => out.write_str(&b.text(value)?),
            (None, Style::Prompt) => out.write_str(&b.weighed(value.clone())?.to_string()),
        };
        written.map_err(Error::from)
    });
    let b = with();
    environment.add_filter(filter::WEIGH, move |value: Value| b.weighed(value));
    let b = with();
    environment.add_filter(filter::STORE, move |value: Value| b.storable(value));
    let b = with();
    environment.add_filter(filter::READ, move |operands: Rest<Value>| b.read(&operands).map(|_| operands.0));
    let b = with();
    // What is walked anew for each item of the first.
    environment.add_filter(filter::READ_FOR_EACH, move |operands: Rest<Value>| {
        let (first, others) = operands.split_at(operands.len().min(1));
        let items = first.first().and_then(Value::len).unwrap_or_default() as u64;
        let weight = b.read(first)?.saturating_add(items.saturating_mul(b.read(others)?));
        b.charge(weight).map(|()| operands.0.clone())
    });
    let b = with();
    environment.add_filter(filter::ADD, move |left: Value, right: Value| add(&b, &left, &right));
    let b = with();
    environment.add_filter(filter::MULTIPLY, move |left: Value, right: Value| multiply(&b, &left, &right));
    let b = with();
    environment.add_filter(filter::REMAINDER, move |left: Value, right: Value| remainder(&b, &left, &right));
    let b = with();
    environment.add_filter(filter::CONCATENATE, move |left: Value, right: Value| {
        let text = |value: &Value| if style == Style::Chat { b.text(value) } else { Ok(value.to_string()) };
        joined(&b, &text(&left)?, &text(&right)?)
    });
    let b = with();
    environment.add_filter("replace", move |text: Value, from: Value, to: Value, count: Option<i64>| {
        replace(&b, &b.text(&text)?, &b.text(&from)?, &b.text(&to)?, count)
    });
    let b = with();
    environment.add_filter("join", move |state: &State, items: Value, joiner: Option<Value>, options: Kwargs| {
        let attribute: Option<String> = options.get("attribute")?;
        let joiner = joiner.or(options.get("d")?);
        options.assert_all_used()?;
        let items = match attribute {
            Some(path) => {
                let named = Kwargs::from_iter([("attribute", Value::from(path))]);
                state.apply_filter("map", &[items, Value::from(named)])?
            }
            None => items,
        };
        join(&b, &joiner.map(|j| b.text(&j)).transpose()?.unwrap_or_default(), &items)
    });
    let b = with();
    environment.add_filter("format", move |form: Value, values: Rest<Value>| {
        format(&b, FormatStyle::Printf, &b.text(&form)?, &values)
    });
    bound_widths(environment);
}

/// The filters whose result is as wide as a number says.
fn bound_widths(environment: &mut Environment<'static>) {
    // Another environment has the original filters; these have their names.
    let originals = Arc::new(Environment::new());
    for name in ["indent", "batch", "slice"] {
        let originals = Arc::clone(&originals);
        environment.add_filter(name, move |value: Value, arguments: Rest<Value>| {
            let numbers = arguments.iter().filter_map(|argument| usize::try_from(argument.clone()).ok());
            if numbers.into_iter().any(|n| n > MAX_WIDTH) {
                return Err(too_large("a width"));
            }
            let all: Vec<Value> = std::iter::once(value).chain(arguments.iter().cloned()).collect();
            originals.empty_state().apply_filter(name, &all)
        });
    }
}

fn add(budget: &Budget, left: &Value, right: &Value) -> Result<Value, Error> {
    let is_sequence = |value: &Value| matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable);
    match (left.as_str(), right.as_str()) {
        (Some(left), Some(right)) => joined(budget, left, right).map(Value::from),
        _ if is_sequence(left) && is_sequence(right) => {
            let mut items = budget.items(left)?;
            items.extend(budget.items(right)?);
            budget.weighed(Value::from(items))
        }
        _ => arithmetic("left + right", left, right),
    }
}

fn multiply(budget: &Budget, left: &Value, right: &Value) -> Result<Value, Error> {
    let size = |value: &Value| value.as_str().map(str::len).or(value.len());
    let repeated = match (size(left), size(right)) {
        (Some(size), None) => Some((size, right)),
        (None, Some(size)) => Some((size, left)),
        _ => None,
    };
    if let Some((size, times)) = repeated {
        // Python repeats nothing where the number is negative; minijinja refuses it.
        let times = times.as_i64().unwrap_or_default().max(0);
        let times = usize::try_from(times).unwrap_or(usize::MAX);
        budget.check(size.max(1).saturating_mul(times))?;
        let of = |value: &Value| if size_of_number(value) { Value::from(times) } else { value.clone() };
        return budget.weighed(arithmetic("left * right", &of(left), &of(right))?);
    }
    arithmetic("left * right", left, right)
}

fn size_of_number(value: &Value) -> bool {
    value.kind() == ValueKind::Number && value.is_integer()
}

/// Python's `%`: a remainder, or a text with its fields filled.
fn remainder(budget: &Budget, left: &Value, right: &Value) -> Result<Value, Error> {
    let Some(form) = left.as_str() else { return arithmetic("left % right", left, right) };
    let fields = form.replace("%%", "").matches(['%', '*']).count();
    // A tuple is a list here, so its length says whether it is meant as one value or as all of them.
    let values = match right.kind() {
        ValueKind::Seq if right.len() == Some(fields) => budget.items(right)?,
        ValueKind::Map if form.contains("%(") => {
            let pairs = budget.items(right)?.into_iter().map(|key| Ok((key.to_string(), right.get_item(&key)?)));
            vec![Value::from(pairs.collect::<Result<Kwargs, Error>>()?)]
        }
        _ => vec![right.clone()],
    };
    format(budget, FormatStyle::Printf, form, &values).map(Value::from)
}

/// Fills the fields of a text.
pub(crate) fn format(budget: &Budget, style: FormatStyle, form: &str, values: &[Value]) -> Result<String, Error> {
    // Widths are numbers in the text, or values where a star stands for them.
    let mut digits = 0;
    for c in form.chars() {
        digits = if c.is_ascii_digit() { digits + 1 } else { 0 };
        if digits > 3 {
            return Err(too_large("a width"));
        }
    }
    if style == FormatStyle::Printf && form.contains('*') && form.contains('%') {
        let is_wide = |value: &Value| value.as_i64().is_some_and(|n| n.unsigned_abs() > MAX_WIDTH as u64);
        if values.iter().any(is_wide) {
            return Err(too_large("a width"));
        }
    }
    let mut size = MAX_WIDTH;
    for value in values {
        size = size.max(budget.text(value)?.len());
    }
    let fields = 1 + form.matches(if style == FormatStyle::Printf { '%' } else { '{' }).count();
    // A field may show any of the values, so this is far above what comes of it: a bound on memory, not on the result.
    budget.check(form.len().saturating_add(fields.saturating_mul(size)) / 64)?;
    let text = format_filter(style, form, values)?;
    budget.check(text.len())?;
    Ok(text)
}

fn joined(budget: &Budget, left: &str, right: &str) -> Result<String, Error> {
    budget.check(left.len() + right.len())?;
    budget.charge((left.len() + right.len()) as u64)?;
    Ok([left, right].concat())
}

/// Python's `replace`: all places, or the first `count`.
pub(crate) fn replace(budget: &Budget, text: &str, from: &str, to: &str, count: Option<i64>) -> Result<String, Error> {
    let most = count.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    let places = text.matches(from).count().min(most);
    budget.check(text.len().saturating_add(places.saturating_mul(to.len())))?;
    Ok(text.replacen(from, to, places))
}

/// Items with a text between them.
pub(crate) fn join(budget: &Budget, joiner: &str, items: &Value) -> Result<String, Error> {
    let mut text = String::new();
    for (index, item) in items.try_iter()?.enumerate() {
        let item = budget.text(&item)?;
        budget.check(text.len() + joiner.len() + item.len())?;
        if index > 0 {
            text.push_str(joiner);
        }
        text.push_str(&item);
    }
    Ok(text)
}

/// An operation between values that cannot grow, or the error that minijinja has for it.
fn arithmetic(operation: &str, left: &Value, right: &Value) -> Result<Value, Error> {
    let environment = Environment::new();
    let values = minijinja::context! { left => left, right => right };
    environment.compile_expression(operation)?.eval(values).map_err(|e| {
        let detail = e.detail().map_or_else(|| e.kind().to_string(), str::to_owned);
        Error::new(ErrorKind::InvalidOperation, detail)
    })
}
