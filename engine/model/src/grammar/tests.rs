use std::path::PathBuf;

use super::*;

/// A tokenizer with a token a byte.
fn bytes() -> Tokenizer {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny-qwen3");
    crate::source::ModelSource::open(&folder).unwrap().tokenizer().unwrap()
}

fn grammar(lists: &[&[&str]]) -> (Tokenizer, Arc<Grammar>) {
    let tokenizer = bytes();
    let tries = lists.iter().map(|words| Arc::new(Trie::new(&tokenizer, words).unwrap())).collect();
    let grammar = Arc::new(Grammar::new(&tokenizer, tries, "\n").unwrap());
    (tokenizer, grammar)
}

/// All texts over an alphabet up to a length.
fn texts(alphabet: &[char], longest: usize) -> Vec<String> {
    let mut all = vec![String::new()];
    let mut last = all.clone();
    for _ in 0..longest {
        last = last.iter().flat_map(|text| alphabet.iter().map(move |c| format!("{text}{c}"))).collect();
        all.extend(last.iter().cloned());
    }
    all
}

#[test]
fn exactly_the_beginnings_of_words_with_spaces_and_a_stop_are_allowed() {
    for lists in
        [&[&["ab", "a", "abc", "ca"] as &[&str]] as &[&[&str]], &[&["ab", "ca"], &["a", "abc"]], &[&[], &["b"]]]
    {
        let (tokenizer, grammar) = grammar(lists);
        let words: Vec<&str> = lists.concat();
        let alphabet = [' ', 'a', 'b', 'c', '\n'];
        // Every sequence of words that can be in a text of six characters, and everything that one begins with.
        let (mut sequences, mut last) = (vec![String::new()], vec![String::new()]);
        for _ in 0..3 {
            last = last.iter().flat_map(|text| words.iter().map(move |word| format!("{text} {word}"))).collect();
            sequences.extend(last.iter().cloned());
        }
        let whole: Vec<String> = sequences.iter().map(|text| format!("{text}\n")).collect();
        let begins = |text: &String| whole.iter().any(|whole| whole.starts_with(text.as_str()));
        let token = |c: char| tokenizer.encode(&c.to_string(), false).unwrap()[0];
        let (mut taken, mut refused) = (0, 0);
        for text in texts(&alphabet, 5) {
            let mut walk = Walk::new(grammar.clone());
            let walked = text.chars().all(|c| walk.advance(token(c)));
            assert_eq!(walked, begins(&text), "{text:?} of {words:?}");
            if !walked {
                refused += 1;
                continue;
            }
            taken += 1;
            let mut next: Vec<u32> =
                alphabet.into_iter().filter(|c| begins(&format!("{text}{c}"))).map(token).collect();
            next.sort_unstable();
            assert_eq!(walk.allowed()[..], next, "after {text:?}");
            assert_eq!(walk.stopped(), text.ends_with('\n'));
            let own = &text[..text.len() - walk.unfinished()];
            assert!(walk.stopped() || sequences.iter().any(|s| s == own), "{own:?} of {text:?} are words");
        }
        assert!(taken > 5 && refused > 100);
    }
}

#[test]
fn a_choice_is_exactly_one_word_and_its_stop() {
    let tokenizer = bytes();
    let trie = Arc::new(Trie::new(&tokenizer, &["ab", "a", "abc", "ca"]).unwrap());
    let grammar = Arc::new(Grammar::one_of(&tokenizer, trie, "\n").unwrap());
    let whole = [" ab\n", " a\n", " abc\n", " ca\n"];
    let alphabet = [' ', 'a', 'b', 'c', '\n'];
    let token = |c: char| tokenizer.encode(&c.to_string(), false).unwrap()[0];
    for text in texts(&alphabet, 5) {
        let begins = |text: &str| whole.iter().any(|whole| whole.starts_with(text));
        let mut walk = Walk::new(grammar.clone());
        assert_eq!(text.chars().all(|c| walk.advance(token(c))), begins(&text), "{text:?}");
        if begins(&text) {
            let mut next: Vec<u32> =
                alphabet.into_iter().filter(|c| begins(&format!("{text}{c}"))).map(token).collect();
            next.sort_unstable();
            assert_eq!(walk.allowed()[..], next, "after {text:?}");
        }
    }
    let encode = |text: &str| grammar.encode(&tokenizer, text).unwrap();
    assert_eq!(encode("abc").map(|tokens| tokens.len()), Some(5));
    assert_eq!((encode(""), encode("ab ca"), encode("b")), (None, None, None));
}

