//! The 200 requests: 50 tasks, each with four constraints of different kinds. Written for this program.

use super::constraint::Constraint::{self, *};

/// A request and what its answer must be like.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) text: String,
    pub(super) constraint: Constraint,
}

/// What is asked for, as a general assistant is.
const TASKS: [&str; 50] = [
    "Explain why the sky looks blue.",
    "Describe how to boil an egg.",
    "Give advice to someone who moves to a new city.",
    "Write a short message that thanks a neighbour for watering the plants.",
    "Explain what a library is to a child.",
    "Describe a walk through a forest in autumn.",
    "Say what makes a good friend.",
    "Explain how a bicycle stays upright.",
    "Describe the taste of a ripe peach.",
    "Write an invitation to a birthday party in a park.",
    "Explain why people sleep.",
    "Describe the work of a baker.",
    "Tell a short story about a lost umbrella.",
    "Explain how rain forms.",
    "Give three reasons to learn a second language.",
    "Describe a quiet street early in the morning.",
    "Write a note that apologises for being late.",
    "Explain what a compass is for.",
    "Describe how to wash a woollen sweater.",
    "Tell a short story about a cat and a clock.",
    "Explain why we have leap years.",
    "Describe the sea during a storm.",
    "Write a short advertisement for a wooden table.",
    "Explain how bread rises.",
    "Describe your ideal weekend in the mountains.",
    "Explain what a vaccine does.",
    "Write a polite letter to a landlord about a broken heater.",
    "Describe how to plant tomatoes.",
    "Tell a short story about two brothers and a boat.",
    "Explain the difference between weather and climate.",
    "Describe a busy railway station.",
    "Give advice on how to prepare for an interview.",
    "Explain how a lock and a key work.",
    "Describe the smell of a bakery.",
    "Write a short speech for a colleague who retires.",
    "Explain why leaves change their colour.",
    "Describe how to make a paper boat.",
    "Tell a short story about a letter that came too late.",
    "Explain what money is good for.",
    "Describe a garden in winter.",
    "Write a review of a comfortable chair.",
    "Explain how a thermometer works.",
    "Describe how to take care of a houseplant.",
    "Give advice to someone who cannot fall asleep.",
    "Explain why the moon seems to change its shape.",
    "Describe a market in a small town.",
    "Write a message that asks a friend for help with moving.",
    "Explain what a bridge must withstand.",
    "Describe the first day at a new school.",
    "Tell a short story about a lighthouse.",
];

/// The constraints, of which each task takes four with a distance of 13 between them.
const CONSTRAINTS: [Constraint; 50] = [
    AtLeastWords(40),
    Include(["water", "simple"]),
    Bullets(3),
    Upper,
    NoCommas,
    Ends("That is all I have to say."),
    Json,
    Paragraphs(2),
    Times("always", 2),
    Title,
    Sentences(3),
    Avoid(["the", "very"]),
    Numbered(4),
    Lower,
    Starts("My answer is as follows."),
    Placeholders(2),
    JsonKeys(["answer", "reason"]),
    AtMostWords(25),
    Postscript,
    Letter('k', 3),
    Quoted,
    Lines(4),
    Highlights(2),
    NoDigits,
    TwoAnswers,
    Sections(2),
    AtLeastWords(70),
    Include(["quiet", "between"]),
    CapitalWords(3),
    Repeat,
    Bullets(5),
    Ends("Is there anything else?"),
    Sentences(1),
    Avoid(["and", "is"]),
    Paragraphs(3),
    Times("often", 3),
    JsonKeys(["title", "text"]),
    Starts("To begin with,"),
    AtMostWords(12),
    Lines(3),
    Numbered(3),
    Letter('z', 2),
    Title,
    Upper,
    Placeholders(3),
    Sections(3),
    Highlights(3),
    NoCommas,
    Sentences(2),
    OneOf(["yes", "no", "perhaps"]),
];

/// Questions for the constraint that leaves three answers.
const QUESTIONS: [&str; 4] =
    ["Is water wet?", "Can a bicycle have three wheels?", "Will it rain somewhere tomorrow?", "Is a whale a fish?"];

/// All requests, in their order: neighbours are of different kinds.
pub(super) fn all() -> Vec<Asked> {
    let place = |number: usize| {
        let (round, task) = (number / TASKS.len(), number % TASKS.len());
        let constraint = CONSTRAINTS[(task + 13 * round) % CONSTRAINTS.len()];
        let task = if matches!(constraint, OneOf(_)) { QUESTIONS[round % QUESTIONS.len()] } else { TASKS[task] };
        Asked { text: format!("{task} {}", constraint.asked()), constraint }
    };
    (0..4 * TASKS.len()).map(place).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use super::*;

    #[test]
    fn there_are_two_hundred_different_requests_of_more_than_twenty_kinds() {
        let all = all();
        let texts: HashSet<&str> = all.iter().map(|asked| asked.text.as_str()).collect();
        assert_eq!((all.len(), texts.len()), (200, 200));
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        all.iter().for_each(|asked| *kinds.entry(asked.constraint.kind()).or_default() += 1);
        assert!(kinds.len() > 20 && kinds.values().all(|count| (4..=20).contains(count)), "{kinds:?}");
    }
}
