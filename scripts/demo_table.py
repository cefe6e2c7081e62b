#!/usr/bin/env python3
"""demo_table.py NAME=FOLDER...: perplexity of each on the same text, by `upmoe eval`, side by side.

Fails when copy is not as good as dense.
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ["prose", "code"]
TOKENS = 2048  # of each text


def evaluate(folder: str) -> dict:
    data = [argument for text in TEXTS for argument in ("--data", str(ROOT / f"texts/{text}.txt"))]
    command = [str(ROOT / "build/upmoe"), "eval", folder, *data, "--max-tokens", str(TOKENS), "--context", "1024", "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def main(*models: str) -> None:
    columns = "".join(f"{text:>19}" for text in TEXTS)
    print(f"{'perplexity':12}{columns}{'tokens/s':>11}{'seconds':>9}{'memory':>10}  arithmetic", flush=True)
    found = {}
    for model in models:
        name, folder = model.split("=", 1)
        found[name] = result = evaluate(folder)
        cells = "".join(f"{text['ppl']:>10.4g} ± {text['ppl_stderr']:<6.2g}" for text in result["texts"])
        print(
            f"{name:12}{cells}{result['tokens_per_second']:>11.0f}{result['seconds']:>9.1f}"
            f"{result['peak_memory'] / 1e9:>7.2f} GB  {result['compute']}",
            flush=True,
        )
    if not abs(found["copy"]["ppl"] / found["dense"]["ppl"] - 1) < 1e-2:
        sys.exit("demo: copy computes what dense computes, and its perplexity is another one")


if __name__ == "__main__":
    main(*sys.argv[1:])
