"""LoRA adapters: golden values from Python's peft, and the check in the other direction.

    python adapter.py golden tests/golden                   # peft-llama and peft-qwen3, on tiny-llama and tiny-qwen3
    python adapter.py patterns tests/golden                 # peft-patterns: ranks and scales that differ, on tiny-qwen3
    python adapter.py check BASE_DIR ADAPTER_DIR IDS_JSON   # loads an adapter that we wrote, prints the logits as JSON

IDS_JSON is a JSON list of token ids, or a file that holds one; the logits come as a list of positions.
"""
import json
import os
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

SEQUENCES = [[3, 17, 200, 5, 9, 81, 44, 2], [250, 1, 1, 90, 33, 7, 128, 64, 32, 16, 8, 4, 2, 255]]


def numbers(tensor):
    if tensor.dim() == 0:
        return float(f"{tensor.item():.8g}")
    return [numbers(t) for t in tensor]


@torch.no_grad()
def logits(model, ids):
    return numbers(model(torch.tensor([ids])).logits[0])


def adapt(out, name, config, seed, folder, positions=slice(None)):
    base = AutoModelForCausalLM.from_pretrained(os.path.join(out, f"tiny-{name}"), dtype=torch.float32)
    model = get_peft_model(base, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, p in sorted(model.named_parameters()):
            if "lora_" in key:
                p.copy_(0.2 * torch.randn(p.shape, generator=generator))
    model.peft_config["default"].base_model_name_or_path = f"tiny-{name}"
    folder = os.path.join(out, folder)
    model.save_pretrained(folder)
    readme = os.path.join(folder, "README.md")
    if os.path.exists(readme):
        os.remove(readme)
    with open(os.path.join(folder, "logits.json"), "w") as f:
        sequences = [{"ids": s, "logits": logits(model.eval(), s)[positions]} for s in SEQUENCES]
        json.dump({"sequences": sequences}, f, separators=(",", ":"))
        f.write("\n")


def golden(out):
    for seed, name in enumerate(["llama", "qwen3"]):
        config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        adapt(out, name, config, 100 + seed, f"peft-{name}")


def patterns(out):
    """Logits of the last position alone."""
    config = LoraConfig(r=2, lora_alpha=3, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM",
                        rank_pattern={"model.layers.0.self_attn.q_proj": 5, "^model\\.layers\\.1\\..*[qv]_proj": 3},
                        alpha_pattern={"down_proj": 7, "1.self_attn.v_proj": 1})
    adapt(out, "qwen3", config, 102, "peft-patterns", slice(-1, None))


def check(base, adapter, ids):
    ids = json.load(open(ids)) if os.path.exists(ids) else json.loads(ids)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter)
    json.dump(logits(model.eval(), ids), sys.stdout)


if __name__ == "__main__":
    if sys.argv[1:2] == ["golden"] and len(sys.argv) == 3:
        golden(sys.argv[2])
    elif sys.argv[1:2] == ["patterns"] and len(sys.argv) == 3:
        patterns(sys.argv[2])
    elif sys.argv[1:2] == ["check"] and len(sys.argv) == 5:
        check(*sys.argv[2:])
    else:
        sys.exit(__doc__)
