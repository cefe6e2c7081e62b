"""What transformers computes with a folder, under the names and shapes that the engine gives."""

from pathlib import Path

import torch
import transformers

# Relative to the largest number of a tensor. Sums of some hundred float32 products in another order differ by a few
# 1e-7; two layers and the way back make ten times that.
TOLERANCE = 1e-5


def shifted(token: torch.Tensor, scored: torch.Tensor) -> torch.Tensor:
    """The target of each position is the next token; -1 where either of the two is not scored, and at the end."""
    target = torch.full_like(token, -1)
    target[:, :-1] = torch.where(scored[:, 1:] & scored[:, :-1], token[:, 1:], -1)
    return target


def documents(lengths: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Document and position [B, T] of rows that are made of documents of these lengths."""
    document = torch.stack([torch.repeat_interleave(torch.arange(len(row)), torch.tensor(row)) for row in lengths])
    return document, torch.stack([torch.cat([torch.arange(n) for n in row]) for row in lengths])


def within(document: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Without the targets that lie in the next document."""
    out = target.clone()
    out[:, :-1] = torch.where(document[:, 1:] == document[:, :-1], target[:, :-1], -1)
    return out


def load(folder: Path, **how) -> transformers.PreTrainedModel:
    how |= {"dtype": torch.float32, "attn_implementation": "eager"}
    return transformers.AutoModelForCausalLM.from_pretrained(folder, **how)


def expected(folder: Path, token, target, document=None, position=None, config=None, **how) -> dict[str, torch.Tensor]:
    """`config`: for a folder whose config.json is spelt in a way that not every transformers reads."""
    model = load(folder, **({} if config is None else {"config": config})).train(False)
    if document is not None:
        seen = (document[:, :, None] == document[:, None, :]).tril()
        how["attention_mask"] = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]
    if position is not None:
        how["position_ids"] = position
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
