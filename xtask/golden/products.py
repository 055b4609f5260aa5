"""Small data sets in the layouts of ESCI and Amazon-C4, and what raw BM25 and a raw dense retriever reach on them.

    pip install pandas pyarrow PyStemmer pytrec_eval-terrier torch transformers
    python xtask/golden/products.py tests/golden        # esci/, esci-malformed/, amazon-c4/, products.json

The products are invented. The files are written as their authors write them: Parquet and CSV by pandas, JSON lines by json.
BM25 (Lucene's formula, k1 1.2, b 0.75, its 33 stop words, Porter's stemmer) and the vectors of tiny-bert (mean of the
tokens, length 1) rank all documents by brute force; measures are pytrec_eval's. Nothing of this project's is run.
"""

import json
import math
import os
import random
import re
import sys

import numpy as np
import pandas as pd
import pytrec_eval
import Stemmer
import torch

torch.set_num_threads(1)
from tokenizers import Tokenizer
from transformers import AutoModel

STOP = set(
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they this "
    "to was will with".split()
)
KINDS = {
    "kettle": ("Kitchen", "boils water for tea and coffee", "teapot"),
    "teapot": ("Kitchen", "brews and pours tea without a drip", "kettle"),
    "stroller": ("Baby", "folds with one hand and fits in the boot of a car", "blanket"),
    "blanket": ("Baby", "keeps warm in bed and on the road", "stroller"),
    "stapler": ("Office", "binds forty sheets at a stroke", "lamp"),
    "lamp": ("Office", "lights a desk without glare", "stapler"),
    "paddle": ("Sports", "light blade for kayak and canoe", "lantern"),
    "lantern": ("Sports", "lights the tent through the night", "paddle"),
    "controller": ("Games", "two sticks and a trigger that rumbles", "headset"),
    "headset": ("Games", "hears every step in the game, with a microphone", "controller"),
}
MATERIALS = ["steel", "wool", "bamboo", "carbon", "glass", "cotton"]
BRANDS = ["Harrow", "Pinewick", "Ostrel", "Quillon", None]
COLORS = ["red", "blue", "grey", "black", None]
FILLER = "sturdy neat plain handy tidy calm gentle humble honest modest quiet robust smooth clever narrow".split()
FIELDS = ["product_title", "product_description", "product_bullet_point", "product_brand", "product_color"]
GRADES = {"E": 100, "S": 10, "C": 1, "I": 0}
rng = random.Random(20261127)


def words(text):
    return [w for w in re.findall(r"[a-z0-9]+", text.lower()) if w not in STOP]


def whole(product):
    return "\n".join(product[field] for field in FIELDS if product[field])


def metadata(product):
    return f"{product['product_title']}. {product['product_bullet_point']}".replace("\n", " ")


def products():
    made, lengths = [], set()
    for number in range(72):
        kind = list(KINDS)[number % len(KINDS)]
        material, brand, color = rng.choice(MATERIALS), rng.choice(BRANDS), rng.choice(COLORS)
        size = rng.randrange(10, 90)
        title = " ".join(word for word in (brand, color, material, kind, f"{size} cm") if word)
        bullets = [f"{KINDS[kind][1]}", f"made of {material} for {rng.randrange(2, 30)} years", f"goes with a {KINDS[kind][2]}"]
        rng.shuffle(bullets)
        made.append(
            {
                "product_id": f"B0{number:08d}",
                "product_title": title,
                "product_description": None if number % 7 == 3 else f"<p>A {kind} that {KINDS[kind][1]}.</p> Number {number}.",
                "product_bullet_point": "\n".join(bullets[: 1 + number % 3]),
                "product_brand": brand,
                "product_color": color,
                "product_locale": "us",
                "kind": kind,
                "material": material,
            }
        )
        # Of documents of the same words the shorter one comes first: no two are equally long.
        made[-1]["product_bullet_point"] += "\nIt is"
        while {("whole", len(words(whole(made[-1])))), ("metadata", len(words(metadata(made[-1]))))} & lengths:
            made[-1]["product_bullet_point"] += " " + rng.choice(FILLER)
        lengths |= {("whole", len(words(whole(made[-1])))), ("metadata", len(words(metadata(made[-1]))))}
    return made


