"""A GGUF file as a Hugging Face folder with f32 weights, for peers that read nothing else.

    python xtask/peers/to_hf.py MODEL.gguf FOLDER
"""

import pathlib
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(gguf, folder):
    gguf = pathlib.Path(gguf).resolve()
    where = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    loaded = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    # The note of how the file was quantised would make a reader look for quantised weights.
    config = loaded.config.__class__.from_dict(
        {k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"}
    )
    plain = loaded.__class__(config)
    plain.load_state_dict(loaded.state_dict())
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