#[test]
fn words_that_could_not_be_read_again_are_left_out() {
    let trie =
        Trie::new(&bytes(), &["kettle", "", "two words", "line\nfeed", "x<|im_end|>", "wärme", "kettle"]).unwrap();
    assert_eq!(trie.words(), 2, "{trie:?}");
}

#[test]
fn an_answer_is_encoded_word_by_word_and_only_where_all_of_its_words_are_allowed() {
    let (tokenizer, grammar) = grammar(&[&["steel", "kettle"], &["boil"]]);
    let encode = |text: &str| grammar.encode(&tokenizer, text).unwrap();
    let tokens = encode("kettle  boil").unwrap();
    assert_eq!(tokenizer.decode(&tokens).unwrap(), " kettle boil\n");
    assert_eq!(grammar.masks(&tokens).unwrap().len(), tokens.len());
    assert_eq!(encode("").map(|tokens| tokens.len()), Some(1), "nothing is always allowed");
    for other in ["lamp", "kettle lamp", "kett", "steelkettle"] {
        assert_eq!(encode(other), None, "{other}");
    }
}

#[test]
fn words_of_several_tokens_are_walked_as_the_tokenizer_of_a_real_model_cuts_them() {
    let Some(path) = querywright_testing::model() else { return };
    let tokenizer = crate::source::ModelSource::open(&path).unwrap().tokenizer().unwrap();
    let words = ["run", "running", "runner", "leaven", "leavening", "42nd"];
    let trie = Arc::new(Trie::new(&tokenizer, &words).unwrap());
    assert_eq!(trie.words(), words.len());
    let grammar = Arc::new(Grammar::new(&tokenizer, vec![trie], "\n").unwrap());
    // The tokens of a whole answer are those of its words, so the model writes as in its own text.
    let answer = "leavening run 42nd running";
    let tokens = grammar.encode(&tokenizer, answer).unwrap().unwrap();
    assert_eq!(tokens, tokenizer.encode(&format!(" {answer}\n"), false).unwrap());
}

/// All orders of these labels, each at most once, at most `most` of them.
fn orders(labels: &[&str], most: usize) -> Vec<Vec<String>> {
    let (mut all, mut last) = (vec![Vec::new()], vec![Vec::new()]);
    for _ in 0..most.min(labels.len()) {
        let longer = |order: &Vec<String>| -> Vec<Vec<String>> {
            let left = labels.iter().filter(|label| !order.contains(&(**label).to_owned()));
            left.map(|label| order.iter().cloned().chain([(*label).to_owned()]).collect()).collect()
        };
        last = last.iter().flat_map(longer).collect();
        all.extend(last.iter().cloned());
    }
    all
}

fn order_of(labels: &[&str], count: usize, most: usize) -> (Tokenizer, Arc<Grammar>) {
    let tokenizer = bytes();
    let labels = Labels::new(&tokenizer, labels).unwrap();
    let grammar = Arc::new(Grammar::order(&tokenizer, &labels, count, most, "\n").unwrap());
    (tokenizer, grammar)
}

