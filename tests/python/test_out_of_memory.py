"""A limit on memory (ulimit -v) or on threads ends in a sentence that says so: no signal, nothing left behind."""

import os
import re
import resource
import subprocess

import numpy as np
import pytest

import conftest
import synthetic
import tiny

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


def least_to_start(verb: str = "--version", step: int = 2) -> int:
    """Below this the system's loader ends the program before it begins."""
    return next(m for m in range(4, 2000, step) if limited(m, verb).returncode == 0)


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


def test_too_little_memory_is_told_by_the_verbs_that_run_models(tiny_folder, convert, tmp_path):
    folder, ids = tiny_folder(tiny.VARIANTS[0]), tmp_path / "ids.bin"
    moe = convert(folder, "--experts", 4)
    np.asarray(np.arange(2000) % 300, dtype=np.uint16).tofile(ids)
    start = least_to_start("routers", step=16)  # of the engine
    for arguments in [
        ("eval", moe, "--data", ids, "--context", 100),
        ("verify", moe, "--against", folder, "--data", ids, "--context", 100),
        ("generate", moe, "--tokens", "5 " * 100, "--max-tokens", 2),
    ]:
        failures = 0
        for megabytes in (*range(start, start + 160, 8), *range(start + 160, start + 1000, 64)):
            result = limited(megabytes, *arguments, "--threads", 4)
            if result.returncode == 0:
                break
            assert result.returncode == 1, f"{arguments[0]}, {megabytes} MB: {result.returncode} {result.stderr}"
            assert re.fullmatch(SAYS, result.stderr) and not result.stdout, f"{arguments[0]}, {megabytes} MB: {result.stderr}"
            failures += 1
        assert result.returncode == 0 and failures > 0, arguments[0]


def test_a_thread_that_cannot_be_started_is_told(tiny_folder):
    """By us: OpenMP would end the program in words of its own."""
    def stack() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
        resource.setrlimit(resource.RLIMIT_STACK, (1 << 30, resource.RLIM_INFINITY))  # of each thread

    command = [conftest.PROGRAM, "generate", tiny_folder(tiny.VARIANTS[0]), "--tokens", "1 2", "--threads", "4"]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, preexec_fn=stack)
    assert result.returncode == 1 and re.fullmatch(SAYS, result.stderr), result.stderr
