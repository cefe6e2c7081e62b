#!/usr/bin/env python3
"""MoE layers of the engine against those of transformers, one run of each in turn; prints tables and what was reached.

    .venv/bin/python benchmarks/engine_bench.py                  shapes S and L (and X where there is memory for it)
    .venv/bin/python benchmarks/engine_bench.py --shapes S --tokens 128 2048 --repeats 9

Whole models: model_bench.py.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from measure import Machine

HERE = Path(__file__).resolve().parent
SHAPES = {"S": (576, 1536, 8, 2), "L": (2048, 8192, 8, 2), "X": (4096, 14336, 8, 2)}  # hidden, neurons, experts, per token
DTYPES = {"float32": 4, "bfloat16": 2}  # bytes
PEERS = ["eager", "grouped_mm"]
ROUTINGS = ["uniform", "zipf", "one"]
MODES = ["forward", "step"]  # step: with the gradients of x and of all weights
MANY = 128  # tokens per expert from which on the targets hold
TIMES_PEER, SHARE_OF_MM = 1.5, 0.8
PAUSE = 0.05  # seconds before each job: the threads of the program that had the one before wait actively for a while


class Program:
    """A program that answers each line with seconds and a checksum."""

    def __init__(self, *command):
        self._process = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, *job) -> tuple[float, float]:
        time.sleep(PAUSE)
        self._process.stdin.write(" ".join(map(str, job)) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().split()
        if not answer:
            sys.exit(f"{self._process.args[-1]} ended with status {self._process.wait()} at the job: {' '.join(map(str, job))[:120]}")
        return float(answer[0]), float(answer[1])


def experts_of(routing: str, tokens: int, experts: int, per_token: int) -> str:
    """Distinct experts for each token; `one`: all have expert 0, and the others in turn."""
    draw = random.Random(f"{routing} {tokens}")
    popularity = [1 / (e + 1) if routing == "zipf" else 1 for e in range(experts)]
    out = []
    for token in range(tokens):
        chosen = [0] if routing == "one" else []
        while len(chosen) < per_token:
            other = 1 + (token + len(chosen)) % (experts - 1) if routing == "one" else draw.choices(range(experts), popularity)[0]
            if other not in chosen:
                chosen.append(other)
        out += chosen
    return ",".join(map(str, out))


def median_of(jobs: dict[str, tuple], repeats: int) -> dict[str, float]:
    """Seconds of each job: {title: (program, *words)}, asked in turn. The first round warms up and is checked, not timed."""
    sums = {title: program.ask(*words)[1] for title, (program, *words) in jobs.items()}
    least, most = min(sums.values()), max(sums.values())
    if not most - least <= 0.01 * most:
        sys.exit(f"the results differ: {sums}")
    seconds = {title: [] for title in jobs}
    for _ in range(repeats):
        for title, (program, *words) in jobs.items():
            seconds[title].append(program.ask(*words)[0])
    return {title: statistics.median(all_) for title, all_ in seconds.items()}


def mm_rate(ours: Program, M: int, K: int, N: int, dtype: str, repeats: int) -> float:
    return 2e-9 * M * K * N / statistics.median(ours.ask("mm", M, K, N, dtype)[0] for _ in range(repeats))


def memory_needed(shape: tuple, dtype: str) -> float:
    """Weights and gradients in two processes."""
    hidden, neurons, experts, _ = shape
    return 4 * 3 * hidden * neurons * experts * DTYPES[dtype]


def available_memory() -> float:
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return 1024 * int(lines["MemAvailable"].split()[0])


def layers(ours: Program, peer: Program, arguments, peak: dict[str, float]) -> list[dict]:
    """peak: GFLOP/s of products in each dtype."""
    rows = []
    print("| layer | tokens | routing | | upmoe ms | " + " | ".join(f"{p} ms" for p in PEERS) + " | times the faster | at most | GFLOP/s | share of mm |")
    print("|---|---|---|---|---|" + "---|" * len(PEERS) + "---|---|---|---|")
    for name in arguments.shapes:
        hidden, neurons, experts, per_token = shape = SHAPES[name]
        for dtype in DTYPES:
            if memory_needed(shape, dtype) > 0.8 * available_memory():
                print(f"| {name} {dtype} | skipped: needs {memory_needed(shape, dtype) / 1e9:.0f} GB of memory |")
                continue
            for tokens in arguments.tokens:
                for routing in arguments.routings:
                    chosen = experts_of(routing, tokens, experts, per_token)
                    each = max(1, tokens * per_token // experts)
                    rate = mm_rate(ours, each, hidden, neurons, dtype, arguments.repeats)
                    for mode in arguments.modes:
                        words = ("layer", tokens, hidden, neurons, experts, per_token, dtype, chosen, mode)
                        jobs = {"upmoe": (ours, *words)} | {p: (peer, *words, p) for p in PEERS}
                        seconds = median_of(jobs, arguments.repeats)
                        flops = 6e-9 * tokens * per_token * hidden * neurons * (3 if mode == "step" else 1)
                        row = {
                            "title": f"{name} {dtype} {tokens} {routing} {mode}",
                            "each": each, "mode": mode, "dtype": dtype, "layer": (name, tokens, routing, mode), "seconds": seconds,
                            "times": min(seconds[p] for p in PEERS) / seconds["upmoe"],
                            "most": min(seconds[p] for p in PEERS) / (flops / peak[dtype]),
                            "share": flops / seconds["upmoe"] / rate,
                        }  # fmt: skip
                        rows.append(row)
                        cells = [f"{name} {dtype}", str(tokens), routing, mode, f"{1e3 * seconds['upmoe']:.2f}"]
                        cells += [f"{1e3 * seconds[p]:.2f}" for p in PEERS]
                        cells += [f"{row['times']:.2f}", f"{row['most']:.2f}", f"{flops / seconds['upmoe']:.0f}", f"{row['share']:.2f}"]
                        print(f"| {' | '.join(cells)} |", flush=True)
    return rows


def best_dtype(rows: list[dict]) -> list[str]:
    """Each of us in its best dtype."""
    out = []
    for layer in dict.fromkeys(row["layer"] for row in rows):
        same = [row for row in rows if row["layer"] == layer]
        ours = min(same, key=lambda row: row["seconds"]["upmoe"])
        seconds, dtype, peer = min((row["seconds"][p], row["dtype"], p) for row in same for p in PEERS)
        out.append(f"{' '.join(map(str, layer))}: {seconds / ours['seconds']['upmoe']:.2f} times {peer} in {dtype}, ours in {ours['dtype']}")
    return out


def verdicts(rows: list[dict]) -> list[str]:
    out = []
    many = [row for row in rows if row["each"] >= MANY]
    for what, asked in (("times", TIMES_PEER), ("share", SHARE_OF_MM)):
        title = {"times": "the faster peer's time", "share": "of the rate of mm at the experts' shapes"}[what]
        missed = [f"{row['title']} {row[what]:.2f}" + (f", the peak allows {row['most']:.2f}" if what == "times" else "")
                  for row in many if row[what] < asked]  # fmt: skip
        met = f"{len(many) - len(missed)} of {len(many)} layers"
        out.append(f"at least {asked} {title}, from {MANY} tokens per expert on: met by {met}" + "".join(f"\n  MISSED: {m}" for m in missed))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--tokens", nargs="+", type=int, default=[1, 16, 128, 512, 2048])
    parser.add_argument("--routings", nargs="+", choices=ROUTINGS, default=ROUTINGS)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--program", type=Path, default=HERE.parent / "build" / "dev" / "benchmarks" / "engine_bench")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    machine = Machine()
    ours, peer = Program(arguments.program), Program(sys.executable, "-W", "ignore", HERE / "engine_peer.py")
    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "?")
    peer.ask("layer", 1, 8, 8, 1, 1, "float32", 0, "forward", "eager")  # waits until transformers is there
    print(f"{cpu}, {arguments.threads} threads; torch {version('torch')}, transformers {version('transformers')}")
    peak = {dtype: 1 / min(ours.ask("peak", dtype)[0] for _ in range(arguments.repeats)) for dtype in DTYPES}
    for dtype in DTYPES:
        print(f"peak, products that stay in each core's cache, {dtype}: {peak[dtype]:.0f} GFLOP/s; `at most`: with that, and nothing else to do")
        print(f"mm of 2048 x 2048 x 2048 in {dtype}: {mm_rate(ours, 2048, 2048, 2048, dtype, arguments.repeats):.0f} GFLOP/s")
    rows = layers(ours, peer, arguments, peak)
    print("\nEach in its best dtype:", *best_dtype(rows), sep="\n  ")
    print("", *verdicts(rows), machine.describe(), sep="\n")


if __name__ == "__main__":
    main()
