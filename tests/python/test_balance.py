"""Balancing losses against plain Python in float64, and against transformers."""

import math
import os
import sys
from pathlib import Path

import pytest
import torch

import tiny

sys.path.insert(0, str(tiny.REPOSITORY / "python"))

LIBRARY = Path(os.environ.get("UPMOE_ENGINE_LIBRARY", tiny.REPOSITORY / "build" / "libupmoe_engine.so"))
pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason="needs the engine's library")

E, K, T, H, L = 8, 2, 40, 16, 3


@pytest.fixture(scope="module", autouse=True)
def upmoe():
    import upmoe as package

    package.ops.load(LIBRARY)
    return package


def gates(seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(E, H, generator=generator, dtype=dtype).requires_grad_() for _ in range(L)]


def inputs(tokens=T, seed=1, dtype=torch.float64):
    return torch.randn(tokens, H, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def routed(upmoe, x, gates, router="softmax_topk", top_k=K, **call):
    return [upmoe.routing.route(x * (1 + l), gate, router, top_k, **call) for l, gate in enumerate(gates)]


def softmax(z):
    top = max(z)
    exponentials = [math.exp(v - top) for v in z]
    return [v / sum(exponentials) for v in exponentials]


def largest(values, k):
    return sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]


def logits_of(x, gate):
    return (x @ gate.detach().T).tolist()


def plain_switch(layers, tokens):
    """E sum_i f_i P_i, f_i = n_i / (k T), of each layer; the layers added up."""
    total = 0
    for z in layers:
        p = [softmax(z[t]) for t in tokens]
        n = [sum(i in largest(row, K) for row in p) for i in range(E)]
        total += E * sum(n[i] / (K * len(p)) * sum(row[i] for row in p) / len(p) for i in range(E))
    return total


def plain_joint(layers, tokens):
    """E sum_i f_i P_i, f_i = n_i / T, over the tokens of all layers together."""
    p = [softmax(z[t]) for z in layers for t in tokens]
    n = [sum(i in largest(row, K) for row in p) for i in range(E)]
    return E * sum(n[i] / len(p) * sum(row[i] for row in p) / len(p) for i in range(E))


def plain_z(layers, tokens):
    return sum(sum(math.log(sum(math.exp(v) for v in z[t])) ** 2 for t in tokens) / len(tokens) for z in layers)


def plain_importance(layers, tokens):
    total = 0
    for z in layers:
        g = [0.0] * E
        for t in tokens:
            p = softmax(z[t])
            chosen = largest(p, K)
            for i in chosen:
                g[i] += p[i] / sum(p[j] for j in chosen) / len(tokens)
        mean = sum(g) / E
        total += sum((v - mean) ** 2 for v in g) / E / (mean**2 + 1e-10)
    return total


def plain_entropy(layers, tokens):
    return sum(-sum(v * math.log(v) for t in tokens for v in softmax(z[t])) / len(tokens) for z in layers)


PLAIN = {
    "switch": plain_switch,
    "joint": plain_joint,
    "global_batch": plain_switch,
    "z": plain_z,
    "importance": plain_importance,
    "entropy": plain_entropy,
}
VALID = torch.arange(T) % 5 != 3


@pytest.mark.parametrize("valid", [None, VALID], ids=["all", "padding"])
@pytest.mark.parametrize("loss", PLAIN)
def test_a_loss_is_its_formula(upmoe, loss, valid):
    x, weights = inputs(), gates()
    tokens = range(T) if valid is None else valid.nonzero().flatten().tolist()
    expected = PLAIN[loss]([logits_of(x * (1 + l), gate) for l, gate in enumerate(weights)], tokens)
    step = upmoe.balance.Step(micro_batches=1, sequences=1, tokens=len(tokens))
    found = upmoe.balance.Loss(loss, E, K)(routed(upmoe, x, weights), step, valid=valid)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def plain_of_sequences(x, weights, cuts):
    starts = [0, *torch.tensor(cuts).cumsum(0).tolist()]
    layers = [logits_of(x * (1 + l), gate) for l, gate in enumerate(weights)]
    return sum(plain_switch(layers, range(a, b)) for a, b in zip(starts, starts[1:])) / len(cuts)


def test_the_loss_of_sequences_is_the_mean_over_them(upmoe):
    x, weights, cuts = inputs(), gates(), [10, 22, 8]
    runs = [(number, 0, length) for number, length in enumerate(cuts)]
    step = upmoe.balance.Step(1, len(cuts), T)
    found = upmoe.balance.Loss("sequence", E, K)(routed(upmoe, x, weights, runs=runs), step, runs=runs)
    assert found.item() == pytest.approx(plain_of_sequences(x, weights, cuts), rel=1e-12)


def test_the_l1_of_relu_routing_is_its_formula(upmoe):
    x, weights = inputs(), gates()
    z = [logits_of(x * (1 + l), gate) for l, gate in enumerate(weights)]
    expected = sum(
        E / (K * T * T) * sum(sum(row[i] > 0 for row in of) * sum(max(row[i], 0) for row in of) for i in range(E))
        for of in z
    )
    found = upmoe.balance.Loss("relu_l1", E, K)(routed(upmoe, x, weights), upmoe.balance.Step(1, 1, T))
    assert found.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("loss", [*PLAIN, "sequence"])
