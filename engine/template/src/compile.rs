//! Compiling: what a template's text may be, and the instructions that keep it within its limits.
//!
//! Limits are put into the compiled template: what adds, joins or repeats becomes a call of a filter of ours, and each
//! value that the template makes is passed through a scale. The names of these filters are signs, which a template can neither
//! call nor hide.

use std::sync::Arc;

use minijinja::machinery::{CompiledTemplate, Instruction, Instructions, TemplateConfig, Token, WhitespaceConfig};
use minijinja::{AutoEscape, Error, ErrorKind, Value};

/// Bytes of a template, at most. The longest of well-known models have about 30,000.
pub(crate) const MAX_BYTES: usize = 256 << 10;
/// Tokens of one tag: expressions nest with their length.
const MAX_TAG_TOKENS: usize = 2000;
/// Blocks within blocks, and branches (`elif`) among them.
const MAX_NESTING: usize = 200;
/// What the compiler may make of constants in one tag, in bytes: `'ab' * 1000` is computed while it compiles.
const MAX_CONSTANT: u64 = 1 << 20;

/// The filters that stand for operators, and the two that look at values.
pub(crate) mod filter {
    pub(crate) const ADD: &str = "+";
    pub(crate) const MULTIPLY: &str = "*";
    pub(crate) const REMAINDER: &str = "%";
    pub(crate) const CONCATENATE: &str = "~";
    pub(crate) const WEIGH: &str = "=";
    pub(crate) const STORE: &str = ".=";
    pub(crate) const READ: &str = "()";
    pub(crate) const READ_FOR_EACH: &str = "(*)";
}

/// minijinja's marker of a filter without a place in its cache.
const UNCACHED: u8 = !0;

/// Compiles a template. In a chat a line that holds a block alone leaves nothing.
pub(crate) fn compile<'s>(name: &'s str, text: &'s str, is_chat: bool) -> Result<CompiledTemplate<'s>, Error> {
    let whitespace = WhitespaceConfig { keep_trailing_newline: false, lstrip_blocks: is_chat, trim_blocks: is_chat };
    check(text, whitespace)?;
    let config = TemplateConfig {
        syntax_config: Default::default(),
        ws_config: whitespace,
        default_auto_escape: Arc::new(|_: &str| AutoEscape::None),
    };
    let mut compiled = CompiledTemplate::new(name, text, &config)?;
    compiled.instructions = guarded(&compiled.instructions);
    for block in compiled.blocks.values_mut() {
        *block = guarded(block);
    }
    Ok(compiled)
}

/// Refuses what would overflow the stack of the parser, or the memory of the compiler.
fn check(text: &str, whitespace: WhitespaceConfig) -> Result<(), Error> {
    if text.len() > MAX_BYTES {
        return Err(invalid(format!("it has {} bytes, more than {MAX_BYTES}", text.len())));
    }
    let (mut tag, mut blocks) = (Tag::default(), Vec::new());
    for token in minijinja::machinery::tokenize(text, false, Default::default(), whitespace) {
        let (token, span) = token?;
        let line = span.start_line;
        match token {
            Token::TemplateData(_) => {}
            Token::BlockStart | Token::VariableStart => tag = Tag::default(),
            Token::VariableEnd => tag.check(line)?,
            Token::BlockEnd => {
                tag.check(line)?;
                tag.nest(&mut blocks);
                if blocks.iter().sum::<usize>() > MAX_NESTING {
                    return Err(invalid(format!("line {line}: more than {MAX_NESTING} blocks or branches nest")));
                }
            }
            token => tag.add(&token, line)?,
        }
    }
    Ok(())
}

/// What matters of the tokens between a tag's braces.
#[derive(Default)]
struct Tag {
    keyword: String,
    tokens: usize,
    /// An equals sign outside of brackets: `{% set x %}` is a block, `{% set x = 1 %}` is none.
    is_assignment: bool,
    brackets: usize,
    /// Bytes of its constants, and the product of its numbers.
    constant: u64,
    factor: u64,
    multiplies: bool,
    raises: bool,
}

impl Tag {
    fn add(&mut self, token: &Token, line: u16) -> Result<(), Error> {
        self.tokens += 1;
        if self.tokens > MAX_TAG_TOKENS {
            return Err(invalid(format!("line {line}: a tag of more than {MAX_TAG_TOKENS} tokens")));
        }
        self.constant += 1;
        self.factor = self.factor.max(1);
        let mut number = |n: u64| self.factor = self.factor.saturating_mul(n.max(2));
        match token {
            Token::Ident(word) if self.tokens == 1 => self.keyword = (*word).to_owned(),
            Token::Str(text) => self.constant += text.len() as u64,
            Token::String(text) => self.constant += text.len() as u64,
            Token::Int(n) => number(*n),
            Token::Int128(_) => number(u64::MAX),
            Token::Mul => self.multiplies = true,
            Token::Pow => self.raises = true,
            Token::ParenOpen => self.brackets += 1,
            Token::ParenClose => self.brackets = self.brackets.saturating_sub(1),
            Token::Assign => self.is_assignment |= self.brackets == 0,
            _ => {}
        }
        Ok(())
    }

    fn check(&self, line: u16) -> Result<(), Error> {
        let largest = if self.raises { u64::MAX } else { self.constant.saturating_mul(self.factor) };
        if self.multiplies && largest > MAX_CONSTANT {
            return Err(invalid(format!("line {line}: a product that may be too large")));
        }
        Ok(())
    }

