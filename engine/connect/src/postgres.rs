//! PostgreSQL's full text search: columns of type `tsvector`, ranked by `ts_rank`.
//!
//! Each word and each phrase is a `tsquery` of its own, made by PostgreSQL out of a text, so that no text can be read as an operator
//! or as SQL. They are combined by its operators; the score is the sum of each one's rank in each column, times its factors.

use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use postgres::types::ToSql;
use postgres::{Client, Config, NoTls};

use querywright_text::boolean::{Clause, Group};
use querywright_types::{Deadline, Error, FaultKind, Result};

use crate::config::ConnectConfig;
use crate::connected::{Asked, Engine, Found};
use crate::http::Failure;

/// Words and phrases of a query at most; more are left out.
const MOST_PARTS: usize = 256;

pub(crate) struct Postgres {
    config: Config,
    table: String,
    columns: Vec<(String, f64)>,
    id: String,
    title: Option<String>,
    text_search: String,
    timeout: Duration,
    /// Connections that nobody uses.
    idle: Mutex<Vec<Client>>,
}

impl Postgres {
    pub(crate) fn new(config: &ConnectConfig) -> Result<Self> {
        let refused = |e: postgres::Error| {
            Error::argument("connect.url", e.to_string(), "give postgres://USER@HOST:PORT/DATABASE")
        };
        let mut client: Config = config.url.parse().map_err(refused)?;
        if let Some(password) = config.authorization()? {
            client.password(password);
        }
        let timeout = config.timeout()?;
        client.connect_timeout(timeout).application_name("querywright");
        Ok(Self {
            config: client,
            table: config.index.split('.').map(identifier).collect::<Vec<_>>().join("."),
            columns: config.fields.iter().map(|(name, weight)| (identifier(name), *weight)).collect(),
            id: identifier(config.id.as_deref().unwrap_or("id")),
            title: config.title.as_deref().map(identifier),
            text_search: config.text_search.clone(),
            timeout,
            idle: Mutex::default(),
        })
    }

    fn one(&self, client: &mut Client, asked: &Asked<'_>, deadline: Deadline) -> Result<Vec<Found>, postgres::Error> {
        let mut statement = Statement::new(self);
        let matches = match &asked.query {
            Some(group) => statement.group(group, 1.0),
            None => statement.words(None, asked.text, false, 1.0),
        };
        let Some(sql) = matches.map(|matches| statement.sql(&matches, asked.k)) else { return Ok(Vec::new()) };
        let left = deadline.left().map_or(self.timeout, |left| left.min(self.timeout));
        client.batch_execute(&format!("SET statement_timeout = {}", left.as_millis().max(1)))?;
        let values: Vec<&(dyn ToSql + Sync)> = statement.values.iter().map(|v| v as &(dyn ToSql + Sync)).collect();
        let rows = client.query(&sql, &values)?;
        let found = |row: postgres::Row| {
            let score: f64 = row.try_get(2)?;
            Ok(Found { id: row.try_get(0)?, title: row.try_get(1)?, score: score as f32 })
        };
        rows.into_iter().map(found).collect()
    }
}

impl Engine for Postgres {
    fn at_once(&self) -> usize {
        16
    }

    fn search(&self, asked: &[Asked<'_>], deadline: Deadline) -> Vec<Result<Vec<Found>, Failure>> {
        let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let client = match kept.filter(|client| !client.is_closed()) {
            Some(client) => Ok(client),
            None if deadline.passed() => Err((FaultKind::Timeout, "the deadline had passed".to_owned())),
            None => {
                let mut config = self.config.clone();
                config.connect_timeout(deadline.left().map_or(self.timeout, |left| left.min(self.timeout)));
                config.connect(NoTls).map_err(|e| failure(&e))
            }
        };
        let mut client = match client {
            Ok(client) => client,
            Err(failure) => return asked.iter().map(|_| Err(failure.clone())).collect(),
        };
        let one = |asked: &Asked<'_>| match deadline.passed() {
            true => Err((FaultKind::Timeout, "the deadline had passed".to_owned())),
            false => self.one(&mut client, asked, deadline).map_err(|e| failure(&e)),
        };
        let answers = asked.iter().map(one).collect();
        if !client.is_closed() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(client);
        }
        answers
    }
}

