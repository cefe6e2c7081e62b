"""Runs a command as a process of its own and says what it took; puts files into and out of the page cache."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

LAUNCHER = Path(__file__).resolve().with_name("launcher.py")


@dataclasses.dataclass(frozen=True)
class Run:
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    read_bytes: int  # from and to the disk, not the page cache
    written_bytes: int
    output_bytes: int = 0  # size of what the command made


class CommandFailed(Exception):
    pass


def run(command, log: Path, env: dict | None = None) -> Run:
    """The command's output is left in `log`."""
    launcher = [sys.executable, "-I", "-S", LAUNCHER, log, *command]
    printed = subprocess.run(
        list(map(str, launcher)), check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}
    ).stdout
    code, seconds, cpu_seconds, *sizes = printed.split()
    result = Run(float(seconds), float(cpu_seconds), *map(int, sizes))
    if int(code) != 0:
        lines = log.read_text(errors="replace").strip().splitlines()
        last = lines[-1][-300:] if lines else "no output"
        how = f"killed by signal {-int(code)}" if int(code) < 0 else f"exit status {code}"
        at = f"after {result.seconds:.0f} s at {result.peak_bytes / 1e9:.1f} GB of memory"
        raise CommandFailed(f"{Path(command[0]).name}: {how} {at}: {last}")
    return result


def files_of(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in files_of(folder))


def leave_page_cache(folder: Path) -> None:
    """What is not on the disk yet has to be synced before."""
    for file in files_of(folder):
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def enter_page_cache(folder: Path) -> None:
    for file in files_of(folder):
        with file.open("rb", buffering=0) as opened:
            while opened.read(8 << 20):
                pass


class Machine:
    """What else the machine did while this object lived: load average at both ends, and CPU time that the host took."""

    def __init__(self):
        self._load, self._ticks = os.getloadavg()[0], self._cpu_ticks()

    @staticmethod
    def _cpu_ticks() -> list[int]:
        return list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]))

    def describe(self) -> str:
        ticks = [now - before for now, before in zip(self._cpu_ticks(), self._ticks)]
        steal = ticks[7] / max(1, sum(ticks))
        return f"{os.cpu_count()} cores, load average {self._load:.1f} before and {os.getloadavg()[0]:.1f} after, steal {steal:.1%}"
