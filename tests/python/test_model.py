"""The engine's logits, loss and every gradient are transformers', on the same weights in float32."""

import os
import subprocess
from pathlib import Path

import pytest
import safetensors.torch
import torch
import transformers

import tiny
from reference import assert_close, documents, expected, load, shifted, within

PROBE = Path(os.environ.get("UPMOE_PROBE", tiny.REPOSITORY / "build/dev/tests/model_probe"))
if not PROBE.exists():
    pytest.skip(f"{PROBE} is not there: cmake --build --preset dev makes it", allow_module_level=True)

BATCH, LENGTH, VOCABULARY = 3, tiny.NUM_TOKENS, 320


def probe(folder: Path, tmp_path: Path, **tensors) -> dict[str, torch.Tensor]:
    safetensors.torch.save_file({name: value.contiguous() for name, value in tensors.items()}, tmp_path / "in")
    command = [str(PROBE), str(folder), str(tmp_path / "in"), str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return safetensors.torch.load_file(tmp_path / "out")


def tokens() -> torch.Tensor:
    return torch.randint(VOCABULARY, (BATCH, LENGTH), generator=torch.Generator().manual_seed(1))


FAMILIES = [v for v in tiny.VARIANTS if v.dtype == torch.float32 and v.name != "sharded"]


@pytest.mark.parametrize("variant", FAMILIES, ids=str)
def test_a_dense_model(variant, tiny_folder, tmp_path):
    folder, token = tiny_folder(variant), tokens()
    target = shifted(token, torch.ones_like(token, dtype=torch.bool))
    wanted = expected(folder, token, target, config=tiny.dense_config(variant))
    assert_close(probe(folder, tmp_path, token=token, target=target), wanted)


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
    document, position = documents([[48], [10, 38], [1, 20, 27]])
    if not restart:
        position = torch.arange(LENGTH).expand(BATCH, -1)
    target = within(document, shifted(token, torch.ones_like(token, dtype=torch.bool)))
    wanted = expected(folder, token, target, document, position)
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
