"""Golden values for SASRec and GRU4Rec: loss and gradients of tiny models with given weights.

    python xtask/golden/sequence.py          # writes tests/golden/sequence.json

Needs torch (made with the version that the file itself names). SASRec is composed of PyTorch's own encoder layers
(post-norm, exact GELU), GRU4Rec of its GRU, both as RecBole 1.2.1 wires them: histories padded on the right, the output at
the newest item, scores by the product with all items' vectors, cross-entropy summed over the rows. In double precision,
from weights that single precision holds. The names of the weights are RecBole's.
"""

import json
import pathlib

import torch
from torch import nn

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden" / "sequence.json"
ITEMS = 7
LENGTH = 5
SASREC = {"n_layers": 2, "n_heads": 2, "hidden_size": 4, "inner_size": 6}
GRU4REC = {"embedding_size": 3, "hidden_size": 4, "num_layers": 2}
# Histories of several lengths, an item twice in one, and what came next.
HISTORIES = [[3], [0, 6], [5, 1], [2, 4, 2], [6, 5, 4, 3, 1]]
NEXT = [5, 1, 0, 6, 2]


def generated(generator, *shape, around=0.0):
    """Values that single precision holds, as double precision with a gradient."""
    values = around + 0.5 * torch.randn(*shape, generator=generator)
    return values.to(torch.float32).to(torch.float64).requires_grad_()


def padded():
    """Items count from 1 here: 0 is padding, as in RecBole."""
    rows = [torch.tensor([item + 1 for item in history]) for history in HISTORIES]
    lengths = torch.tensor([len(row) for row in rows])
    return nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths


def at_newest(output, lengths):
    return output[torch.arange(len(lengths)), lengths - 1]


def sasrec_weights(generator):
    width, inner = SASREC["hidden_size"], SASREC["inner_size"]
    weights = {
        "item_embedding.weight": generated(generator, ITEMS, width),
        "position_embedding.weight": generated(generator, LENGTH, width),
        "LayerNorm.weight": generated(generator, width, around=1.0),
        "LayerNorm.bias": generated(generator, width),
    }
    for layer in range(SASREC["n_layers"]):
        attention = f"trm_encoder.layer.{layer}.multi_head_attention."
        forward = f"trm_encoder.layer.{layer}.feed_forward."
        for name in ["query", "key", "value", "dense"]:
            weights[f"{attention}{name}.weight"] = generated(generator, width, width)
            weights[f"{attention}{name}.bias"] = generated(generator, width)
        weights[f"{forward}dense_1.weight"] = generated(generator, inner, width)
        weights[f"{forward}dense_1.bias"] = generated(generator, inner)
        weights[f"{forward}dense_2.weight"] = generated(generator, width, inner)
        weights[f"{forward}dense_2.bias"] = generated(generator, width)
        for name in [attention, forward]:
            weights[f"{name}LayerNorm.weight"] = generated(generator, width, around=1.0)
            weights[f"{name}LayerNorm.bias"] = generated(generator, width)
    return weights


def sasrec(weights):
    items, lengths = padded()
    width = SASREC["hidden_size"]
    # The padding's vector: whatever it is, no row that is read depends on it.
    table = torch.cat([torch.full((1, width), 9.0, dtype=torch.float64), weights["item_embedding.weight"]])
    x = table[items] + weights["position_embedding.weight"][: items.shape[1]]
    x = nn.functional.layer_norm(x, (width,), weights["LayerNorm.weight"], weights["LayerNorm.bias"], eps=1e-12)
    causal = nn.Transformer.generate_square_subsequent_mask(items.shape[1], dtype=torch.float64)
    for layer in range(SASREC["n_layers"]):
        attention = f"trm_encoder.layer.{layer}.multi_head_attention."
        forward = f"trm_encoder.layer.{layer}.feed_forward."
        block = nn.TransformerEncoderLayer(
            width, SASREC["n_heads"], SASREC["inner_size"], dropout=0.0, activation="gelu", layer_norm_eps=1e-12,
            batch_first=True, norm_first=False, dtype=torch.float64,
        )
        parts = {
            "self_attn.in_proj_weight": torch.cat([weights[f"{attention}{n}.weight"] for n in ["query", "key", "value"]]),
            "self_attn.in_proj_bias": torch.cat([weights[f"{attention}{n}.bias"] for n in ["query", "key", "value"]]),
            "self_attn.out_proj.weight": weights[f"{attention}dense.weight"],
            "self_attn.out_proj.bias": weights[f"{attention}dense.bias"],
            "linear1.weight": weights[f"{forward}dense_1.weight"],
            "linear1.bias": weights[f"{forward}dense_1.bias"],
            "linear2.weight": weights[f"{forward}dense_2.weight"],
            "linear2.bias": weights[f"{forward}dense_2.bias"],
            "norm1.weight": weights[f"{attention}LayerNorm.weight"],
            "norm1.bias": weights[f"{attention}LayerNorm.bias"],
            "norm2.weight": weights[f"{forward}LayerNorm.weight"],
            "norm2.bias": weights[f"{forward}LayerNorm.bias"],
        }
        x = torch.func.functional_call(block, parts, (x,), {"src_mask": causal})
    return at_newest(x, lengths)


def gru4rec_weights(generator):
    width, hidden = GRU4REC["embedding_size"], GRU4REC["hidden_size"]
    weights = {"item_embedding.weight": generated(generator, ITEMS, width)}
    for layer in range(GRU4REC["num_layers"]):
        weights[f"gru_layers.weight_ih_l{layer}"] = generated(generator, 3 * hidden, width if layer == 0 else hidden)
        weights[f"gru_layers.weight_hh_l{layer}"] = generated(generator, 3 * hidden, hidden)
    weights["dense.weight"] = generated(generator, width, hidden)
    weights["dense.bias"] = generated(generator, width)
    return weights


def gru4rec(weights):
    items, lengths = padded()
    width, hidden = GRU4REC["embedding_size"], GRU4REC["hidden_size"]
    table = torch.cat([torch.zeros(1, width, dtype=torch.float64), weights["item_embedding.weight"]])
    gru = nn.GRU(width, hidden, GRU4REC["num_layers"], bias=False, batch_first=True, dtype=torch.float64)
    parts = {name.removeprefix("gru_layers."): w for name, w in weights.items() if name.startswith("gru_layers.")}
    output, _ = torch.func.functional_call(gru, parts, (table[items],))
    return at_newest(output @ weights["dense.weight"].T + weights["dense.bias"], lengths)


def short(values):
    return [float(f"{value:.12g}") for value in values.flatten().tolist()]


def golden(config, weights, forward):
    scores = forward(weights) @ weights["item_embedding.weight"].T
    loss = nn.functional.cross_entropy(scores, torch.tensor(NEXT), reduction="sum")
    loss.backward()
    return {
        "config": config,
        "loss": float(f"{loss.item():.12g}"),
        "scores": [short(row) for row in scores.detach()],
        "weights": {
            name: {"shape": list(weight.shape), "values": short(weight.detach()), "gradient": short(weight.grad)}
            for name, weight in weights.items()
        },
    }


def main():
    generator = torch.Generator().manual_seed(0)
    made = {
        "torch": torch.__version__,
        "items": ITEMS,
        "max_seq_length": LENGTH,
        "histories": HISTORIES,
        "next": NEXT,
        "sasrec": golden(SASREC, sasrec_weights(generator), sasrec),
        "gru4rec": golden(GRU4REC, gru4rec_weights(generator), gru4rec),
    }
    OUT.write_text(json.dumps(made) + "\n")


if __name__ == "__main__":
    main()
