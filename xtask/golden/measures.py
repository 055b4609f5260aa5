#!/usr/bin/env python3
"""Golden values for engine/metrics: trec_eval's measures over fuzzed runs, scipy's tests over fuzzed scores.

    pip install pytrec_eval-terrier ir_measures scipy numpy
    python xtask/golden/measures.py > tests/golden/measures.json

Measures come from pytrec_eval through ir_measures, except Judged, which ir_measures computes itself and with another
order of ties: there the run is given trec_eval's order by scores that do not tie.
"""
import json
import random

import ir_measures
import numpy as np
import pytrec_eval  # noqa: F401  (ir_measures must find it, not another provider)
import scipy.stats

NAMES = (
    ["nDCG", "RR", "AP"]
    + [f"{n}@{k}" for n in ("nDCG", "R", "P", "AP", "Success") for k in (1, 3, 5, 10, 100)]
    + ["RR@3", "RR@10", "Judged@1", "Judged@3", "Judged@10"]
)
rng = random.Random(20250307)


def f32(x):
    return float(np.float32(x))


def doc_id():
    # Prefixes of one another, cases and non-ASCII letters: where an order of ids can go wrong.
    return rng.choice(["d", "D", "doc-", "é", "日本", "_", "d1"]) + str(rng.randrange(400))


def fuzzed_query():
    docs = sorted({doc_id() for _ in range(rng.choice([1, 4, 12, 40]))})
    grades = rng.choice([[0, 1], [1], [-2, -1, 0, 1, 2, 3], [0], [-1, 0], [0, 1, 2, 4, 10]])
    judged = {d: rng.choice(grades) for d in docs if rng.random() < rng.choice([0.3, 0.8, 1.0])}
    if judged and max(judged.values()) < 0:  # pytrec_eval crashes or hangs where every grade is negative
        judged[min(judged)] = 0
    style = rng.randrange(5)
    score = [
        lambda: f32(rng.choice([0.0, -0.0, 1.0])),  # almost all tie
        lambda: f32(rng.randrange(8) / 3),  # many ties
        lambda: f32(rng.gauss(0, 1)),
        lambda: 16777216.0 + rng.randrange(4),  # ties only in single precision
        lambda: 1.0 + rng.randrange(6) * 2e-8,
    ][style]
    retrieved = [d for d in docs if rng.random() < 0.8]
    extra = [doc_id() for _ in range(rng.choice([0, 3]))]
    if rng.random() < 0.1:
        return judged, {}
    return judged, {d: score() for d in retrieved + extra}


def in_trec_order(run):
    ordered = sorted(run, key=lambda d: d.encode(), reverse=True)
    ordered.sort(key=lambda d: -np.float32(run[d]))
    return ordered


def measure(judged, run):
    values = {}
    ranked = in_trec_order(run)
    for name in NAMES:
        depth = int(name.split("@")[1]) if "@" in name else None
        if not judged or not run:
            values[name] = 0.0  # pytrec_eval leaves such queries out; they count 0
        elif name.startswith("Judged"):
            untied = {"q": {d: float(-i) for i, d in enumerate(ranked)}}
            values[name] = one(name, {"q": judged}, untied)
        elif name.startswith("RR@"):  # pytrec_eval knows no cutoff of RR: the run is cut instead
            values[name] = one("RR", {"q": judged}, {"q": {d: run[d] for d in ranked[:depth]}})
        else:
            values[name] = one(name, {"q": judged}, {"q": run})
    return values


def one(name, qrels, run):
    parsed = ir_measures.parse_measure(name)
    provider = ir_measures.providers.registry["judged" if name.startswith("Judged") else "pytrec_eval"]
    (metric,) = provider.evaluator([parsed], qrels).iter_calc(run)
    return metric.value


queries = []
for _ in range(100):
    judged, run = fuzzed_query()
    values = measure(judged, run)
    queries.append(
        {
            "qrels": judged,
            "run": [[d, s] for d, s in run.items()],
            "order": in_trec_order(run),
            "values": [round(values[n], 12) for n in NAMES],
        }
    )

tests = []
for n, shift in [(2, 0.1), (5, 0.0), (9, 0.2), (12, 0.05), (30, 0.02), (300, 0.03)]:
    a = [round(min(1.0, max(0.0, rng.gauss(0.5 + shift, 0.2))), 3) for _ in range(n)]
    b = [round(min(1.0, max(0.0, x - shift + rng.gauss(0, 0.1))), 3) for x in a]
    t = scipy.stats.ttest_rel(a, b)
    case = {"system": a, "baseline": b, "t": t.statistic, "p": t.pvalue}
    if n <= 12:  # every sign pattern
        exact = scipy.stats.permutation_test(
            (a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf
        )
        case["randomisation_p"] = exact.pvalue
    if n >= 30:
        low, high = scipy.stats.bootstrap(
            (a,), np.mean, method="percentile", n_resamples=50_000, random_state=np.random.default_rng(1)
        ).confidence_interval
        case["bootstrap"] = [low, high]
    tests.append(case)


def holm(p):
    # Straight from the definition: the smallest α at which the step-down procedure still rejects hypothesis i.
    ordered = sorted(p)
    m = len(p)
    return [max(min(1.0, (m - j) * q) for j, q in enumerate(ordered) if q <= x) for x in p]


families = [[0.01, 0.04, 0.03, 0.005], [0.5, 0.6], [0.02], [0.02, 0.02, 0.9, 1e-9], []]
print(
    json.dumps(
        {
            "names": NAMES,
            "queries": queries,
            "tests": tests,
            "holm": [[p, holm(p)] for p in families],
        },
        ensure_ascii=False,
        separators=(",", ":"),
    )
)
