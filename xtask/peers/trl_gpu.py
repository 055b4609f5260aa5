"""Seconds of one GRPO step of TRL, with transformers' generation, on a GPU in bf16: 32 prompts of 256 tokens, 12
completions of 128 each, LoRA of rank 16 on all linear layers; random weights of a model's shape, as in
`benches/device.rs`. And tokens a second of transformers' batched decoding. Prints lines of JSON.

    python xtask/peers/trl_gpu.py 135m|3b STEPS
"""

import json
import sys
import tempfile
import time

import peft
import torch
import transformers
import trl
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

PROMPTS, PROMPT, COMPLETIONS, LENGTH = 32, 256, 12, 128


def shape(name):
    if name == "135m":
        return LlamaConfig(
            vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
            num_key_value_heads=3, rms_norm_eps=1e-5, max_position_embeddings=8192, tie_word_embeddings=True,
        )
    return Qwen2Config(
        vocab_size=151936, hidden_size=2048, intermediate_size=11008, num_hidden_layers=36, num_attention_heads=16,
        num_key_value_heads=2, rms_norm_eps=1e-6, max_position_embeddings=32768, tie_word_embeddings=True,
    )


class Stopwatch(TrainerCallback):
    """The first two steps set things up and do not count."""

    def __init__(self):
        self.readings = []

    def on_step_begin(self, *_, **__):
        torch.cuda.synchronize()
        self.start = time.perf_counter()

    def on_step_end(self, *_, **__):
        torch.cuda.synchronize()
        self.readings.append(time.perf_counter() - self.start)


def numbers(vocabulary):
    """A tokenizer whose tokens are their numbers."""
    words = {f"t{i}": i for i in range(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="t0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="t1", eos_token="t2", unk_token="t0")


def decoding(name, model):
    """Tokens a second after the first one, sampled from the whole distribution, without an adapter."""
    model.eval()

    def seconds(ids, length):
        for _ in range(2):
            torch.cuda.synchronize()
            start = time.perf_counter()
            with torch.no_grad():
                model.generate(ids, max_new_tokens=length, min_new_tokens=length, do_sample=True, top_k=0, top_p=1.0, pad_token_id=1)
            torch.cuda.synchronize()
            taken = time.perf_counter() - start
        return taken

    for streams in (1, 64, 384):
        ids = torch.arange(64, device="cuda").repeat(streams, 1) * 17 + 1000
        step = (seconds(ids, LENGTH) - seconds(ids, 1)) / (LENGTH - 1)
        print(json.dumps({"name": f"decode_{name}", "streams": streams, "tokens_a_second": streams / step}))
    model.train()


def main(name, steps):
    torch.manual_seed(0)
    config = shape(name)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).cuda()
    tokenizer = numbers(config.vocab_size)
    # Nothing ends early, on either side.
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 1
    prompt = lambda p: " ".join(f"t{1000 + p * 131 + i * 17}" for i in range(PROMPT))
    data = Dataset.from_list([{"prompt": prompt(i % PROMPTS)} for i in range(PROMPTS * (steps + 2))])
    decoding(name, model)
    stopwatch = Stopwatch()
    torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as output:
        arguments = GRPOConfig(
            output_dir=output, max_steps=steps + 2, per_device_train_batch_size=PROMPTS * COMPLETIONS // 8,
            gradient_accumulation_steps=8, num_generations=COMPLETIONS, max_completion_length=LENGTH,
            temperature=1.0, beta=0.0, learning_rate=1e-4, gradient_checkpointing=name == "3b", bf16=True,
            save_strategy="no", report_to=[], generation_kwargs={"min_new_tokens": LENGTH},
        )
        trainer = GRPOTrainer(
            model=model, args=arguments, train_dataset=data, processing_class=tokenizer,
            reward_funcs=lambda completions, **_: [float(len(c) % 7) - 3.0 for c in completions],
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
            callbacks=[stopwatch],
        )
        trainer.train()
    versions = {m.__name__: m.__version__ for m in (trl, torch, transformers, peft)}
    device = torch.cuda.get_device_name()
    print(json.dumps({"name": f"step_{name}", "readings": stopwatch.readings[2:], "device": device,
                      "memory": torch.cuda.max_memory_allocated(), "versions": versions}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
