"""Golden values of the decoder, from Python's transformers in f32.

    python model.py tiny tests/golden                      # tiny-llama, tiny-qwen2, tiny-qwen3: folders and logits
    python model.py rope tests/golden                      # rope-scaling.json: frequencies and logits of tiny models with scalings
    python model.py biases tests/golden                    # tiny-biases: a Llama with attention_bias and mlp_bias
    python model.py gguf tests/golden                      # tiny-llama.gguf, tiny-qwen3.gguf: those folders in Q8_0 and F32
    python model.py chat tests/golden                      # chat-idioms.json: what chat templates do, as transformers renders it
    python model.py smollm2 HF_DIR tests/golden            # logits-smollm2.json, chat-smollm2.json

HF_DIR is the GGUF of SmolLM2-135M-Instruct dequantised to f32 and saved by transformers, so that both sides compute
with the same weights.
"""
import json
import os
import sys

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SEQUENCES = [[3, 17, 200, 5, 9, 81, 44, 2], [250, 1, 1, 90, 33, 7, 128, 64, 32, 16, 8, 4, 2, 255, 100, 77, 19, 60, 61, 62, 63]]


def numbers(tensor):
    """Nested lists of f32 with the digits that f32 has."""
    if tensor.dim() == 0:
        return float(f"{tensor.item():.8g}")
    return [numbers(t) for t in tensor]


def dump(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")


@torch.no_grad()
def logits(model, ids):
    return model(torch.tensor([ids])).logits[0]


def randomise(model, seed):
    """Weights large enough that every part shows in the logits; norms and biases away from their defaults."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(1 + 0.2 * noise if "norm" in name else 0.5 * noise if name.endswith("bias") else 0.15 * noise)


def byte_tokenizer(folder):
    """A tokenizer of the 256 bytes and three special tokens, with the usual ChatML template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    fast.save_pretrained(folder)


def tiny(out):
    shared = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    rope = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64}
    models = {
        "tiny-llama": LlamaForCausalLM(LlamaConfig(**shared, vocab_size=256, rms_norm_eps=1e-5, max_position_embeddings=512,
                                                   rope_parameters=rope, tie_word_embeddings=False)),
        "tiny-qwen2": Qwen2ForCausalLM(Qwen2Config(**shared, vocab_size=256, rms_norm_eps=1e-6, max_position_embeddings=512,
                                                   rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
                                                   tie_word_embeddings=True, bos_token_id=None, eos_token_id=2)),
        "tiny-qwen3": Qwen3ForCausalLM(Qwen3Config(**shared, vocab_size=264, rms_norm_eps=1e-6, max_position_embeddings=512,
                                                   head_dim=24, rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
                                                   tie_word_embeddings=False, bos_token_id=None, eos_token_id=258)),
    }
    for seed, (name, model) in enumerate(models.items()):
        model = model.float().eval()
        randomise(model, seed)
        folder = os.path.join(out, name)
        model.save_pretrained(folder)
        if name == "tiny-qwen3":
            byte_tokenizer(folder)
        dump(os.path.join(folder, "logits.json"),
             {"sequences": [{"ids": s, "logits": numbers(logits(model, s))} for s in SEQUENCES]})


LINEAR = {"rope_type": "linear", "factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
SCALINGS = [
    ("tiny-llama", LINEAR),
    ("tiny-qwen2", YARN),
    ("tiny-qwen3", YARN),
    ("tiny-llama", YARN | {"attention_factor": 1.25, "beta_fast": 8.0, "beta_slow": 0.5}),
    ("tiny-llama", YARN | {"mscale": 0.7, "mscale_all_dim": 1.3, "truncate": False}),
    ("tiny-llama", {"rope_type": "yarn", "factor": 2.0}),
    ("tiny-llama", {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 64}),
]


def rope(out):
    """Rope scalings on the weights of the tiny models; logits of the last position of each sequence."""
    cases = []
    for name, scaling in SCALINGS:
        folder = os.path.join(out, name)
        config = AutoConfig.from_pretrained(folder)
        config.rope_parameters = {"rope_theta": 10000.0} | scaling
        model = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32).eval()
        rotary = model.model.rotary_emb
        cases.append({"model": name, "scaling": scaling, "frequencies": numbers(rotary.inv_freq),
                      "attention_factor": rotary.attention_scaling,
                      "sequences": [{"ids": s, "logits": numbers(logits(model, s)[-1:])} for s in SEQUENCES]})
    dump(os.path.join(out, "rope-scaling.json"), cases)


