#!/usr/bin/env python3
"""How long a conversion takes, beside the disk's own limit, `cp` + `sync`, and other converters, in alternating runs.

    .venv/bin/python benchmarks/convert_bench.py smol|1b|8b-layers|MODEL [--runs 5] [--folder DIR]
        [--mergekit VENV] [--drop-upcycling CHECKOUT --drop-python PYTHON]

Prints a table and a verdict for each target. README.md beside this file has the rules, and how to install the others.
"""

import argparse
import dataclasses
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import measure
import peers
import report
import synthetic_model

ROOT = Path(__file__).resolve().parent.parent
SMOL = ROOT / "models" / "SmolLM2-135M-Instruct"
TOP_K = 2
DEPTHS = (1, 2, 4)  # of the disk's limit


@dataclasses.dataclass
class Job:
    row: report.Row
    reads: Path
    command: Callable[[Path], list]  # that makes the given folder
    runs: int
    env: dict = dataclasses.field(default_factory=dict)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workload", help="smol, 1b, 8b-layers, or the folder of a dense checkpoint")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--warm", action="store_true", help="what is read is in the page cache; else outside")
    parser.add_argument("--folder", type=Path, default=ROOT / "build", help="where to write; the disk that is measured")
    parser.add_argument("--program", type=Path, default=ROOT / "build" / "upmoe")
    parser.add_argument("--limit", type=Path, default=ROOT / "build" / "dev" / "benchmarks" / "disk_limit")
    parser.add_argument("--mergekit", type=Path, metavar="VENV", help="environment that has mergekit")
    parser.add_argument("--mergekit-noise", type=float, default=0, metavar="SCALE", help="its noise_scale; 0: plain copies")
    parser.add_argument("--drop-upcycling", type=Path, metavar="CHECKOUT", help="the published repository")
    parser.add_argument("--drop-python", type=Path, default=ROOT / ".venv-tf4" / "bin" / "python", metavar="PYTHON",
                        help="one with torch and transformers 4 (default: %(default)s)")
    parser.add_argument("--peer-runs", type=int, default=3, help="of each other converter (default: %(default)s)")
    return parser.parse_args()


def source_of(workload: str, folder: Path) -> Path:
    """The dense checkpoint of a workload; a synthetic one is made if it is not there yet, by a process of its own."""
    if workload in synthetic_model.CONFIGS:
        source = folder / f"synthetic-{workload}"
        maker = [sys.executable, synthetic_model.__file__, workload, source]
        if subprocess.run(maker).returncode != 0:
            sys.exit("benchmarks/synthetic_model.py failed; it needs numpy, which .venv/bin/python has")
        return source
    source = SMOL if workload == "smol" else Path(workload)
    if not (source / "config.json").exists():
        sys.exit(f"no model at {source}" + ("; scripts/prepare_smollm2.py makes it" if workload == "smol" else ""))
    return source.resolve()


def upmoe_jobs(args, source: Path) -> list[Job]:
    shape = ["--experts", args.experts, "--top-k", TOP_K]
    jobs = []
    for method in (["copy"], ["drop", "--ratio", "0.5"], ["drop", "--ratio", "1"], ["noise"]):
        row = report.Row(f"upmoe {' '.join(method).replace('--', '')}", "upmoe")
        command = [args.program, "convert", source]
        jobs.append(Job(row, source, lambda out, c=command, m=method: [*c, out, "--method", *m, *shape], args.runs))
    return jobs


def peer_jobs(args, source: Path, same: Path, folder: Path) -> list[Job]:
    """Those that are not there have a reason in their row, and no runs."""
    jobs, not_installed = [], "not installed, see benchmarks/README.md"
    config = folder / "mergekit.yml"
    peers.write_mergekit_config(config, source, args.experts, TOP_K, args.mergekit_noise)
    noise = f", noise_scale {args.mergekit_noise:g}" if args.mergekit_noise else ""
    row = report.Row(f"mergekit-moe{noise}", "peer", rival="upmoe noise" if noise else "upmoe copy")
    row.skipped = peers.missing(args.mergekit / "bin" / "mergekit-moe") if args.mergekit else not_installed
    jobs.append(Job(row, source, lambda out: peers.mergekit(args.mergekit, config, out), args.peer_runs, peers.OFFLINE))

    row = report.Row("Drop-Upcycling's script, ratio 0.5", "peer", rival="upmoe drop ratio 0.5")
    checkout, python, target = args.drop_upcycling, args.drop_python.absolute(), same / "config.json"
    row.skipped = peers.missing(checkout / "conversions", python) if checkout else not_installed
    jobs.append(Job(row, source, lambda out: peers.drop_upcycling(checkout, python, source, target, args.experts, out),
                    args.peer_runs, peers.OFFLINE))
    return jobs


