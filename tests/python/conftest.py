import json
import os
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch
import transformers

import tiny

PROGRAM = Path(os.environ.get("UPMOE", tiny.REPOSITORY / "build" / "upmoe"))
if not PROGRAM.exists():
    raise pytest.UsageError(f"{PROGRAM} is not there: run `make build` first")

# Run both interpreters themselves or ask nothing of transformers, so once is enough.
ONCE = [
    *("test_both_transformers.py", "test_documents.py", "test_faults.py", "test_hostile.py", "test_resume.py"),
    *("test_calibrate.py", "test_choices.py", "test_eval.py", "test_generate.py", "test_ops.py", "test_tokenize.py"),
    *("test_current_folder.py", "test_engine.py", "test_strange_text.py", "test_verify.py", "test_interrupt.py"),
    *("test_hostile_small_files.py", "test_not_finite.py", "test_cuts.py", "test_reader_gone.py", "test_dry_run.py"),
    *("test_engine_memory.py", "test_engine_not_finite.py", "test_disks_that_refuse.py", "test_ranks_together.py"),
    *("test_out_of_memory.py", "test_replace.py", "test_fuzz_corpus.py", "test_isa_test.py", "test_install.py"),
    *("test_readme.py", "test_experts_that_differ.py"),
    "test_scripts.py",
]
collect_ignore = ONCE if transformers.__version__.startswith("4.") else []

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()
os.environ["HF_HUB_OFFLINE"] = "1"
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in a shell's background; children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # as under nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
torch.set_num_threads(1)  # the tiny models gain nothing from more


def run(*arguments, **options) -> subprocess.CompletedProcess:
    command = [str(PROGRAM), *map(str, arguments)]
    return subprocess.run(command, **{"capture_output": True, "text": True, "timeout": 600, **options})


def pytest_generate_tests(metafunc):
    """`router_init`: every one that the program has, so that a new one is enrolled by itself."""
    if "router_init" in metafunc.fixturenames:
        names = [entry["name"] for entry in json.loads(run("router-inits", "--json").stdout)]
        metafunc.parametrize("router_init", names)


@pytest.fixture
def upmoe():
    """upmoe("convert", ...) runs the program."""
    return run


@pytest.fixture
def convert(tmp_path):
    """convert(SOURCE, OPTION...) runs a conversion that has to succeed and returns the output folder."""

    def converted(source: Path, *options, env: dict | None = None) -> Path:
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        result = run("convert", source, out, *options, env={**os.environ, **(env or {})})
        assert result.returncode == 0, result.stderr
        return out

    return converted


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """tiny_folder(VARIANT): its checkpoint, made once and only read."""
    made = {}

    def folder(variant: tiny.Variant) -> Path:
        if variant.name not in made:
            made[variant.name] = tiny.make(tmp_path_factory.mktemp(variant.name), variant)
        return made[variant.name]

    return folder


@pytest.fixture
def large_folder():
    """A place for gigabytes, which are gone after the test."""
    with tempfile.TemporaryDirectory(dir=tiny.REPOSITORY / "build", prefix="test-") as folder:
        yield Path(folder)


@pytest.fixture
def smollm2():
    folder = tiny.REPOSITORY / "models" / "SmolLM2-135M-Instruct"
    if not folder.is_dir():
        pytest.skip("no models/SmolLM2-135M-Instruct: .venv/bin/python scripts/prepare_smollm2.py makes it")
    torch.set_num_threads(os.cpu_count() or 1)
    yield folder
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """Built from tests/faults/faults.c; for faults.Faults."""
    import faults  # which imports this file

    library = faults.build(tmp_path_factory.mktemp("faults"))
    if library is None:
        pytest.skip("no C compiler (cc) for tests/faults/faults.c")
    return library
