"""What does not fit together is refused by routers and balancing losses in a sentence, and never read as memory."""

import os
import sys
from pathlib import Path

import pytest
import torch

import tiny

sys.path.insert(0, str(tiny.REPOSITORY / "python"))

LIBRARY = Path(os.environ.get("UPMOE_ENGINE_LIBRARY", tiny.REPOSITORY / "build" / "libupmoe_engine.so"))
pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason="needs the engine's library")

T, H, E = 16, 8, 4
X = torch.randn(T, H, generator=torch.Generator().manual_seed(1))
GATE = torch.randn(E, H, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module", autouse=True)
def upmoe():
    import upmoe as package

    package.ops.load(LIBRARY)
    return package


@pytest.mark.parametrize("router", ["gshard", "noisy_topk", "softmax_topk,jitter=0.1", "softmax_topk,capacity=1", "expert_choice", "dense"])
@pytest.mark.parametrize(
    "runs",
    [[(0, 0, -16)], [(0, 0, -1), (0, 0, 17)], [(0, 0, 20), (0, 0, -4)], [(0, -4, 16)], [(0, 2**62, 16)], [(0, 0, 2**62)] * 4, [(0, 0, 8)]],
    ids=str,
)
def test_runs_that_are_not_the_tokens_of_the_batch(upmoe, router, runs):
    with pytest.raises(RuntimeError, match="run"):
        upmoe.routing.route(X, GATE, router, runs=runs, training=True)


@pytest.mark.parametrize(
    "call",
    [
        {"valid": torch.ones(T, dtype=torch.long) * 2},
        {"valid": torch.ones(1, dtype=torch.bool)},
        {"replay": torch.zeros(T - 1, 2, dtype=torch.long)},
        {"replay": torch.zeros(T, 2, dtype=torch.long)},  # twice the same
        {"replay": torch.tensor([[0, E]] * T)},
        {"replay": torch.tensor([[0, -2]] * T)},
        {"replay": torch.tensor([[0, 1]] * T, dtype=torch.int32)},
    ],
    ids=str,
)
def test_calls_whose_parts_do_not_fit_together(upmoe, call):
    with pytest.raises(RuntimeError, match="router takes|replay"):
        upmoe.routing.route(X, GATE, "softmax_topk", **call)


def test_a_weight_of_other_experts_than_the_routers(upmoe):
    for experts in (3, 5):
        with pytest.raises(RuntimeError, match="made for 4 experts"):
            upmoe.routing.Router("softmax_topk", E, 2, H)(X, torch.randn(experts, H))
    for shape in ((0, 2), (4, 0), (4, 5), (-1, 2), (2**62, 2)):
        with pytest.raises(RuntimeError, match="route: top-"):
            upmoe.routing.Router("softmax_topk", *shape, H)
    with pytest.raises(RuntimeError, match="takes x"):
        upmoe.routing.Router("softmax_topk", E, 2, H)(X.view(2, 8, H), GATE)


def test_experts_that_are_replayed_have_weights_whatever_their_scores_are(upmoe):
    x, gate = torch.tensor([[200.0, 0, 0, 0]]), torch.eye(4)
    for router in ("softmax_topk", "topk_softmax", "gshard", "mlp", "top_p,renormalise=true"):
        weight = upmoe.routing.route(x.requires_grad_(), gate, router, replay=torch.tensor([[1, 2]])).weight
        assert weight.isfinite().all(), router
        (slope,) = torch.autograd.grad(weight.sum(), x, allow_unused=True)
        assert slope is None or slope.isfinite().all(), router
    assert upmoe.routing.route(x, gate, "softmax_topk", replay=torch.tensor([[1, 2]])).weight.tolist() == [0.5, 0.5]


def test_noise_that_decides_alone_leaves_weights_finite(upmoe):
    z = 60 * torch.randn(64, 8, generator=torch.Generator().manual_seed(3))
    out = upmoe.routing.route(z, torch.eye(8), "softmax_topk,noise=gaussian,noise-scale=100", training=True)
    assert out.weight.isfinite().all()


@pytest.mark.parametrize("factor, kept", [("1e19", 2 * T), ("1e300", 2 * T), ("1e-300", E), ("1e-17", E)])
def test_a_capacity_is_at_least_one_and_at_most_all(upmoe, factor, kept):
    x = torch.eye(4).repeat(4, 1) + 0.1 * torch.arange(4)  # every expert is somebody's first
    out = upmoe.routing.route(x, torch.eye(4), f"softmax_topk,capacity={factor}", training=True)
    assert out.token.numel() == kept
    assert upmoe.routing.route(X, GATE, "expert_choice,capacity-factor=1e-300").token.numel() == E


def test_the_threshold_of_top_p_is_reached_by_equal_scores(upmoe):
    for experts in (5, 8, 25, 50, 100):
        out = upmoe.routing.route(torch.zeros(3, H), torch.zeros(experts, H), "top_p")
        assert out.token.numel() == 3 * -(-4 * experts // 10), experts


def test_losses_of_what_a_router_does_not_have(upmoe):
    step = upmoe.balance.Step(1, 1, T)
    plain = upmoe.routing.route(X, GATE, "softmax_topk")
    hashed = upmoe.routing.route(X, GATE, "hash", token_id=torch.arange(T))
    with pytest.raises(RuntimeError, match="does not say how likely"):
        upmoe.balance.Loss("load", E, 2)([plain], step)
    with pytest.raises(RuntimeError, match="has no logits"):
        upmoe.balance.Loss("z", E, 2)([hashed], step)
    with pytest.raises(RuntimeError, match="a step of 0 micro-batches"):
        upmoe.balance.Loss("switch", E, 2)([plain], upmoe.balance.Step(0, 1, T))


def test_a_batch_of_padding_has_a_loss_of_zero(upmoe):
    nothing = torch.zeros(T, dtype=torch.bool)
    routing = upmoe.routing.route(X, GATE, "softmax_topk", valid=nothing)
    for loss in ("switch", "joint", "sequence", "global_batch", "z", "importance", "entropy"):
        assert upmoe.balance.Loss(loss, E, 2)([routing], upmoe.balance.Step(1, 0, 0), valid=nothing).item() == 0, loss


def test_states_and_steps_that_are_not_the_routers(upmoe):
    router = upmoe.routing.Router("bias_topk", E, 2, H)
    load = torch.tensor([1, 2, 3, 4])
    for wrong in ({"load": load.float()}, {"load": load[:2]}, {"tokens": -1}, {"step": -1}):
        with pytest.raises(RuntimeError, match="a step has a load"):
            router.after_step(**{"load": load, "tokens": 5, "step": 0, "learning_rate": 1e-3, **wrong})
    router.state["bias"] = torch.zeros(E + 1)
    with pytest.raises(RuntimeError, match="'bias' of the router 'bias_topk"):
        router(X, GATE)


@pytest.mark.parametrize("router", ["softmax_topk,noise=gaussian,noise-scale=1e39", "sinkhorn,iterations=2147483647", "relu,alpha=1e300"])
def test_options_beyond_use_are_refused(upmoe, router):
    with pytest.raises(RuntimeError, match="expected"):
        upmoe.routing.Router(router, E, 2, H)
