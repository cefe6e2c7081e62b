"""What is not finite never looks right: an error, which says so, and the exit code 1. Nothing is printed as a result.

Every weight of a model is spoilt in tests/model/finite_test.cpp; here is what the programs make of it.
"""

import json

import numpy as np
import pytest
import safetensors.torch

import tiny

CPU = ("--compute", "fp32", "--threads", "1")
FIRST = "model.layers.0."
SPOILT = {
    "query_nan": (FIRST + "self_attn.q_proj.weight", float("nan")),
    "key_infinite": (FIRST + "self_attn.k_proj.weight", float("inf")),
    "value_nan": (FIRST + "self_attn.v_proj.weight", float("nan")),
    "norm_infinite": ("model.norm.weight", float("inf")),
    # Logits of minus infinity, for a word that no text has: no loss shows it.
    "head_minus_infinite": ("lm_head.weight", float("-inf")),
    "head_overflows": ("lm_head.weight", -3e38),
}


def spoil(folder, name: str, value: float) -> None:
    path = folder / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    weights[name] = weights[name].clone()
    weights[name][-1] = value
    safetensors.torch.save_file(weights, path, metadata={"format": "pt"})


@pytest.fixture
def texts(tmp_path):
    np.asarray([3 + n % 300 for n in range(100)], dtype=np.uint16).tofile(tmp_path / "text.bin")
    question = {"context": "Permission is", "choices": ["granted", "to"], "answer": 0}
    (tmp_path / "questions.jsonl").write_text(json.dumps(question) + "\n")
    return tmp_path


def runs_of(folder, texts) -> dict:
    return {
        "eval": ("eval", folder, "--data", texts / "text.bin", *CPU),
        "eval --json": ("eval", folder, "--data", texts / "text.bin", "--json", *CPU),
        "choices": ("eval", folder, "--choices", texts / "questions.jsonl", *CPU),
        "generate": ("generate", folder, "--tokens", "5 6", "--max-tokens", 3, *CPU),
        "generate --json": ("generate", folder, "--tokens", "5 6", "--max-tokens", 3, "--json", *CPU),
        "calibrate": ("calibrate", folder, "--data", texts / "text.bin", "-o", texts / "statistics.safetensors", *CPU),
    }


def assert_not_finite(result, folder) -> None:
    assert result.returncode == 1, result.stdout + result.stderr
    assert "not finite" in result.stderr and result.stderr.count("\n") == 1, result.stderr
    assert str(folder) in result.stderr, "names the model"
    assert not result.stdout.strip()


@pytest.mark.parametrize("how", SPOILT)
def test_a_model_that_is_not_finite_gives_no_result(how, upmoe, tmp_path, texts):
    folder = tiny.make(tmp_path / "model", tiny.VARIANTS[0])
    spoil(folder, *SPOILT[how])
    for arguments in runs_of(folder, texts).values():
        assert_not_finite(upmoe(*arguments), folder)
    assert not (texts / "statistics.safetensors").exists()


@pytest.mark.parametrize("how", SPOILT)
def test_a_receipt_of_what_is_not_finite_is_an_error(how, upmoe, tmp_path, texts, convert):
    dense = tiny.make(tmp_path / "model", tiny.VARIANTS[0])
    moe = convert(dense, "--method", "copy", "--experts", 2)
    spoil(moe, *SPOILT[how])
    for more in ((), ("--json",)):
        assert_not_finite(upmoe("verify", moe, "--against", dense, "--data", texts / "text.bin", *CPU, *more), moe)


def test_rotations_that_are_not_finite_are_an_error(upmoe, tmp_path, texts):
    folder = tiny.make(tmp_path / "model", tiny.VARIANTS[0])
    tiny.change_config(folder, rope_theta=1e-308)
    for name, arguments in runs_of(folder, texts).items():
        result = upmoe(*arguments)
        assert result.returncode == 1 and "rope" in result.stderr and str(folder) in result.stderr, (name, result.stderr)


def test_a_loss_whose_perplexity_is_too_large_is_an_error(upmoe, tmp_path, texts):
    folder = tiny.make(tmp_path / "model", tiny.VARIANTS[0])
    path = folder / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    weights["lm_head.weight"] *= 1e6
    safetensors.torch.save_file(weights, path, metadata={"format": "pt"})
    result = upmoe("eval", folder, "--data", texts / "text.bin", *CPU)
    assert_not_finite(result, folder)
    assert "nats" in result.stderr
