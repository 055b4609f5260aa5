"""Seconds of one GRPO step of TRL on the CPU in bf16: 8 prompts of about 48 tokens, 8 completions of at most 32, LoRA
of rank 16 on all linear layers. Prints a line of JSON, as `benches/peers.rs` does.

    python xtask/peers/trl_step.py FOLDER STEPS
"""

import json
import resource
import sys
import tempfile
import time

import peft
import torch
import transformers
import trl
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

REQUESTS = [
    "something that keeps my coffee hot on the train",
    "quiet toy for a two year old on a plane",
    "shoes that do not slip on wet tiles",
    "small desk for a narrow hallway",
    "lamp that wakes me up slowly in the morning",
    "how to keep cats off the kitchen counter",
    "warm gloves that still work with a phone",
    "hang heavy pictures without drilling",
]


class Stopwatch(TrainerCallback):
    """The first step sets things up and does not count."""

    def __init__(self):
        self.readings = []

    def on_step_begin(self, *_, **__):
        self.start = time.perf_counter()

    def on_step_end(self, *_, **__):
        self.readings.append(time.perf_counter() - self.start)


def main(folder, steps):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    instruction = "Rewrite the request as a query for the search engine of a shop. Request: "
    prompts = [[{"role": "user", "content": instruction + request}] for request in REQUESTS]
    data = Dataset.from_list([{"prompt": prompt} for prompt in prompts * (steps + 1)])
    stopwatch = Stopwatch()
    with tempfile.TemporaryDirectory() as output:
        config = GRPOConfig(
            output_dir=output,
            max_steps=steps + 1,
            per_device_train_batch_size=64,
            num_generations=8,
            max_completion_length=32,
            temperature=1.0,
            beta=0.0,
            learning_rate=1e-4,
            gradient_checkpointing=False,
            use_cpu=True,
            bf16=False,
            save_strategy="no",
            report_to=[],
        )
        trainer = GRPOTrainer(
            model=model,
            args=config,
            train_dataset=data,
            processing_class=tokenizer,
            reward_funcs=lambda completions, **_: [len(c[0]["content"]) % 7 - 3.0 for c in completions],
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
            callbacks=[stopwatch],
        )
        trainer.train()
    versions = {m.__name__: m.__version__ for m in (trl, torch, transformers, peft)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    line = {"name": "grpo_step", "readings": stopwatch.readings[1:], "peak_kib": peak, "versions": versions}
    print(json.dumps(line))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
