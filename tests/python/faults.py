"""Runs the program with system calls that go wrong (tests/faults/faults.c) and looks at what it leaves."""

import hashlib
import os
import subprocess
from pathlib import Path

import conftest
import tiny


def build(folder: Path, name: str = "faults") -> Path | None:
    """Compiles a library of tests/faults; None where there is no compiler."""
    library = folder / f"{name}.so"
    source = tiny.REPOSITORY / "tests" / "faults" / f"{name}.c"
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"]
    try:
        subprocess.run(list(map(str, command)), check=True)
    except FileNotFoundError:
        return None
    return library


class Faults:
    """A conversion of `source` to `out`, with faults in the calls about `under` (by default the output)."""

    def __init__(self, library: Path, source: Path, out: Path, *options):
        self.library, self.source, self.out, self.options = library, source, out, options

    def command(self, *more) -> list[str]:
        return list(map(str, [conftest.PROGRAM, "convert", self.source, self.out, *self.options, *more]))

    def env(self, faults: str = "", under: Path | None = None, count: Path | None = None) -> dict[str, str]:
        env = {**os.environ, "LD_PRELOAD": str(self.library), "UPMOE_FAULTS": faults}
        env["UPMOE_FAULTS_UNDER"] = f"{self.source}:{self.out}" if under is None else str(under)
        if count is not None:
            env["UPMOE_FAULTS_COUNT"] = str(count)
        return env

    def run(self, faults: str = "", *more, under: Path | None = None, **options) -> subprocess.CompletedProcess:
        env = self.env(faults, under)
        return subprocess.run(self.command(*more), env=env, capture_output=True, text=True, timeout=120, **options)

    def start(self, faults: str, *more, under: Path | None = None) -> subprocess.Popen:
        """With STOP among the faults: returns when the process has stopped there."""
        pipe = subprocess.PIPE
        process = subprocess.Popen(self.command(*more), env=self.env(faults, under), stdout=pipe, stderr=pipe, text=True)
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), f"it ended before it came to {faults}"
        return process

    def counts(self, folder: Path, *more, under: Path | None = None) -> dict[str, int]:
        """How many calls of each kind an undisturbed run makes."""
        count = folder / "count"
        subprocess.run(self.command(*more), env=self.env("", under, count), capture_output=True, check=True)
        return {name: int(number) for name, number in map(str.split, count.read_text().splitlines())}


def contents(folder: Path) -> dict[str, str]:
    """Every file below, with a hash of its bytes."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file()}


def contents_but_journals(folder: Path) -> dict[str, str]:
    """A run that is killed just after the last rename may leave its working files in the output."""
    return {name: digest for name, digest in contents(folder).items() if not name.startswith(("upmoe-journal", "upmoe-rank-"))}
