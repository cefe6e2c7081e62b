"""The verbs that run models are a second program; the first one works without it and never loads torch."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

import conftest
import tiny

ENGINE_VERBS = ["calibrate", "eval", "generate", "routers", "verify"]


def libraries(program) -> str:
    return subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout


def test_the_core_program_has_no_torch():
    assert "torch" not in libraries(conftest.PROGRAM)
    engine = libraries(conftest.PROGRAM.with_name("upmoe-engine"))
    assert "libtorch_cpu.so" in engine and "not found" not in engine and "python" not in engine.lower().replace("/python3", "")


def test_every_verb_is_listed_and_explained(upmoe):
    listed = upmoe("--help").stdout
    for verb in ENGINE_VERBS:
        assert f"  {verb} " in listed
        own = upmoe(verb, "--help")
        assert own.returncode == 0 and "Examples:" in own.stdout


@pytest.mark.parametrize("verb", ENGINE_VERBS)
def test_without_the_engine_it_is_said_how_to_get_it(verb, tmp_path):
    alone = tmp_path / "upmoe"
    shutil.copy(conftest.PROGRAM, alone)
    result = subprocess.run([alone, verb], capture_output=True, text=True)
    assert result.returncode == 1 and "make build" in result.stderr and result.stderr.count("\n") == 1
    assert subprocess.run([alone, "methods"], capture_output=True).returncode == 0


def test_a_router_that_tells_nothing_in_its_config(upmoe, tiny_folder, convert):
    folder = convert(tiny_folder(tiny.VARIANTS[0]), "--experts", 4)
    for changes, words in [
        ({"num_experts_per_tok": 5}, "4 experts of 96 neurons, top-5, do not fit together"),
        ({"num_local_experts": "many"}, 'num_local_experts is "many", expected a whole number'),
        ({"num_local_experts": 4.5}, "num_local_experts is 4.5, expected a whole number"),
        ({"num_local_experts": 3}, "weights that such a model does not have"),
        ({"intermediate_size": 95}, "has shape [96, 64], config.json says [95, 64]"),
    ]:
        before = (folder / "config.json").read_text()
        tiny.change_config(folder, **changes)
        result = upmoe("generate", folder, "--tokens", "1 2 3")
        (folder / "config.json").write_text(before)
        assert result.returncode == 1 and words in result.stderr and result.stderr.count("\n") == 1


def test_an_interrupt_ends_an_evaluation(smollm2, tmp_path):
    text = tmp_path / "long.txt"
    text.write_text(tiny.TEXT.read_text() * 100)  # minutes of work
    command = [conftest.PROGRAM, "eval", smollm2, "--data", text, "--context", "64"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "upmoe: interrupted; " in err
    assert ("partial: " in out) == ("the results are partial" in err)


def test_completion_knows_the_engine(upmoe):
    script = upmoe("completion", "bash").stdout
    for verb in ENGINE_VERBS:
        assert f"{verb}) words=" in script
    assert "--max-tokens" in script and "--against" in script


def test_weights_that_are_cut_off_meanwhile_give_no_result(smollm2, tmp_path):
    folder, text = tmp_path / "model", tmp_path / "some.txt"
    shutil.copytree(smollm2, folder)
    text.write_text(tiny.TEXT.read_text() * 4)  # ten seconds of work
    command = [conftest.PROGRAM, "eval", folder, "--data", text, "--context", "64"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(3)
    os.truncate(folder / "model.safetensors", 1_000_000)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1 and out == ""
    assert "model.safetensors" in err or "not a finite number" in err


def test_a_hub_id_stands_for_its_copy_in_the_cache(upmoe, tiny_folder, convert, tmp_path):
    dense = tiny_folder(tiny.VARIANTS[0])
    moe = convert(dense, "--experts", 4)
    for name, folder in (("some--dense", dense), ("some--moe", moe)):
        kept = tmp_path / f"models--{name}"
        snapshot, blobs = kept / "snapshots" / ("0" * 40), kept / "blobs"
        for part in (snapshot, blobs, kept / "refs"):
            part.mkdir(parents=True)
        (kept / "refs" / "main").write_text(snapshot.name)
        for file in filter(Path.is_file, folder.iterdir()):
            shutil.copy(file, blobs / file.name)
            (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    ids = tmp_path / "ids.bin"
    np.arange(64, dtype=np.uint16).tofile(ids)
    offline = {"env": {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path)}}
    found = json.loads(upmoe("eval", "some/moe", "--data", ids, "--json", **offline).stdout)
    assert found["model"] == "some/moe"
    assert found["nll"] == json.loads(upmoe("eval", moe, "--data", ids, "--json").stdout)["nll"]
    assert upmoe("verify", "some/moe", "--against", "some/dense", "--data", ids, **offline).returncode == 0
    words = ("generate", "some/dense", "--tokens", "1 2 3", "--max-tokens", 4)
    assert upmoe(*words, **offline).stdout == upmoe("generate", dense, *words[2:]).stdout != ""
    assert upmoe("calibrate", "some/dense", "--data", ids, "-o", tmp_path / "s.safetensors", **offline).returncode == 0
    assert b'"name":"some/dense"' in (tmp_path / "s.safetensors").read_bytes().replace(b"\\", b"")
    assert upmoe("eval", "some/other", "--data", ids, **offline).stderr.startswith("upmoe: some/other: no such folder here")