def judged(made, kind, material):
    """Some products of each sort: the same kind and material, the same kind, what goes with it, anything."""
    label = lambda p: (
        "E" if p["kind"] == kind and p["material"] == material
        else "S" if p["kind"] == kind
        else "C" if p["kind"] == KINDS[kind][2]
        else "I"
    )
    chosen = [p for p in made if p["kind"] == kind] + rng.sample([p for p in made if p["kind"] != kind], 6)
    return [(p["product_id"], label(p)) for p in chosen]


def esci(folder, made):
    """Returns the judgements of the test queries that are to be read by default: locale us, small version."""
    others = [dict(made[4], product_locale="es", product_title="manta de lana"), dict(made[9], product_id="B0JP", product_locale="jp", product_title="ヘッドセット")]
    columns = ["product_id", "product_title", "product_description", "product_bullet_point", "product_brand", "product_color", "product_locale"]
    pd.DataFrame(made + others)[columns].to_parquet(os.path.join(folder, "shopping_queries_dataset_products.parquet"))
    rows, tested, texts = [], {}, {}
    for number in range(30):
        kind, material = list(KINDS)[number % len(KINDS)], rng.choice(MATERIALS)
        text = f"{material} {kind} {rng.choice(['for two', 'gift', 'best', 'without plastic', 'cheap'])} {number}"
        split = "test" if number % 3 == 2 else "train"
        small = 0 if number in (6, 11) else 1
        if number == 9:  # asked in test too, in other letters
            text = texts[8].upper()
        texts[number] = text
        query = 1000 + 7 * number
        pairs = judged(made, kind, material)
        if number == 5:
            pairs.append(("B0GONE", "E"))
        for product, label in pairs:
            rows.append((query, text, product, "us", label, small, split))
        if split == "test" and small:
            tested[query] = (text, {product: GRADES[label] for product, label in pairs})
    rows += [(5, "manta de lana", made[4]["product_id"], "es", "E", 1, "test"), (6, "headset ps5", "B0JP", "jp", "S", 1, "train")]
    examples = pd.DataFrame(
        [
            dict(example_id=i, query=t, query_id=q, product_id=p, product_locale=l, esci_label=e, small_version=s, large_version=1, split=x)
            for i, (q, t, p, l, e, s, x) in enumerate(rows)
        ]
    )
    examples.to_parquet(os.path.join(folder, "shopping_queries_dataset_examples.parquet"))
    return {str(query): value for query, value in tested.items()}


def malformed(folder, made):
    """A twin of ESCI whose judgements nobody can read; all products are good."""
    columns = FIELDS + ["product_id", "product_locale"]
    pd.DataFrame(made[:3])[columns].to_parquet(os.path.join(folder, "shopping_queries_dataset_products.parquet"))
    good = dict(query="steel kettle", query_id=7, product_id=made[0]["product_id"], product_locale="us", esci_label="E", small_version=1, split="train")
    rows = [dict(good)]
    rows += [dict(good, product_id=f"B{n}", esci_label=f"bad{n}") for n in range(12)]
    rows += [dict(good, split="dev"), dict(good, query_id=None), dict(good, query=" "), dict(good, split="test")]
    rows += [dict(good, esci_label="I"), dict(good, product_locale="es", esci_label="of another locale")]
    frame = pd.DataFrame(rows).astype({"query_id": "Int64"})
    frame.to_parquet(os.path.join(folder, "shopping_queries_dataset_examples.parquet"))


