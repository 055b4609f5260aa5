"""Golden token ids from a byte-level BPE written independently, in plain Python, over the `regex` module.

    python tokenizer.py smollm2 MODEL.gguf OUT.json COUNT    # tokenizer-smollm2.json is COUNT 300; CI may hold 10000
    python tokenizer.py splits OUT.json                      # tokenizer-splits.json: a small vocabulary, every splitter

The pre-tokenisers are those that GGUF names in `tokenizer.ggml.pre`. The strings mix some thirty scripts, digits,
punctuation, white space, emoji, combining marks and special tokens; a seeded generator makes them and hold
only characters that Unicode 14 assigns, since categories of newer ones differ between libraries. The SmolLM2 ids are
compared with Python's `tokenizers` too before they are written.
"""
import json
import random
import sys
import unicodedata

import regex

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
MODERN = (r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS"
          r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SPLITS = {
    "smollm": [r"\p{N}", GPT2],
    "gpt-2": [GPT2],
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"],
    "llama-bpe": [MODERN.replace("DIGITS", "{1,3}")],
    "qwen2": [MODERN.replace("DIGITS", "")],
}

PHRASES = """All human beings are born free and equal in dignity and rights.|I'll we've they're don't he's I'd I'm YOU'RE IT'S o'clock
Größe Straße naïve café Ærøskøbing Übermut|Dvě stě žluťoučkých koní pěl ďábelské ódy|Zażółć gęślą jaźń|İstanbul'da ışık çiğ
Все люди рождаются свободными и равными|Усі люди народжуються вільними ґ їжак|Όλοι οι άνθρωποι γεννιούνται ελεύθεροι|Բոլոր մարդիկ ծնվում են ազատ
ყველა ადამიანი იბადება თავისუფალი|כל בני האדם נולדו בני חורין|שָׁלוֹם עֲלֵיכֶם|يولد جميع الناس أحرارا متساوين|تمام انسان‌ها آزاد زاده می‌شوند|ہر انسان آزاد پیدا ہوا
सभी मनुष्यों को गौरव और अधिकारों|সমস্ত মানুষ স্বাধীনভাবে|ਸਾਰਾ ਮਨੁੱਖੀ ਪਰਿਵਾਰ|બધા માનવીઓ|மனிதப் பிறவியினர் சகலரும்|ప్రతిపత్తిస్వత్వముల|ಎಲ್ಲಾ ಮಾನವರೂ|മനുഷ്യരെല്ലാവരും|සියලු මනුෂ්‍යයෝ
มนุษย์ทั้งหลายเกิดมามีอิสระ|ມະນຸດທຸກຄົນ|လူတိုင်းသည်|មនុស្សទាំងអស់|འགྲོ་བ་མིའི་རིགས|ሁሉም ሰዎች ነፃ ሆነው|Хүн бүр төрж мэндлэхэд|ᠬᠦᠮᠦᠨ
人人生而自由，在尊嚴和權利上一律平等。|人人生而自由，在尊严和权利上一律平等。|すべての人間は、生まれながらにして自由であり|カタカナ ﾊﾝｶｸ ひらがな|모든 인간은 태어날 때부터 자유로우며|Tất cả mọi người sinh ra đều được tự do
ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ|ᐃᓄᒃᑎᑐᑦ|ⵜⴰⵎⴰⵣⵉⵖⵜ|𐌰𐌽𐍃𐍄𐍃|𓀀𓂀 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛|ℝ ∀x∈ℕ: x² ≥ 0 ⇒ ∑ᵢ√x|½ ¾ Ⅻ ①②③ ٣٤٥ १२३ ๔๕๖ 一二三 ㊿
iPhone 15 Pro 256GB|price < $1,299.99 (20% off!)|https://example.org/a?b=c&d=%20#e|user.name+tag@mail.co|def f(x): return x**2  # square|{"key": [1, 2.5e-3, null]}|<think>\\n\\boxed{42}</think>
😀😃 👩‍👩‍👧‍👦 👍🏽 🇫🇷🇯🇵 ❤️‍🔥|e\u0301 n\u0303 a\u0308\u0304 (combining)|zero\u200bwidth\u200djoin\ufeffbom|soft\u00adhyphen nbsp\u00a0here thin\u2009space\u3000wide|tabs\tand\r\nlines\n\n\nend|   leading and trailing   |\u202ertl override\u202c
...---!!!???***|«quotes» “curly” ‘single’ „low“|don’t it’s (typographic)|1234567890 12,345.678 2024-02-29T23:59:60Z|x'y's''t 'llama 'velvet|SELECT * FROM t WHERE a != 'b';|A_B__C --flag=value ~/path/to/file.txt|\x00\x01\x1b\x7f control"""

SPECIALS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
RANGES = [(0x20, 0x7E), (0xA0, 0x24F), (0x250, 0x36F), (0x370, 0x58F), (0x590, 0x6FF), (0x900, 0xDFF), (0xE00, 0x10FF), (0x1100, 0x13FF),
          (0x1E00, 0x20CF), (0x2100, 0x27BF), (0x2E80, 0x30FF), (0x3400, 0x9FFF), (0xAC00, 0xD7A3), (0xF900, 0xFFFD), (0x10000, 0x10FFF),
          (0x1D400, 0x1D7FF), (0x1F300, 0x1FAFF)]
SPACES = [" ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", " \n ", "\u00a0", "\u3000", "\u2003", "\x0b", "\x85", "\u2028"]


def assigned(text):
    return "".join(c for c in text if unicodedata.category(c) not in ("Cn", "Cs", "Co"))


def strings(count, seed=0):
    """`count` different strings."""
    rng = random.Random(seed)
    phrases = [p for p in PHRASES.replace("\n", "|").split("|") if p] + ["line\nbreak", "a\n\n\nb \n c", "<|im_start|>user\nhi<|im_end|>\n"]
    seen = dict.fromkeys(assigned(p) for p in phrases)
    while len(seen) < count:
        parts = []
        for _ in range(rng.randint(1, 6)):
            kind = rng.random()
            if kind < 0.4:
                phrase = rng.choice(phrases)
                start = rng.randrange(len(phrase))
                parts.append(phrase[start:start + rng.randint(1, 40)])
            elif kind < 0.7:
                low, high = rng.choice(RANGES)
                parts.append("".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 8))))
            elif kind < 0.8:
                parts.append(str(rng.randint(0, 10 ** rng.randint(1, 9))))
            elif kind < 0.97:
                parts.append(rng.choice(SPACES))
            else:
                parts.append(rng.choice(SPECIALS))
        text = assigned("".join(parts))
        if text:
            seen[text] = None
    return list(seen)[:count]


