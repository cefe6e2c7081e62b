"""`scratch` keeps nothing of the dense model but its shape."""

import pytest
import torch

import checkpoint
import tiny


@pytest.fixture
def scratch(tiny_folder, convert):
    return convert(tiny_folder(tiny.WIDE), "--method", "scratch", "--experts", 4)


def test_matrices_are_normal_with_the_initializer_range(scratch):
    sigma = tiny.WIDE.config()["initializer_range"]
    for name, weight in checkpoint.tensors(scratch).items():
        if weight.ndim == 1 or name.endswith(".gate.weight"):  # norms; routers have a start of their own
            continue
        n = weight.numel()  # standard errors of the mean and of the deviation of n normals; 5 of them
        assert weight.double().mean().item() == pytest.approx(0, abs=5 * sigma / n**0.5), name
        assert weight.double().std().item() == pytest.approx(sigma, abs=5 * sigma / (2 * n) ** 0.5), name


def test_norms_are_one(scratch):
    norms = {name: weight for name, weight in checkpoint.tensors(scratch).items() if weight.ndim == 1}
    assert len(norms) == 5
    for name, weight in norms.items():
        assert (weight == 1).all(), name


def test_no_two_matrices_are_alike(scratch):
    matrices = [weight for weight in checkpoint.tensors(scratch).values() if weight.ndim == 2]
    assert len({tuple(weight.flatten()[:4].tolist()) for weight in matrices}) == len(matrices)


def test_it_loads_and_computes_finite_logits(scratch):
    logits_BTV = checkpoint.logits_BTV(checkpoint.load(scratch), checkpoint.some_ids_BT())
    assert torch.isfinite(logits_BTV).all()
