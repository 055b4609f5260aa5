//! PostgreSQL's full text search: columns of type `tsvector`, ranked by `ts_rank`.
//!
//! Each word and each phrase is a `tsquery` of its own, made by PostgreSQL out of a text, so that no text can be read as an operator
//! or as SQL. They are combined by its operators; the score is the sum of each one's rank in each column, times its factors.
//!
//! A connection lives on a thread of its own. Who asks waits for it no longer than the deadline, whatever the network does, and its
//! runtime is never dropped within another one.

use std::fmt::Write as _;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use postgres::types::ToSql;
use postgres::{Client, Config, NoTls};

use querywright_text::boolean::{Clause, Group};
use querywright_types::{Deadline, Error, FaultKind, Result};

use crate::config::ConnectConfig;
use crate::connected::{Asked, Engine, Found, finite};
use crate::http::Failure;

/// Words and phrases of a query at most; more are left out.
const MOST_PARTS: usize = 256;
/// How long an answer may come after its time: the server ends statements by itself.
const GRACE: Duration = Duration::from_millis(200);

pub(crate) struct Postgres {
    config: Config,
    table: String,
    columns: Vec<(String, f64)>,
    id: String,
    title: Option<String>,
    text_search: String,
    timeout: Duration,
    /// Connections that nobody uses.
    idle: Mutex<Vec<Connection>>,
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
        // What the other side never answers ends, too, some time after nobody waits for it any more.
        client.connect_timeout(timeout).tcp_user_timeout(2 * timeout).keepalives_idle(2 * timeout);
        client.application_name("querywright");
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

    /// The statement of a request; none where nothing is searched for.
    fn select(&self, asked: &Asked<'_>) -> Option<Select> {
        let mut statement = Statement::new(self);
        let matches = match &asked.query {
            Some(group) => statement.group(group, 1.0),
            None => statement.words(None, asked.text, false, 1.0),
        };
        Some(Select { sql: statement.sql(&matches?, asked.k), values: statement.values })
    }
}

impl Engine for Postgres {
    fn at_once(&self) -> usize {
        16
    }

