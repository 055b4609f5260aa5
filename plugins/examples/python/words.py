"""Ranks documents by the words that they share with the query. Rare words count more.

State is kept in the module: the host takes a snapshot of it after `commit`, and every instance starts from that.
"""

import math
import re
from collections import Counter, defaultdict

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.imports.types import Card, Fault_NotReady, Hit, QueryLanguage

WORD = re.compile(r"\w+")

postings = defaultdict(list)
documents = 0
ready = False


def words(text):
    return WORD.findall(text.lower())


class Recommender(exports.Recommender):
    def describe(self):
        return Card(
            name="words-python", version="0.1.0", languages=[QueryLanguage.PLAIN], fields=[], reads_history=False
        )

    def load(self, batch):
        global documents
        for document in batch:
            documents += 1
            text = " ".join(field.value for field in document.fields)
            for word, count in Counter(words(text)).items():
                postings[word].append((document.item, count))

    def commit(self):
        global ready
        ready = True

    def recommend(self, requests):
        return [answer(request) for request in requests]


def answer(request):
    if not ready:
        return Err(Fault_NotReady())
    scores = defaultdict(float)
    for word in dict.fromkeys(words(request.text)):
        found = postings.get(word, ())
        weight = math.log((documents + 1) / (len(found) + 0.5))
        for item, count in found:
            scores[item] += weight * count / (count + 1.2)
    excluded = set(request.exclude)
    hits = sorted((-score, item) for item, score in scores.items() if item not in excluded)
    return Ok([Hit(item=item, score=-score) for score, item in hits[: request.k]])
