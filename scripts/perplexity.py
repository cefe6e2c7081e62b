#!/usr/bin/env python3
"""perplexity.py MODEL TEXT_FILE [TOKENS]: one JSON line with the perplexity of a text's first tokens, in float32.

Says the same under every transformers that reads the checkpoint right: run it with .venv's and .venv-tf4's Python.
"""

import json
import sys

import torch
import transformers


def main(folder: str, text_file: str, num_tokens: int = 1024) -> None:
    transformers.utils.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with open(text_file, encoding="utf-8") as file:
        ids_1T = torch.tensor([tokenizer(file.read(), verbose=False).input_ids[:num_tokens]])
    with torch.inference_mode():
        loss = model(ids_1T, labels=ids_1T).loss.double()
    result = {"perplexity": loss.exp().item(), "tokens": ids_1T.shape[1], "transformers": transformers.__version__}
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:4]))
