#!/usr/bin/env python3
"""How long a conversion takes, beside `cp` + `sync` of the same output, in alternating runs on one disk.

    python3 benchmarks/convert_bench.py MODEL [--runs 5] [--folder DIR]

Prints one table: for each command the median, least and most of its seconds (whole process, start-up included), how many
times longer `cp` took, its rate in output bytes, CPU seconds for a gigabyte, and its peak resident memory. `cp` is followed by
`sync`, since upmoe makes its output durable before it returns. The first row is the disk's limit: the same bytes read and
written past the page cache with nothing in between (benchmarks/disk_limit.cpp, best of several depths in each round). Every
run writes new files and finds what it reads outside the page cache (--warm: inside).
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
LIMIT, COPY = "the disk's limit", "`cp -r`, then `sync`"


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


def leave_page_cache(folder):
    for file in folder.rglob("*.safetensors"):
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def commands(program, model, folder):
    """Name -> command that writes folder/out. The copy's source is the output of a conversion."""
    convert = [program, "convert", model, folder / "out", "--experts", "8", "--top-k", "2"]
    return {
        "`upmoe convert --method copy`": [*convert, "--method", "copy"],
        "`upmoe convert --method drop --ratio 0.5`": [*convert, "--method", "drop", "--ratio", "0.5"],
        "`upmoe convert --method drop --ratio 1`": [*convert, "--method", "drop", "--ratio", "1"],
        "`upmoe convert --method noise`": [*convert, "--method", "noise"],
        COPY: ["sh", "-c", 'cp -r "$0" "$1" && sync', folder / "same", folder / "out"],
    }


def disk_limit(program, model, folder, size):
    """The best of several depths: seconds, CPU seconds and peak bytes of reading the model and writing `size` bytes."""
    files, best = sorted(model.glob("*.safetensors")), None
    for depth in (1, 2, 4):
        leave_page_cache(model)
        result = run([program, *files, folder / "limit", str(size), str(depth)])
        (folder / "limit").unlink()
        best = min(best or result, result)
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of a dense checkpoint")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=ROOT / "build", help="where to write; the disk that is measured")
    parser.add_argument("--program", type=Path, default=ROOT / "build" / "upmoe")
    parser.add_argument("--limit", type=Path, default=ROOT / "build" / "dev" / "benchmarks" / "disk_limit")
    parser.add_argument("--warm", action="store_true", help="leave what is read in the page cache")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory(dir=args.folder, prefix="convert-bench-") as name:
        folder = Path(name)
        subprocess.run([args.program, "convert", args.model, folder / "same"], check=True, stdout=subprocess.DEVNULL)
        size = folder_bytes(folder / "same")
        jobs = commands(args.program, args.model, folder)
        results = {LIMIT: [], **{job: [] for job in jobs}}
        for _ in range(args.runs):
            if args.limit.exists():
                results[LIMIT].append(disk_limit(args.limit, args.model, folder, size))
            for job, command in jobs.items():
                if not args.warm:
                    leave_page_cache(args.model)
                    leave_page_cache(folder)
                results[job].append(run(command))
                shutil.rmtree(folder / "out")
                os.sync()
    cache = "inside" if args.warm else "outside"
    print(f"{size / 1e9:.2f} GB of output, {args.runs} alternating runs, {os.cpu_count()} cores, source {cache} the page cache\n")
    print("| command | seconds (least, most) | `cp` takes | GB/s | CPU s/GB | peak memory |\n|---|---|---|---|---|---|")
    reference = statistics.median(seconds for seconds, _, _ in results[COPY])
    for job, runs in results.items():
        if not runs:
            print(f"| {job} | SKIPPED: {args.limit} is not built (cmake --workflow --preset dev) |")
            continue
        seconds, cpu, memory = zip(*runs)
        median = statistics.median(seconds)
        print(
            f"| {job} | {median:.2f} ({min(seconds):.2f}, {max(seconds):.2f}) | {reference / median:.1f}x | {size / 1e9 / median:.2f} "
            f"| {statistics.median(cpu) / (size / 1e9):.2f} | {max(memory) / 1e6:.0f} MB |"
        )


if __name__ == "__main__":
    main()
