"""A bad input is answered with one sentence and an exit code, and nothing is left behind."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

import checkpoint
import conftest
import synthetic
import tiny

FAILED, USAGE, INTERRUPTED = 1, 2, 130


@pytest.fixture
def source(tmp_path, tiny_folder):
    """A folder of one's own, to be spoilt."""
    folder = tmp_path / "source"
    shutil.copytree(tiny_folder(tiny.VARIANTS[0]), folder)
    return folder


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def assert_refused(source: Path, *options, code: int = FAILED, says: str) -> None:
    before = listing(source.parent)
    result = conftest.run("convert", source, source.parent / "out", *options)
    assert result.returncode == code, result.stderr
    message = result.stderr.strip()
    assert re.fullmatch(r"upmoe: [^\n]+", message), message
    assert re.search(says, message), message
    assert listing(source.parent) == before


# What is wrong with the config, and what the message has to name.
@pytest.mark.parametrize(
    "changes,says",
    [
        ({"hidden_act": "gelu"}, "hidden_act.*gelu.*silu"),
        ({"attention_bias": True}, "bias"),
        ({"mlp_bias": True}, "bias"),
        ({"partial_rotary_factor": 0.5}, r"partial_rotary_factor.*0\.5"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantis"),
        ({"auto_map": {"AutoModelForCausalLM": "modeling.Mine"}}, "auto_map"),
        ({"model_type": "lama"}, "lama.*llama"),
        ({"model_type": "gemma2"}, "gemma2.*llama"),
        ({"model_type": "mixtral"}, "mixtral.*already"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "longrope.*llama3"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "llama3.*(original|low|high)"),
        ({"hidden_size": 63}, "hidden_size|shape"),
        ({"hidden_size": -1}, "hidden_size.*-1"),
        ({"hidden_size": "64"}, "hidden_size"),
        ({"num_hidden_layers": 3}, r"model\.layers\.2"),
        ({"num_hidden_layers": 1}, r"model\.layers\.1"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"intermediate_size": 100}, r"(gate|up|down)_proj.*96.*100|(gate|up|down)_proj.*100.*96"),
        ({"tie_word_embeddings": False, "vocab_size": 321}, "320.*321|321.*320"),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else None,
)
def test_a_config_that_cannot_be_carried(source, changes, says):
    tiny.change_config(source, **changes)
    assert_refused(source, says=says)


def spoil_json(source):
    (source / "config.json").write_text('{"model_type": "llama", ')


def spoil_no_config(source):
    (source / "config.json").unlink()


def spoil_no_weights(source):
    (source / "model.safetensors").unlink()


def spoil_pickled(source):
    (source / "model.safetensors").rename(source / "pytorch_model.bin")


def spoil_truncated(source):
    os.truncate(source / "model.safetensors", (source / "model.safetensors").stat().st_size - 1)


def spoil_trailing(source):
    with (source / "model.safetensors").open("ab") as file:
        file.write(b"more")


def spoil_header_length(source):
    with (source / "model.safetensors").open("r+b") as file:
        file.write(b"\xff" * 8)


def spoil_header(source):
    with (source / "model.safetensors").open("r+b") as file:
        file.seek(8)
        file.write(b"[")


def rewrite(source, change):
    weights = checkpoint.tensors(source)
    change(weights)
    safetensors.torch.save_file(weights, source / "model.safetensors", metadata={"format": "pt"})


def spoil_missing_tensor(source):
    rewrite(source, lambda weights: weights.pop("model.norm.weight"))


def spoil_unknown_tensor(source):
    rewrite(source, lambda weights: weights.update({"model.nrm.weight": torch.zeros(64)}))


def spoil_dtype(source):
    rewrite(source, lambda weights: weights.update({"model.norm.weight": torch.ones(64, dtype=torch.int32)}))


def split(source, file="../model.safetensors"):
    names = checkpoint.tensors(source).keys()
    tiny.write_index(source, dict.fromkeys(names, file))


def spoil_hostile_index(source):
    split(source)
    (source / "model.safetensors").rename(source.parent / "model.safetensors")


def spoil_absolute_index(source):
    split(source, str(source.parent / "model.safetensors"))
    (source / "model.safetensors").rename(source.parent / "model.safetensors")


def spoil_link(source):
    split(source, "a.safetensors")
    (source / "model.safetensors").rename(source.parent / "b.safetensors")
    (source / "a.safetensors").symlink_to(source.parent / "b.safetensors")


def spoil_fifo(source):
    (source / "model.safetensors").unlink()
    os.mkfifo(source / "model.safetensors")


def spoil_missing_shard(source):
    split(source, "model-00001-of-00001.safetensors")
    (source / "model.safetensors").unlink()


@pytest.mark.parametrize(
    "spoil,says",
    [
        (spoil_json, r"config\.json"),
        (spoil_no_config, r"config\.json"),
        (spoil_no_weights, r"model\.safetensors"),
        (spoil_pickled, r"pytorch_model\.bin.*save_pretrained"),
        (spoil_truncated, r"model\.safetensors"),
        (spoil_trailing, r"model\.safetensors"),
        (spoil_header_length, r"model\.safetensors"),
        (spoil_header, r"model\.safetensors"),
        (spoil_missing_tensor, r"model\.norm\.weight"),
        (spoil_unknown_tensor, r"model\.nrm\.weight"),
        (spoil_dtype, r"model\.norm\.weight.*I32|I32.*model\.norm\.weight"),
        (spoil_hostile_index, r"\.\./model\.safetensors"),
        (spoil_absolute_index, r"model\.safetensors"),
        (spoil_link, r"a\.safetensors.*link"),
        (spoil_fifo, r"model\.safetensors.*regular"),
        (spoil_missing_shard, r"model-00001-of-00001\.safetensors"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_a_folder_that_is_not_whole(source, spoil, says):
    spoil(source)
    assert_refused(source, says=says)


@pytest.mark.parametrize(
    "options,code,says",
    [
        (("--method", "dorp"), USAGE, "dorp.*drop"),
        (("--ratoi", "0.5"), USAGE, "--ratoi.*--ratio"),
        (("--methd=copy",), USAGE, "--methd.*--method"),
        (("--router-init", "unifrom"), USAGE, "unifrom.*uniform"),
        (("--target", "mixtrl"), USAGE, "mixtrl.*mixtral"),
        (("--indices", "share"), USAGE, "share.*shared"),
        (("--ratio", "much"), USAGE, "much"),
        (("--experts", "8.5"), USAGE, r"8\.5"),
        (("--experts",), USAGE, "--experts"),
        (("--max-shard-size", "5XB"), USAGE, "5XB"),
        (("--recipe", "/nonexistent.toml"), USAGE, "/nonexistent.toml"),
        (("one-too-many",), USAGE, "one-too-many"),
        (("--ratio", "1.5"), USAGE, r"ratio.*1\.5.*0 to 1"),
        (("--ratio", "nan"), USAGE, "ratio"),
        (("--experts", "2", "--top-k", "3"), USAGE, "3.*2|2.*3"),
        (("--experts", "0"), USAGE, "experts"),
        (("--router-init", "zero"), USAGE, "zero.*--allow router-init"),
        (("--router-init", "orthogonal", "--experts", "65"), FAILED, "orthogonal.*65"),
    ],
    ids=str,
)
def test_options_that_make_no_sense(source, options, code, says):
    assert_refused(source, *options, code=code, says=says)


def test_an_option_of_another_method_is_not_ignored(source):
    assert_refused(source, "--method", "copy", "--ratio", "0.5", code=USAGE, says="ratio.*copy|copy.*ratio")


@pytest.mark.parametrize("value", ["experts = 0", "experts = 'x'", "method = 'dorp'", "ratio = 7", "seed = -1", "max-shard-size = '5 apples'"])
def test_a_recipe_with_a_wrong_value_is_named(source, value):
    recipe = source.parent / "recipe.toml"
    recipe.write_text(value + "\n")
    assert_refused(source, "--recipe", recipe, code=USAGE, says="; options were also read from [^ ]*recipe.toml")


def test_the_keys_that_a_recipe_may_have_are_without_those_that_it_may_not(source):
    recipe = source.parent / "recipe.toml"
    recipe.write_text("x = 1\n")
    result = conftest.run("convert", source, source.parent / "out", "--recipe", recipe)
    known = result.stderr.partition("there are: ")[2]
    assert "experts" in known and "replace" not in known and "force" not in known


def test_a_recipe_with_an_unknown_key_gets_a_guess(source):
    recipe = source.parent / "recipe.toml"
    recipe.write_text('methd = "drop"\n')
    assert_refused(source, "--recipe", recipe, code=USAGE, says="methd.*method")


def test_an_unknown_verb_gets_a_guess(upmoe):
    result = upmoe("convrt")
    assert result.returncode == USAGE
    assert re.fullmatch(r"upmoe: .*convrt.*convert.*\n", result.stderr)


def test_a_source_that_is_nowhere(tmp_path):
    assert_refused(tmp_path / "nowhere", says="nowhere")


def test_a_hub_id_without_a_network(upmoe, tmp_path):
    result = upmoe("convert", "nobody/nothing", tmp_path / "out", env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert result.returncode == FAILED
    assert re.fullmatch(r"upmoe: nobody/nothing: .*\n", result.stderr)
    assert listing(tmp_path) == []


def test_an_output_that_exists_is_left_alone(source, upmoe):
    out = source.parent / "out"
    out.mkdir()
    (out / "config.json").write_text("mine")
    assert_refused(source, says="out.*exists.*--replace")
    assert (out / "config.json").read_text() == "mine"


def test_force_replaces_a_checkpoint_and_leaves_no_stale_weights(source, upmoe):
    out = source.parent / "out"
    shards = ("--max-shard-size", "300KB")
    assert upmoe("convert", source, out, *shards).returncode == 0
    assert len(list(out.glob("*.safetensors"))) > 1
    assert upmoe("convert", source, out, "--replace").returncode == 0
    assert [path.name for path in out.glob("model*")] == ["model.safetensors"]


def test_force_does_not_replace_a_folder_that_is_no_checkpoint(source, upmoe):
    out = source.parent / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("mine")
    assert_refused(source, "--replace", says="out.*--replace")


@pytest.mark.parametrize("force", [(), ("--replace",)], ids=["", "force"])
def test_the_source_is_not_replaced_by_its_own_output(source, upmoe, force):
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    result = upmoe("convert", source, source, *force)
    assert result.returncode == USAGE
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before


def test_a_dry_run_writes_nothing(source, upmoe):
    before = listing(source.parent)
    result = upmoe("convert", source, source.parent / "out", "--dry-run")
    assert result.returncode == 0, result.stderr
    assert re.search("function-preserving: no ", result.stdout)
    assert listing(source.parent) == before


def test_nothing_is_coloured_or_animated_in_a_pipe(source, upmoe):
    result = upmoe("convert", source, source.parent / "out")
    assert "\x1b" not in result.stdout + result.stderr
    assert "\r" not in result.stdout + result.stderr


@pytest.fixture(scope="module")
def slow_source(tmp_path_factory):
    """Takes a second or so to convert."""
    folder = tmp_path_factory.mktemp("slow") / "source"
    synthetic.make(folder, layers=3)
    return folder


def start(source, out, *options) -> subprocess.Popen:
    """A conversion that is under way: something beside the output shows that it writes."""
    command = [conftest.PROGRAM, "convert", source, out, "--method", "drop", "--experts", "32", *options]
    before = set(out.parent.iterdir())
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and set(out.parent.iterdir()) == before:
        time.sleep(0.005)
    time.sleep(0.1)
    return process


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=lambda sent: sent.name)
def test_interrupted_it_leaves_nothing(slow_source, large_folder, sent):
    process = start(slow_source, large_folder / "out")
    process.send_signal(sent)
    _, message = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED, message
    assert re.search("upmoe: interrupted[^\n]*\n$", message)
    assert listing(large_folder) == []


def test_interrupted_with_force_it_leaves_the_old_output(slow_source, tiny_folder, large_folder):
    out = large_folder / "out"
    assert conftest.run("convert", tiny_folder(tiny.VARIANTS[0]), out).returncode == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    process = start(slow_source, out, "--replace")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert listing(large_folder) == ["out", *sorted(f"out/{name}" for name in before)]


def test_killed_it_leaves_nothing_under_the_final_name_and_says_what_to_do(slow_source, large_folder):
    process = start(slow_source, large_folder / "out")
    process.kill()
    process.communicate(timeout=60)
    assert not (large_folder / "out").exists()
    again = conftest.run("convert", slow_source, large_folder / "out", "--experts", "2")
    assert again.returncode == FAILED
    assert re.fullmatch(r"upmoe: [^\n]*killed[^\n]*--replace\n", again.stderr)
    forced = conftest.run("convert", slow_source, large_folder / "out", "--experts", "2", "--replace")
    assert forced.returncode == 0, forced.stderr
    assert os.listdir(large_folder) == ["out"]


@pytest.mark.parametrize("force", [(), ("--replace",)], ids=["", "force"])
def test_two_runs_do_not_write_to_the_same_place(slow_source, tiny_folder, large_folder, force):
    first = start(slow_source, large_folder / "out")
    second = conftest.run("convert", tiny_folder(tiny.VARIANTS[0]), large_folder / "out", *force)
    assert first.poll() is None, "the first run was over too soon to show anything"
    _, message = first.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (0, FAILED), message
    assert len(checkpoint.tensors(large_folder / "out")) > 3 * 32 * 3
    assert os.listdir(large_folder) == ["out"]