class Bench:
    """Runs jobs one at a time, each to a new file name, with what it reads outside the page cache or inside."""

    def __init__(self, args, folder: Path):
        self._args, self._folder, self._made = args, folder, 0

    def run(self, job: Job) -> None:
        if job.row.skipped:
            return
        out = self._new_path()
        self._prepare(job.reads)
        try:
            run = measure.run(job.command(out), self._folder / "log", job.env)
            job.row.runs.append(dataclasses.replace(run, output_bytes=measure.folder_bytes(out)))
            print(f"{job.row.title}: {run.seconds:.2f} s", file=sys.stderr)
        except measure.CommandFailed as failure:
            if job.row.kind != "peer":
                raise
            job.row.skipped = f"failed: {failure}"
            print(f"{job.row.title}: {job.row.skipped}", file=sys.stderr)
        shutil.rmtree(out, ignore_errors=True)

    def run_limit(self, row: report.Row, source: Path, output_bytes: int) -> None:
        """The best of several depths, by the probe's own clock: without the start of its process."""
        tries = []
        for depth in DEPTHS:
            out = self._new_path()
            self._prepare(source)
            inputs = [] if self._args.warm else sorted(source.glob("*.safetensors"))
            try:
                run = measure.run([self._args.limit, *inputs, out, output_bytes, depth], self._folder / "log")
            except measure.CommandFailed as failure:  # direct I/O is not for every file system
                row.skipped = f"SKIPPED: {failure}"
                return
            seconds = float((self._folder / "log").read_text())
            tries.append(dataclasses.replace(run, seconds=seconds, output_bytes=output_bytes))
            out.unlink()
        row.runs.append(min(tries, key=lambda run: run.seconds))
        print(f"{row.title}: {', '.join(f'{run.seconds:.2f}' for run in tries)} s", file=sys.stderr)

    def _new_path(self) -> Path:
        self._made += 1
        return self._folder / f"out-{self._made:04d}"

    def _prepare(self, reads: Path) -> None:
        subprocess.run(["sync"], check=True)  # what an earlier job left to be written is not this one's
        (measure.enter_page_cache if self._args.warm else measure.leave_page_cache)(reads)


def main():
    args = arguments()
    args.folder.mkdir(parents=True, exist_ok=True)
    source = source_of(args.workload, args.folder.resolve())
    machine = measure.Machine()
    limit = report.Row("the disk's limit", "limit")
    if not args.limit.exists():
        limit.skipped = f"SKIPPED: no {args.limit}: cmake --preset dev && cmake --build --preset dev --target disk_limit"
    with tempfile.TemporaryDirectory(dir=args.folder.resolve(), prefix="convert-bench-") as name:
        folder, bench = Path(name), Bench(args, Path(name))
        jobs, same = upmoe_jobs(args, source), folder / "same"
        measure.run(jobs[1].command(same), folder / "log")  # drop: what `cp` copies has experts that differ
        output_bytes = measure.folder_bytes(same)
        copy = report.Row("`cp -r`, then `sync`", "copy")
        jobs.append(Job(copy, same, lambda out: ["sh", "-c", 'cp -r "$0" "$1" && sync', same, out], args.runs))
        jobs += peer_jobs(args, source, same, folder)
        for number in range(max(args.runs, args.peer_runs)):
            if not limit.skipped and number < args.runs:
                bench.run_limit(limit, source, output_bytes)
            for job in jobs:
                if number < job.runs:
                    bench.run(job)
    cache = "inside" if args.warm else "outside"
    print(f"{args.workload}: {measure.folder_bytes(source) / 1e9:.2f} GB to {output_bytes / 1e9:.2f} GB, {args.experts} experts; "
          f"source {cache} the page cache; {machine.describe()}\n")
    results = report.Results([limit, *(job.row for job in jobs)], measure.folder_bytes(source), not args.warm)
    print(report.table(results), "\n", sep="")
    print("\n".join(f"- {line}" for line in report.verdicts(results)))


if __name__ == "__main__":
    try:
        main()
    except measure.CommandFailed as failure:
        sys.exit(f"convert_bench: {failure}")
