"""NaN and Inf in weights: refused by the tensor and the place, and never printed as a result."""

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

import conftest
import tiny

FAILED = 1
NORM = "model.layers.1.post_attention_layernorm.weight"


@pytest.fixture
def whole(tmp_path, tiny_folder):
    return Path(shutil.copytree(tiny_folder(tiny.VARIANTS[0]), tmp_path / "source"))


def spoil(folder: Path, name: str, value: float, *place: int) -> None:
    """`place`: of one element; all of them without."""
    file = folder / "model.safetensors"
    weights = safetensors.torch.load_file(file)
    if place:
        weights[name][place] = value
    else:
        weights[name].fill_(value)
    safetensors.torch.save_file(weights, file, {"format": "pt"})


def refused(folder: Path, *options) -> str:
    result = conftest.run("convert", folder, folder.parent / "out", *options)
    assert result.returncode == FAILED
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name]
    return result.stderr


def test_a_nan_is_refused_by_tensor_and_place(whole):
    spoil(whole, "model.layers.0.mlp.down_proj.weight", float("nan"), 3, 17)
    message = refused(whole)
    assert "model.safetensors: 'model.layers.0.mlp.down_proj.weight' has NaN at row 3, column 17" in message
    assert message.count("\n") == 1 and "--allow not-finite" in message


def test_an_inf_in_what_is_only_copied_is_refused_too(whole):
    spoil(whole, "model.embed_tokens.weight", float("-inf"), 5, 1)
    assert "'model.embed_tokens.weight' has -Inf at row 5, column 1" in refused(whole)


def test_what_is_allowed_is_made_and_recorded(whole):
    spoil(whole, "model.layers.0.mlp.down_proj.weight", float("nan"), 3, 17)
    out = whole.parent / "out"
    result = conftest.run("convert", whole, out, "--allow", "not-finite")
    assert result.returncode == 0, result.stderr
    assert "not-finite" in (out / "upmoe-recipe.toml").read_text()


def test_a_norm_of_nan_is_not_called_one_of_zeros(whole):
    spoil(whole, NORM, float("nan"))
    message = refused(whole)
    assert f"'{NORM}' has NaN at 0" in message and "zeros" not in message


def test_a_tiny_norm_makes_no_infinite_router(whole):
    spoil(whole, NORM, 1e-42)
    assert "so no scale follows from it" in refused(whole)
    result = conftest.run("convert", whole, whole.parent / "out", "--router-init", "uniform")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "name,says",
    [
        ("model.layers.1.block_sparse_moe.experts.2.w1.weight", "layer 1, expert 2: gate has NaN at row 0, column 0"),
        ("model.layers.1.block_sparse_moe.gate.weight", "layer 1: router has NaN at row 0, column 0"),
        (NORM, "layer 1: norm in front of the router has NaN at row 0, column 0"),
    ],
)
def test_inspect_says_where_instead_of_printing_nan(whole, convert, name, says):
    out = convert(whole, "--experts", "4")
    spoil(out, name, float("nan"))
    result = conftest.run("inspect", out)
    assert result.returncode == FAILED
    assert f"not finite  {says}\n" in result.stdout
    assert "nan" not in result.stdout and "similarity" not in result.stdout
    result = conftest.run("inspect", out, "--json")
    assert result.returncode == FAILED
    found = json.loads(result.stdout, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
    assert found["not_finite"] == [says] and found["expert_cosine"] is None and found["router"] is None


def test_the_largest_numbers_are_finite(whole, convert):
    spoil(whole, "model.layers.0.self_attn.q_proj.weight", torch.finfo(torch.float32).max, 0, 0)
    convert(whole)
