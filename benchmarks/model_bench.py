#!/usr/bin/env python3
"""Perplexity and decoding of a whole model, by upmoe and by transformers in each dtype, one run of each in turn.

    .venv/bin/python benchmarks/model_bench.py build/demo/drop
    .venv/bin/python benchmarks/model_bench.py build/demo/drop --tokens 8192 --context 1024 --repeats 5

Both look at the same windows, 4096 tokens at once; the mean losses are compared before anything is printed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
from measure import Machine

ROOT = Path(__file__).resolve().parent.parent
TIMES_PEER = {"fp32": 1.6, "bf16": 2.0}
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
PROMPT, NEW = 128, 64


class Peer:
    def __init__(self, *arguments):
        command = [sys.executable, str(ROOT / "benchmarks/model_peer.py"), *map(str, arguments)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, *job) -> tuple[float, float]:
        self._process.stdin.write(" ".join(map(str, job)) + "\n")
        self._process.stdin.flush()
        seconds, value = map(float, self._process.stdout.readline().split())
        return seconds, value


def ours(*arguments) -> dict:
    command = [str(ROOT / "build/upmoe"), *map(str, arguments), "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)


def measure(folder: Path, ids_file: Path, tokens: int, context: int, repeats: int) -> list[tuple[str, float, float, float]]:
    """Rows (name, tokens per second of perplexity, of decoding, nll): medians."""
    is_moe = "num_local_experts" in json.loads((folder / "config.json").read_text())
    peers = {
        f"transformers {dtype} {experts}": Peer(folder, ids_file, name, experts, context)
        for dtype, name in DTYPES.items()
        for experts in (["eager", "grouped_mm"] if is_moe else ["dense"])
    }
    ids = np.fromfile(ids_file, np.uint16)
    prompt = " ".join(map(str, ids[:PROMPT]))
    rates, decoding, nlls = {}, {}, {}
    for _ in range(repeats):
        for compute in DTYPES:
            name = f"upmoe {compute}"
            # Twice: the first time reads the weights, which the peer's process has in memory from its first round on.
            found = ours("eval", folder, "--data", ids_file, "--data", ids_file, "--context", context, "--compute", compute)
            rates.setdefault(name, []).append(found["texts"][1]["tokens_per_second"])
            nlls[name] = found["nll"]
            found = ours("generate", folder, "--tokens", prompt, "--max-tokens", NEW, "--compute", compute)
            decoding.setdefault(name, []).append(found["tokens_per_second"])
        for name, peer in peers.items():
            seconds, nlls[name] = peer.ask("perplexity")
            rates.setdefault(name, []).append(tokens / seconds)
            seconds, _ = peer.ask("decode", PROMPT, NEW)
            decoding.setdefault(name, []).append((NEW - 1) / seconds)
    return [(n, statistics.median(rates[n]), statistics.median(decoding[n]), nlls[n]) for n in rates]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--text", type=Path, default=ROOT / "texts/prose.txt")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    tokens = asked.tokens // asked.context * asked.context
    machine = Machine()
    with tempfile.TemporaryDirectory() as temporary:
        text, ids_file = Path(temporary, "text.txt"), Path(temporary, "ids.bin")
        text.write_bytes(asked.text.read_bytes()[: 16 * tokens])
        answer = subprocess.run(
            [sys.executable, "-m", "upmoe", "encode", str(asked.folder)],
            stdin=text.open("rb"), stdout=subprocess.PIPE, check=True,
        )  # fmt: skip
        ids = json.loads(answer.stdout)[:tokens]
        if len(ids) < tokens:
            sys.exit(f"{asked.text} has {len(ids)} tokens at the most, {tokens} are asked for")
        np.array(ids, dtype=np.uint16).tofile(ids_file)
        rows = measure(asked.folder, ids_file, tokens, asked.context, asked.repeats)
    print(f"{asked.folder.name}, {tokens} tokens in windows of {asked.context}, medians of {asked.repeats}")
    print(f"torch {version('torch')}, transformers {version('transformers')}, {os.cpu_count()} cores; {machine.describe()}\n")
    print(f"{'':28}{'perplexity, tokens/s':>22}{'decoding, tokens/s':>20}{'nll':>10}")
    for name, rate, decoding, nll in rows:
        print(f"{name:28}{rate:>22.1f}{decoding:>20.1f}{nll:>10.4f}")
    by_name = {name: (rate, decoding) for name, rate, decoding, _ in rows}
    fastest = [max(v[i] for n, v in by_name.items() if n.startswith("transformers")) for i in (0, 1)]
    print()
    for dtype, least in TIMES_PEER.items():
        same = max(v[0] for n, v in by_name.items() if n.startswith(f"transformers {dtype}"))
        times = by_name[f"upmoe {dtype}"][0] / same
        print(f"{'reached' if times >= least else 'MISSED '}  perplexity in {dtype}: {times:.2f} of transformers' in {dtype}, at least {least}")
    for i, what in enumerate(("perplexity", "decoding")):
        best = max(v[i] for n, v in by_name.items() if n.startswith("upmoe"))
        print(f"         {what}, each in its best dtype: {best / fastest[i]:.2f}")


if __name__ == "__main__":
    main()
