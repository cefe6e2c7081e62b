"""The perplexity of a model whose experts differ is transformers' in float32, on thousands of tokens.

One other choice of an expert changes all later tokens of an untrained model, so this holds only as long as the engine's sums are
as near to exact ones as torch's. Where the second and the third expert of a token differ by less than float32 keeps of thirty
layers, rounding alone chooses, in transformers too (docs/numerics.md has the figures): such a window says nothing, and it is
left out by what transformers' router logits are.
"""

import json
import math

import numpy as np
import pytest
import torch
import transformers

import conftest
import tiny

TOKENS, WINDOW, STEP = 4096, 64, 8
# In the last of thirty layers, transformers' float32 is up to 1e-4 from its own float64.
TIE = 1e-4


@pytest.fixture
def dropped(smollm2, large_folder):
    result = conftest.run("convert", smollm2, large_folder / "drop", "--method", "drop", "--experts", "8", "--seed", "1")
    assert result.returncode == 0, result.stderr
    return large_folder / "drop"


@pytest.fixture
def windows(smollm2) -> torch.Tensor:
    """Of the licence, which is always here and the same everywhere: one every STEP tokens."""
    ids = transformers.AutoTokenizer.from_pretrained(smollm2)(tiny.TEXT.read_text(), verbose=False).input_ids
    return torch.tensor(ids).unfold(0, WINDOW, STEP)


class TransformersModel:
    """What transformers says of windows, and how near its routers come to a tie in each."""

    def __init__(self, folder):
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.margins = []
        gates = [module for name, module in self.model.named_modules() if name.endswith(".gate")]
        assert len(gates) == self.model.config.num_hidden_layers
        for gate in gates:
            gate.register_forward_hook(self.note_margin)

    def note_margin(self, gate, arguments, _result):
        hidden = arguments[0].reshape(-1, gate.weight.shape[1])
        best = (hidden @ gate.weight.T).topk(self.model.config.num_experts_per_tok + 1).values
        self.margins.append((best[:, -2] - best[:, -1]).view(-1, WINDOW).min(1).values)

    @torch.inference_mode()
    def losses_and_margins(self, windows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of windows [windows, WINDOW]: the sum of each one's losses, and the least margin of any of its tokens in any layer."""
        self.margins.clear()
        logits = self.model(windows).logits[:, :-1]
        # Over another dimension than the last, torch sums 49,152 float32 numbers one after the other: an error of 1e-5 of the loss.
        losses = torch.nn.functional.cross_entropy(logits.double().transpose(1, 2), windows[:, 1:], reduction="none")
        return losses.sum(1), torch.stack(self.margins).min(0).values


def test_the_perplexity_of_4096_tokens_without_a_tie_is_transformers(dropped, windows, tmp_path):
    reference = TransformersModel(dropped)
    chosen, losses = [], []
    for some in windows.split(16):
        for window, loss, margin in zip(some, *reference.losses_and_margins(some), strict=True):
            if margin > TIE and len(chosen) * WINDOW < TOKENS:
                chosen.append(window)
                losses.append(loss.item())
        if len(chosen) * WINDOW == TOKENS:
            break
    assert len(chosen) * WINDOW == TOKENS, f"only {len(chosen)} of {len(windows)} windows have no tie"

    torch.cat(chosen).numpy().astype(np.uint16).tofile(tmp_path / "text.bin")
    options = ("--data", tmp_path / "text.bin", "--context", WINDOW, "--compute", "fp32", "--json")
    result = conftest.run("eval", dropped, *options)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    tokens = len(chosen) * (WINDOW - 1)
    assert found["tokens"] == tokens
    assert found["ppl"] == pytest.approx(math.exp(sum(losses) / tokens), rel=1e-4)
