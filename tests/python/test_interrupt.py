"""Ctrl-C, SIGTERM and SIGHUP: one rule for all verbs of both programs. A sentence, exit code 130, no process and no file left."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import conftest
import faults
import tiny

INTERRUPTED = 130
SENTENCE = r"upmoe: interrupted; nothing was left behind\n"
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture
def model(tiny_folder):
    return tiny_folder(tiny.VARIANTS[0])


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where temporary files go: nothing may be left in it."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setenv("UPMOE_PYTHON", sys.executable)
    monkeypatch.setenv("PYTHONPATH", str(tiny.REPOSITORY / "python"))
    return folder


@pytest.fixture
def sleeping_python(tmp_path, monkeypatch, place):
    """A Python that never answers, and notes its number."""
    script, noted = tmp_path / "python", tmp_path / "number"
    script.write_text(f"#!/bin/sh\necho $$ > {noted}.new\nmv {noted}.new {noted}\nexec sleep 600\n")
    script.chmod(0o755)
    monkeypatch.setenv("UPMOE_PYTHON", str(script))
    return noted


def start(*arguments, **options) -> subprocess.Popen:
    return subprocess.Popen([conftest.PROGRAM, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            **options)


def wait_until(condition) -> None:
    for _ in range(12000):  # against hanging
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("it never came")


def is_there(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def assert_interrupted(process: subprocess.Popen, place: Path, sentence: str = SENTENCE) -> None:
    _, said = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED, said
    assert re.search(sentence + "$", said), said
    assert os.listdir(place) == []


VERBS = {
    "eval": ["--data", tiny.TEXT],
    "eval_choices": ["--choices", tiny.TEXT],
    "calibrate": ["--data", tiny.TEXT, "-o", "statistics"],
    "generate": ["--prompt", "a"],
    "generate_chat": ["--chat", "--prompt", "a"],
}


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("verb", VERBS)
def test_while_python_is_at_work(verb, number, sleeping_python, place, model, tmp_path):
    process = start(verb.split("_")[0], model, *VERBS[verb], cwd=tmp_path)
    wait_until(sleeping_python.exists)
    process.send_signal(number)
    assert_interrupted(process, place)
    assert not is_there(int(sleeping_python.read_text()))


def test_while_verify_waits_for_tokens(sleeping_python, place, model, convert):
    process = start("verify", convert(model), "--against", model, "--data", tiny.TEXT)
    wait_until(sleeping_python.exists)
    process.send_signal(signal.SIGTERM)
    assert_interrupted(process, place)


def test_while_the_hub_is_asked(sleeping_python, place):
    for verb in (["convert", "nobody/nothing", "out"], ["eval", "nobody/nothing", "--data", "x"]):
        sleeping_python.unlink(missing_ok=True)
        process = start(*verb)
        wait_until(sleeping_python.exists)
        process.send_signal(signal.SIGTERM)
        assert_interrupted(process, place)


@pytest.fixture
def long_text(tmp_path):
    """Seconds of work for a tokenizer."""
    path = tmp_path / "long.txt"
    path.write_text(tiny.TEXT.read_text() * 2000)
    return path


def workers_at(place: Path) -> list[int]:
    """Processes that name it on their command line."""
    out = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and is_there(int(entry.name)):
            try:
                named = str(place) in (entry / "cmdline").read_text(errors="replace")
            except OSError:
                continue
            if named:
                out.append(int(entry.name))
    return out


def tokenizing(place: Path) -> bool:
    return any(path.stat().st_size > 0 for path in place.rglob("*.upmoe-partial"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_python_outlives_us(number, long_text, place, model):
    process = start("eval", model, "--data", long_text)
    wait_until(lambda: tokenizing(place))
    assert len(workers_at(place)) == 2  # one that watches over the other
    process.send_signal(number)
    if number == signal.SIGTERM:
        assert_interrupted(process, place)
    process.communicate(timeout=60)
    wait_until(lambda: workers_at(place) == [])


@pytest.mark.parametrize("number", SIGNALS)
def test_tokenize_while_python_starts(number, place, model, tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nkill -STOP $$\nexec "{sys.executable}" "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("UPMOE_PYTHON", str(script))
    process = start("tokenize", model, tiny.TEXT, "-o", place / "out")
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    assert_interrupted(process, place)


INTERRUPT_AT = """
import os, signal, sys, time
from upmoe import guard, token_writer
from upmoe.__main__ import main

def interrupts(what, whom):
    def interrupted(*arguments):
        out = what(*arguments)
        while left:
            os.kill(whom(), left.pop())
            time.sleep(0.5)
        return out
    left = [signal.SIGTERM] * {times}
    return interrupted

