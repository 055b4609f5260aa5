"""SASRec and GRU4Rec of RecBole and ours on MovieLens-100K: the same leave-one-out split, settings and measures.

    python xtask/peers/sequence.py FOLDER [--program target/release/querywright] [--length 10] [--epochs 30] [--seeds 2020]

Needs recbole 1.2.1 (PyPI; its wheel carries MovieLens-100K) and torch. FOLDER gets the split, as RecBole makes it, in our
layout; without --program that and RecBole's figures are all. Prints a line of JSON for each model and seed of each side.

All items are ranked. RecBole leaves those of the history in the ranking, ours are without them, so RecBole's model is
measured in both ways: `all` as RecBole does it, `new` without the history, to be compared with ours. Items that no training
sequence has cannot be found by ours; RecBole ranks them by vectors that were never trained.
"""

import argparse
import json
import math
import pathlib
import subprocess
import tempfile
import time

import numpy as np
import torch

# RecBole 1.2.1 asks for names that numpy 2 has no more.
np.float_, np.complex_, np.unicode_ = np.float64, np.complex128, np.str_

import recbole  # noqa: E402
from recbole.config import Config  # noqa: E402
from recbole.data import create_dataset, data_preparation  # noqa: E402
from recbole.utils import get_model, get_trainer, init_seed  # noqa: E402

MODELS = {"SASRec": "sasrec", "GRU4Rec": "gru4rec"}
# What both sides are told beside the length, the epochs and the seed; everything else is RecBole's default, and ours.
SHARED = {"learning_rate": 0.001, "train_batch_size": 2048, "stopping_step": 10}


def prepared(name, options, seed, folder):
    config = Config(
        model=name,
        dataset="ml-100k",
        config_dict={
            **SHARED,
            "data_path": str(pathlib.Path(recbole.__file__).parent / "dataset_example"),
            "MAX_ITEM_LIST_LENGTH": options.length,
            "epochs": options.epochs,
            "eval_args": {"split": {"LS": "valid_and_test"}, "group_by": "user", "order": "TO", "mode": "full"},
            "train_neg_sample_args": None,
            "loss_type": "CE",
            "metrics": ["Recall", "NDCG"],
            "topk": [10],
            "valid_metric": "NDCG@10",
            "use_gpu": False,
            "seed": seed,
            "show_progress": False,
            "state": "WARNING",
            "checkpoint_dir": str(folder / "saved"),
        },
    )
    init_seed(seed, True)
    dataset = create_dataset(config)
    return config, dataset, data_preparation(config, dataset)


def rows(part):
    """History and next item of each interaction of a split, by RecBole's numbers."""
    inter = part.dataset.inter_feat
    for history, length, item in zip(inter["item_id_list"], inter["item_length"], inter["item_id"]):
        yield history[:length].tolist(), int(item)


def write(folder, dataset, parts):
    """The split in our layout."""
    folder.mkdir(parents=True, exist_ok=True)
    token = lambda item: str(dataset.id2token("item_id", item))
    with open(folder / "corpus.jsonl", "w") as file:
        for item in range(1, dataset.item_num):
            file.write(json.dumps({"id": token(item), "title": f"item {token(item)}"}) + "\n")
    with open(folder / "queries.jsonl", "w") as queries, open(folder / "qrels.tsv", "w") as qrels:
        for split, part in zip(["train", "dev", "test"], parts):
            with open(folder / f"{split}.txt", "w") as names:
                for number, (history, item) in enumerate(rows(part)):
                    query = f"{split}{number}"
                    queries.write(json.dumps({"id": query, "history": [token(i) for i in history]}) + "\n")
                    qrels.write(f"{query} 0 {token(item)} 1\n")
                    names.write(query + "\n")


def measured(model, part):
    """R@10 and nDCG@10 of one relevant item, over all items and over those that the history does not have."""
    found = {"all": [], "new": []}
    model.eval()
    with torch.no_grad():
        for history, item in rows(part):
            padded = torch.zeros(1, model.max_seq_length, dtype=torch.long)
            padded[0, : len(history)] = torch.tensor(history)
            asked = {model.ITEM_SEQ: padded, model.ITEM_SEQ_LEN: torch.tensor([len(history)])}
            scores = model.full_sort_predict(asked)[0]
            scores[0] = -math.inf
            for kind in found:
                if kind == "new":
                    scores[[i for i in history if i != item]] = -math.inf
                rank = int((scores > scores[item]).sum()) + 1
                found[kind].append((rank <= 10, 1 / math.log2(rank + 1) if rank <= 10 else 0.0))
    mean = lambda kind, at: float(np.mean([pair[at] for pair in found[kind]]))
    return {kind: {"R@10": mean(kind, 0), "nDCG@10": mean(kind, 1)} for kind in found}


def theirs(name, options, seed, folder):
    config, dataset, parts = prepared(name, options, seed, folder)
    if not (folder / "test.txt").exists():
        write(folder, dataset, parts)
    train, valid, test = parts
    model = get_model(name)(config, train.dataset)
    trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
    start = time.perf_counter()
    trainer.fit(train, valid, saved=True, show_progress=False)
    seconds = time.perf_counter() - start
    state = torch.load(trainer.saved_model_file, weights_only=False)
    model.load_state_dict(state["state_dict"])
    told = {"side": "recbole", "model": name, "seed": seed, "seconds": seconds, "best_epoch": state["epoch"] + 1}
    return {**told, **measured(model, test)}


def ours(name, options, seed, folder):
    settings = {**SHARED, "max_seq_length": options.length, "epochs": options.epochs, "seed": seed}
    text = ",".join(f"{key}={value}" for key, value in settings.items())
    start = time.perf_counter()
    command = [options.program, "eval", "--data", str(folder), "--retriever", f"{MODELS[name]}:{text}"]
    # A model that was kept would be read, and the time that of reading.
    with tempfile.TemporaryDirectory() as index:
        command += ["--measures", "R@10,nDCG@10", "--index", index, "--json"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - start
    return {"side": "ours", "model": name, "seed": seed, "seconds": seconds, "new": json.loads(done.stdout)["measures"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--program")
    parser.add_argument("--length", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", default="2020")
    parser.add_argument("--models", default=",".join(MODELS))
    options = parser.parse_args()
    folder = options.folder / f"ml-100k-{options.length}"
    for name in options.models.split(","):
        for seed in map(int, options.seeds.split(",")):
            print(json.dumps(theirs(name, options, seed, folder)), flush=True)
            if options.program:
                print(json.dumps(ours(name, options, seed, folder)), flush=True)


if __name__ == "__main__":
    main()
