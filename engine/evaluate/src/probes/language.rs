//! Which script and which language a text is in: enough to see that a rewrite has left those of its query.
//!
//! No statistics of letters: queries are too short for them, and full of names. Function words are few, common in any
//! sentence, and rarely part of a name.

/// Scripts by their ranges in Unicode. Han and kana count as one: a Japanese query may have either alone.
const SCRIPTS: [(&str, &[(char, char)]); 12] = [
    ("Latin", &[('A', 'Z'), ('a', 'z'), ('\u{c0}', '\u{24f}'), ('\u{1e00}', '\u{1eff}')]),
    ("Greek", &[('\u{370}', '\u{3ff}'), ('\u{1f00}', '\u{1fff}')]),
    ("Cyrillic", &[('\u{400}', '\u{52f}')]),
    ("Armenian", &[('\u{530}', '\u{58f}')]),
    ("Hebrew", &[('\u{590}', '\u{5ff}')]),
    ("Arabic", &[('\u{600}', '\u{6ff}'), ('\u{750}', '\u{77f}')]),
    ("Indic", &[('\u{900}', '\u{dff}')]),
    ("Thai", &[('\u{e00}', '\u{e7f}')]),
    ("Georgian", &[('\u{10a0}', '\u{10ff}')]),
    ("Ethiopic", &[('\u{1200}', '\u{139f}')]),
    ("Hangul", &[('\u{1100}', '\u{11ff}'), ('\u{3130}', '\u{318f}'), ('\u{ac00}', '\u{d7af}')]),
    ("Han", &[('\u{3040}', '\u{30ff}'), ('\u{3400}', '\u{4dbf}'), ('\u{4e00}', '\u{9fff}'), ('\u{f900}', '\u{faff}')]),
];

/// Function words that are hardly ever names, nor words of another language of the list that it is mistaken for.
const LANGUAGES: [(&str, &[&str]); 8] = [
    (
        "English",
        &[
            "the", "and", "with", "for", "of", "from", "that", "this", "are", "which", "your", "how", "what", "is",
            "when", "where", "does", "can", "you", "without",
        ],
    ),
    (
        "German",
        &[
            "und", "der", "das", "nicht", "mit", "für", "ist", "ein", "eine", "einen", "auf", "auch", "bei", "nach",
            "wird", "oder", "zum", "zur", "wie", "kann", "ohne", "sich", "welche",
        ],
    ),
    (
        "French",
        &[
            "les", "est", "pour", "avec", "dans", "une", "sur", "qui", "pas", "aux", "et", "être", "sont", "cette",
            "plus", "sans", "vous", "votre", "comment", "que",
        ],
    ),
    (
        "Spanish",
        &[
            "para", "con", "una", "por", "que", "como", "cómo", "más", "del", "está", "pero", "sobre", "esta",
            "también", "puede", "y", "sus",
        ],
    ),
    (
        "Portuguese",
        &[
            "para", "com", "uma", "não", "por", "são", "mais", "como", "também", "que", "ou", "você", "pelo", "pela",
            "seu", "sua", "dos", "em",
        ],
    ),
    (
        "Italian",
        &[
            "per", "con", "che", "non", "una", "della", "delle", "degli", "sono", "più", "come", "anche", "nella",
            "questo", "questa", "di", "senza", "gli",
        ],
    ),
    (
        "Dutch",
        &[
            "het", "een", "voor", "niet", "met", "zijn", "ook", "naar", "wordt", "maar", "hoe", "wat", "zonder",
            "deze", "uit", "bij", "en",
        ],
    ),
    (
        "Polish",
        &["nie", "jest", "się", "dla", "oraz", "przez", "jak", "czy", "które", "może", "bez", "są", "przy", "lub"],
    ),
];

/// Different function words of another language that make a rewrite one in that language: a single one may be a name.
const ENOUGH: usize = 2;