def biases(out):
    """A Llama with every bias that it can have, saved in bfloat16."""
    model = LlamaForCausalLM(LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                                         num_key_value_heads=2, vocab_size=64, max_position_embeddings=128,
                                         rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
                                         attention_bias=True, mlp_bias=True, tie_word_embeddings=True))
    randomise(model, 7)
    model = model.bfloat16()
    folder = os.path.join(out, "tiny-biases")
    model.save_pretrained(folder)
    model = model.float().eval()
    sequences = [[token % 64 for token in s] for s in SEQUENCES]
    dump(os.path.join(folder, "logits.json"), {"sequences": [{"ids": s, "logits": numbers(logits(model, s))} for s in sequences]})


PROMPTS = [
    ("Search query:", " red shoes for running"),
    ("The capital of France is", " Paris, and the capital of Italy is Rome."),
    ("Rewrite the query for a search engine.\nQuery: something to keep my coffee hot on the way to work\nRewrite:",
     " insulated travel mug stainless steel thermos"),
    ("<|im_start|>system\nYou rewrite search queries.<|im_end|>\n<|im_start|>user\nmovie about a shark<|im_end|>\n<|im_start|>assistant\n",
     "shark thriller film, ocean, 1975<|im_end|>"),
    ("1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19", " 20 21 22"),
    ("Größe, naïve café, 東京, Москва:", " Unicode text"),
]

CONVERSATIONS = [
    [{"role": "user", "content": "movie about a shark"}],
    [{"role": "system", "content": "You rewrite queries."}, {"role": "user", "content": "warm boots"}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}],
    [{"role": "system", "content": ""}, {"role": "user", "content": "  spaces, \"quotes\", <tags> & 'apostrophes'\n\nand lines  "}],
    [{"role": "user", "content": "日本語 🦈 {{ not a template }}"}, {"role": "assistant", "content": "{% raw %}"}],
]