fn failure(error: &postgres::Error) -> Failure {
    use postgres::error::SqlState;
    let kind = match error.code() {
        Some(code) if *code == SqlState::QUERY_CANCELED => FaultKind::Timeout,
        Some(code) if *code == SqlState::TOO_MANY_CONNECTIONS => FaultKind::Overloaded,
        Some(_) => FaultKind::Refused,
        None => FaultKind::Network,
    };
    let said = error.as_db_error().map_or_else(|| error.to_string(), |inner| inner.message().to_owned());
    (kind, said.chars().take(300).collect())
}

/// A name in SQL.
fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A search under construction.
struct Statement<'a> {
    engine: &'a Postgres,
    /// The texts of words and phrases, numbered from 1 in the statement.
    values: Vec<String>,
    /// What adds up to the score.
    score: String,
}

impl<'a> Statement<'a> {
    fn new(engine: &'a Postgres) -> Self {
        Self { engine, values: Vec::new(), score: String::new() }
    }

    /// Adds words: any of them, or all in order. Gives the condition under which they match.
    fn words(&mut self, field: Option<usize>, text: &str, phrase: bool, boost: f64) -> Option<String> {
        let texts: Vec<&str> = if phrase { vec![text] } else { text.split_whitespace().collect() };
        let mut conditions = Vec::new();
        for text in texts.into_iter().take(MOST_PARTS - self.values.len().min(MOST_PARTS)) {
            // PostgreSQL's texts hold no zero.
            self.values.push(text.replace('\0', " "));
            let query = self.query(self.values.len());
            let columns = self.engine.columns.iter().enumerate();
            for (_, (column, weight)) in columns.filter(|(place, _)| field.is_none_or(|field| field == *place)) {
                let factor = if field.is_some() { boost } else { weight * boost };
                // Writing to a string cannot fail.
                let _ = write!(self.score, "{}ts_rank({column}, {query})::float8 * {factor:?}", plus(&self.score));
                conditions.push(format!("{column} @@ {query}"));
            }
        }
        any(conditions)
    }

    fn group(&mut self, group: &Group<'_>, boost: f64) -> Option<String> {
        let boost = boost * f64::from(group.boost);
        let must: Vec<String> = group.must.iter().filter_map(|clause| self.required(clause, boost)).collect();
        let should: Vec<String> = group.should.iter().filter_map(|clause| self.clause(clause, boost)).collect();
        // What is forbidden adds nothing to a score.
        let score = std::mem::take(&mut self.score);
        let must_not: Vec<String> = group.must_not.iter().filter_map(|clause| self.clause(clause, boost)).collect();
        self.score = score;
        let wanted = if must.is_empty() { any(should) } else { Some(must.join(" AND ")) }?;
        let all = std::iter::once(wanted).chain(must_not.into_iter().map(|condition| format!("NOT ({condition})")));
        Some(format!("({})", all.collect::<Vec<_>>().join(" AND ")))
    }

    /// A clause that must match. Words that the text search leaves out, as "the", ask nothing.
    fn required(&mut self, clause: &Clause<'_>, boost: f64) -> Option<String> {
        let first = self.values.len() + 1;
        let condition = self.clause(clause, boost)?;
        let nothing = |number| format!("numnode({}) = 0", self.query(number));
        match clause {
            Clause::Words { .. } if first <= self.values.len() => {
                let nothing: Vec<String> = (first..=self.values.len()).map(nothing).collect();
                Some(format!("({condition} OR ({}))", nothing.join(" AND ")))
            }
            _ => Some(condition),
        }
    }

    /// The words of a text, in order.
    fn query(&self, number: usize) -> String {
        format!("phraseto_tsquery({}, ${number})", literal(&self.engine.text_search))
    }

    fn clause(&mut self, clause: &Clause<'_>, boost: f64) -> Option<String> {
        match clause {
            Clause::Group(group) => self.group(group, boost),
            Clause::Words { field, text, phrase, boost: own } => {
                self.words(*field, text, *phrase, boost * f64::from(*own))
            }
        }
    }

    fn sql(&self, matches: &str, k: usize) -> String {
        let Postgres { table, id, title, .. } = self.engine;
        let title = title.as_ref().map_or_else(|| "''".to_owned(), |title| format!("coalesce({title}::text, '')"));
        let score = if self.score.is_empty() { "0::float8" } else { &self.score };
        format!(
            "SELECT {id}::text, {title}, {score} AS score FROM {table} WHERE {matches} ORDER BY score DESC, {id} LIMIT {k}"
        )
    }
}

fn any(conditions: Vec<String>) -> Option<String> {
    (!conditions.is_empty()).then(|| format!("({})", conditions.join(" OR ")))
}

fn plus(before: &str) -> &'static str {
    if before.is_empty() { "" } else { " + " }
}

/// A text in SQL.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
