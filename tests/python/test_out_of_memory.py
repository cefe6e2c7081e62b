"""A limit on memory (ulimit -v) or on threads ends in a sentence that says so: no signal, nothing left behind."""

import os
import re
import resource
import subprocess

import pytest

import conftest
import synthetic

SAYS = r"upmoe: [^\n]*(out of memory|cannot allocate memory)[^\n]*\n"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("memory")
    synthetic.make(folder / "source", layers=3, H=256, F=1024)
    return folder / "source"


def limited(megabytes: int, *arguments) -> subprocess.CompletedProcess:
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))
    command = list(map(str, [conftest.PROGRAM, *arguments]))
    return subprocess.run(command, capture_output=True, text=True, timeout=60, preexec_fn=limit)


def least_to_start() -> int:
    """Below this the system's loader ends the program before it begins."""
    return next(m for m in range(4, 500, 2) if limited(m, "--version").returncode == 0)


@pytest.mark.parametrize("verb", ["convert", "inspect", "dry-run"])
def test_too_little_memory_is_told(source, tmp_path, verb):
    place = tmp_path / "place"
    place.mkdir()
    arguments = {
        "convert": ("convert", source, place / "out", "--threads", "4"),
        "dry-run": ("convert", source, place / "out", "--dry-run"),
        "inspect": ("inspect", source),
    }[verb]
    failures, start = 0, least_to_start()
    for megabytes in (*range(start, start + 40), *range(start + 40, start + 1000, 16)):
        result = limited(megabytes, *arguments)
        if result.returncode == 0:
            break
        assert result.returncode == 1, f"{megabytes} MB: {result.returncode} {result.stderr}"
        assert re.fullmatch(SAYS, result.stderr), f"{megabytes} MB: {result.stderr}"
        assert os.listdir(place) == []
        failures += 1
    assert result.returncode == 0 and failures > 0
