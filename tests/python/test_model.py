"""The engine's logits, loss and every gradient are transformers', on the same weights in float32."""

import os
import subprocess
from pathlib import Path

import pytest
import safetensors.torch
import torch
import transformers

import tiny

PROBE = Path(os.environ.get("UPMOE_PROBE", tiny.REPOSITORY / "build/dev/tests/model_probe"))
if not PROBE.exists():
    pytest.skip(f"{PROBE} is not there: cmake --build --preset dev makes it", allow_module_level=True)

# Relative to the largest number of a tensor. Sums of some hundred float32 products in another order differ by a few
# 1e-7; two layers and the way back make ten times that.
TOLERANCE = 1e-5
BATCH, LENGTH, VOCABULARY = 3, tiny.NUM_TOKENS, 320


def probe(folder: Path, tmp_path: Path, **tensors) -> dict[str, torch.Tensor]:
    safetensors.torch.save_file({name: value.contiguous() for name, value in tensors.items()}, tmp_path / "in")
    command = [str(PROBE), str(folder), str(tmp_path / "in"), str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return safetensors.torch.load_file(tmp_path / "out")


def tokens() -> torch.Tensor:
    return torch.randint(VOCABULARY, (BATCH, LENGTH), generator=torch.Generator().manual_seed(1))


def shifted(token: torch.Tensor, scored: torch.Tensor) -> torch.Tensor:
    """The target of each position is the next token; -1 where either of the two is not scored, and at the end."""
    target = torch.full_like(token, -1)
    target[:, :-1] = torch.where(scored[:, 1:] & scored[:, :-1], token[:, 1:], -1)
    return target


def load(folder: Path) -> transformers.PreTrainedModel:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def expected(folder: Path, token, target, **how) -> dict[str, torch.Tensor]:
    model = load(folder).train(False)
    logits = model(token, **how).logits
    scored = target >= 0
    loss = torch.nn.functional.cross_entropy(logits[scored], target[scored])
    loss.backward()
    out = {"logits": logits.detach(), "loss": loss.detach()}
    for name, weight in model.named_parameters():
        gradient = weight.grad if weight.grad is not None else torch.zeros_like(weight)
        for single, value in per_expert(name, gradient):
            out["grad." + single] = value
    return out


def per_expert(name: str, value: torch.Tensor):
    """Names and shapes of the file for a parameter as transformers 5 (stacked) or 4 holds it."""
    name = name.replace(".mlp.gate.", ".block_sparse_moe.gate.")
    if ".mlp.experts." not in name:
        yield name, value
        return
    prefix, kind = name.replace(".mlp.", ".block_sparse_moe.").rsplit(".", 1)
    for e, matrix in enumerate(value):
        if kind == "down_proj":
            yield f"{prefix}.{e}.w2.weight", matrix
        else:
            gate, up = matrix.chunk(2)
            yield f"{prefix}.{e}.w1.weight", gate
            yield f"{prefix}.{e}.w3.weight", up


def assert_close(found: dict, wanted: dict, at: torch.Tensor | None = None) -> None:
    assert sorted(found) == sorted(wanted)
    for name, want in wanted.items():
        got = found[name]
        if name == "logits" and at is not None:
            got, want = got[at], want[at]
        assert got.shape == want.shape, name
        largest = want.abs().max().item()
        assert (got - want).abs().max().item() <= TOLERANCE * largest + 1e-12, name


FAMILIES = [v for v in tiny.VARIANTS if v.dtype == torch.float32 and v.name != "sharded"]


@pytest.mark.parametrize("variant", FAMILIES, ids=str)
def test_a_dense_model(variant, tiny_folder, tmp_path):
    folder, token = tiny_folder(variant), tokens()
    target = shifted(token, torch.ones_like(token, dtype=torch.bool))
    assert_close(probe(folder, tmp_path, token=token, target=target), expected(folder, token, target))


@pytest.mark.parametrize("variant", FAMILIES, ids=str)
@pytest.mark.parametrize("top_k", [2, 4])
def test_a_mixture_of_experts(variant, top_k, tiny_folder, convert, tmp_path):
    folder, token = convert(tiny_folder(variant), "--method", "drop", "--experts", 4, "--top-k", top_k), tokens()
    target = shifted(token, torch.ones_like(token, dtype=torch.bool))
    assert_close(probe(folder, tmp_path, token=token, target=target), expected(folder, token, target))


@pytest.mark.skipif(transformers.__version__.startswith("4."), reason="transformers 4 can't save stacked experts")
def test_stacked_experts(tiny_folder, convert, tmp_path):
    folder, token = convert(tiny_folder(tiny.VARIANTS[0]), "--experts", 4), tokens()
    stacked = tmp_path / "stacked"
    load(folder).save_pretrained(stacked, save_original_format=False)
    assert "model.layers.0.mlp.experts.gate_up_proj" in safetensors.torch.load_file(stacked / "model.safetensors")
    target = shifted(token, torch.ones_like(token, dtype=torch.bool))
    assert_close(probe(stacked, tmp_path, token=token, target=target), expected(folder, token, target))


@pytest.mark.parametrize("experts", [0, 4])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", ["llama", "mistral_window"])
def test_padding(experts, side, family, tiny_folder, convert, tmp_path):
    [variant] = [v for v in tiny.VARIANTS if v.name == family]
    folder = tiny_folder(variant)
    if experts:
        folder = convert(folder, "--experts", experts)
    token, valid = tokens(), torch.ones(BATCH, LENGTH, dtype=torch.bool)
    for row, length in enumerate([LENGTH, LENGTH - 1, 17]):
        valid[row, slice(length, None) if side == "right" else slice(0, LENGTH - length)] = False
    target = shifted(token, valid)
    wanted = expected(folder, token, target, attention_mask=valid.long(), position_ids=torch.arange(LENGTH)[None])
    document = torch.where(valid, 0, -1)
    assert_close(probe(folder, tmp_path, token=token, target=target, document=document), wanted, at=valid)


@pytest.mark.parametrize("experts", [0, 4])
@pytest.mark.parametrize("restart", [False, True])
def test_documents_do_not_see_each_other(experts, restart, tiny_folder, convert, tmp_path):
    folder = tiny_folder(tiny.VARIANTS[0])
    if experts:
        folder = convert(folder, "--experts", experts)
    token = tokens()
    lengths = [[48], [10, 38], [1, 20, 27]]
    document = torch.stack([torch.repeat_interleave(torch.arange(len(row)), torch.tensor(row)) for row in lengths])
    position = torch.arange(LENGTH).expand(BATCH, -1)
    if restart:
        position = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in lengths])
    same = document[:, :, None] == document[:, None, :]
    seen = same & torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    mask = torch.zeros(BATCH, 1, LENGTH, LENGTH).masked_fill(~seen[:, None], torch.finfo(torch.float32).min)
    target = shifted(token, torch.ones_like(token, dtype=torch.bool))
    target[:, :-1] = torch.where(document[:, 1:] == document[:, :-1], target[:, :-1], -1)
    wanted = expected(folder, token, target, attention_mask=mask, position_ids=position)
    found = probe(folder, tmp_path, token=token, target=target, document=document, position=position)
    assert_close(found, wanted)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_is_near_float32(dtype, tiny_folder, convert, tmp_path):
    """Of the same weights, computed in 16 bits; 8 and 11 bits of mantissa over two layers."""
    [variant] = [v for v in tiny.VARIANTS if v.name == dtype]
    folder, token = convert(tiny_folder(variant), "--experts", 4), tokens()
    found = probe(folder, tmp_path, token=token)["logits"]
    with torch.inference_mode():
        wanted = load(folder)(token).logits
    rough = {"bf16": 0.1, "fp16": 0.02}[dtype]
    assert (found - wanted).abs().mean() <= rough * wanted.abs().mean()
