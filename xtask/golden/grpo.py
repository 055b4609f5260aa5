"""Golden values for the pure parts of GRPO: losses, advantages, AdamW and learning-rate schedules.

    python xtask/golden/grpo.py          # writes tests/golden/grpo.json and tests/golden/adamw.json

Needs torch, transformers and trl (made with the versions that the files themselves name). The losses are computed by
TRL's own `GRPOTrainer._compute_loss`, called on a stand-in trainer whose model "returns" the log-probabilities and
entropies of a fixed batch; the gradients are autograd's, in double precision.
"""

import inspect
import json
import pathlib
import textwrap
from collections import defaultdict
from types import SimpleNamespace

import torch
import transformers
import trl
from transformers import get_scheduler
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.utils import nanstd

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden"
LENGTHS = [5, 3, 1, 4]
MAX_COMPLETION_LENGTH = 6
# TRL's defaults of what `sapo` and `vespo` have of their own.
TEMPERATURES = {
    "sapo_temperature_neg": 1.05,
    "sapo_temperature_pos": 1.0,
    "vespo_k_pos": 2.0,
    "vespo_lambda_pos": 3.0,
    "vespo_k_neg": 3.0,
    "vespo_lambda_neg": 2.0,
}
# Keys that a case names only where it sets them.
NEWER = TEMPERATURES | {"top_entropy_quantile": 1.0, "off_policy_mask_threshold": None}


def short(value):
    """A float with 10 significant digits, or a list of them."""
    if isinstance(value, (list, tuple)):
        return [short(v) for v in value]
    return float(f"{float(value):.10g}")


def single(tensor):
    """The nearest values that single precision holds, so that both sides start from equal inputs."""
    return tensor.to(torch.float32).to(torch.float64)


def padded(flat):
    rows = torch.split(flat, LENGTHS)
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def stand_in(option, logp, entropy):
    accelerator = SimpleNamespace(
        num_processes=1,
        sync_gradients=True,
        gather=lambda x: x,
        gather_for_metrics=lambda x: x,
        reduce=lambda x, reduction=None: x,
        pad_across_processes=lambda x, **kwargs: x,
    )
    epsilon = option["epsilon"]
    high = option["epsilon_high"]
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (logp, entropy, None),
        aux_loss_enabled=False,
        top_entropy_quantile=option["top_entropy_quantile"],
        off_policy_mask_threshold=option["off_policy_mask_threshold"],
        get_off_policy_mask=GRPOTrainer.get_off_policy_mask,
        get_gamma_weights=GRPOTrainer.get_gamma_weights,
        importance_sampling_level=option["importance_sampling_level"],
        beta=option["beta"],
        loss_type=option["loss_type"],
        epsilon_low=epsilon,
        epsilon_high=epsilon if high is None else high,
        use_vllm=False,
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        max_completion_length=MAX_COMPLETION_LENGTH,
        accelerator=accelerator,
        args=SimpleNamespace(
            use_bias_correction_kl=option["use_bias_correction_kl"],
            delta=option["delta"],
            steps_per_generation=1,
            **{key: option[key] for key in TEMPERATURES},
        ),
        _entropy_bonus_enabled=option["entropy_coef"] != 0.0,
        use_adaptive_entropy=False,
        entropy_coef=option["entropy_coef"],
        _metrics={"train": defaultdict(list)},
    )
    trainer.get_high_entropy_mask = lambda *a: GRPOTrainer.get_high_entropy_mask(trainer, *a)
    return trainer


def loss_case(batch, **changes):
    option = {
        "loss_type": "dapo",
        "epsilon": 0.2,
        "epsilon_high": None,
        "delta": None,
        "beta": 0.0,
        "use_bias_correction_kl": True,
        "importance_sampling_level": "token",
        "entropy_coef": 0.0,
        "mask_truncated_completions": False,
    } | changes
    said = dict(option)
    option = NEWER | option
    per_token = option.pop("advantages_per_token", False)
    said.pop("advantages_per_token", None)
    logp = batch["logp"].clone().requires_grad_()
    entropy = batch["entropy"].clone().requires_grad_()
    mask = padded(torch.ones_like(logp)).to(torch.float64)
    if option["mask_truncated_completions"]:
        mask = mask * (~torch.tensor(batch["truncated"])).unsqueeze(1)
    advantages = padded(batch["token_advantages"]) if per_token else batch["advantages"]
    inputs = {
        "prompt_ids": torch.zeros(len(LENGTHS), 1, dtype=torch.long),
        "prompt_mask": torch.ones(len(LENGTHS), 1, dtype=torch.long),
        "completion_ids": torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.long),
        "completion_mask": mask,
        "advantages": advantages,
        "old_per_token_logps": padded(batch["old_logp"]),
        "ref_per_token_logps": padded(batch["ref_logp"]),
        "num_items_in_batch": mask.sum(),
    }
    trainer = stand_in(option, padded(logp), padded(entropy))
    loss = GRPOTrainer._compute_loss(trainer, None, inputs)
    loss.backward()
    metrics = {name: short(values[0]) for name, values in trainer._metrics["train"].items()}
    zero = torch.zeros_like(entropy)
    return said | {
        "max_completion_length": MAX_COMPLETION_LENGTH,
        "advantages_per_token": per_token,
        "loss": short(loss.item()),
        "dlogp": short(logp.grad.tolist()),
        "dentropy": short((entropy.grad if entropy.grad is not None else zero).tolist()),
        "metrics": {k: metrics[k] for k in metrics if k not in ("policy_loss", "entropy_coef")},
    }