def byte_alphabet():
    """GPT-2's printable character of each byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


BYTES = byte_alphabet()


class Reference:
    """Splits, maps bytes to characters, merges by rank."""

    def __init__(self, tokens, merges, specials, pre):
        self.vocab = {t: i for i, t in enumerate(tokens)}
        self.ranks = {tuple(m.split(" ")): i for i, m in enumerate(merges)}
        self.specials = regex.compile("(" + "|".join(regex.escape(s) for s in specials) + ")") if specials else None
        self.splits = [regex.compile(s) for s in SPLITS[pre]]
        self.nfc = pre == "qwen2"
        self.whole_words = pre == "llama-bpe"
        self.cache = {}

    def pieces(self, text):
        parts = [text]
        for split in self.splits:
            following = []
            for part in parts:
                end = 0
                for match in split.finditer(part):
                    following += [part[end:match.start()], match.group()]
                    end = match.end()
                following.append(part[end:])
            parts = [p for p in following if p]
        return parts

    def merge(self, word):
        if word in self.cache:
            return self.cache[word]
        if self.whole_words and word in self.vocab:
            return [self.vocab[word]]
        symbols = list(word)
        while len(symbols) > 1:
            pairs = list(zip(symbols, symbols[1:]))
            best = min(pairs, key=lambda p: self.ranks.get(p, 1 << 60))
            if best not in self.ranks:
                break
            merged, i = [], 0
            while i < len(symbols):
                if i + 1 < len(symbols) and (symbols[i], symbols[i + 1]) == best:
                    merged.append(symbols[i] + symbols[i + 1])
                    i += 2
                else:
                    merged.append(symbols[i])
                    i += 1
            symbols = merged
        # A byte that the vocabulary lacks is dropped, as byte-level BPE without an unknown token does.
        ids = self.cache[word] = [self.vocab[s] for s in symbols if s in self.vocab]
        return ids

    def encode(self, text):
        ids = []
        for part in self.specials.split(text) if self.specials else [text]:
            if part in self.vocab and self.specials and self.specials.fullmatch(part):
                ids.append(self.vocab[part])
                continue
            part = unicodedata.normalize("NFC", part) if self.nfc else part
            for piece in self.pieces(part):
                ids += self.merge("".join(BYTES[b] for b in piece.encode()))
        return ids


def dump(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")


def smollm2(gguf_path, out, count):
    from gguf import GGUFReader
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    fields = GGUFReader(gguf_path).fields
    tokens, merges, types = (fields[f"tokenizer.ggml.{k}"].contents() for k in ("tokens", "merges", "token_type"))
    specials = [t for t, kind in zip(tokens, types) if kind == 3]
    reference = Reference(tokens, merges, specials, "smollm")
    other = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[tuple(m.split(" ")) for m in merges]))
    other.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                   pre_tokenizers.ByteLevel(add_prefix_space=False)])
    other.add_special_tokens([AddedToken(t, normalized=False) for t in specials])
    cases, differing = [], []
    for text in strings(count):
        ids = reference.encode(text)
        if ids != other.encode(text).ids:
            differing.append(text)
        cases.append([text, ids])
    print(f"{count} strings, {sum(len(c[1]) for c in cases)} ids, {len(differing)} differ from `tokenizers`: {differing[:5]}")
    dump(out, cases)


def splits(out):
    """Merges learned from the phrases themselves, so that splits decide what merges."""
    from collections import Counter

    texts = strings(400, seed=1)
    trainer = Reference([], [], [], "gpt-2")
    words = Counter(tuple(BYTES[b] for b in piece.encode()) for t in texts[:100] for piece in trainer.pieces(t))
    # Words that cross the splitters' edges, so that a wrong split shows in the ids.
    for extra in ["123", "1234", "12", "!!!", "\n\n", ".\n", " the", "'S", "'s", "(a", "$1", "e\u0301", "\u00e9"]:
        words[tuple(BYTES[b] for b in extra.encode())] += 30
    tokens, merges = [BYTES[b] for b in range(256)], []
    for _ in range(220):
        pairs = Counter()
        for word, n in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += n
        best = max(pairs, key=lambda p: (pairs[p], p))
        merges.append(" ".join(best))
        if "".join(best) not in tokens:
            tokens.append("".join(best))
        merged = Counter()
        for word, n in words.items():
            new, i = [], 0
            while i < len(word):
                pair = word[i:i + 2]
                new.append("".join(pair) if pair == best else word[i])
                i += 2 if pair == best else 1
            merged[tuple(new)] += n
        words = merged
    # A whole word that no merges reach: only `llama-bpe`, which looks whole words up first, may yield it.
    tokens += ["Ġzqx", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    texts = [t for t in texts if len(t) < 60][:110] + ["a zqx b", "IT'S 12345 1234 $100!!!\n\nx", "e\u0301 \u00e9"]
    ids = {pre: [Reference(tokens, merges, SPECIALS, pre).encode(t) for t in texts] for pre in SPLITS}
    dump(out, {"tokens": tokens, "merges": merges, "texts": texts, "ids": ids})


if __name__ == "__main__":
    if sys.argv[1:2] == ["smollm2"] and len(sys.argv) == 5:
        smollm2(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    elif sys.argv[1:2] == ["splits"] and len(sys.argv) == 3:
        splits(sys.argv[2])
    else:
        sys.exit(__doc__)