def smollm2(folder, out):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(0)
    vocabulary = sorted(torch.randperm(model.config.vocab_size, generator=generator)[:60].tolist() + [0, 1, 2, 28])
    cases = []
    for prompt, continuation in PROMPTS:
        prompt_ids = tokenizer.encode(prompt, add_special_tokens=False)
        ids = prompt_ids + tokenizer.encode(continuation, add_special_tokens=False)
        full = logits(model, ids)
        positions = sorted({0, len(ids) // 3, len(prompt_ids) - 1, len(ids) - 1})
        logprobs = torch.log_softmax(full.double(), -1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
        cases.append({
            "text": prompt + continuation,
            "ids": ids,
            "prompt_len": len(prompt_ids),
            "positions": positions,
            "logits": numbers(full[positions][:, vocabulary]),
            "logsumexp": numbers(torch.logsumexp(full[positions].double(), -1)),
            "argmax": full[positions].argmax(-1).tolist(),
            "logprobs": numbers(logprobs[len(prompt_ids) - 1:]),
        })
    dump(os.path.join(out, "logits-smollm2.json"), {"vocabulary": vocabulary, "cases": cases})
    dump(os.path.join(out, "chat-smollm2.json"), [
        {"messages": c, "add_generation_prompt": g, "text": tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=g)}
        for c in CONVERSATIONS for g in (False, True)])


def write_gguf(folder, path, architecture):
    """A GGUF file as llama.cpp's converter lays it out: for the llama architecture the rotary halves interleaved."""
    import gguf

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = model.config
    head_dim = config.head_dim
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_vocab_size(config.vocab_size)
    writer.add_name(os.path.basename(folder))
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if os.path.exists(os.path.join(folder, "tokenizer.json")):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        pieces = {i: t for t, i in tokenizer.get_vocab().items()}
        count = config.vocab_size
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list([pieces.get(i, f"[PAD{i}]") for i in range(count)])
        special = set(tokenizer.all_special_ids) | {i for i, t in pieces.items() if t.startswith("<|")}
        writer.add_token_types([3 if i in special else 1 if i in pieces else 5 for i in range(count)])
        writer.add_eos_token_id(tokenizer.eos_token_id)
        writer.add_pad_token_id(tokenizer.pad_token_id)
        writer.add_add_bos_token(False)
        writer.add_chat_template(tokenizer.chat_template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        values = tensor.numpy()
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        if architecture == "llama" and heads:
            values = values.reshape(heads, 2, head_dim // 2, -1).swapaxes(1, 2).reshape(values.shape)
        kind = gguf.GGMLQuantizationType.Q8_0 if values.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if architecture == "llama":  # transformers reads the file back; for qwen3 it ignores the width of heads
        read = AutoModelForCausalLM.from_pretrained(os.path.dirname(path), gguf_file=os.path.basename(path), dtype=torch.float32)
        for name, tensor in model.state_dict().items():
            assert (read.state_dict()[name] - tensor).abs().max() <= 0.6 / 127 * tensor.abs().max(), name


IDIOMS = [
    "{{ bos_token }}{% for m in messages %}\n    {% if m.role == 'user' %}\n  U:{{ m.content }}\n    {% endif %}\n{% endfor %}\n",
    "{%- for m in messages -%}\n  {{- m['content'].strip() + ';' -}}\n{%- endfor -%}\n{{ eos_token }}",
    "{{ messages[-1].content.split(' ')[-1] }}|{{ messages[0].content.lstrip() }}|{{ messages[0]['content'].rstrip('x ') }}",
    "{% if messages[0].content.startswith('  ') and not messages[0].content.endswith('q') %}yes{% endif %}",
    "{% set ns = namespace(n=0, last='') %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% set ns.last = m.role %}{% endfor %}{{ ns.n }}{{ ns.last }}",
    "{% for m in messages[::-1] %}{{ loop.index0 }}{{ m.role }}{% if not loop.last %},{% endif %}{% endfor %}",
    "{% for m in messages[1:] %}{{ loop.index }}{{ loop.first }}{{ m.content | trim }}{% endfor %}",
    "{% if tools is defined and tools %}T{% elif tools is none %}N{% else %}U{% endif %}{% if xml is not defined %}!{% endif %}",
    "{{ messages[0].content | tojson }}{{ ['a', 1, true, none, 1.5] | tojson }}{{ {'k': ['<&>', 'é']} | tojson }}",
    "{{ {'k': [1, 2]} | tojson(indent=2) }}",
    "{% macro turn(m) %}[{{ m.role }}]{{ m.content }}{% endmacro %}{% for m in messages %}{{ turn(m) }}{% endfor %}",
    "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.role }}{% break %}{% endfor %}",
    "{{ messages | length }}{{ messages | map(attribute='role') | join('-') }}{{ 'on' if add_generation_prompt else 'off' }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ (messages | first).role }}{{ 7 // 2 }}{{ 7 % 2 == 1 }}",
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% endif %}{% endfor %}",
    "{% if messages[0].content is string and 'quick' in messages[1].content %}{{ messages[1].content.replace('quick', 'slow').upper() }}{% endif %}",
    "{% if '</think>' in messages[2].content %}{{ messages[2].content.split('</think>')[-1].lstrip('\\n') }}{% endif %}",
    "{{ messages[0].get('name', 'nobody') }}{% for k, v in {'a': 1}.items() %}{{ k }}={{ v }}{% endfor %}{{ loop is defined }}",
    "{{ raise_exception('no') if messages | length > 9 }}{{ '%s-%d' | format('a', 3) }}{{ messages[5] is defined }}",
]


def chat(out):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab={"<s>": 0, "</s>": 1}, merges=[])),
                                        bos_token="<s>", eos_token="</s>")
    messages = [{"role": "system", "content": "  Be \"brief\" <now> x "}, {"role": "user", "content": "the quick\nbrown fox"},
                {"role": "assistant", "content": "<think>\nhm\n</think>\n\nit jumps"}, {"role": "user", "content": "naïve 日本"}]
    dump(os.path.join(out, "chat-idioms.json"), [
        {"template": t, "messages": messages,
         "text": tokenizer.apply_chat_template(messages, chat_template=t, tokenize=False, add_generation_prompt=True)}
        for t in IDIOMS])


if __name__ == "__main__":
    if sys.argv[1:2] == ["tiny"] and len(sys.argv) == 3:
        tiny(sys.argv[2])
    elif sys.argv[1:2] == ["rope"] and len(sys.argv) == 3:
        rope(sys.argv[2])
    elif sys.argv[1:2] == ["biases"] and len(sys.argv) == 3:
        biases(sys.argv[2])
    elif sys.argv[1:2] == ["gguf"] and len(sys.argv) == 3:
        for name in ("llama", "qwen3"):
            folder = os.path.join(sys.argv[2], f"tiny-{name}")
            write_gguf(folder, f"{folder}.gguf", name)
    elif sys.argv[1:2] == ["chat"] and len(sys.argv) == 3:
        chat(sys.argv[2])
    elif sys.argv[1:2] == ["smollm2"] and len(sys.argv) == 4:
        smollm2(*sys.argv[2:])
    else:
        sys.exit(__doc__)
