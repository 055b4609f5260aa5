//! MovieLens, as GroupLens publishes it: ratings over time, films with titles and genres.
//!
//! | set | ratings | films |
//! |---|---|---|
//! | 100K | `u.data`: user, item, rating, timestamp between tabs | `u.item`: id, title, dates, address, 19 flags of genres between `\|`, in Latin-1 |
//! | 1M, 10M | `ratings.dat`, between `::` | `movies.dat`: id, title, genres, in Latin-1 (1M) |
//! | 20M, 25M, 32M, latest | `ratings.csv` | `movies.csv`: movieId, title, genres |
//!
//! Every rating is an interaction, whatever its value, as in RecBole; `least_rating` of [`Settings`] drops those below.

use std::path::Path;

use super::csv::Table;
use super::dataset::Dataset;
use super::documents::{Catalog, CatalogBuilder};
use super::lines::{Line, Lines, NAMED, quoted};
use super::paths::{find, name_of};
use super::records::at_line;
use super::sequences::{Event, Task, Users};
use super::settings::Settings;
use super::warning::Warnings;
use querywright_types::{Error, Result};

/// The genres of 100K in the order of its flags, as its `u.genre` lists them.
const GENRES: [&str; 19] = [
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
];
/// What stands for no genre in newer sets.
const NO_GENRES: &str = "(no genres listed)";

/// The files of ratings and of films, by the release.
const FILES: [(&str, &str, Release); 3] = [
    ("u.data", "u.item", Release::Tabs),
    ("ratings.dat", "movies.dat", Release::Colons),
    ("ratings.csv", "movies.csv", Release::Commas),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Release {
    Tabs,
    Colons,
    Commas,
}

/// Whether a folder holds MovieLens. `ratings.csv` alone could be anything.
pub(super) fn is_here(path: &Path) -> bool {
    let exists = |name: &str| path.join(name).exists() || path.join(format!("{name}.gz")).exists();
    FILES.iter().any(|(ratings, films, release)| exists(ratings) && (*release != Release::Commas || exists(films)))
}

/// Opens a folder of MovieLens.
pub(super) fn open(path: &Path, settings: &Settings) -> Result<Dataset> {
    let mut warnings = Warnings::default();
    let found = FILES.iter().find_map(|files| Some((files, find(path, files.0, &mut warnings)?)));
    let Some(((ratings_name, films_name, release), ratings)) = found else {
        let remedy = "MovieLens has u.data and u.item, ratings.dat and movies.dat, or ratings.csv and movies.csv";
        return Err(Error::data(path, None, "there are no ratings", remedy));
    };
    let films = find(path, films_name, &mut warnings).ok_or_else(|| {
        let found = format!("there is {ratings_name}, and no {films_name}");
        Error::data(path, None, found, "a query is made of the titles of films: unpack both from the archive")
    })?;
    let catalog = match release {
        Release::Commas => films_of_table(&films)?,
        release => films_of_lines(&films, *release)?,
    };
    let users = read_ratings(&ratings, *release, &catalog, settings.least_rating)?;
    Task { name: name_of(path), folder: path, interactions: &ratings, catalog, warnings }.of_users(users)
}

/// Adds a film; genres are parted by `|`.
fn add(builder: &mut CatalogBuilder, line: &Line<'_>, [id, title, genres]: [&str; 3]) -> Result<()> {
    let genres = if genres == NO_GENRES { String::new() } else { genres.replace('|', ", ") };
    let fields = [("title", title.trim()), ("genres", genres.as_str())];
    builder.push(id.trim(), fields).map(drop).map_err(|e| at_line(e, line))
}

fn films_of_table(path: &Path) -> Result<Catalog> {
    let table = Table::open(path, "the header movieId,title,genres, then one film a line", &[])?;
    let (id, title, genres) = (table.column("movieId")?, table.column("title")?, table.find("genres"));
    let mut builder = CatalogBuilder::new();
    table.each(|row| {
        let genres = genres.map_or("", |genres| row.get(genres));
        add(&mut builder, &row.line, [row.get(id), row.get(title), genres])
    })?;
    Ok(builder.finish())
}

fn films_of_lines(path: &Path, release: Release) -> Result<Catalog> {
    let (expected, parts) = match release {
        Release::Tabs => {
            ("id|title|date|video date|address, then 19 flags of genres, with | between", "5 parts or more")
        }
        _ => ("id::title::genres", "3 parts"),
    };
    let mut builder = CatalogBuilder::new();
    Lines::open(path, expected)?.or_latin1().each(NAMED, |line| {
        let wrong = |found: usize| {
            line.refuse(
                format!("found {found} parts in {}", quoted(line.text)),
                format!("expected {parts}: {expected}"),
            )
        };
        if release == Release::Tabs {
            let values: Vec<&str> = line.text.split('|').collect();
            let [id, title, _, _, _, flags @ ..] = &values[..] else { return Err(wrong(values.len())) };
            let set = flags.iter().zip(GENRES).filter(|(flag, _)| **flag == "1").map(|(_, genre)| genre);
            return add(&mut builder, &line, [id, title, &set.collect::<Vec<_>>().join("|")]);
        }
        match line.text.split("::").collect::<Vec<_>>()[..] {
            [id, title, genres] => add(&mut builder, &line, [id, title, genres]),
            ref other => Err(wrong(other.len())),
        }
    })?;
    Ok(builder.finish())
}

fn read_ratings(path: &Path, release: Release, catalog: &Catalog, least: Option<f64>) -> Result<Users> {
    let mut users = Users::default();
    let mut add = |line: &Line<'_>, [user, film, rating, time]: [&str; 4]| -> Result<()> {
        let item = catalog.ordinal(film).ok_or_else(|| {
            line.refuse(format!("the film {} is not among the films", quoted(film)), "add it there, or remove the line")
        })?;
        let number = |name: &str, text: &str| {
            let number = text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
            number.ok_or_else(|| line.refuse(format!("the {name} is {}", quoted(text)), "it must be a number"))
        };
        let (rating, time) = (number("rating", rating)?, number("timestamp", time)?);
        if user.is_empty() {
            return Err(line.refuse("the user id is empty", "give every rating a user"));
        }
        if least.is_none_or(|least| rating >= least) {
            users.push(user, Event { time, item, part: None });
        }
        Ok(())
    };
    if release == Release::Commas {
        let table = Table::open(path, "the header userId,movieId,rating,timestamp, then one rating a line", &[])?;
        let columns = ["userId", "movieId", "rating", "timestamp"].map(|name| table.column(name));
        let [user, film, rating, time] = columns;
        let columns = [user?, film?, rating?, time?];
        table.each(|row| add(&row.line, columns.map(|column| row.get(column))))?;
        return Ok(users);
    }
    let (expected, between) = match release {
        Release::Tabs => ("user, item, rating, timestamp, with tabs between", "\t"),
        _ => ("UserID::MovieID::Rating::Timestamp", "::"),
    };
    Lines::open(path, expected)?.each(NAMED, |line| match line.text.split(between).collect::<Vec<_>>()[..] {
        [user, film, rating, time] => add(&line, [user, film, rating, time]),
        ref other => {
            let found = format!("found {} columns in {}", other.len(), quoted(line.text));
            Err(line.refuse(found, format!("expected 4: {expected}")))
        }
    })?;
    Ok(users)
}

#[cfg(test)]
mod tests;