/// The places in [`LANGUAGES`] that a text shows, with how many different function words.
fn shown(words: &[String]) -> [usize; LANGUAGES.len()] {
    LANGUAGES.map(|(_, list)| list.iter().filter(|known| words.iter().any(|word| word == *known)).count())
}

/// The language that most queries of a set show: that of the queries that show none.
pub(super) fn usual<'w>(queries: impl Iterator<Item = &'w [String]>) -> Option<usize> {
    let mut sums = [0; LANGUAGES.len()];
    for words in queries {
        sums.iter_mut().zip(shown(words)).for_each(|(sum, count)| *sum += count);
    }
    let most = *sums.iter().max()?;
    (most > 0).then(|| sums.iter().position(|sum| *sum == most)).flatten()
}

/// The script or language of `rewrite` that `query` has not; none where it stays with the query's. `usual` is the language
/// of a query that shows none.
pub(super) fn drift(query: &[String], rewrite: &[String], usual: Option<usize>) -> Option<&'static str> {
    let script = SCRIPTS.iter().find(|(_, ranges)| written(rewrite, ranges) && !has_letter(query, ranges));
    if let Some((name, _)) = script {
        return Some(name);
    }
    let (own, new) = (shown(query), shown(rewrite));
    let most = *new.iter().max()?;
    if most < ENOUGH {
        return None;
    }
    // A word that two languages share shows both.
    let is_own = |place: usize| own[place] > 0 || own.iter().all(|count| *count == 0) && usual == Some(place);
    let known = own.iter().any(|count| *count > 0) || usual.is_some();
    let mut best = new.iter().enumerate().filter(|(_, count)| **count == most).map(|(place, _)| place);
    let first = best.clone().next()?;
    (known && !best.any(is_own)).then(|| LANGUAGES[first].0)
}

fn is_in(c: char, ranges: &[(char, char)]) -> bool {
    ranges.iter().any(|(first, last)| (*first..=*last).contains(&c))
}

fn has_letter(words: &[String], ranges: &[(char, char)]) -> bool {
    words.iter().flat_map(|word| word.chars()).any(|c| is_in(c, ranges))
}

/// Whether at least two letters are in the script: a single one is a unit or a variable (µ, Ω, α).
fn written(words: &[String], ranges: &[(char, char)]) -> bool {
    words.iter().flat_map(|word| word.chars()).filter(|c| is_in(*c, ranges)).nth(1).is_some()
}

#[cfg(test)]
mod tests {
    use super::super::words::words;
    use super::*;

    #[test]
    fn a_rewrite_in_another_script_or_language_has_drifted_and_a_name_or_a_unit_has_not() {
        let queries: Vec<Vec<String>> =
            ["a kettle for the office", "quiet fan with a timer", "der leise"].map(words).to_vec();
        let english = usual(queries.iter().map(Vec::as_slice));
        let drifts = |query: &str, rewrite: &str| drift(&words(query), &words(rewrite), english);
        for (query, rewrite, found) in [
            ("quiet fan", "тихий вентилятор", Some("Cyrillic")),
            ("quiet fan", "静音风扇 quiet fan", Some("Han")),
            ("quiet fan", "ein leiser ventilator für das büro", Some("German")),
            ("quiet fan", "un ventilateur pour les chambres avec minuterie", Some("French")),
            ("ein leiser ventilator", "a quiet fan for the office", Some("English")),
            ("quiet fan", "a quiet fan for the office with timer", None),
            ("ein leiser ventilator", "ventilator mit timer für das büro", None),
            ("東京 旅行", "東京への旅行ガイド", None),
            ("resistor", "resistor 10 Ω", None),
            ("cheap wine", "los angeles für wine", None),
            ("quiet fan", "", None),
            ("", "", None),
        ] {
            assert_eq!(drifts(query, rewrite), found, "{query} -> {rewrite}");
        }
        // Where nothing shows a language nothing can be another one.
        assert_eq!(drift(&words("quiet fan"), &words("ein fan für das büro"), usual(std::iter::empty())), None);
    }
}
