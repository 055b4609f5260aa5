"""Golden vectors of sentence encoders, from sentence-transformers in f32.

    python encoder.py tiny tests/golden                    # tiny-bert, tiny-roberta, tiny-distilbert, tiny-modernbert: folders and vectors
    python encoder.py real ENCODER_DIR GOLDEN.json         # vectors-minilm.json, of the folder that `model pull all-minilm-l6-v2` names

The tiny models are random. Each has another pooling, so that all that is honoured is held to a golden value.
"""
import json
import os
import sys

import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

TEXTS = [
    "cold air creeps in under the front door",
    "A draught excluder, 90 cm.",
    "",
    "Größe, naïve café, 東京",
    "the",
    "warm and dry warm and dry " * 12,
]


def numbers(row):
    """f32 with the digits that f32 has."""
    return [float(f"{x:.8g}") for x in row.tolist()]


def dump(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")


def randomise(model, seed):
    """Weights large enough that every part shows in the vectors; norms and biases away from their defaults."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=generator)
            norm = "norm" in name.lower()
            p.copy_(1 + 0.2 * noise if norm and name.endswith("weight") else 0.3 * noise if name.endswith("bias") else 0.25 * noise)


def word_pieces(pad, cls, sep):
    """Characters, and a few words, in lower case and without accents."""
    specials = [pad, "[UNK]", cls, sep, "[MASK]"]
    characters = "abcdefghijklmnopqrstuvwxyz0123456789.,"
    words = ["the", "door", "front", "warm", "dry", "and", "##er", "##ing", "draught"]
    entries = specials + list(characters) + ["##" + c for c in characters] + words
    tokenizer = Tokenizer(models.WordPiece({t: i for i, t in enumerate(entries)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    around = [(cls, entries.index(cls)), (sep, entries.index(sep))]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{cls} $A {sep}", pair=f"{cls} $A {sep} $B:1 {sep}:1", special_tokens=around)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad, cls_token=cls, sep_token=sep, unk_token="[UNK]", mask_token="[MASK]")


def byte_level():
    """The 256 bytes behind RoBERTa's special tokens."""
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(specials + alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", cls_token="<s>", eos_token="</s>", sep_token="</s>", unk_token="<unk>")


def modules(*behind):
    kinds = ["Transformer", *behind]
    return [{"idx": i, "name": str(i), "path": "" if i == 0 else f"{i}_{kind}", "type": f"sentence_transformers.models.{kind}"} for i, kind in enumerate(kinds)]


def sentence_files(folder, behind, pooling, transformer, sentence, dense=None):
    """What sentence-transformers keeps beside an encoder, in the words of its versions 2 and 3."""
    dump(os.path.join(folder, "modules.json"), modules(*behind))
    dump(os.path.join(folder, "sentence_bert_config.json"), transformer)
    dump(os.path.join(folder, "config_sentence_transformers.json"), sentence)
    for i, kind in enumerate(behind, 1):
        os.makedirs(os.path.join(folder, f"{i}_{kind}"), exist_ok=True)
        if kind == "Pooling":
            dump(os.path.join(folder, f"{i}_{kind}", "config.json"), pooling)
        if kind == "Dense":
            from safetensors.torch import save_file

            generator = torch.Generator().manual_seed(9)
            shape = (dense["out_features"], dense["in_features"])
            save_file({"linear.weight": 0.3 * torch.randn(shape, generator=generator), "linear.bias": 0.3 * torch.randn(shape[:1], generator=generator)},
                      os.path.join(folder, f"{i}_{kind}", "model.safetensors"))
            dump(os.path.join(folder, f"{i}_{kind}", "config.json"), dense)


def vectors(folder, *roles):
    """Each text by itself: no padding takes part."""
    model = SentenceTransformer(folder, device="cpu").float().eval()
    encode = {"query": model.encode_query, "document": model.encode_document}
    return {"texts": TEXTS, **{role: [numbers(encode[role]([text])[0]) for text in TEXTS] for role in roles}}


def tiny(out):
    sizes = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    pieces, roberta_bytes = word_pieces("[PAD]", "[CLS]", "[SEP]"), byte_level()
    prompts = {"prompts": {"query": "query: ", "document": "passage: "}, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    none = {"prompts": {}, "default_prompt_name": None}
    flags = lambda **on: {"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False,
                          "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False, **on}
    entries = {
        "tiny-bert": (
            BertModel(BertConfig(**sizes, vocab_size=len(pieces), max_position_embeddings=64, type_vocab_size=2)), pieces,
            (["Pooling", "Normalize"], flags(pooling_mode_mean_tokens=True), {"max_seq_length": 40, "do_lower_case": False}, prompts)),
        # The longest position that it has is 66 - 2; two modes stand one behind the other; compared by the product.
        "tiny-roberta": (
            RobertaModel(RobertaConfig(**sizes, vocab_size=len(roberta_bytes), max_position_embeddings=66, type_vocab_size=1,
                                       pad_token_id=1, layer_norm_eps=1e-5), add_pooling_layer=False), roberta_bytes,
            (["Pooling"], flags(pooling_mode_cls_token=True, pooling_mode_max_tokens=True), {"max_seq_length": 64, "do_lower_case": True},
             {**none, "similarity_fn_name": "dot"})),
        "tiny-distilbert": (
            DistilBertModel(DistilBertConfig(dim=32, hidden_dim=48, n_layers=2, n_heads=4, vocab_size=len(pieces), max_position_embeddings=64)), pieces,
            (["Pooling", "Dense"], flags(pooling_mode_mean_sqrt_len_tokens=True), {"max_seq_length": 64, "do_lower_case": False}, none,
             {"in_features": 32, "out_features": 20, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"})),
        # Windows of 8 tokens, four on each side, in two layers of three.
        "tiny-modernbert": (
            ModernBertModel(ModernBertConfig(**{**sizes, "num_hidden_layers": 4}, vocab_size=len(pieces), max_position_embeddings=96, local_attention=8,
                                             global_attn_every_n_layers=3, pad_token_id=0, cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3)), pieces,
            (["Pooling", "Normalize"], {"word_embedding_dimension": 32, "pooling_mode": ["weightedmean", "lasttoken"], "include_prompt": True},
             {"max_seq_length": 96, "do_lower_case": False}, {**none, "truncate_dim": 48})),
    }
    for seed, (name, (model, tokenizer, files)) in enumerate(entries.items()):
        model = model.float().eval()
        randomise(model, seed)
        folder = os.path.join(out, name)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        sentence_files(folder, *files)
        dump(os.path.join(folder, "vectors.json"), vectors(folder, "query", "document"))


def main():
    match sys.argv[1:]:
        case ["tiny", out]:
            tiny(out)
        case ["real", folder, out]:
            dump(out, vectors(folder, "document"))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
