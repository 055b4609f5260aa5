"""Golden BM25 scores from bm25s, an implementation of its own tokenizer, index and formula.

Run from the project's root:
    uv run --with bm25s==0.3.16 --with PyStemmer==3.1.0 xtask/golden/bm25.py > tests/golden/bm25.json

Method "lucene", Lucene's 33 English stop words, Porter's stemmer. Documents are made by a seeded generator from a list
of inflected words, with lengths from 1 to some 60 words and one document of stop words aside, because bm25s counts empty
documents and Lucene does not.
"""

import json
import random
import sys

import bm25s
import Stemmer

STOP = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they this "
    "to was will with"
).split()
WORDS = (
    "sail sails sailing sailed boat boats harbour harbours storm storms stormy wind winds windy rope ropes knot knots "
    "knotted captain captains crew crews anchor anchored anchoring tide tides tidal reef reefs lighthouse fog foggy map "
    "maps mapping compass relational relations relation generously generous happiness happily probable probably "
    "conditionally conditions triplicate formalize electrical hopefulness goodness allowances inference adjustable "
    "defensible irritant replacement adoption 1984 3000"
).split()


def main():
    rng = random.Random(20240607)
    weights = [1.0 / (1 + i) ** 0.7 for i in range(len(WORDS))]
    documents = []
    for _ in range(60):
        length = min(60, 1 + int(rng.expovariate(1 / 15)))
        words = [rng.choice(STOP) if rng.random() < 0.3 else rng.choices(WORDS, weights)[0] for _ in range(length)]
        documents.append(" ".join(words + [rng.choice(WORDS)]))
    queries = [" ".join(rng.choices(WORDS, k=n)) for n in (1, 2, 3, 5, 8, 13)] + ["the boat of the captain", "unheard of"]

    stemmer = Stemmer.Stemmer("porter")

    def tokens(texts):
        return bm25s.tokenize(texts, stopwords=STOP, stemmer=stemmer, return_ids=False, show_progress=False)

    settings = []
    for k1, b in ((1.2, 0.75), (0.9, 0.4), (2.0, 0.0), (0.0, 0.5)):
        index = bm25s.BM25(k1=k1, b=b, method="lucene", dtype="float64")
        index.index(tokens(documents), show_progress=False)
        known = set(index.vocab_dict)
        scores = []
        for query in tokens(queries):
            present = [t for t in query if t in known]
            found = index.get_scores(present) if present else [0.0] * len(documents)
            scores.append([round(float(s), 7) for s in found])
        settings.append({"k1": k1, "b": b, "scores": scores})
    json.dump({"documents": documents, "queries": queries, "settings": settings}, sys.stdout)
    print()


if __name__ == "__main__":
    main()
