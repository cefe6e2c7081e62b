#!/usr/bin/env python3
"""Writes a dense checkpoint of a real model's shape with random bf16 weights, for measuring conversions.

    .venv/bin/python benchmarks/synthetic_model.py 1b|8b-layers FOLDER

1b         Llama-3.2-1B: 16 layers, tied head, 2.5 GB
8b-layers  two layers of Llama-3.1-8B, with a vocabulary cut from 128256 to 8016, so that embeddings and head have the share
           of the bytes that they have beside 32 layers: with the whole one, they would be two thirds of the source

One safetensors file, as transformers would save it, and a tokenizer of three words, since some programs insist on one. The
same name and numpy give the same bytes. Does nothing when the folder is already there and whole.
"""

import argparse
import json
import math
import os
import shutil
import sys
from pathlib import Path

CHUNK = 1 << 22  # weights drawn at a time

LLAMA_3 = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "torch_dtype": "bfloat16",
    "use_cache": True,
}
LLAMA_3_ROPE = {
    "rope_type": "llama3",
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
}
CONFIGS = {
    "1b": LLAMA_3 | {
        "head_dim": 64,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "rope_scaling": LLAMA_3_ROPE | {"factor": 32.0},
        "tie_word_embeddings": True,
        "vocab_size": 128256,
    },
    "8b-layers": LLAMA_3 | {
        "head_dim": 128,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 2,
        "rope_scaling": LLAMA_3_ROPE | {"factor": 8.0},
        "tie_word_embeddings": False,
        "vocab_size": 8016,
    },
}
WORDS = ["<unk>", "<s>", "</s>"]
TOKENIZER = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [
        {"id": i, "content": word, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for i, word in enumerate(WORDS)
    ],
    "normalizer": None,
    "pre_tokenizer": None,
    "post_processor": None,
    "decoder": None,
    "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(WORDS)}, "unk_token": "<unk>"},
}
TOKENIZER_CONFIG = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


def shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """Name -> shape, in the order of the file: sorted, as safetensors does for one dtype."""
    H, F, V, D = (config[key] for key in ("hidden_size", "intermediate_size", "vocab_size", "head_dim"))
    query, key_value = config["num_attention_heads"] * D, config["num_key_value_heads"] * D
    layer = {
        "input_layernorm": (H,),
        "post_attention_layernorm": (H,),
        "self_attn.q_proj": (query, H),
        "self_attn.k_proj": (key_value, H),
        "self_attn.v_proj": (key_value, H),
        "self_attn.o_proj": (H, query),
        "mlp.gate_proj": (F, H),
        "mlp.up_proj": (F, H),
        "mlp.down_proj": (H, F),
    }
    out = {"model.embed_tokens.weight": (V, H), "model.norm.weight": (H,)}
    if not config["tie_word_embeddings"]:
        out["lm_head.weight"] = (V, H)
    for l in range(config["num_hidden_layers"]):
        out |= {f"model.layers.{l}.{name}.weight": shape for name, shape in layer.items()}
    return dict(sorted(out.items()))


def header(config: dict) -> bytes:
    """Length and JSON of a safetensors file; the data follow in the same order."""
    entries, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes(config).items():
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at := at + 2 * math.prod(shape)]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def file_bytes(config: dict) -> int:
    return len(header(config)) + 2 * sum(map(math.prod, shapes(config).values()))


def is_whole(folder: Path, config: dict) -> bool:
    try:
        same = json.loads((folder / "config.json").read_text()) == config
        return same and (folder / "model.safetensors").stat().st_size == file_bytes(config)
    except (OSError, ValueError):
        return False


def make(folder: Path, config: dict) -> None:
    import numpy  # here, since the rest of this file is of use without it

    def bf16(values):
        return ((values.view(numpy.uint32) + 0x8000) >> 16).astype("<u2")  # to the nearest; none is near infinity

    random = numpy.random.Generator(numpy.random.SFC64(0))
    new = folder.with_name(folder.name + ".incomplete")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    with (new / "model.safetensors").open("wb", buffering=0) as file:
        file.write(header(config))
        for shape in shapes(config).values():
            # Matrices keep the size of what passes through them; norms are uneven, as trained ones are.
            mean, deviation = (1, 0.2) if len(shape) == 1 else (0, shape[1] ** -0.5)
            total = math.prod(shape)
            for begin in range(0, total, CHUNK):
                values = random.standard_normal(min(CHUNK, total - begin), dtype=numpy.float32)
                file.write(bf16(values * numpy.float32(deviation) + numpy.float32(mean)).data)
        os.fsync(file.fileno())
    for name, content in [("config", config), ("tokenizer", TOKENIZER), ("tokenizer_config", TOKENIZER_CONFIG)]:
        (new / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    new.rename(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=CONFIGS)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    config = CONFIGS[args.shape]
    if is_whole(args.folder, config):
        return
    if args.folder.exists():
        sys.exit(f"{args.folder} is there, but is not this model: remove it, or name another folder")
    print(f"making {args.folder} ({file_bytes(config) / 1e9:.1f} GB)", file=sys.stderr)
    make(args.folder, config)


if __name__ == "__main__":
    main()
