"""The real SmolLM2-135M: what holds for the tiny models holds for it."""

import pytest
import torch
import transformers

import checkpoint
import conftest
import tiny


@pytest.fixture
def copied(smollm2, large_folder):
    result = conftest.run("convert", smollm2, large_folder / "copy", "--method", "copy", "--experts", "4")
    assert result.returncode == 0, result.stderr
    return large_folder / "copy"


def test_copy_gives_the_dense_logits_and_text(smollm2, copied):
    tokenizer = transformers.AutoTokenizer.from_pretrained(copied)
    ids_1T = tokenizer(tiny.TEXT.read_text(), return_tensors="pt", verbose=False).input_ids[:, 1000:1128]
    dense, moe = checkpoint.load(smollm2), checkpoint.load(copied)
    got_BTV, expected_BTV = (checkpoint.logits_BTV(model, ids_1T) for model in (moe, dense))
    # As in test_copy_is_exact.py.
    assert checkpoint.relative_error(got_BTV, expected_BTV) <= 1e-5
    texts = [m.generate(ids_1T[:, :8], max_new_tokens=16, do_sample=False) for m in (dense, moe)]
    assert torch.equal(*texts)


def test_the_tokenizer_gives_the_ids_of_the_real_one(smollm2):
    tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2)
    # No token in front; every digit alone, also after spaces (llama.cpp's pre-tokenizer "smollm"); specials whole.
    words = tokenizer.convert_ids_to_tokens(tokenizer("In  2024<|im_end|>").input_ids)
    assert words == ["In", "ĠĠ", "2", "0", "2", "4", "<|im_end|>"]


def test_what_the_tokenizer_returns_is_what_generate_takes(smollm2, copied):
    tokens = transformers.AutoTokenizer.from_pretrained(copied)("The capital of France is", return_tensors="pt")
    assert checkpoint.load(copied).generate(**tokens, max_new_tokens=2, do_sample=False).shape[1] > tokens.input_ids.shape[1]


def test_drop_loads_and_computes_finite_logits(smollm2, large_folder):
    result = conftest.run("convert", smollm2, large_folder / "drop", "--method", "drop", "--experts", "4")
    assert result.returncode == 0, result.stderr
    ids_1T = torch.arange(1000, 1032)[None]
    assert torch.isfinite(checkpoint.logits_BTV(checkpoint.load(large_folder / "drop"), ids_1T)).all()