#[test]
fn an_order_allows_exactly_the_beginnings_of_permutations_and_a_stop_behind_whole_labels() {
    // Labels of one token and of several, one the beginning of another.
    for (labels, count, most) in [(&["A", "B", "C"][..], 3, 3), (&["1", "10", "11"], 3, 2), (&["A", "B", "C"], 2, 9)] {
        let (tokenizer, grammar) = order_of(labels, count, most);
        let text = |order: &Vec<String>| order.iter().map(|label| format!(" {label}")).collect::<String>();
        let whole: Vec<String> = orders(&labels[..count], most).iter().map(|order| text(order) + "\n").collect();
        let begins = |text: &str| whole.iter().any(|whole| whole.starts_with(text));
        let alphabet = [' ', 'A', 'B', 'C', '1', '0', '\n'];
        let token = |c: char| tokenizer.encode(&c.to_string(), false).unwrap()[0];
        let (mut open, mut taken) = (vec![String::new()], 0);
        while let Some(text) = open.pop() {
            let mut walk = Walk::new(grammar.clone());
            assert!(text.chars().all(|c| walk.advance(token(c))), "{text:?} of {labels:?}");
            let longer: Vec<String> = alphabet.iter().map(|c| format!("{text}{c}")).collect();
            let mut next: Vec<u32> = longer
                .iter()
                .filter(|longer| begins(longer))
                .filter_map(|longer| longer.chars().last().map(token))
                .collect();
            next.sort_unstable();
            assert_eq!(walk.allowed()[..], next, "after {text:?} of {labels:?}");
            for c in alphabet {
                assert_eq!(walk.clone().advance(token(c)), begins(&format!("{text}{c}")), "{c:?} after {text:?}");
            }
            let own = &text[..text.len() - walk.unfinished()];
            assert!(walk.stopped() || whole.iter().any(|whole| whole == &format!("{own}\n")), "{own:?} of {text:?}");
            open.extend(longer.into_iter().filter(|longer| begins(longer)));
            taken += 1;
        }
        assert!(taken > 10);
        let encode = |text: &str| grammar.encode(&tokenizer, text).unwrap();
        for order in orders(&labels[..count], most) {
            let tokens = encode(&order.join(" ")).unwrap();
            assert_eq!(grammar.masks(&tokens).map(|masks| masks.len()), Some(tokens.len()));
        }
        let twice = format!("{0} {0}", labels[0]);
        assert_eq!((encode(&twice), encode("Z")), (None, None));
    }
}

#[test]
fn any_walk_by_allowed_tokens_ends_in_a_permutation() {
    let names: Vec<String> = (1..=40).map(|n| n.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (tokenizer, grammar) = order_of(&names, 40, 40);
    let mut longest = 0;
    for seed in 0u64..200 {
        let (mut walk, mut tokens, mut state) = (Walk::new(grammar.clone()), Vec::new(), seed);
        while !walk.stopped() {
            let allowed = walk.allowed();
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let token = allowed[(state >> 33) as usize % allowed.len()];
            assert!(walk.advance(token));
            tokens.push(token);
        }
        let text = tokenizer.decode(&tokens).unwrap();
        let written: Vec<&str> = text.split_whitespace().collect();
        let distinct: std::collections::HashSet<&&str> = written.iter().collect();
        assert!(distinct.len() == written.len() && written.iter().all(|label| names.contains(label)), "{text:?}");
        assert_eq!(grammar.masks(&tokens).map(|masks| masks.len()), Some(tokens.len()));
        longest = longest.max(written.len());
    }
    assert!(longest > 5, "{longest}");
}

#[test]
fn labels_that_could_not_be_told_apart_are_refused() {
    let refused = |names: &[&str]| Labels::new(&bytes(), names).unwrap_err().to_string();
    assert!(refused(&["A", "A"]).contains("\"A\" stands twice"));
    assert!(refused(&["A", "two words"]).contains("cannot write \"two words\""));
    let many: Vec<String> = (0..129).map(|n| n.to_string()).collect();
    assert!(Labels::new(&bytes(), &many).unwrap_err().to_string().contains("128 are the most"));
    let labels = Labels::new(&bytes(), &["1", "10"]).unwrap();
    assert_eq!((labels.len(), labels.longest(), labels.is_empty()), (2, 3, false));
}