def amazon_c4(folder, made):
    """Returns the judgements of all queries."""
    with open(os.path.join(folder, "sampled_item_metadata_1M.jsonl"), "w") as f:
        for p in made:
            row = {"item_id": p["product_id"], "category": KINDS[p["kind"]][0], "metadata": metadata(p)}
            f.write(json.dumps(row) + "\n")
    rows, tested = [], {}
    for number in range(20):
        p = made[rng.randrange(len(made))]
        why = rng.choice(["My sister saw it at a friend's.", "It is for a long winter.", "The old one broke, \"for good\"."])
        query = f"I need something that {KINDS[p['kind']][1]}, made of {p['material']}. {why} Not more than {number + 20} dollars."
        review = f"Bought it twice.\n\nThe {p['kind']}, I must say, is \"{p['material']}\" alone"
        rows.append(dict(qid=number, query=query, item_id=p["product_id"], user_id=f"AE{number:03d}", ori_rating=5, ori_review=review))
        tested[str(number)] = (query, {p["product_id"]: 1})
    pd.DataFrame(rows).to_csv(os.path.join(folder, "test.csv"), index=False)
    return tested


def bm25(documents, query):
    stemmer = Stemmer.Stemmer("porter")
    stems = lambda text: [stemmer.stemWord(word) for word in words(text)]
    texts = {i: stems(text) for i, text in documents.items()}
    average = sum(map(len, texts.values())) / len(texts)
    scores = {i: 0.0 for i in texts}
    for word in stems(query):
        holding = sum(word in text for text in texts.values())
        idf = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
        for i, text in texts.items():
            count = text.count(word)
            scores[i] += idf * count / (count + 1.2 * (1 - 0.75 + 0.75 * len(text) / average))
    return {i: score for i, score in scores.items() if score > 0}


class Encoder:
    def __init__(self, folder):
        self.model = AutoModel.from_pretrained(folder).eval()
        self.tokens = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
        self.tokens.enable_truncation(40)
        self.tokens.no_padding()

    def vector(self, text):
        with torch.no_grad():
            ids = torch.tensor([self.tokens.encode(text).ids])
            mean = self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0].mean(0)
        return (mean / mean.norm()).numpy().astype(np.float64)


def measured(queries, rank):
    qrels = {query: grades for query, (_, grades) in queries.items()}
    run = {query: rank(text) for query, (text, _) in queries.items()}
    for query, scores in list(run.items()):
        grade = lambda document: qrels[query].get(document, 0)
        ordered = sorted(scores, key=scores.get)
        near = [(a, b) for a, b in zip(ordered, ordered[1:]) if scores[b] - scores[a] < 1e-6]
        if any(grade(a) != grade(b) for a, b in near):
            del run[query]  # rounding may turn the two round: there is no golden value
    assert len(run) * 3 > len(qrels), "too few queries are left"
    found = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10,100", "recall.10,100"}).evaluate(run)
    names = {"ndcg_cut_10": "nDCG@10", "ndcg_cut_100": "nDCG@100", "recall_10": "R@10", "recall_100": "R@100"}
    return {query: {names[k]: round(v, 9) for k, v in values.items() if k in names} for query, values in found.items()}


def main(out):
    encoder = Encoder(os.path.join(out, "tiny-bert"))
    made = products()
    golden = {}
    os.makedirs(os.path.join(out, "esci-malformed"), exist_ok=True)
    malformed(os.path.join(out, "esci-malformed"), made)
    for name, write, text in (
        ("esci", esci, whole),
        ("amazon-c4", amazon_c4, metadata),
    ):
        folder = os.path.join(out, name)
        os.makedirs(folder, exist_ok=True)
        queries = write(folder, made)
        documents = {p["product_id"]: text(p) for p in made}
        vectors = {i: encoder.vector("passage: " + text) for i, text in documents.items()}
        dense = lambda query: {i: float(v @ encoder.vector("query: " + query)) for i, v in vectors.items()}
        golden[name] = {"bm25": measured(queries, lambda query: bm25(documents, query)), "dense": measured(queries, dense)}
        exact = {q: (t, {d: int(g == 100) for d, g in grades.items()}) for q, (t, grades) in queries.items()}
        exact = {q: value for q, value in exact.items() if any(value[1].values())}
        if name == "esci":
            golden["esci-exact"] = {"bm25": measured(exact, lambda query: bm25(documents, query)), "dense": measured(exact, dense)}
    with open(os.path.join(out, "products.json"), "w") as f:
        json.dump(golden, f, indent=0, sort_keys=True)
        f.write("\n")


main(sys.argv[1])
