//! Special tokens, and texts of users that must not become them.
//!
//! Which texts the tokenizer would make into tokens is asked of the tokenizer itself, so that what it normalises first
//! (other widths, other cases), and what it knows outside its added tokens, counts as well.

use std::collections::HashSet;
use std::ops::Range;

use tokenizers::tokenizer::normalizer::Range as Piece;
use tokenizers::{
    Model, NormalizedString, Normalizer, OffsetType, PreTokenizedString, PreTokenizer, Result, Token, Tokenizer,
};

/// Signs that may stand in a word: a token of these and of letters and digits is text, whoever writes it.
const SIGNS_OF_WORDS: &str = "'’-.,&+";

/// The tokens that structure a prompt.
#[derive(Debug)]
pub(super) struct Markup {
    ids: HashSet<u32>,
}

impl Markup {
    /// All special tokens, the tokens that begin and end texts, and of the other added tokens those that are no words:
    /// models mark tools, roles and reasoning with them (`<tool_call>`, `<think>`). A token of one character that is not
    /// declared special is text; and so is one that is declared so and is a piece of the model's own, since such pieces are
    /// the bytes of texts.
    pub(super) fn of(tokenizer: &Tokenizer, declared: impl Iterator<Item = u32>) -> Self {
        let added = tokenizer.get_added_tokens_decoder();
        let is_long = |id: &u32| tokenizer.id_to_token(*id).is_some_and(|text| text.chars().nth(1).is_some());
        let is_piece = |id: &u32| tokenizer.get_model().id_to_token(*id).is_some();
        let special = added.iter().filter(|(id, token)| token.special && (is_long(id) || !is_piece(id)));
        let special = special.map(|(id, _)| *id);
        let others = added.iter().filter(|(_, token)| !token.special && !is_word(&token.content)).map(|(id, _)| *id);
        Self { ids: special.chain(others.chain(declared).filter(is_long)).collect() }
    }

    /// Whether a token is one of them.
    pub(super) fn holds(&self, id: u32) -> bool {
        self.ids.contains(&id)
    }

    /// Whether one of them comes of what users wrote, wholly or in part.
    pub(super) fn is_within(&self, tokenizer: &Tokenizer, text: &str, theirs: &[Range<usize>]) -> Result<bool> {
        let encoding = tokenizer.encode(text, false)?;
        let mut places = encoding.get_ids().iter().zip(encoding.get_offsets()).filter(|(id, _)| self.holds(**id));
        Ok(places.any(|(_, (start, end))| {
            // A token may take the white space around it along; that alone is nobody's spelling.
            let spelled = text.get(*start..*end).unwrap_or_default();
            let start = start + (spelled.len() - spelled.trim_start().len());
            let end = start + spelled.trim().len();
            theirs.iter().any(|part| part.start < end && start < part.end)
        }))
    }

    /// The ids of a text in which users' parts are text alone.
    ///
    /// Added tokens are looked for in what lies between the parts, and nowhere else; all that remains goes through the
    /// tokenizer's stages in one piece, as if it had no added tokens.
    pub(super) fn encode(
        &self,
        tokenizer: &Tokenizer,
        text: &str,
        theirs: &[Range<usize>],
        add_special: bool,
    ) -> Result<Vec<u32>> {
        let kept = added_between(tokenizer, text, theirs)?;
        let mut pieces = PreTokenizedString::from(text);
        pieces.split(|_, whole| cut(&whole, &kept))?;
        if let Some(normalizer) = tokenizer.get_normalizer() {
            pieces.normalize(|piece| normalizer.normalize(piece))?;
        }
        if let Some(splitter) = tokenizer.get_pre_tokenizer() {
            splitter.pre_tokenize(&mut pieces)?;
        }
        pieces.tokenize(|piece| self.tokens(tokenizer.get_model(), piece.get()))?;
        let encoding = pieces.into_encoding(None, 0, OffsetType::Byte)?;
        Ok(tokenizer.post_process(encoding, None, add_special)?.get_ids().to_vec())
    }

    /// A piece's tokens by the model alone. A vocabulary may hold a special token as a piece of its own; where it comes
    /// up, the text is cut behind its first character.
    fn tokens(&self, model: &impl Model, piece: &str) -> Result<Vec<Token>> {
        let tokens = model.tokenize(piece)?;
        let Some(special) = tokens.iter().find(|token| self.holds(token.id)) else { return Ok(tokens) };
        let behind = piece.get(special.offsets.0..).and_then(|rest| rest.chars().next()).map_or(0, char::len_utf8);
        let (before, after) = piece.split_at_checked(special.offsets.0 + behind).unwrap_or((piece, ""));
        if before.is_empty() || after.is_empty() {
            return Ok(tokens.into_iter().filter(|token| !self.holds(token.id)).collect());
        }
        let mut all = self.tokens(model, before)?;
        let moved = |token: Token| {
            let (start, end) = token.offsets;
            Token { offsets: (start + before.len(), end + before.len()), ..token }
        };
        all.extend(self.tokens(model, after)?.into_iter().map(moved));
        Ok(all)
    }
}

/// The added tokens of what users did not write, with their places.
fn added_between(tokenizer: &Tokenizer, text: &str, theirs: &[Range<usize>]) -> Result<Vec<(Range<usize>, u32)>> {
    let added = tokenizer.get_added_tokens_decoder();
    let starts = std::iter::once(0).chain(theirs.iter().map(|part| part.end));
    let ends = theirs.iter().map(|part| part.start).chain(std::iter::once(text.len()));
    let mut kept: Vec<(Range<usize>, u32)> = Vec::new();
    for (start, end) in starts.zip(ends) {
        let Some(ours) = text.get(start..end).filter(|ours| !ours.is_empty()) else { continue };
        let encoding = tokenizer.encode(ours, false)?;
        for (id, (from, to)) in encoding.get_ids().iter().zip(encoding.get_offsets()) {
            let place = start + from..start + to;
            let follows = kept.last().is_none_or(|(before, _)| before.end <= place.start);
            if added.contains_key(id) && follows && from < to && text.get(place.clone()).is_some() {
                kept.push((place, *id));
            }
        }
    }
    Ok(kept)
}

/// A text in pieces: the places that are tokens already, and what lies between them.
fn cut(whole: &NormalizedString, kept: &[(Range<usize>, u32)]) -> Result<Vec<(NormalizedString, Option<Vec<Token>>)>> {
    let slice = |range: Range<usize>| whole.slice(Piece::Original(range)).ok_or("a piece lies outside its text");
    let (mut pieces, mut at) = (Vec::new(), 0);
    for (place, id) in kept {
        if at < place.start {
            pieces.push((slice(at..place.start)?, None));
        }
        let token = slice(place.clone())?;
        let value = token.get().to_owned();
        let size = value.len();
        pieces.push((token, Some(vec![Token::new(*id, value, (0, size))])));
        at = place.end;
    }
    if at < whole.get().len() {
        pieces.push((slice(at..whole.get().len())?, None));
    }
    Ok(pieces)
}

fn is_word(text: &str) -> bool {
    let sign = |c: char| c.is_ascii_punctuation() && !SIGNS_OF_WORDS.contains(c) || "｜▁".contains(c);
    !text.contains(sign) && (text.trim().is_empty() || text.contains(char::is_alphanumeric) || !text.is_ascii())
}
