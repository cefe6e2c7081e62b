"""The perplexity of a model whose experts differ is transformers' in float32, on thousands of tokens.

Where the second and the third expert of a token are equal to the last bits, rounding chooses, and an untrained model spreads
that over all later tokens. So this holds as long as the engine's sums are as near to exact ones as torch's (docs/numerics.md).
"""

import json
import math

import numpy as np
import pytest
import torch
import transformers

import conftest
import tiny

WINDOW = 1024
STARTS = (0, 50, 500, 1024)  # of the windows, in the text


@pytest.fixture
def dropped(smollm2, large_folder):
    result = conftest.run("convert", smollm2, large_folder / "drop", "--method", "drop", "--experts", "8", "--seed", "1")
    assert result.returncode == 0, result.stderr
    return large_folder / "drop"


@pytest.fixture
def windows(smollm2) -> torch.Tensor:
    """Of the licence, which is always here, and the same everywhere. Not of every place (100, 1124): there a choice is so close
    that float32 in another order, and at 1124 transformers' own beside its float64, gives a loss some 1e-3 away."""
    ids = transformers.AutoTokenizer.from_pretrained(smollm2)(tiny.TEXT.read_text(), verbose=False).input_ids
    return torch.tensor([ids[start : start + WINDOW] for start in STARTS])


def test_the_perplexity_of_4096_tokens_is_transformers(dropped, windows, tmp_path):
    windows.numpy().astype(np.uint16).tofile(tmp_path / "text.bin")
    options = ("--data", tmp_path / "text.bin", "--context", WINDOW, "--compute", "fp32", "--json")
    result = conftest.run("eval", dropped, *options)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    model = transformers.AutoModelForCausalLM.from_pretrained(dropped, dtype=torch.float32).eval()
    with torch.inference_mode():
        losses = [
            torch.nn.functional.cross_entropy(model(window[None]).logits[0, :-1], window[1:], reduction="sum").item()
            for window in windows
        ]
    nll = sum(losses) / windows[:, 1:].numel()
    assert found["tokens"] == windows[:, 1:].numel()
    assert found["ppl"] == pytest.approx(math.exp(nll), rel=1e-4)