    fn search(&self, asked: &[Asked<'_>], deadline: Deadline) -> Vec<Result<Vec<Found>, Failure>> {
        let selects: Vec<Option<Select>> = asked.iter().map(|asked| self.select(asked)).collect();
        let allowed = self.timeout * asked.len() as u32;
        let left = deadline.left().map_or(allowed, |left| left.min(allowed));
        let late = || (FaultKind::Timeout, format!("no answer within {} ms", left.as_millis()));
        let all = |failure: Failure| asked.iter().map(|_| Err(failure.clone())).collect();
        if left.is_zero() {
            return all(late());
        }
        let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match kept.map_or_else(|| Connection::start(&self.config), Ok) {
            Ok(connection) => connection,
            Err(e) => return all((FaultKind::Overloaded, format!("the system refused a thread: {e}"))),
        };
        let (reply, answers) = sync_channel(1);
        let job = Job { selects, deadline, timeout: self.timeout, reply };
        let sent = connection.jobs.send(job);
        match sent.map(|()| answers.recv_timeout(left + GRACE)) {
            Ok(Ok(answers)) => {
                self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
                answers
            }
            // The connection is given up; its thread ends with what it waits for.
            _ => all(late()),
        }
    }
}

/// A statement with its values.
struct Select {
    sql: String,
    values: Vec<String>,
}

struct Job {
    selects: Vec<Option<Select>>,
    deadline: Deadline,
    /// Of one statement.
    timeout: Duration,
    reply: SyncSender<Vec<Result<Vec<Found>, Failure>>>,
}

/// A thread with a connection, which ends when this is dropped.
struct Connection {
    jobs: SyncSender<Job>,
}

impl Connection {
    fn start(config: &Config) -> std::io::Result<Self> {
        let (jobs, taken) = sync_channel(1);
        let config = config.clone();
        std::thread::Builder::new().name("querywright-postgres".into()).spawn(move || serve(&config, &taken))?;
        Ok(Self { jobs })
    }
}

/// Answers jobs, over a connection that is made with the first and again where it broke.
fn serve(config: &Config, jobs: &Receiver<Job>) {
    let mut client: Option<Client> = None;
    while let Ok(Job { selects, deadline, timeout, reply }) = jobs.recv() {
        let one = |select: Option<Select>| match (select, deadline.passed()) {
            (_, true) => Err((FaultKind::Timeout, "the deadline had passed".to_owned())),
            (None, _) => Ok(Vec::new()),
            (Some(select), _) => {
                let left = deadline.left().map_or(timeout, |left| left.min(timeout));
                ask(config, &mut client, &select, left)
            }
        };
        let answers = selects.into_iter().map(one).collect();
        // Who asked may be gone.
        let _ = reply.send(answers);
    }
}

fn ask(config: &Config, kept: &mut Option<Client>, select: &Select, left: Duration) -> Result<Vec<Found>, Failure> {
    // One that was kept may have been closed by the other side since: then it is asked over a new one.
    for fresh in [kept.is_none(), true] {
        let mut client = match kept.take() {
            Some(client) => client,
            None => config.clone().connect_timeout(left).connect(NoTls).map_err(|e| failure(&e))?,
        };
        match rows(&mut client, select, left) {
            Ok(found) => {
                *kept = Some(client);
                return Ok(found);
            }
            Err(error) if error.code().is_none() && !fresh => {}
            Err(error) => {
                *kept = Some(client).filter(|client| error.code().is_some() && !client.is_closed());
                return Err(failure(&error));
            }
        }
    }
    Err((FaultKind::Network, "the connection broke twice".to_owned()))
}

fn rows(client: &mut Client, select: &Select, left: Duration) -> Result<Vec<Found>, postgres::Error> {
    client.batch_execute(&format!("SET statement_timeout = {}", left.as_millis().max(1)))?;
    let values: Vec<&(dyn ToSql + Sync)> = select.values.iter().map(|v| v as &(dyn ToSql + Sync)).collect();
    let found = |row: postgres::Row| {
        let score: f64 = row.try_get(2)?;
        Ok(Found { id: row.try_get(0)?, title: row.try_get(1)?, score: score as f32 })
    };
    client.query(&select.sql, &values)?.into_iter().map(found).collect()
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
                let factor = finite(if field.is_some() { boost } else { weight * boost });
                // Writing to a string cannot fail. A column may be null.
                let rank = format!("coalesce(ts_rank({column}, {query}), 0)::float8 * {factor:?}");
                let _ = write!(self.score, "{}{rank}", plus(&self.score));
                conditions.push(format!("{column} @@ {query}"));
            }
        }
        any(conditions)
    }

    fn group(&mut self, group: &Group<'_>, boost: f64) -> Option<String> {
        let boost = finite(boost * f64::from(group.boost));
        let must: Vec<String> = group.must.iter().filter_map(|clause| self.required(clause, boost)).collect();
        let should: Vec<String> = group.should.iter().filter_map(|clause| self.clause(clause, boost)).collect();
        // What is forbidden adds nothing to a score.
        let score = std::mem::take(&mut self.score);
        let must_not: Vec<String> = group.must_not.iter().filter_map(|clause| self.clause(clause, boost)).collect();
        self.score = score;
        let wanted = if must.is_empty() { any(should) } else { Some(must.join(" AND ")) }?;
        let all =
            std::iter::once(wanted).chain(must_not.into_iter().map(|forbidden| format!("({forbidden}) IS NOT TRUE")));
        Some(format!("({})", all.collect::<Vec<_>>().join(" AND ")))
    }

    /// A clause that must match. Words that the text search leaves out, as "the", ask nothing.
    fn required(&mut self, clause: &Clause<'_>, boost: f64) -> Option<String> {
        let first = self.values.len() + 1;
        let condition = self.clause(clause, boost)?;
        let nothing: Vec<String> =
            (first..=self.values.len()).map(|number| format!("numnode({}) = 0", self.query(number))).collect();
        Some(match nothing.is_empty() {
            true => condition,
            false => format!("({condition} OR ({}))", nothing.join(" AND ")),
        })
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