def losses():
    generator = torch.Generator().manual_seed(7)
    n = sum(LENGTHS)
    noise = lambda scale: torch.randn(n, generator=generator) * scale
    logp = single(-torch.rand(n, generator=generator) * 3 - 0.05)
    batch = {
        "logp": logp,
        "old_logp": single(logp + noise(0.4)),
        "ref_logp": single(logp + noise(0.5)),
        "entropy": single(torch.rand(n, generator=generator) * 2),
        "advantages": single(torch.tensor([1.25, -0.75, 0.5, -1.0])),
        "token_advantages": single(noise(1.0)),
        "truncated": [False, True, False, False],
    }
    cases = []
    for loss_type in ["grpo", "dr_grpo", "bnpo", "dapo"]:
        for level in ["token", "sequence"]:
            base = {"loss_type": loss_type, "importance_sampling_level": level}
            cases.append(loss_case(batch, **base))
            cases.append(
                loss_case(batch, **base, beta=0.04, entropy_coef=0.01, epsilon_high=0.28, mask_truncated_completions=True)
            )
    for level in ["token", "sequence"]:
        base = {"loss_type": "dapo", "importance_sampling_level": level}
        cases.append(loss_case(batch, **base, delta=1.1))
        cases.append(loss_case(batch, **base, delta=1.5, beta=0.1, use_bias_correction_kl=False))
        cases.append(loss_case(batch, **base, advantages_per_token=True, beta=0.1))
    cases.extend(newer_losses(batch))
    shared = {k: short(v.tolist()) if torch.is_tensor(v) else v for k, v in batch.items()}
    for key in ["logp", "old_logp", "ref_logp", "entropy", "advantages", "token_advantages"]:
        shared[key] = batch[key].tolist()
    return {"lengths": LENGTHS, "batch": shared, "cases": cases}


def newer_losses(batch):
    """`cispo`, `sapo`, `luspo` and `vespo`, the tokens of the highest entropies, and what the policy has left behind."""
    options = [
        {},
        {"beta": 0.04, "entropy_coef": 0.01, "mask_truncated_completions": True},
        {"beta": 0.1, "use_bias_correction_kl": False, "advantages_per_token": True},
        {"top_entropy_quantile": 0.4, "entropy_coef": 0.01, "beta": 0.04},
    ]
    own = {
        "cispo": [{"epsilon_high": 1.1}, {"epsilon_high": 5.0}],
        "sapo": [{}, {"sapo_temperature_pos": 0.7, "sapo_temperature_neg": 2.0}],
        "luspo": [{}],
        "vespo": [{}, {"vespo_k_pos": 1.0, "vespo_lambda_pos": 0.0, "vespo_k_neg": 0.5, "vespo_lambda_neg": 4.0}],
    }
    cases = []
    for loss_type, variants in own.items():
        for variant in variants:
            for level in ["token", "sequence"]:
                base = {"loss_type": loss_type, "importance_sampling_level": level} | variant
                cases.extend(loss_case(batch, **base, **option) for option in options)
    for loss_type in ["grpo", "dr_grpo", "bnpo", "dapo"]:
        for quantile in [0.0, 0.2, 0.4, 0.75]:
            base = {"loss_type": loss_type, "top_entropy_quantile": quantile, "entropy_coef": 0.02}
            cases.append(loss_case(batch, **base, beta=0.04, mask_truncated_completions=quantile > 0.3))
    for level in ["token", "sequence"]:
        base = {"importance_sampling_level": level, "beta": 0.04}
        for threshold in [0.01, 0.3]:
            cases.append(loss_case(batch, **base, off_policy_mask_threshold=threshold))
        cases.append(loss_case(batch, **base, off_policy_mask_threshold=0.01, advantages_per_token=True))
    return cases


