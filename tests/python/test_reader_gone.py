"""`upmoe VERB | head`: when nobody reads any more, the program ends without a word, and what was done stays done."""

import os
import subprocess
import sys

import pytest

import conftest
import tiny

READER_GONE = 141  # as a shell says of a program that SIGPIPE ended
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(tiny.REPOSITORY / "python")}


@pytest.fixture
def folder(tiny_folder):
    return tiny_folder(tiny.VARIANTS[0])


def without_reader(*command, read: int = 0, **options) -> subprocess.CompletedProcess:
    """What becomes of a command whose reader takes `read` bytes and goes."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(list(map(str, command)), stdout=pipe, stderr=pipe, text=True, env=ENVIRONMENT, **options)
    if read:
        assert os.read(process.stdout.fileno(), read)
    process.stdout.close()
    said = process.stderr.read()
    return subprocess.CompletedProcess(command, process.wait(timeout=120), None, said)


@pytest.mark.parametrize("words", [("methods",), ("--help",), ("convert", "--help"), ("completion", "zsh"), ("eval", "--help"), ("routers",)],
                         ids=" ".join)
def test_a_verb_that_prints_says_nothing(words):
    result = without_reader(conftest.PROGRAM, *words)
    assert result.returncode in (0, READER_GONE) and result.stderr == ""


def test_a_conversion_is_done_and_not_called_failed(folder, tmp_path):
    result = without_reader(conftest.PROGRAM, "convert", folder, tmp_path / "out")
    assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / "out" / "upmoe.json").exists() and os.listdir(tmp_path) == ["out"]


def test_tokens_are_written_and_not_called_failed(folder, tmp_path):
    result = without_reader(conftest.PROGRAM, "tokenize", folder, tiny.TEXT, "-o", tmp_path / "ids")
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(os.listdir(tmp_path)) == ["ids.bin", "ids.idx"]


@pytest.mark.parametrize("prompt", [("--tokens", "1 2 3"), ("--prompt", "a b")], ids=lambda prompt: prompt[0])
def test_generation_ends_when_nobody_reads_it(folder, prompt):
    result = without_reader(conftest.PROGRAM, "generate", folder, *prompt, "--max-tokens", "100", read=1)
    assert (result.returncode, result.stderr) == (READER_GONE, "")


def test_a_filter_of_the_package_ends_without_a_word(folder, tmp_path):
    text = tmp_path / "text"
    text.write_text("some words " * 100_000)
    result = without_reader(sys.executable, "-m", "upmoe", "encode", folder, read=1, stdin=text.open())
    assert result.returncode in (0, READER_GONE) and result.stderr == ""


def test_a_full_disk_is_still_an_error():
    with open("/dev/full", "w") as full:
        result = subprocess.run([conftest.PROGRAM, "methods"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (result.returncode, result.stderr) == (1, "upmoe: cannot write to standard output\n")
