#!/usr/bin/env python3
"""demo_generate.py dense=MODEL copy=FOLDER drop=FOLDER: what each says to the same prompt, side by side.

Fails when copy does not say word for word what dense says.
"""

import json
import os
import sys
import textwrap
from pathlib import Path

import torch
import transformers

QUESTION = "What is gravity?"  # for a model with a chat template
BEGINNING = "Gravity is"  # for one without
NUM_TOKENS = 32


def missing_memory(folder: str) -> str:
    """Why the model in `folder` is too large to run here in float32; empty when it is not."""
    config = json.loads(Path(folder, "config.json").read_text())
    weights = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
    needed = weights * (1 if config["torch_dtype"] == "float32" else 2)
    with open("/proc/meminfo", encoding="ascii") as meminfo:
        [free] = [int(line.split()[1]) * 1024 for line in meminfo if line.startswith("MemAvailable")]
    return "" if needed < 0.9 * free else f"{folder} takes {needed / 1e9:.0f} GB in float32, {free / 1e9:.0f} GB are free"


def source(name: str) -> dict:
    """A folder, or a hub id (owner/name or owner/name@revision) that lies in the hub's cache since the conversion."""
    name, _, revision = (name, "", "") if Path(name).exists() else name.partition("@")
    return {"pretrained_model_name_or_path": name, "revision": revision or "main"}


def generate(name: str) -> tuple[str, str]:
    """The prompt in short, and how the model goes on, greedily and in float32."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(**source(name))
    model = transformers.AutoModelForCausalLM.from_pretrained(**source(name), dtype=torch.float32)
    asked = prompt = BEGINNING
    if tokenizer.chat_template:
        asked, chat = QUESTION, [{"role": "user", "content": QUESTION}]
        prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=not tokenizer.chat_template)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    tokens_1T = model.generate(
        input_ids=inputs.input_ids,
        attention_mask=inputs.attention_mask,
        max_new_tokens=NUM_TOKENS,
        do_sample=False,
        pad_token_id=pad,
    )
    print(f"{name}: {model.config.model_type}, {model.num_parameters() / 1e6:.0f} M parameters", flush=True)
    return asked, tokenizer.decode(tokens_1T[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)


def print_row(head: str, text: str) -> None:
    for line in textwrap.wrap(" ".join(text.split()), 90) or [""]:
        print(f"{head:>6} | {line}")
        head = ""


def main(**names: str) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    if too_large := missing_memory(names["copy"]):
        print(f"{too_large}: not run here")
        return
    said = {kind: generate(name) for kind, name in names.items()}
    print()
    print_row("asked", said["dense"][0])
    for kind, (_, text) in said.items():
        print_row(kind, text)
    if said["copy"] != said["dense"]:
        sys.exit("demo: copy does not say what dense says; that is a bug, please report it")
    print("\ncopy says what dense says, word for word. In drop half of every expert was drawn anew: its experts differ")
    print("from the first step on, and it has to be trained on before it speaks.")


if __name__ == "__main__":
    main(**dict(argument.split("=", 1) for argument in sys.argv[1:]))