def advantages():
    nan = float("nan")
    rewards = single(
        torch.tensor(
            [0.1, 0.7, 0.35, 0.2, 1.1, 1.1, -2.0, 0.4, 0.5, nan, 0.9, 0.3, nan, nan, 0.6, nan], dtype=torch.float64
        )
    )
    size = 4
    cases = []
    for scale in ["group", "batch", "none"]:
        grouped = rewards.view(-1, size)
        mean = torch.nanmean(grouped, dim=1).repeat_interleave(size)
        std = nanstd(grouped, dim=1).repeat_interleave(size)
        if scale == "batch":
            std = nanstd(rewards).expand_as(rewards)
        advantage = rewards - mean
        if scale != "none":
            advantage = advantage / (std + 1e-4)
        cases.append({"scale_rewards": scale, "advantages": short(torch.nan_to_num(advantage, nan=0.0).tolist())})
    return {
        "objectives": objectives(),
        "num_generations": size,
        "rewards": [None if r != r else r for r in rewards.tolist()],
        "reward": short(torch.nanmean(rewards)),
        "reward_std": short(nanstd(rewards)),
        "cases": cases,
    }


def objectives():
    """TRL's `normalize_then_sum` (GDPO): its own lines, cut out of the method that also samples and scores."""
    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    start = source.index("        unscorable_mask = ")
    lines = textwrap.dedent(source[start : source.index("        # Slice to keep only the local part", start)])
    nan = float("nan")
    rewards = single(
        torch.tensor(
            [
                [0.1, 1.0, -3.0], [0.7, 1.0, 0.0], [0.35, 0.0, -1.0], [0.2, 1.0, 0.0],
                [1.1, 1.0, -1.0], [1.1, 1.0, 0.0], [0.0, 1.0, -2.0], [nan, nan, nan],
                [0.5, 1.0, 0.0], [0.5, 1.0, 0.0], [0.5, 1.0, 0.0], [0.5, 1.0, 0.0],
            ],
            dtype=torch.float64,
        )
    )  # fmt: skip
    cases = []
    for weights in [[1.0, 1.0, 1.0], [0.6, 0.4, 0.05], [1.0, 0.0, 2.0]]:
        trainer = SimpleNamespace(
            multi_objective_aggregation="normalize_then_sum",
            reward_weights=single(torch.tensor(weights, dtype=torch.float64)),
            reward_funcs=[None] * 3,
            scale_rewards="group",
        )
        scope = {"self": trainer, "torch": torch, "nanstd": nanstd, "device": "cpu"}
        scope |= {"rewards_per_func": rewards, "num_generations": 4}
        exec(lines, scope)
        cases.append({"weights": trainer.reward_weights.tolist(), "advantages": short(scope["advantages"].tolist())})
    table = [[None if r != r else r for r in row] for row in rewards.tolist()]
    return {"num_generations": 4, "rewards": table, "cases": cases}


def adamw():
    generator = torch.Generator().manual_seed(11)
    options = {"betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    shapes = {"a": 4, "b": 3}
    parameters = {name: torch.nn.Parameter(torch.randn(n, generator=generator)) for name, n in shapes.items()}
    start = {name: p.tolist() for name, p in parameters.items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.0, foreach=False, **options)
    steps = []
    for step in range(10):
        rate = 0.02 * (step + 1) / 10
        for group in optimizer.param_groups:
            group["lr"] = rate
        for p in parameters.values():
            p.grad = torch.randn(p.shape, generator=generator) * (10.0 if step % 3 == 0 else 0.3)
        gradients = {name: p.grad.tolist() for name, p in parameters.items()}
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        steps.append(
            {
                "learning_rate": rate,
                "gradients": gradients,
                "grad_norm": short(norm),
                "parameters": {name: short(p.tolist()) for name, p in parameters.items()},
            }
        )
    return {"beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weight_decay": 0.1, "max_grad_norm": 1.0, "start": start, "steps": steps}


def schedules():
    cases = []
    for kind, warmup, total in [
        ("constant", 0, 6), ("constant_with_warmup", 3, 6), ("linear", 0, 8), ("linear", 3, 10),
        ("cosine", 0, 8), ("cosine", 3, 10), ("cosine", 10, 10),
    ]:  # fmt: skip
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
        scheduler = get_scheduler(kind, optimizer, num_warmup_steps=warmup, num_training_steps=total)
        rates = []
        for _ in range(total + 2):
            rates.append(short(optimizer.param_groups[0]["lr"]))
            optimizer.step()
            scheduler.step()
        cases.append({"lr_scheduler_type": kind, "warmup_steps": warmup, "steps": total, "learning_rate": 2.0, "rates": rates})
    return cases


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    made_by = {"trl": trl.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
    files = {
        "grpo.json": {"made_by": made_by, "losses": losses(), "advantages": advantages()},
        "adamw.json": {"made_by": made_by, "adamw": adamw(), "schedules": schedules()},
    }
    for name, content in files.items():
        (OUT / name).write_text(json.dumps(content, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
