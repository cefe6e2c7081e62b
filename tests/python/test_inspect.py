"""`upmoe inspect --json` says what a checkpoint is, whoever made it."""

import json

import pytest
import safetensors.torch
import torch

import checkpoint
import tiny


@pytest.fixture
def inspect(upmoe):
    def description(folder) -> dict:
        result = upmoe("inspect", folder, "--json")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    return description


@pytest.mark.parametrize("variant", tiny.VARIANTS, ids=str)
def test_a_dense_folder(tiny_folder, inspect, variant):
    folder = tiny_folder(variant)
    parameters = sum(weight.numel() for weight in checkpoint.tensors(folder).values())
    expected = {
        "model_type": variant.config()["model_type"],
        "num_layers": 2,
        "dtype": {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}[variant.dtype],
        "parameters": parameters,
        "active_parameters": parameters,
        "num_shards": len(list(folder.glob("*.safetensors"))),
        "identical_experts": [],
    }
    assert expected.items() <= inspect(folder).items()


@pytest.mark.parametrize("method,identical", [("copy", [[0, 1, 2, 3]]), ("drop", [])])
def test_a_folder_of_ours(tiny_folder, convert, inspect, method, identical):
    out = convert(tiny_folder(tiny.WIDE), "--method", method, "--experts", 4, "--top-k", 2)
    parameters = sum(weight.numel() for weight in checkpoint.tensors(out).values())
    expected = {
        "model_type": "mixtral",
        "num_layers": 2,
        "num_experts": 4,
        "top_k": 2,
        "dtype": "F32",
        "parameters": parameters,
        "active_parameters": parameters - 2 * (4 - 2) * 3 * 512 * 128,
        "num_shards": 1,
        "identical_experts": identical,
    }
    assert expected.items() <= inspect(out).items()


def test_it_says_among_which_weights_it_looked_for_nan(tiny_folder, convert, upmoe, inspect):
    dense = tiny_folder(tiny.WIDE)
    found = inspect(dense)
    assert found["not_finite"] is None and found["looked_at_for_not_finite"] is None
    assert "not finite  not looked for; 'upmoe convert' looks at all weights\n" in upmoe("inspect", dense).stdout
    out = convert(dense, "--experts", 4)
    looked_at = "the routers, the norms in front of them, and 64 rows of each matrix of 4 experts in each layer"
    found = inspect(out)
    assert found["not_finite"] is None and found["looked_at_for_not_finite"] == looked_at
    assert f"not finite  none in {looked_at}; the other weights were not looked at\n" in upmoe("inspect", out).stdout


@pytest.mark.parametrize("experts", [False, True])
def test_a_flag_that_is_null_is_as_if_it_were_absent_and_another_value_is_refused(experts, tiny_folder, convert, upmoe, inspect, tmp_path):
    folder = convert(tiny_folder(tiny.WIDE), "--experts", 2) if experts else tiny.make(tmp_path / "dense", tiny.WIDE)
    tiny.change_config(folder, tie_word_embeddings=None)
    assert inspect(folder)["tied"] is False
    tiny.change_config(folder, tie_word_embeddings="yes")
    result = upmoe("inspect", folder)
    assert result.returncode == 1
    assert result.stderr.endswith('config.json: tie_word_embeddings is "yes", expected true or false\n')


def test_a_number_that_is_too_large_is_named_by_its_key(upmoe, tmp_path):
    folder = tiny.make(tmp_path / "dense", tiny.WIDE)
    (folder / "config.json").write_text('{"model_type": "llama", "rope_theta": ' + "1" * 5000 + "}")
    for verb in ("inspect", folder), ("convert", folder, tmp_path / "out"):
        result = upmoe(*verb)
        assert result.returncode == 1
        assert result.stderr.endswith("config.json: not valid JSON: a number behind 'rope_theta' is too large\n")


def test_experts_that_are_identical_in_every_layer_are_grouped(tiny_folder, convert, inspect):
    out = convert(tiny_folder(tiny.WIDE), "--method", "drop", "--experts", 6)
    weights = checkpoint.tensors(out)
    for name in weights:
        for expert, original in (("4", "1"), ("5", "3")):
            if f".experts.{expert}." in name:
                weights[name] = weights[name.replace(f".experts.{expert}.", f".experts.{original}.")].clone()
    weights["model.layers.1.block_sparse_moe.experts.5.w2.weight"][0, 0] += 1  # so 5 and 3 differ in one layer
    safetensors.torch.save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    assert inspect(out)["identical_experts"] == [[1, 4]]


@pytest.mark.parametrize("method,identical", [("copy", [[0, 1, 2, 3, 4, 5, 6, 7]]), ("drop", [])])
def test_a_mixtral_with_stacked_experts(tiny_folder, convert, inspect, method, identical):
    out = convert(tiny_folder(tiny.WIDE), "--method", method)
    stack(out)
    expected = {"model_type": "mixtral", "num_experts": 8, "top_k": 2, "identical_experts": identical}
    assert expected.items() <= inspect(out).items()


def stack(folder) -> None:
    """The names that transformers 5 has in memory and mergekit writes: mlp.experts.gate_up_proj."""
    weights = checkpoint.tensors(folder)
    for layer in range(2):
        old, new = f"model.layers.{layer}.block_sparse_moe.", f"model.layers.{layer}.mlp."
        w1, w2, w3 = ([weights.pop(f"{old}experts.{e}.{w}.weight") for e in range(8)] for w in ("w1", "w2", "w3"))
        weights[new + "experts.gate_up_proj"] = torch.stack([torch.cat(pair) for pair in zip(w1, w3)])
        weights[new + "experts.down_proj"] = torch.stack(w2)
        weights[new + "gate.weight"] = weights.pop(old + "gate.weight")
    safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
