"""`upmoe calibrate`: what it writes is what hooks in transformers see, and the importance is PyTorch's gradient."""

import json
import signal
import subprocess
import time

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
import transformers

import tiny
from conftest import PROGRAM

CONTEXT, ACTIVE = 32, 7
# Relative to the largest number of a tensor. Sums of some hundred float32 products in another order; the gradients go
# through two layers and back.
FLOAT32 = 1e-5
# Of neurons that are almost as active as the last of a token, rounding takes one or the other.
COUNTS = 2
NAMES, SIZES = ["prose", "code"], [3 * CONTEXT + 5, 2 * CONTEXT]


@pytest.fixture
def data(tmp_path):
    out = []
    for d, (name, size) in enumerate(zip(NAMES, SIZES)):
        ids = torch.randint(3, 320, (size,), generator=torch.Generator().manual_seed(d))
        ids.numpy().astype(np.uint16).tofile(tmp_path / f"{name}.bin")
        out += ["--data", tmp_path / f"{name}.bin"]
    return out


@pytest.fixture
def calibrate(upmoe, tmp_path, data):
    """calibrate(FOLDER, OPTION...) -> the tensors of the file."""

    def calibrated(folder, *options, path=tmp_path / "stats.safetensors") -> dict[str, torch.Tensor]:
        result = upmoe("calibrate", folder, *data, "-o", path, "--context", CONTEXT, "--active", ACTIVE, "--replace", *options)
        assert result.returncode == 0, result.stderr
        return safetensors.torch.load_file(path)

    return calibrated


def record(path) -> dict:
    with safetensors.safe_open(path, "pt") as file:
        return json.loads(file.metadata()["upmoe.calibration"])


def texts() -> list[torch.Tensor]:
    return [torch.randint(3, 320, (n,), generator=torch.Generator().manual_seed(d)) for d, n in enumerate(SIZES)]