{seam}
sys.exit(main())
"""
SEAMS = {
    "a name is given": "token_writer.TokenWriter._give_name = interrupts(token_writer.TokenWriter._give_name, os.getppid)",
    "the worker is done": "guard.os.waitpid = interrupts(os.waitpid, os.getpid)",
}


def tokenize_at(seam: str, model: Path, out: Path, *options, times: int = 1) -> subprocess.CompletedProcess:
    program = INTERRUPT_AT.format(seam=SEAMS[seam], times=times)
    command = [sys.executable, "-c", program, "tokenize", model, tiny.TEXT, "-o", out, *options]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("seam", SEAMS)
def test_tokenize_that_is_interrupted_too_late_finishes(seam, replace, place, model):
    if replace:
        assert tokenize_at(seam, model, place / "out", "--eod", "7").returncode == 0
    result = tokenize_at(seam, model, place / "out", *(["--replace"] if replace else []))
    assert (result.returncode, result.stderr) == (0, "")
    assert "done" in result.stdout
    assert sorted(os.listdir(place)) == ["out.bin", "out.idx"]
    assert (place / "out.bin").read_bytes()[-2:] == b"\2\0"


def test_tokenize_that_is_interrupted_again_while_it_finishes_ends(place, model):
    result = tokenize_at("a name is given", model, place / "out", times=2)
    assert (result.returncode, result.stderr) == (INTERRUPTED, "upmoe: interrupted again, and ended at once\n")


@pytest.mark.parametrize("times", [1, 3])
def test_tokenize_while_it_encodes(times, long_text, place, model):
    process = start("tokenize", model, long_text, "-o", place / "out")
    wait_until(lambda: tokenizing(place))
    for _ in range(times):
        process.send_signal(signal.SIGTERM)
    assert_interrupted(process, place)
    wait_until(lambda: workers_at(place) == [])


def test_a_wrapper_need_not_become_python(place, model, tmp_path, monkeypatch):
    script = tmp_path / "wrapper"
    script.write_text(f'#!/bin/sh\n"{sys.executable}" "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("UPMOE_PYTHON", str(script))
    process = start("generate", model, "--prompt", "a", "--max-tokens", 1)
    assert process.communicate(timeout=60)[0] and process.returncode == 0


def test_python_does_not_begin_when_we_are_gone(tmp_path, model, place, monkeypatch):
    script, began, ended = tmp_path / "wrapper", tmp_path / "began", tmp_path / "ended"
    script.write_text(f'#!/bin/sh\ntouch {began}\nwhile kill -0 $PPID && ! [ "$(cut -d" " -f3 /proc/$PPID/stat)" = Z ]; do sleep 0.01; done\n'
                      f'"{sys.executable}" "$@" 2> {ended}.new\nmv {ended}.new {ended}\n')
    script.chmod(0o755)
    monkeypatch.setenv("UPMOE_PYTHON", str(script))
    process = start("generate", model, "--prompt", "a")
    wait_until(began.exists)
    process.kill()
    process.communicate(timeout=60)
    wait_until(ended.exists)
    assert ended.read_text() == "upmoe: what started this Python is gone\n"


def test_a_killed_tokenize_takes_its_worker_along(long_text, place, model):
    process = start("tokenize", model, long_text, "-o", place / "out")
    wait_until(lambda: tokenizing(place))
    process.kill()
    process.communicate(timeout=60)
    wait_until(lambda: workers_at(place) == [])


BEFORE = {
    "inspect": ["inspect", "{}"],
    "verify": ["verify", "{}", "--against", "{}"],
    "eval": ["eval", "{}", "--data", "{}/config.json"],
    "generate": ["generate", "{}", "--tokens", "1 2"],
    "calibrate": ["calibrate", "{}", "--data", "{}/config.json", "-o", "{}/../statistics"],
    "convert": ["convert", "{}", "{}/../out", "--dry-run"],
}


@pytest.mark.parametrize("verb", BEFORE)
def test_before_anything_is_computed(verb, place, model, library):
    """Stopped when it first opens a file of the model, told to end, and let go on."""
    env = {**os.environ, "LD_PRELOAD": str(library), "UPMOE_FAULTS": "open:1:STOP", "UPMOE_FAULTS_UNDER": str(model)}
    process = start(*(word.format(model) for word in BEFORE[verb]), env=env)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    assert_interrupted(process, place)


def test_what_is_ignored_stays_ignored(place, model):
    """nohup."""
    ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for arguments in (("routers",), ("tokenize", model, tiny.TEXT, "-o", place.parent / "out")):
        process = start(*arguments, preexec_fn=ignore)
        while process.poll() is None:
            process.send_signal(signal.SIGHUP)
            time.sleep(0.01)
        assert process.returncode == 0, process.communicate()