    /// Opens or closes a block. Each open block counts one, and one more for each `elif`: those nest.
    fn nest(&self, blocks: &mut Vec<usize>) {
        match self.keyword.as_str() {
            "elif" => blocks.last_mut().map_or((), |block| *block += 1),
            "set" if self.is_assignment => {}
            "if" | "for" | "macro" | "call" | "filter" | "block" | "with" | "autoescape" | "set" => blocks.push(1),
            word if word.starts_with("end") => drop(blocks.pop()),
            _ => {}
        }
    }
}

/// The same instructions with our filters in place of operators and behind what makes values.
fn guarded<'s>(old: &Instructions<'s>) -> Instructions<'s> {
    let mut groups = Vec::new();
    let mut at = 0;
    while let Some(instruction) = old.get(at) {
        groups.push(replacement(instruction, old.get(at + 1)));
        at += 1;
    }
    // Where each old instruction stands now, for jumps; one more for jumps to the end.
    let mut places = Vec::with_capacity(groups.len() + 1);
    let mut place = 0;
    for group in &groups {
        places.push(place);
        place += group.len() as u32;
    }
    places.push(place);
    let moved = |target: u32| places.get(target as usize).copied().unwrap_or(place);
    let mut new = Instructions::new(old.name(), old.source());
    for (at, group) in (0..).zip(groups) {
        let line = old.get_line(at).and_then(|line| u16::try_from(line).ok()).unwrap_or_default();
        for instruction in group {
            new.add_with_line(retargeted(instruction, &moved), line);
        }
    }
    new
}

/// What stands in the place of an instruction.
fn replacement<'s>(instruction: &Instruction<'s>, next: Option<&Instruction<'s>>) -> Vec<Instruction<'s>> {
    let apply = |name, arguments| Instruction::ApplyFilter(name, Some(arguments), UNCACHED);
    match instruction {
        Instruction::Add => vec![apply(filter::ADD, 2)],
        Instruction::Mul => vec![apply(filter::MULTIPLY, 2)],
        Instruction::Rem => vec![apply(filter::REMAINDER, 2)],
        Instruction::StringConcat => vec![apply(filter::CONCATENATE, 2)],
        // As a value, so that it is counted also where it is captured.
        Instruction::EmitRaw(text) => vec![Instruction::LoadConst(Value::from(*text)), Instruction::Emit],
        // The value to be stored lies on the stack before its namespace is looked up.
        Instruction::Lookup(_) if matches!(next, Some(Instruction::SetAttr(_))) => {
            vec![apply(filter::STORE, 1), instruction.clone()]
        }
        Instruction::Eq
        | Instruction::Ne
        | Instruction::Lt
        | Instruction::Lte
        | Instruction::Gt
        | Instruction::Gte
        | Instruction::In => {
            let mut charged = read(filter::READ, Some(2));
            charged.extend([Instruction::DiscardTop, instruction.clone()]);
            charged
        }
        Instruction::PerformTest(name, count, _) if walks(name, *count) => {
            let mut charged = read(filter::READ, *count);
            charged.push(Instruction::PerformTest(name, None, UNCACHED));
            charged
        }
        Instruction::ApplyFilter(name, count, _) if !GLANCES.contains(name) => {
            let each = ["select", "reject", "selectattr", "rejectattr", "map"].contains(name);
            let mut charged = read(if each { filter::READ_FOR_EACH } else { filter::READ }, *count);
            charged.extend([Instruction::ApplyFilter(name, None, UNCACHED), apply(filter::WEIGH, 1)]);
            charged
        }
        Instruction::CallMethod(name, count) if *name != "get" => {
            let mut charged = read(filter::READ, *count);
            charged.extend([Instruction::CallMethod(name, None), apply(filter::WEIGH, 1)]);
            charged
        }
        Instruction::BuildList(_)
        | Instruction::BuildMap(_)
        | Instruction::Slice
        | Instruction::ApplyFilter(..)
        | Instruction::CallFunction(..)
        | Instruction::CallMethod(..)
        | Instruction::CallObject(_)
        | Instruction::EndCapture => vec![instruction.clone(), apply(filter::WEIGH, 1)],
        other => vec![other.clone()],
    }
}

/// Filters that do not walk what they are given.
const GLANCES: [&str; 8] = ["default", "d", "attr", "first", "last", "length", "count", "safe"];

/// Whether a test walks what it is given: those that compare, and two that read a text.
fn walks(name: &str, count: Option<u16>) -> bool {
    count != Some(1) || matches!(name, "lower" | "upper")
}

/// Charges for the operands on the stack. They are then on it again, with their number on top.
fn read<'s>(charge: &'s str, count: Option<u16>) -> Vec<Instruction<'s>> {
    vec![Instruction::ApplyFilter(charge, count, UNCACHED), Instruction::UnpackLists(1)]
}

fn retargeted<'s>(instruction: Instruction<'s>, moved: &impl Fn(u32) -> u32) -> Instruction<'s> {
    match instruction {
        Instruction::Iterate(to) => Instruction::Iterate(moved(to)),
        Instruction::Jump(to) => Instruction::Jump(moved(to)),
        Instruction::JumpIfFalse(to) => Instruction::JumpIfFalse(moved(to)),
        Instruction::JumpIfFalseOrPop(to) => Instruction::JumpIfFalseOrPop(moved(to)),
        Instruction::JumpIfTrueOrPop(to) => Instruction::JumpIfTrueOrPop(moved(to)),
        Instruction::BuildMacro(name, to, flags) => Instruction::BuildMacro(name, moved(to), flags),
        other => other,
    }
}

fn invalid(what: String) -> Error {
    Error::new(ErrorKind::SyntaxError, what)
}