def load(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


class Seen:
    """Of each layer and text, by hooks: inputs and outputs of the FFN, the neurons, and |neuron * its gradient|."""

    def __init__(self, folder):
        model = load(folder)
        self.layers = [getattr(layer, "mlp", None) or layer.block_sparse_moe for layer in model.model.layers]
        shape = (len(self.layers), len(SIZES))
        self.inputs, self.outputs, self.neurons, self.importance = ([[[] for _ in range(shape[1])] for _ in range(shape[0])] for _ in range(4))
        for d, ids in enumerate(texts()):
            for window in ids.split(CONTEXT):
                kept = self.run(model, window, d)
                for l, neuron in enumerate(kept):
                    self.importance[l][d].append((neuron * neuron.grad).abs()[0].detach())
        for kind in (self.inputs, self.outputs, self.neurons, self.importance):
            for l, row in enumerate(kind):
                kind[l] = [torch.cat(parts) if parts else None for parts in row]

    def run(self, model, window, d) -> list[torch.Tensor]:
        kept, hooks = [], []
        for l, block in enumerate(self.layers):

            def see(_, inputs, output, l=l):
                self.inputs[l][d].append(inputs[0].detach().flatten(0, -2))
                self.outputs[l][d].append((output[0] if isinstance(output, tuple) else output).detach().flatten(0, -2))

            def see_neurons(_, inputs, l=l):
                inputs[0].retain_grad()
                kept.append(inputs[0])
                self.neurons[l][d].append(inputs[0][0].detach())

            hooks.append(block.register_forward_hook(see))
            if hasattr(block, "down_proj"):
                hooks.append(block.down_proj.register_forward_pre_hook(see_neurons))
        logits = model(window[None]).logits[0]
        if kept:
            torch.nn.functional.cross_entropy(logits[:-1], window[1:], reduction="sum").backward()
        for hook in hooks:
            hook.remove()
        return kept


def assert_close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert found.shape == wanted.shape
    assert (found.double() - wanted.double()).abs().max() <= FLOAT32 * wanted.abs().max()


def assert_counts(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert found.shape == wanted.shape
    assert (found.long() - wanted.long()).abs().max() <= COUNTS and found.sum() > 0


def markers(values: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(values).scatter_(1, values.abs().topk(ACTIVE).indices, 1)


def per_text(of, values: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([of(value.double()) for value in values])


def check_inputs(found: dict, seen: Seen) -> None:
    assert found["tokens"].tolist() == SIZES
    for l in range(len(seen.layers)):
        sampled = torch.stack([seen.inputs[l][d][t] for d, t in zip(found["sample.text"].tolist(), found["sample.token"].tolist())])
        assert_close(found[f"layer.{l}.router_input"], sampled)
        for what, values in [("router_input", seen.inputs[l]), ("ffn_output", seen.outputs[l])]:
            assert_close(found[f"layer.{l}.{what}_mean"], per_text(lambda x: x.mean(0), values))
            assert_close(found[f"layer.{l}.{what}_std"], per_text(lambda x: x.std(0, correction=0), values))


@pytest.mark.parametrize("name", ["llama", "tied", "mistral_window"])
def test_every_statistic_of_a_dense_model_is_that_of_transformers(name, calibrate, tiny_folder):
    [variant] = [v for v in tiny.VARIANTS if v.name == name]
    folder = tiny_folder(variant)
    found, seen = calibrate(folder, "--covariance", "--samples", 50), Seen(folder)
    check_inputs(found, seen)
    assert found["sample.text"].tolist() == sorted(found["sample.text"].tolist()) and len(found["sample.text"]) == 50
    for l in range(len(seen.layers)):
        everything = torch.cat(seen.inputs[l]).double()
        assert_close(found[f"layer.{l}.router_input_covariance"], torch.cov(everything.T, correction=0))
        assert_close(found[f"layer.{l}.neuron_mean_abs"], per_text(lambda a: a.abs().mean(0), seen.neurons[l]))
        assert_close(found[f"layer.{l}.neuron_mean_square"], per_text(lambda a: a.square().mean(0), seen.neurons[l]))
        assert_close(found[f"layer.{l}.importance"], per_text(lambda i: i.mean(0), seen.importance[l]))
        assert_counts(found[f"layer.{l}.active"], per_text(lambda a: markers(a).sum(0), seen.neurons[l]))
        marked = markers(torch.cat(seen.neurons[l]))
        assert_counts(found[f"layer.{l}.co_active"], marked.T @ marked)
        assert (found[f"layer.{l}.active"].sum(1) == ACTIVE * torch.tensor(SIZES)).all()


def test_by_cosine_inputs_and_weight_rows_have_length_one(calibrate, tiny_folder):
    folder = tiny_folder(tiny.VARIANTS[0])
    found, seen = calibrate(folder, "--active-by", "cosine"), Seen(folder)
    unit = torch.nn.functional.normalize
    for l, block in enumerate(seen.layers):
        gate, up = unit(block.gate_proj.weight).detach(), unit(block.up_proj.weight).detach()
        marked = [markers(torch.nn.functional.silu(unit(x) @ gate.T) * (unit(x) @ up.T)) for x in seen.inputs[l]]
        assert_counts(found[f"layer.{l}.active"], torch.stack([m.sum(0) for m in marked]))


def test_a_mixture_of_experts_has_its_router_inputs_and_the_tokens_of_each_expert(calibrate, tiny_folder, convert):
    folder = convert(tiny_folder(tiny.VARIANTS[0]), "--experts", 4, "--top-k", 2)
    found, seen = calibrate(folder), Seen(folder)
    check_inputs(found, seen)
    for l, block in enumerate(seen.layers):
        chosen = [(x @ block.gate.weight.T).topk(2).indices.flatten() for x in seen.inputs[l]]
        assert_counts(found[f"layer.{l}.expert_tokens"], torch.stack([c.bincount(minlength=4) for c in chosen]))
    assert not [name for name in found if "neuron" in name or "active" in name or "importance" in name]


@pytest.mark.parametrize("other", [["--threads", "2"], ["--batch-tokens", "1"], ["--batch-tokens", "70"]])
def test_threads_and_batches_change_roundings_only(other, calibrate, tiny_folder, tmp_path):
    folder = tiny_folder(tiny.VARIANTS[0])
    one, two = calibrate(folder, "--threads", 1), calibrate(folder, "--threads", 1, *other)
    assert one.keys() == two.keys()
    for name, wanted in one.items():
        if name in ("tokens", "sample.text", "sample.token"):
            assert torch.equal(two[name], wanted)
        else:
            (assert_close if wanted.is_floating_point() else assert_counts)(two[name], wanted)


def test_the_same_command_gives_the_same_bytes_and_a_seed_other_samples(calibrate, tiny_folder, tmp_path):
    folder, path = tiny_folder(tiny.VARIANTS[0]), tmp_path / "again.safetensors"
    first = calibrate(folder, "--samples", 20, path=path)["sample.token"]
    bytes_of_first = path.read_bytes()
    calibrate(folder, "--samples", 20, path=path)
    assert path.read_bytes() == bytes_of_first
    assert not torch.equal(calibrate(folder, "--samples", 20, "--seed", 1)["sample.token"], first)


def test_what_is_off_is_not_there_and_16_bit_arithmetic_is_near(calibrate, tiny_folder):
    [variant] = [v for v in tiny.VARIANTS if v.name == "bf16"]
    whole = calibrate(tiny_folder(variant), "--compute", "fp32")
    found = calibrate(tiny_folder(variant), "--compute", "bf16", "--co-activation", "off")
    assert {name.split(".")[-1] for name in whole.keys() - found.keys()} == {"co_active"}
    for what in ("router_input_mean", "neuron_mean_abs", "importance"):  # 8 bits of mantissa, two layers
        a, b = found[f"layer.1.{what}"], whole[f"layer.1.{what}"]
        assert (a - b).abs().mean() <= 0.05 * b.abs().mean(), what
    assert "layer.0.importance" not in calibrate(tiny_folder(variant), "--importance", "off")


def test_the_record_says_where_the_numbers_come_from(calibrate, convert, tiny_folder, tmp_path):
    folder = tiny_folder(tiny.VARIANTS[0])
    calibrate(folder, "--seed", 3)
    said = record(tmp_path / "stats.safetensors")
    assert [text["name"] for text in said["texts"]] == NAMES and said["experts"] == 0
    assert said["options"]["seed"] == "3" and said["options"]["importance"] == "on" and said["options"]["compute"] == "fp32"
    converted = json.loads((convert(folder, "--experts", 2) / "upmoe.json").read_text())["source"]
    assert said["source"]["config_xxh3"] == converted["config_xxh3"]
    for name, digest in converted["tensors"].items():
        assert said["source"]["tensors"][name] == digest


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--samples", "0"], "samples is 0, expected at least 1"),
        (["--active", "97"], "active is 97, expected from 1 to the 96 neurons"),
        (["--active", "0"], "active is 0"),
        (["--batch-tokens", "0"], "batch-tokens is 0"),
        (["--context", "1"], "a context of 1 tokens predicts nothing"),
        (["--max-tokens", "-1"], "max-tokens is -1"),
        (["--seed", "-1"], "seed is -1"),
        (["--importance", "yes"], "there is no 'yes'"),
        (["--active-by", "cosin"], "did you mean 'cosine'?"),
    ],
)
def test_bad_options_are_answered_with_a_sentence(arguments, words, upmoe, tiny_folder, data, tmp_path):
    result = upmoe("calibrate", tiny_folder(tiny.VARIANTS[0]), *data, "-o", tmp_path / "out", *arguments)
    assert result.returncode == 2 and words in result.stderr and result.stderr.count("\n") == 1
    assert not list(tmp_path.glob("out*"))


def test_neurons_of_a_mixture_of_experts_are_refused(upmoe, tiny_folder, convert, data, tmp_path):
    folder = convert(tiny_folder(tiny.VARIANTS[0]), "--experts", 2)
    for option in ("--importance", "--co-activation"):
        result = upmoe("calibrate", folder, *data, "-o", tmp_path / "stats", option, "on")
        assert result.returncode == 2 and "this is a Mixture of Experts" in result.stderr


def test_what_is_missing_and_what_is_there_already(upmoe, tiny_folder, data, tmp_path):
    folder, out = tiny_folder(tiny.VARIANTS[0]), tmp_path / "stats"
    assert upmoe("calibrate", folder, *data).returncode == 2
    out.write_text("mine")
    result = upmoe("calibrate", folder, *data, "-o", out)
    assert result.returncode == 1 and "--replace replaces it" in result.stderr and out.read_text() == "mine"
    assert upmoe("calibrate", folder, *data, "-o", tmp_path / "no" / "stats").returncode == 0
    assert (tmp_path / "no" / "stats").is_file()


def test_weights_that_are_not_finite_are_told(upmoe, data, tmp_path):
    folder = tiny.make(tmp_path / "broken", tiny.VARIANTS[0])
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    result = upmoe("calibrate", folder, *data, "-o", tmp_path / "stats")
    assert result.returncode == 1 and "layer 1: the neurons are not finite" in result.stderr
    assert not list(tmp_path.glob("stats*"))


def test_an_interrupted_run_leaves_nothing(tiny_folder, tmp_path):
    ids = np.full(400_000, 7, np.uint16)
    ids.tofile(tmp_path / "long.bin")
    command = [PROGRAM, "calibrate", tiny_folder(tiny.VARIANTS[0]), "--data", tmp_path / "long.bin", "--max-tokens", "0", "-o", tmp_path / "stats"]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
    partial = tmp_path / "stats.upmoe-partial"
    while not partial.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 130 and "nothing was left behind" in process.stderr.read()
    assert not list(tmp_path.glob("stats*"))
