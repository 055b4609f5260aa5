"""Golden values for credit and importance ratios rank by rank: losses, advantages and gradients of Rank-GRPO.

    git clone https://github.com/yaochenzhu/Rank-GRPO CHECKOUT
    python xtask/golden/rank_grpo.py CHECKOUT   # writes tests/golden/rank-grpo.json

Needs torch. The authors' trainer (arXiv 2510.20150) is a class for an old TRL that is not installed here: its
`_compute_loss`, and the lines that turn rewards of ranks into advantages, are cut out of its file and run as they are, in
double precision, on a stand-in trainer as in grpo.py. Every token belongs to an item here, the end of a list too.
"""

import ast
import json
import pathlib
import subprocess
import sys
import textwrap
from collections import defaultdict
from types import SimpleNamespace

import torch

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden" / "rank-grpo.json"
# Tokens of each item of each completion, the last one its end; two groups of two.
ITEMS = [[2, 1, 3, 1], [3, 2, 1], [1, 1], [2, 2, 2, 1]]
GROUP = 2
MAX_COMPLETION_LENGTH = 8


def short(value):
    """A float with 10 significant digits, or a list of them."""
    return [short(v) for v in value] if isinstance(value, list) else float(f"{float(value):.10g}")


def single(tensor):
    """The nearest values that single precision holds, so that both sides start from equal inputs."""
    return tensor.to(torch.float32).to(torch.float64)


def method(source, name):
    """A method of the trainer's class as a function."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            scope = {"torch": torch}
            exec(textwrap.dedent(ast.get_source_segment(source, node, padded=True)), scope)
            return scope[name]
    raise SystemExit(f"{name} is not in the trainer")


def advantages(source, returns, scale):
    """The advantages of each rank; a rank that a list does not have earns 0 there."""
    start = source.index("        # Compute group-wise mean/std over num_generations, per position")
    lines = source[start : source.index("        # Slice to local process", start)]
    ranks = max(len(r) for r in returns)
    table = torch.tensor([r + [0.0] * (ranks - len(r)) for r in returns], dtype=torch.float64)
    trainer = SimpleNamespace(num_generations=GROUP, rec_num=ranks, scale_rewards=scale)
    scope = {"self": trainer, "rewards_items": table}
    exec(textwrap.dedent(lines), scope)
    return scope["advantages_items"]


def padded(rows, value=0.0):
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


def main():
    checkout = pathlib.Path(sys.argv[1])
    source = (checkout / "libs" / "trl" / "rank_grpo_trainer.py").read_text()
    compute_loss = method(source, "_compute_loss")
    lengths = [sum(items) for items in ITEMS]
    n = sum(lengths)
    generator = torch.Generator().manual_seed(5)
    noise = lambda scale: torch.randn(n, generator=generator) * scale
    logp = single(-torch.rand(n, generator=generator) * 3 - 0.05)
    old, reference = single(logp + noise(0.4)), single(logp + noise(0.5))
    # What each list earns, and what it earns up to each of its terms but the first; without a term all earn the same.
    reward = [0.75, 0.5, 0.125, 1.0]
    before = [[0.25, 0.25, 0.875], [0.25, 0.0], [0.5], [0.5, 0.25, 0.625]]
    returns = [[r - b for b in bs] + [0.0] for r, bs in zip(reward, before)]
    items = padded([torch.repeat_interleave(torch.arange(len(i)), torch.tensor(i)) for i in ITEMS], -1)
    mask = (items >= 0).int()
    cases = []
    for scale in [True, False]:
        per_rank = advantages(source, returns, scale)
        per_token = per_rank.gather(1, items.clamp(min=0)) * mask
        for loss_type in ["grpo", "bnpo", "dr_grpo"]:
            for level, beta in [("item", 0.0), ("item", 0.04), ("token", 0.04), ("sequence", 0.0)]:
                leaf = logp.clone().requires_grad_()
                rows = lambda flat: padded(list(torch.split(flat, lengths)))
                trainer = SimpleNamespace(
                    _get_per_token_logps_and_entropies=lambda *a, **k: (rows(leaf), rows(torch.ones(n))),
                    top_entropy_quantile=1.0,
                    beta=beta,
                    importance_sampling_level=level,
                    rec_num=max(len(i) for i in ITEMS),
                    epsilon_low=0.2,
                    epsilon_high=0.28,
                    args=SimpleNamespace(delta=None),
                    loss_type=loss_type,
                    max_completion_length=MAX_COMPLETION_LENGTH,
                    model=SimpleNamespace(training=True),
                    accelerator=SimpleNamespace(gather=lambda x: x),
                    _metrics={"train": defaultdict(list)},
                )
                inputs = {
                    "prompt_ids": torch.zeros(len(ITEMS), 1, dtype=torch.long),
                    "prompt_mask": torch.ones(len(ITEMS), 1, dtype=torch.long),
                    "completion_ids": torch.zeros_like(items),
                    "completion_mask": mask,
                    "item_token_mask": mask,
                    "item_seg_ids": items,
                    "advantages": per_token,
                    "old_per_token_logps": rows(old),
                    "ref_per_token_logps": rows(reference),
                }
                loss = compute_loss(trainer, None, inputs)
                loss.backward()
                cases.append(
                    {
                        "scale_rewards": "group" if scale else "none",
                        "options": {
                            "loss_type": loss_type,
                            "importance_sampling_level": level,
                            "beta": beta,
                            "epsilon_high": 0.28,
                            # That trainer is older than TRL's correction.
                            "use_bias_correction_kl": False,
                        },
                        "advantages": short(per_token[mask.bool()].tolist()),
                        "loss": short(loss.item()),
                        "dlogp": short(leaf.grad.tolist()),
                    }
                )
    commit = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    golden = {
        "made_by": {"Rank-GRPO": commit, "torch": torch.__version__},
        "items": ITEMS,
        "group": GROUP,
        "max_completion_length": MAX_COMPLETION_LENGTH,
        "logp": logp.tolist(),
        "old_logp": old.tolist(),
        "ref_logp": reference.tolist(),
        "reward": reward,
        "before": before,
        "cases": cases,
    }
    OUT.write_text(json.dumps(golden, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
