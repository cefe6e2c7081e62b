"""A limit on memory (ulimit -v) or on threads ends in a sentence that says so: no signal, nothing left behind."""

import os
import re
import resource
import subprocess

import numpy as np
import pytest

import conftest
import faults
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


@pytest.fixture
def model_verbs(tiny_folder, convert, tmp_path):
    """Arguments of the verbs that run models."""
    folder, ids = tiny_folder(tiny.VARIANTS[0]), tmp_path / "ids.bin"
    moe = convert(folder, "--experts", 4)
    np.asarray(np.arange(2000) % 300, dtype=np.uint16).tofile(ids)
    verbs = {
        "eval": ("eval", moe, "--data", ids, "--context", 100),
        "verify": ("verify", moe, "--against", folder, "--data", ids, "--context", 100),
        "generate": ("generate", moe, "--tokens", "5 " * 100, "--max-tokens", 2),
    }
    return {verb: (*map(str, arguments), "--threads", "4") for verb, arguments in verbs.items()}


def test_too_little_memory_is_told_by_the_verbs_that_run_models(model_verbs):
    start = least_to_start("routers", step=16)  # of the engine
    for verb, arguments in model_verbs.items():
        failures = 0
        for megabytes in (*range(start, start + 160, 8), *range(start + 160, start + 1000, 64)):
            result = limited(megabytes, *arguments)
            if result.returncode == 0:
                break
            assert result.returncode == 1, f"{verb}, {megabytes} MB: {result.returncode} {result.stderr}"
            assert re.fullmatch(SAYS, result.stderr) and not result.stdout, f"{verb}, {megabytes} MB: {result.stderr}"
            failures += 1
        assert result.returncode == 0 and failures > 0, verb


@pytest.mark.parametrize("verb", ["eval", "verify", "generate"])
def test_memory_that_ends_anywhere_is_told_by_the_verbs_that_run_models(model_verbs, tmp_path, verb):
    """After the n-th mapping of memory there is no more: for n up to the last, at about 24 places."""
    library = faults.build(tmp_path, "less_memory")
    if library is None:
        pytest.skip("no C compiler (cc) for tests/faults/less_memory.c")
    count = tmp_path / "count"
    env = {**os.environ, "LD_PRELOAD": str(library), "UPMOE_MMAP_COUNT": str(count)}
    assert conftest.run(*model_verbs[verb], env=env).returncode == 0
    mappings = int(count.read_text())
    failures = 0
    for n in range(1, mappings + 1, -(-mappings // 24)):
        result = conftest.run(*model_verbs[verb], env={**env, "UPMOE_LAST_MMAP": str(n)})
        if result.returncode != 0:
            assert result.returncode == 1, f"after {n} of {mappings}: {result.returncode} {result.stderr}"
            assert re.fullmatch(SAYS, result.stderr), f"after {n} of {mappings}: {result.stderr}"
            failures += 1
    assert failures > 0


def test_a_thread_that_cannot_be_started_is_told(tiny_folder):
    """By us: OpenMP would end the program in words of its own."""
    def stack() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
        resource.setrlimit(resource.RLIMIT_STACK, (1 << 30, resource.RLIM_INFINITY))  # of each thread

    command = [conftest.PROGRAM, "generate", tiny_folder(tiny.VARIANTS[0]), "--tokens", "1 2", "--threads", "4"]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, preexec_fn=stack)
    assert result.returncode == 1 and re.fullmatch(SAYS, result.stderr), result.stderr
