"""Golden values for supervised and preference losses: SFT and DPO.

    python xtask/golden/preference.py          # writes tests/golden/preference.json

Needs torch and trl (made with the versions that the file itself names). The loss of pairs is computed by TRL's own
`DPOTrainer._compute_loss`, that of supervised steps by TRL's own `SFTTrainer.compute_loss`, both called on stand-in
trainers whose model "returns" the log-probabilities of a fixed batch; the gradients are autograd's, in double precision.
"""

import json
import pathlib
from collections import defaultdict
from types import SimpleNamespace

import torch
import trl
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.sft_trainer import SFTTrainer

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden"
# Three pairs, the preferred completion of each first.
LENGTHS = [3, 5, 4, 2, 1, 3]
NAMES = ["entropy"] + [
    f"{group}/{which}"
    for group, kinds in [("rewards", ["chosen", "rejected", "accuracies", "margins"]), ("logps", ["chosen", "rejected"])]
    for which in kinds
]


def short(value):
    if isinstance(value, (list, tuple)):
        return [short(v) for v in value]
    return float(f"{float(value):.10g}")


def single(tensor):
    return tensor.to(torch.float32).to(torch.float64)


def rows(flat, order):
    """The completions in this order as rows of one width, zeros behind them, as the fused head returns them."""
    parts = torch.split(flat, LENGTHS)
    return torch.nn.utils.rnn.pad_sequence([parts[i] for i in order], batch_first=True)


def accelerator():
    same = lambda x: x
    return SimpleNamespace(
        num_processes=1, parallelism_config=None, gather=same, gather_for_metrics=same, unwrap_model=same, device="cpu"
    )


def outputs(logp, entropy):
    zero = torch.zeros_like(logp)
    return SimpleNamespace(
        log_probs=logp, entropy=entropy, mean_logits=zero, is_top1=zero.bool(), label_mask=zero.bool(), aux_loss=None
    )


def dpo(batch, beta):
    # TRL's batch holds all preferred completions first.
    order = [i for i in range(0, len(LENGTHS), 2)] + [i for i in range(1, len(LENGTHS), 2)]
    logp = batch["logp"].clone().requires_grad_()
    mask = rows(torch.ones_like(logp), order).long()
    # One token of a prompt before each completion.
    mask = torch.cat([torch.zeros(len(LENGTHS), 1, dtype=torch.long), mask], dim=1)
    policy = SimpleNamespace(training=True)
    model = lambda **_: outputs(rows(logp, order), rows(batch["entropy"], order))
    model_like = type("Model", (), {"__call__": lambda self, **k: model(**k), "training": True})()
    reference = lambda **_: outputs(rows(batch["ref_logp"], order), rows(batch["entropy"], order))
    trainer = SimpleNamespace(
        model=policy,
        accelerator=accelerator(),
        args=SimpleNamespace(gradient_checkpointing_kwargs=None, gradient_checkpointing=False),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        ref_model=reference,
        f_divergence_type="reverse_kl",
        loss_types=["sigmoid"],
        loss_weights=[1.0],
        use_weighting=False,
        beta=beta,
        label_smoothing=0.0,
        _total_train_tokens=0,
        _tp_size=1,
        _metrics={"train": defaultdict(list)},
    )
    chosen, rejected = rows(batch["ref_logp"], order).sum(dim=1).chunk(2)
    inputs = {
        "input_ids": torch.zeros_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "ref_chosen_logps": chosen,
        "ref_rejected_logps": rejected,
    }
    loss = DPOTrainer._compute_loss(trainer, model_like, inputs, False)
    loss.backward()
    metrics = {name: short(trainer._metrics["train"][name][0]) for name in NAMES}
    return {"beta": beta, "loss": short(loss.item()), "dlogp": short(logp.grad.tolist()), "metrics": metrics}


def sft(batch):
    """The mean over all tokens of all completions of a step: TRL's `nll` with `completion_only_loss`."""
    logp = batch["logp"].clone().requires_grad_()
    order = list(range(len(LENGTHS)))
    mask = rows(torch.ones_like(logp), order).bool()
    found = outputs(rows(logp, order), rows(batch["entropy"], order))
    found.label_mask = mask
    model = type("Model", (), {"__call__": lambda self, **k: found, "training": True})()
    trainer = SimpleNamespace(
        model=model,
        accelerator=accelerator(),
        args=SimpleNamespace(loss_type="nll", average_tokens_across_devices=False),
        aux_loss_enabled=False,
        compute_loss_func=None,
        label_smoother=None,
        _total_train_tokens=0,
        _tp_size=1,
        get_tp_size=lambda: 1,
        padding_free=False,
        _metrics={"train": defaultdict(list)},
    )
    ids = torch.zeros(mask.shape, dtype=torch.long)
    inputs = {"input_ids": ids, "labels": torch.where(mask, ids, -100), "attention_mask": torch.ones_like(ids)}
    loss = SFTTrainer.compute_loss(trainer, model, inputs, num_items_in_batch=mask.sum())
    loss.backward()
    return {"loss": short(loss.item()), "dlogp": short(logp.grad.tolist())}


def main():
    generator = torch.Generator().manual_seed(5)
    n = sum(LENGTHS)
    logp = single(-torch.rand(n, generator=generator) * 3 - 0.05)
    batch = {
        "logp": logp,
        "ref_logp": single(logp + torch.randn(n, generator=generator)),
        "entropy": single(torch.rand(n, generator=generator) * 2),
    }
    made_by = {"trl": trl.__version__, "torch": torch.__version__}
    content = {"made_by": made_by, "lengths": LENGTHS, **{name: values.tolist() for name, values in batch.items()}}
    content |= {"cases": [dpo(batch, beta) for beta in [0.02, 0.1, 1.0]], "sft": sft(batch)}
    (OUT / "preference.json").write_text(json.dumps(content, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