def test_a_loss_has_the_gradient_of_its_formula(upmoe, loss):
    """By small steps of the plain formula: what is counted has no gradient, and no small step changes it."""
    x, weights = inputs(), gates()
    plain = PLAIN.get(loss, plain_switch)
    upmoe.balance.Loss(loss, E, K)(routed(upmoe, x, weights), upmoe.balance.Step(1, 1, T)).backward()

    def at(layer, e, h, by):
        moved = [gate.detach().clone() for gate in weights]
        moved[layer][e, h] += by
        return plain([logits_of(x * (1 + l), gate) for l, gate in enumerate(moved)], range(T))

    for layer, e, h in ((0, 0, 0), (1, 3, 5), (2, 7, 15)):
        slope = (at(layer, e, h, 1e-6) - at(layer, e, h, -1e-6)) / 2e-6
        assert weights[layer].grad[e, h].item() == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_joint_is_what_transformers_computes(upmoe):
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    x, weights = inputs(dtype=torch.float32), gates(dtype=torch.float32)
    layers = routed(upmoe, x, weights)
    ours = upmoe.balance.Loss("joint", E, K)(layers, upmoe.balance.Step(1, 1, T))
    ours.backward()
    slopes = [gate.grad.clone() for gate in weights]
    for gate in weights:
        gate.grad = None
    logits = tuple((x * (1 + l)) @ gate.T for l, gate in enumerate(weights))
    theirs = load_balancing_loss_func(logits, E, K)
    theirs.backward()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    for slope, gate in zip(slopes, weights, strict=True):
        torch.testing.assert_close(slope, gate.grad, rtol=1e-4, atol=1e-7)


def test_padding_is_what_transformers_masks(upmoe):
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    x, weights = inputs(dtype=torch.float32), gates(dtype=torch.float32)
    mask = torch.ones(4, T // 4, dtype=torch.long)
    mask[1, 6:] = 0
    mask[3, 2:] = 0
    ours = upmoe.balance.Loss("joint", E, K)(
        routed(upmoe, x, weights), upmoe.balance.Step(1, 4, int(mask.sum())), valid=mask.flatten().bool()
    )
    logits = tuple(((x * (1 + l)) @ gate.T).detach() for l, gate in enumerate(weights))
    assert ours.item() == pytest.approx(load_balancing_loss_func(logits, E, K, mask).item(), rel=1e-6)


@pytest.mark.parametrize("scope", ["sequence", "step"])
@pytest.mark.parametrize("pieces", [2, 4, 8])
def test_the_coefficient_is_that_of_the_gradient_however_a_step_is_cut(upmoe, scope, pieces):
    """transformers multiplies it by the number of pieces (docs/routing.md)."""
    x, weights = inputs(dtype=torch.float32), gates(dtype=torch.float32)
    length = T // 8
    loss = upmoe.balance.Loss(f"switch:0.01,scope={scope}", E, K)

    def gradient(pieces):
        for gate in weights:
            gate.grad = None
        step, parts, total = upmoe.balance.Step(pieces, 8, T), [], None
        for m in range(pieces):
            count = 8 // pieces
            runs = [(m * count + s, 0, length) for s in range(count)]
            part = x[m * count * length : (m + 1) * count * length]
            parts.append((routed(upmoe, part, weights, runs=runs), runs))
        if scope == "step":
            total = sum(loss.totals(layers) for layers, _ in parts)
        value = 0
        for layers, runs in parts:
            piece = loss(layers, step, runs=runs, totals=total)
            piece.backward()
            value += piece.item()
        return value, torch.stack([gate.grad for gate in weights])

    value, slope = gradient(pieces)
    whole, expected = gradient(1)
    assert value == pytest.approx(whole, rel=1e-6)
    assert (slope - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_the_loss_of_micro_batches_is_the_mean_over_them(upmoe):
    x, weights = inputs(), gates()
    loss, half = upmoe.balance.Loss("switch", E, K), T // 2
    parts = [routed(upmoe, x[:half], weights), routed(upmoe, x[half:], weights)]
    alone = [loss(layers, upmoe.balance.Step(1, 1, half)).item() for layers in parts]
    together = [loss(layers, upmoe.balance.Step(2, 2, T)).item() for layers in parts]
    assert sum(together) == pytest.approx(sum(alone) / 2, rel=1e-12)


def test_equal_micro_batches_have_the_loss_of_one(upmoe):
    """Scope micro-batch, equal sequences, a router that draws nothing: issue and promise."""
    one, weights = inputs(T // 4, dtype=torch.float32), gates(dtype=torch.float32)
    loss = upmoe.balance.Loss("switch", E, K)
    whole = loss(routed(upmoe, one.repeat(4, 1), weights), upmoe.balance.Step(1, 4, T))
    cut = sum(loss(routed(upmoe, one, weights), upmoe.balance.Step(4, 4, T)) for _ in range(4))
    assert cut.item() == pytest.approx(whole.item(), rel=1e-6)
    (slope,) = torch.autograd.grad(cut, weights[0])
    (expected,) = torch.autograd.grad(whole, weights[0])
    assert (slope - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    "text, says",
    [
        ("swich", "no balancing loss 'swich'"),
        ("switch:x", "coefficient 'x'"),
        ("switch,scope=batch", "'batch'"),
        ("switch,schedule=cosine", "`until`"),
    ],
)
def test_what_is_wrong_is_told_when_a_loss_is_made(upmoe, text, says):
    with pytest.raises(RuntimeError, match=says):
        upmoe.balance.Loss(text, E, K)


def test_the_coefficient_follows_its_schedule(upmoe):
    loss = upmoe.balance.Loss("switch:0.5,schedule=cosine,warmup=10,until=110", E, K)
    for step in (0, 5, 9, 10, 60, 110, 500):
        gone = min(1, max(0, (step - 10) / 100))
        expected = 0.5 * (step + 1) / 10 if step < 10 else 0.25 * (1 + math.cos(math.pi * gone))
        assert loss.coefficient(step) == pytest.approx(expected, abs=1e-15)
