"""Seconds to encode the same texts by Querywright, sentence-transformers and fastembed, in one sitting: documents in
batches, and queries one after the other. Ours goes first and last, so that a machine that changes its pace shows.

    python xtask/peers/encode.py ENCODER_DIR TEXTS [REPETITIONS]

ENCODER_DIR is the folder that `querywright model pull all-minilm-l6-v2` names. TEXTS is a number of made texts of 4 to 200
words, or a file with a text a line. Needs sentence-transformers, fastembed, onnx and onnxscript; fastembed gets the same weights, as
an ONNX file that is made here with PyTorch. Also prints how far the vectors lie apart.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time

import numpy
import torch

QUERIES = 200


def made(count):
    """Texts whose lengths are spread as those of a catalogue are: many short ones, few long ones."""
    rng = random.Random(0)
    words = [line.strip() for line in open(__file__, encoding="utf-8").read().replace(".", " ").split() if line.isalpha()]
    return [" ".join(rng.choices(words, k=int(4 * 50 ** rng.random()))) for _ in range(count)]


def say(who, what, texts, seconds):
    print(json.dumps({"who": who, "what": what, "texts": texts, "seconds": seconds}), flush=True)
    return min(seconds)


def ours(folder, path, repetitions, precision="f32"):
    command = ["cargo", "bench", "--quiet", "-p", "querywright-encode", "--bench", "encode", "--"]
    command += [folder, path, repetitions, precision]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    said = [json.loads(line) for line in lines if line.startswith("{")]
    return {line["what"]: say(line["who"], line["what"], line["texts"], line["seconds"]) for line in said}


def timed(who, repetitions, texts, encode):
    """`encode` gives the vectors of a list."""
    queries = texts[:QUERIES]
    encode(queries)
    found = {"documents": [], "queries": []}
    for _ in range(int(repetitions)):
        start = time.perf_counter()
        vectors = encode(texts)
        found["documents"].append(time.perf_counter() - start)
        start = time.perf_counter()
        for query in queries:
            encode([query])
        found["queries"].append(time.perf_counter() - start)
    best = {what: say(who, what, len(texts if what == "documents" else queries), seconds) for what, seconds in found.items()}
    return best, numpy.asarray(vectors)


def onnx(folder, target, most):
    """The encoder of a folder as fastembed reads it, with texts of at most `most` tokens."""
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(target)
    # fastembed cuts at the smaller of the two.
    path = os.path.join(target, "tokenizer_config.json")
    settings = json.load(open(path, encoding="utf-8")) | {"model_max_length": most, "max_length": most}
    json.dump(settings, open(path, "w", encoding="utf-8"))
    model.config.save_pretrained(target)
    example = tokenizer(["one", "two words"], padding=True, return_tensors="pt")
    names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in example]

    class Hidden(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, *inputs):
            return self.model(**dict(zip(names, inputs))).last_hidden_state

    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    torch.onnx.export(
        Hidden().eval(),
        tuple(example[name] for name in names),
        os.path.join(target, "model.onnx"),
        input_names=names,
        output_names=["last_hidden_state"],
        dynamic_shapes=(tuple(free for _ in names),),
        dynamo=True,
        external_data=False,
    )


def main(folder, wanted, repetitions="3"):
    # cargo runs a bench in the folder of its package.
    folder = os.path.abspath(folder)
    import fastembed
    import sentence_transformers
    from fastembed.common.model_description import ModelSource, PoolingType

    texts = made(int(wanted)) if wanted.isdigit() else open(wanted, encoding="utf-8").read().splitlines()
    with tempfile.TemporaryDirectory() as scratch:
        path = os.path.join(scratch, "texts.txt")
        open(path, "w", encoding="utf-8").write("\n".join(texts) + "\n")
        first = ours(folder, path, repetitions)
        encoder = sentence_transformers.SentenceTransformer(folder, device="cpu")
        theirs, vectors = timed("sentence-transformers", repetitions, texts, lambda texts: encoder.encode(texts, normalize_embeddings=True))
        onnx(folder, scratch, encoder.max_seq_length)
        pooling = json.load(open(os.path.join(folder, "1_Pooling/config.json"), encoding="utf-8"))
        cls = pooling.get("pooling_mode_cls_token") or pooling.get("pooling_mode") == "cls"
        fastembed.TextEmbedding.add_custom_model(
            model="own/encoder",
            pooling=PoolingType.CLS if cls else PoolingType.MEAN,
            normalization=True,
            sources=ModelSource(hf="own/encoder"),
            dim=vectors.shape[1],
            model_file="model.onnx",
        )
        fast = fastembed.TextEmbedding("own/encoder", specific_model_path=scratch)
        other, others = timed("fastembed", repetitions, texts, lambda texts: numpy.stack(list(fast.embed(texts))))
        last = ours(folder, path, repetitions)
        rounded = ours(folder, path, repetitions, "bf16")
    # The slower sitting of the two: each peer has as many tries as one of ours.
    own = {what: max(first[what], last[what]) for what in first}
    print(f"torch {torch.__version__}, sentence-transformers {sentence_transformers.__version__}, fastembed {fastembed.__version__}, {os.cpu_count()} cores")
    print(f"the vectors of the two peers differ by {numpy.abs(vectors - others).max():.1e} at most")
    for what in own:
        print(f"{what:10} ours {own[what]:8.3f} s, in bf16 {rounded[what]:8.3f} s  sentence-transformers {theirs[what] / own[what]:.2f} times  fastembed {other[what] / own[what]:.2f} times")


if __name__ == "__main__":
    main(*sys.argv[1:])
