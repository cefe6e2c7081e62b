#!/usr/bin/env python3
"""How long a conversion takes, beside `cp` + `sync` of the same output, in alternating runs on one disk.

    python3 benchmarks/convert_bench.py MODEL [--runs 5] [--folder DIR]

Prints one table: for each command the median, least and most of its seconds (whole process, start-up included), its rate
in output bytes, CPU seconds for a gigabyte, and its peak resident memory. `cp` is followed by `sync`, since upmoe makes its
output durable before it returns. Every run writes new files; the source is in the page cache from the second run on.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run(command):
    """Runs a process to its end. Returns seconds, CPU seconds and peak resident bytes of it."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status != 0:
        sys.exit(f"failed: {' '.join(map(str, command))}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def folder_bytes(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def commands(program, model, folder):
    """Name -> command that writes folder/out. The copy's source is the output of a conversion."""
    convert = [program, "convert", model, folder / "out", "--experts", "8", "--top-k", "2"]
    return {
        "upmoe --method copy": [*convert, "--method", "copy"],
        "upmoe --method drop --ratio 0.5": [*convert, "--method", "drop", "--ratio", "0.5"],
        "upmoe --method drop --ratio 1": [*convert, "--method", "drop", "--ratio", "1"],
        "upmoe --method noise": [*convert, "--method", "noise"],
        "cp -r, then sync": ["sh", "-c", 'cp -r "$0" "$1" && sync', folder / "same", folder / "out"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of a dense checkpoint")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=ROOT / "build", help="where to write; the disk that is measured")
    parser.add_argument("--program", type=Path, default=ROOT / "build" / "upmoe")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory(dir=args.folder, prefix="convert-bench-") as name:
        folder = Path(name)
        subprocess.run([args.program, "convert", args.model, folder / "same"], check=True, stdout=subprocess.DEVNULL)
        size = folder_bytes(folder / "same")
        jobs = commands(args.program, args.model, folder)
        results = {job: [] for job in jobs}
        for _ in range(args.runs):
            for job, command in jobs.items():
                results[job].append(run(command))
                shutil.rmtree(folder / "out")
                os.sync()
    print(f"{size / 1e9:.2f} GB of output, {args.runs} alternating runs, {os.cpu_count()} cores\n")
    print("| command | seconds (least, most) | GB/s | CPU s/GB | peak memory |\n|---|---|---|---|---|")
    for job, runs in results.items():
        seconds, cpu, memory = zip(*runs)
        median = statistics.median(seconds)
        print(
            f"| `{job}` | {median:.2f} ({min(seconds):.2f}, {max(seconds):.2f}) | {size / 1e9 / median:.2f} "
            f"| {statistics.median(cpu) / (size / 1e9):.2f} | {max(memory) / 1e6:.0f} MB |"
        )


if __name__ == "__main__":
    main()
