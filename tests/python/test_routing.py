"""Routers against plain Python in float64, written from their sources: one token at a time, lists of numbers."""

import math
import os
import sys
from pathlib import Path

import pytest
import torch
import transformers

import tiny

sys.path.insert(0, str(tiny.REPOSITORY / "python"))

LIBRARY = Path(os.environ.get("UPMOE_ENGINE_LIBRARY", tiny.REPOSITORY / "build" / "libupmoe_engine.so"))
pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason="needs the engine's library")

VERSION = tuple(map(int, transformers.__version__.split(".")[:2]))
H = 6


@pytest.fixture(scope="module")
def routing():
    import upmoe.ops
    import upmoe.routing

    upmoe.ops.load(LIBRARY)
    return upmoe.routing


# What the routers are made of.


def softmax(z):
    e = [math.exp(one - max(z)) for one in z]
    return [one / math.fsum(e) for one in e]


def sigmoid(z):
    return [1 / (1 + math.exp(-one)) for one in z]


def sqrt_softplus(z):
    return [math.sqrt(math.log1p(math.exp(one))) for one in z]


def largest(scores, k):
    """The lower of equal ones first."""
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k]


def in_best_groups(scores, groups, kept, best):
    size = len(scores) // groups
    of = [math.fsum(sorted(scores[g * size : (g + 1) * size])[-best:]) for g in range(groups)]
    good = largest(of, kept)
    return [score if i // size in good else -math.inf for i, score in enumerate(scores)]


def divided(weights):
    return [one / math.fsum(weights) for one in weights]


class Plain:
    """A router: by(z) is what the experts are chosen by, score(z) what losses see, weigh(z, ids) the weights."""

    def __init__(self, score, weigh, by=None):
        self.score, self.weigh, self.by = score, weigh, by or score


def scored(score, renormalise, scale=1.0, by=None):
    def weigh(z, ids):
        s = [score(z)[i] for i in ids]
        return [scale * one for one in (divided(s) if renormalise else s)]

    return Plain(score, weigh, by)


def biased(score, bias, groups=1, kept=1):
    def by(z):
        chosen_by = [s + b for s, b in zip(score(z), bias, strict=True)]
        return in_best_groups(chosen_by, groups, kept, best=2) if groups > 1 else chosen_by

    return by


def bias_of(experts):
    """Of both signs; float32 numbers."""
    return [round(math.sin(3 * i + 1) * 64) / 128 for i in range(experts)]


SCORES = {"sigmoid": sigmoid, "softmax": softmax, "sqrt_softplus": sqrt_softplus}

# Router -> what it is for (experts, k).
PLAIN = {
    "softmax_topk": lambda E, k: scored(softmax, True),
    "softmax_topk,renormalise=false": lambda E, k: scored(softmax, False),
    "topk_softmax": lambda E, k: Plain(softmax, lambda z, ids: softmax([z[i] for i in ids])),
    "switch": lambda E, k: scored(softmax, False),
    "gshard": lambda E, k: scored(softmax, True),
    "sigmoid_topk": lambda E, k: scored(sigmoid, True),
    "sigmoid_topk,renormalise=false,scale=2.5": lambda E, k: scored(sigmoid, False, 2.5),
    "sqrt_softplus_topk": lambda E, k: scored(sqrt_softplus, True),
    "sqrt_softplus_topk,renormalise=false,scale=1.5": lambda E, k: scored(sqrt_softplus, False, 1.5),
    **{
        f"bias_topk,score={name}{options}": lambda E, k, score=score, options=options: scored(
            score, not options, 2.5 if options else 1.0, biased(score, bias_of(E))
        )
        for name, score in SCORES.items()
        for options in ("", ",renormalise=false,scale=2.5")
    },
    "group_topk": lambda E, k: scored(softmax, True, by=in_groups(E, k, 1)),
    "group_topk,best=2,renormalise=false,scale=16": lambda E, k: scored(softmax, False, 16, in_groups(E, k, 2)),
}
PLAIN["noisy_topk"] = PLAIN["topk_softmax"]
PLAIN["sinkhorn"] = lambda E, k: scored(sigmoid if k == 1 else softmax, False)
SIZES = [(2, 1), (2, 2), (5, 1), (5, 2), (5, 5), (8, 2), (8, 3), (64, 1), (64, 8)]


def in_groups(E, k, best):
    """In the most groups, up to 8, of at least two experts, of which half hold k."""
    fit = [g for g in range(1, min(8, E // 2) + 1) if E % g == 0 and (g + 1) // 2 * (E // g) >= k]
    groups = max(fit, default=1)
    return lambda z: in_best_groups(softmax(z), groups, (groups + 1) // 2, best)


def per_token(name, E, k):
    return {"switch": 1, "gshard": min(2, E)}.get(name, k)


def make(routing, name, E, k, hidden=H):
    router = routing.Router(name, E, k, hidden)
    if "bias" in router.state:
        router.state["bias"] = torch.tensor(bias_of(E))
    return router


def logits_of(kind, T, E):
    """Random, and full of ties."""
    generator = torch.Generator().manual_seed(E)
    if kind == "random":
        return 1.5 * torch.randn(T, E, generator=generator, dtype=torch.float64)
    tied = torch.randint(3, (T, E), generator=generator).double()
    tied[0] = 0
    return tied


def random_input(T, E, dtype=torch.float64):
    generator = torch.Generator().manual_seed(T + E)
    x, gate = (torch.randn(n, H, generator=generator, dtype=torch.float64).to(dtype) for n in (T, E))
    return x.requires_grad_(), gate.requires_grad_()


def coefficients(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("kind", ["random", "tied"])
@pytest.mark.parametrize("E, k", SIZES)
@pytest.mark.parametrize("name", PLAIN)
def test_experts_weights_and_scores_are_those_of_plain_python(routing, name, E, k, kind, dtype, tolerance):
    z = logits_of(kind, 16, E).to(dtype)
    out = make(routing, name, E, k, hidden=E)(z, torch.eye(E, dtype=dtype))
    plain, k = PLAIN[name](E, k), per_token(name, E, k)
    for t, row in enumerate(z.double().tolist()):
        ids = largest(plain.by(row), k)
        assert out.chosen[t].tolist() == ids
        assert out.weight.view(-1, k)[t].tolist() == pytest.approx(plain.weigh(row, ids), rel=tolerance)
        assert out.score[t].tolist() == pytest.approx(plain.score(row), rel=tolerance)
    assert out.token.tolist() == [t for t in range(16) for _ in range(k)]
    assert torch.equal(out.expert, out.chosen.reshape(-1))
    assert torch.equal(out.load, torch.bincount(out.expert, minlength=E))


def slopes(function, z, step=1e-5):
    """Of a function of a list, by central differences."""

    def moved(i, by):
        return function([one + by * (i == j) for j, one in enumerate(z)])

    return [(moved(i, step) - moved(i, -step)) / (2 * step) for i in range(len(z))]


@pytest.mark.parametrize("kind", ["random", "tied"])
@pytest.mark.parametrize("E, k", [(2, 1), (5, 2), (5, 5), (8, 2), (64, 8)])
@pytest.mark.parametrize("name", PLAIN)
def test_gradients_are_the_slopes_of_plain_python(routing, name, E, k, kind):
    T, plain, k = 3, PLAIN[name](E, k), per_token(name, E, k)
    x, gate = random_input(T, E)
    if kind == "tied":
        x, gate = (leaf.detach().round().clamp(-1, 1).requires_grad_() for leaf in (x, gate))
    out = make(routing, name, E, k)(x, gate)
    of_weight, of_score = coefficients(T, k), coefficients(T, E)
    (out.weight.view(T, k) * of_weight).sum().add((out.score * of_score).sum()).backward()
    slope = torch.empty(T, E, dtype=torch.float64)
    for t, row in enumerate((x @ gate.T).tolist()):
        ids = largest(plain.by(row), k)

        def loss(z, t=t, ids=ids):
            parts = [*zip(plain.weigh(z, ids), of_weight[t].tolist(), strict=True)]
            parts += zip(plain.score(z), of_score[t].tolist(), strict=True)
            return math.fsum(value * factor for value, factor in parts)

        slope[t] = torch.tensor(slopes(loss, row), dtype=torch.float64)
    torch.testing.assert_close(x.grad, slope @ gate.detach(), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(gate.grad, slope.T @ x.detach(), rtol=1e-7, atol=1e-7)


# What the bias does.


def test_groups_are_limited_by_minus_infinity_where_scores_and_biases_are_negative(routing):
    E, k, groups = 8, 3, 4
    router = routing.Router(f"bias_topk,groups={groups},kept-groups=2", E, k, E)
    router.state["bias"] = torch.tensor([-2 + one for one in bias_of(E)])
    z = logits_of("random", 64, E)
    out = router(z, torch.eye(E, dtype=z.dtype))
    plain = scored(sigmoid, True, by=biased(sigmoid, router.state["bias"].tolist(), groups, 2))
    for t, row in enumerate(z.tolist()):
        ids = largest(plain.by(row), k)
        assert out.chosen[t].tolist() == ids
        assert out.weight.view(-1, k)[t].tolist() == pytest.approx(plain.weigh(row, ids), rel=1e-12)


def test_the_weights_are_those_of_the_score_without_the_bias_and_the_bias_has_no_gradient(routing):
    x, gate = random_input(9, 5)
    router = routing.Router("bias_topk", 5, 5, H)
    unbiased = router(x, gate)
    router.state["bias"] = torch.tensor(bias_of(5)).requires_grad_()
    biased = router(x, gate)
    assert not torch.equal(biased.chosen, unbiased.chosen)
    order = biased.chosen.argsort(), unbiased.chosen.argsort()
    sorted_by_expert = [one.weight.view(9, 5).gather(1, by) for one, by in zip((biased, unbiased), order, strict=True)]
    torch.testing.assert_close(*sorted_by_expert, rtol=1e-14, atol=0)
    biased.weight.sum().backward()
    assert router.state["bias"].grad is None


LOAD = [7, 0, 3, 2, 3]  # 3 on average


@pytest.mark.parametrize(
    "options, expected",
    [
        ("", [-0.001, 0.001, 0, 0.001, 0]),
        (",rate=0.01", [-0.01, 0.01, 0, 0.01, 0]),
        (",centre=true", [-0.0012, 0.0008, -0.0002, 0.0008, -0.0002]),
        (",update=proportional", [-0.001 * 4 / 3, 0.001, 0, 0.001 / 3, 0]),
        (",update=proportional,centre=true", [-0.001 * 4 / 3, 0.001, 0, 0.001 / 3, 0]),
    ],
)
def test_the_bias_of_an_expert_with_less_than_the_average_load_is_raised(routing, options, expected):
    router = routing.Router(f"bias_topk{options}", 5, 2, H)
    for times in (1, 2, 3):
        router.after_step(torch.tensor(LOAD), tokens=8, step=times, learning_rate=1e-4)
        assert router.state["bias"].tolist() == pytest.approx([times * one for one in expected], abs=1e-9)
    assert router.state["bias"].dtype == torch.float32


def test_the_sign_of_the_update_is_exact_for_any_count(routing):
    router = routing.Router("bias_topk,rate=1", 4, 1, H)
    many = 2**52
    router.after_step(torch.tensor([many, many + 1, many - 1, many]), tokens=4 * many, step=0, learning_rate=1)
    assert router.state["bias"].tolist() == [0, -1, 1, 0]


def test_nothing_changes_the_bias_where_no_token_was_real(routing):
    for update in ("sign", "proportional"):
        router = routing.Router(f"bias_topk,update={update}", 4, 2, H)
        router.after_step(torch.zeros(4, dtype=torch.int64), tokens=0, step=0, learning_rate=1e-4)
        assert router.state["bias"].tolist() == [0] * 4


@pytest.mark.parametrize(
    "options, expected",
    [
        ("", [1, 1, 1, 1, 1, 1, 1, 1, 1]),
        (",warmup=4", [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1]),
        (",steps=4", [1, 0.75, 0.5, 0.25, 0, 0, 0, 0, 0]),
        (",warmup=2,steps=6,decay=cosine", [0.5, 1, 1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2, 0, 0, 0]),
    ],
)
def test_the_rate_of_the_bias_follows_its_schedule(routing, options, expected):
    for step, rate in enumerate(expected):
        router = routing.Router(f"bias_topk,rate=1{options}", 2, 1, H)
        router.after_step(torch.tensor([0, 2]), tokens=2, step=step, learning_rate=1e-4)
        assert router.state["bias"].tolist() == pytest.approx([rate, -rate], abs=1e-7)


@pytest.mark.parametrize("update", ["sign", "proportional"])
def test_the_bias_balances_the_load_that_it_is_changed_by(routing, update):
    E, k, T = 8, 2, 512
    z = logits_of("random", T, E) + torch.linspace(-2, 2, E)  # the last experts are chosen by nearly all
    router = routing.Router(f"bias_topk,update={update},rate=0.01", E, k, E)
    loads = []
    for step in range(300):
        loads.append(router(z, torch.eye(E, dtype=z.dtype), training=True, step=step).load)
        router.after_step(loads[-1], tokens=T, step=step, learning_rate=1e-4)
    average = T * k / E
    assert loads[0].max() > 2 * average
    assert loads[-1].max() < 1.2 * average and loads[-1].min() > 0.8 * average


@pytest.mark.parametrize(
    "router, message",
    [
        ("sigmoid_topk,scale=0", "sigmoid_topk: scale is 0, expected above 0 and at most 1000"),
        ("bias_topk,rate=-1", "bias_topk: rate is -1, expected 0 or more"),
        ("bias_topk,warmup=5,steps=5", "bias_topk: steps is 5, expected more than the 5 of warmup, or 0"),
        ("bias_topk,groups=3", "bias_topk: groups is 3, expected equal groups of two or more of the 8 experts"),
        ("bias_topk,groups=8", "bias_topk: groups is 8, expected equal groups of two or more of the 8 experts"),
        (
            "group_topk,groups=4,kept-groups=1",
            "group_topk: kept-groups is 1, expected 2 to 4, since 3 of 8 experts are in groups of 2",
        ),
        ("noisy_topk,least=0", "noisy_topk: least is 0, expected above 0"),
        ("sinkhorn,iterations=0", "sinkhorn: iterations is 0, expected 1 to 10000"),
        ("sinkhorn,tolerance=-1", "sinkhorn: tolerance is -1, expected 0 or more"),
        ("group_topk,best=3", "group_topk: best is 3, expected 1 or 2"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_sentence(routing, router, message):
    with pytest.raises(RuntimeError, match=message):
        routing.Router(router, 8, 3, H)


# What is drawn in training.


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_the_second_expert_of_gshard_is_kept_as_often_as_its_weight_says(routing, threshold):
    T = 20_000
    z = torch.tensor([[1.0, 0.0, -1.0]]).repeat(T, 1)
    router = routing.Router(f"gshard,threshold={threshold}", 3, 2, 3)
    out = router(z, torch.eye(3), training=True)
    first, second = divided(softmax([1.0, 0.0, -1.0])[:2])
    kept = min(1.0, second / threshold) if threshold > 0 else 1.0
    assert out.load.tolist() == [T, T, 0]  # before any is dropped
    assert len(out.token) / T - 1 == pytest.approx(kept, abs=0.015)
    assert (out.expert == 0).sum() == T
    weights = torch.where(out.expert == 0, first, second)
    torch.testing.assert_close(out.weight, weights.float(), rtol=1e-6, atol=0)


def noise_of(routing, T, E, step):
    """The standard normal numbers that noisy_topk draws: with k = E, log weights are noisy logits but for a constant."""
    quiet, loud = -100.0, math.log(math.e - 1)  # whose softplus is 0 and 1
    x, z = torch.ones(T, 1, dtype=torch.float64), torch.linspace(-1, 1, E).double()
    router = routing.Router("noisy_topk,least=1e-15", E, E, 1)
    noise = torch.empty(T, E, dtype=torch.float64)
    for columns, still in ((range(1, E), 0), (range(1), 1)):
        router.state["noise"] = torch.full((E, 1), loud, dtype=torch.float64).index_fill(0, torch.tensor([still]), quiet)
        out = router(x, z[:, None], training=True, step=step)
        h = torch.zeros(T, E, dtype=torch.float64).scatter(1, out.chosen, out.weight.view(T, E).log())
        for i in columns:
            noise[:, i] = h[:, i] - h[:, still] + z[still] - z[i]
    return noise


def test_noisy_topk_draws_standard_normal_numbers_anew_in_each_step(routing):
    first, second = (noise_of(routing, 5000, 4, step) for step in (0, 1))
    for noise in (first, second):
        assert noise.mean(0).abs().max() < 0.06 and (noise.std(0) - 1).abs().max() < 0.05
        assert torch.corrcoef(noise.T).sub(torch.eye(4)).abs().max() < 0.06
    assert torch.corrcoef(torch.stack((first.view(-1), second.view(-1))))[0, 1].abs() < 0.03


@pytest.mark.parametrize("E, k", [(2, 1), (5, 2), (5, 5), (8, 1), (64, 8)])
def test_noisy_topk_in_training_is_that_of_the_paper(routing, E, k):
    T, least = 32, 0.01
    x, gate = (one.detach() for one in random_input(T, E))
    noise_gate = 0.5 * coefficients(E, H)
    router = routing.Router("noisy_topk", E, k, H)
    router.state["noise"] = noise_gate
    out = router(x, gate, training=True, step=3)
    noise, z, width = noise_of(routing, T, E, step=3), x @ gate.T, (x @ noise_gate.T).tolist()
    for t in range(T):
        row = z[t].tolist()
        spread = [math.log1p(math.exp(one)) + least for one in width[t]]
        h = [a + s * n for a, s, n in zip(row, spread, noise[t].tolist(), strict=True)]
        ids = largest(h, k)
        assert out.chosen[t].tolist() == ids
        assert out.weight.view(T, k)[t].tolist() == pytest.approx(softmax([h[i] for i in ids]), rel=1e-9)
        assert out.score[t].tolist() == pytest.approx(softmax(h), rel=1e-9)
        for i in range(E):
            others = sorted(h[:i] + h[i + 1 :], reverse=True)
            bar = others[k - 1] if k < E else -math.inf
            chance = 0.5 * math.erfc((bar - row[i]) / spread[i] / math.sqrt(2))
            assert out.chance[t, i].item() == pytest.approx(chance, rel=1e-7, abs=1e-12)
    torch.testing.assert_close(out.logits, z, rtol=1e-12, atol=0)  # before noise


@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_choices_and_chances_of_noisy_topk_have_the_gradients_that_small_steps_show(routing, k):
    T, E = 4, 5
    noise_gate = (0.5 * coefficients(E, H)).requires_grad_()

    def weights_and_chances(x, gate, noise_gate):
        router = routing.Router("noisy_topk", E, k, H)
        router.state["noise"] = noise_gate
        out = router(x, gate, training=True)
        return out.weight, out.chance

    assert torch.autograd.gradcheck(weights_and_chances, (*random_input(T, E), noise_gate))


def test_noisy_topk_spreads_tokens_from_the_first_step_and_has_neither_noise_nor_chance_in_evaluation(routing):
    T, E, k = 20_000, 8, 2
    x, gate = torch.randn(T, H, generator=torch.Generator().manual_seed(1)), torch.zeros(E, H)
    router = routing.Router("noisy_topk", E, k, H)
    assert not router.state["noise"].any() and router.state["noise"].shape == (E, H)
    load = router(x, gate, training=True).load
    assert (load - T * k / E).abs().max() < 0.05 * T * k / E
    out = router(x, gate)
    assert out.load.tolist() == [T, T, 0, 0, 0, 0, 0, 0] and out.chance is None


def test_noisy_topk_offers_no_second_noise(routing):
    with pytest.raises(RuntimeError, match="router 'noisy_topk' has no option 'jitter'; it has: least, capacity, drop"):
        routing.Router("noisy_topk,jitter=0.1", 8, 2, H)


# What is chosen for the whole batch in training.


def sinkhorn(z, tolerance=1e-4, iterations=50):
    """Megatron-LM's, moe_utils.py, with a last iteration."""
    cost = [[math.exp(one) for one in row] for row in z]
    tokens, experts = len(cost), len(cost[0])
    d1 = [1.0] * experts
    for _ in range(iterations):
        d0 = [1 / tokens / (math.fsum(d * c for d, c in zip(d1, row, strict=True)) + 1e-8) for row in cost]
        old = d1
        d1 = [1 / experts / (math.fsum(d0[t] * cost[t][e] for t in range(tokens)) + 1e-8) for e in range(experts)]
        if math.fsum(abs(a - b) for a, b in zip(old, d1, strict=True)) / experts <= tolerance:
            break
    return [[d * c for d, c in zip(d1, row, strict=True)] for row in cost]


@pytest.mark.parametrize("factor", [0.02, 1.0, 6.0])  # 6: it does not converge within 50 iterations
@pytest.mark.parametrize("E, k", [(2, 1), (2, 2), (5, 1), (8, 2), (64, 8)])
def test_sinkhorn_in_training_is_that_of_megatron_over_the_real_tokens(routing, E, k, factor):
    T = 96
    z = factor * (logits_of("random", T, E) + torch.linspace(-1, 1, E))
    valid = torch.arange(T) % 3 != 0
    out = routing.Router("sinkhorn", E, k, E)(z, torch.eye(E, dtype=z.dtype), valid=valid, training=True)
    plain = PLAIN["sinkhorn"](E, k)
    balanced = sinkhorn(z[valid].tolist())
    for row, by, chosen, weight in zip(
        z[valid].tolist(), balanced, out.chosen[valid], out.weight.view(T, k)[valid], strict=True
    ):
        ids = largest(by, k)
        assert chosen.tolist() == ids
        assert weight.tolist() == pytest.approx(plain.weigh(row, ids), rel=1e-12)


def test_sinkhorn_balances_the_load_in_training_alone_and_needs_no_small_logits(routing):
    T, E, k = 4096, 8, 2
    z = (logits_of("random", T, E) + torch.linspace(-2, 2, E)).float()
    router = routing.Router("sinkhorn", E, k, E)
    balanced, plain = (router(z, torch.eye(E), training=training) for training in (True, False))
    average = T * k / E
    assert plain.load.max() > 2 * average
    assert balanced.load.max() < 1.15 * average and balanced.load.min() > 0.85 * average
    shifted = router(z + 512, torch.eye(E), training=True)
    assert (shifted.chosen == balanced.chosen).float().mean() > 0.999  # the shift rounds the logits
    assert shifted.weight.isfinite().all()


def test_sinkhorn_ends_after_its_last_iteration(routing):
    z = logits_of("random", 64, 8) + torch.linspace(-2, 2, 8)
    chosen = {}
    for iterations in (1, 2, 50):
        router = routing.Router(f"sinkhorn,iterations={iterations},tolerance=0", 8, 2, 8)
        chosen[iterations] = router(z, torch.eye(8).double(), training=True).chosen.tolist()
        assert chosen[iterations] == [largest(row, 2) for row in sinkhorn(z.tolist(), 0, iterations)]
    assert chosen[1] != chosen[50]


# The modules of transformers, on the same weights.


def module(name):
    return pytest.importorskip(f"transformers.models.{name}.modeling_{name}", exc_type=ModuleNotFoundError)


def released(file, name):
    if not hasattr(file, name):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    return getattr(file, name)


def by_expert(ids, weights, E):
    return torch.zeros(len(ids), E).scatter(1, ids, weights)


def ours(routing, name, k, x, gate, **state):
    router = routing.Router(name, len(gate), k, x.shape[1])
    router.state.update(state)
    out = router(x, gate)
    return out.chosen.sort().values, by_expert(out.chosen, out.weight.view(len(x), -1), len(gate))


def same_as(theirs, mine, E):
    ids, weights = theirs
    assert torch.equal(ids.sort().values, mine[0])
    torch.testing.assert_close(by_expert(ids, weights, E), mine[1], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shift", [0.0, -3.0])  # -3: all scores with their biases are negative
@pytest.mark.parametrize("groups, kept", [(1, 1), (4, 2)])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("renormalise", [True, False])
@pytest.mark.parametrize("name, router", [("glm4_moe", "Glm4MoeTopkRouter"), ("deepseek_v3", "DeepseekV3TopkRouter")])
@torch.no_grad()
def test_bias_topk_is_the_router_of(routing, name, router, renormalise, biased, groups, kept, shift):
    if groups > 1 and biased and shift < 0 and VERSION < (5, 8):
        pytest.skip("groups are filled with 0 instead of -infinity before transformers 5.8")
    E, k, scale = 16, 4, 2.5
    x, gate = random_input(200, E, torch.float32)
    values = {
        "hidden_size": H, "n_routed_experts": E, "num_experts_per_tok": k, "n_group": groups, "topk_group": kept,
        "norm_topk_prob": renormalise, "routed_scaling_factor": scale,
    }  # fmt: skip
    file = module(name)
    config = getattr(file, router.replace("TopkRouter", "Config"))(**values)
    gate_of_theirs = released(file, router)(config)
    bias = torch.tensor(bias_of(E)) + shift if biased else torch.zeros(E)
    gate_of_theirs.weight.copy_(gate)
    gate_of_theirs.e_score_correction_bias.copy_(bias)
    *_, a, b = gate_of_theirs(x)
    theirs = (a, b) if a.dtype == torch.int64 else (b, a)
    options = f"renormalise={str(renormalise).lower()},scale={scale}"
    mine = ours(routing, f"bias_topk,{options},groups={groups},kept-groups={kept}", k, x, gate, bias=bias)
    same_as(theirs, mine, E)
    if not biased and groups == 1:
        same_as(theirs, ours(routing, f"sigmoid_topk,{options}", k, x, gate), E)


@pytest.mark.parametrize("biased", [False, True])
@torch.no_grad()
def test_bias_topk_of_a_softmax_is_the_router_of_ernie(routing, biased):
    E, k = 8, 3
    x, gate = random_input(200, E, torch.float32)
    file = module("ernie4_5_moe")
    config = file.Ernie4_5_MoeConfig(hidden_size=H, moe_num_experts=E, moe_k=k)
    router = released(file, "Ernie4_5_MoeTopKRouter")(config)
    bias = torch.tensor(bias_of(E)) if biased else torch.zeros(E)
    router.weight.copy_(gate)
    router.moe_statics.e_score_correction_bias.copy_(bias)
    _, weights, ids = router(x)
    same_as((ids, weights), ours(routing, "bias_topk,score=softmax", k, x, gate, bias=bias), E)


@pytest.mark.parametrize("biased", [False, True])
@torch.no_grad()
def test_bias_topk_of_the_root_of_a_softplus_is_the_router_of_deepseek_v4(routing, biased):
    E, k = 8, 3
    x, gate = random_input(200, E, torch.float32)
    file = module("deepseek_v4")
    values = {"hidden_size": H, "n_routed_experts": E, "num_experts_per_tok": k, "routed_scaling_factor": 1.5}
    router = file.DeepseekV4TopKRouter(file.DeepseekV4Config(**values))
    bias = torch.tensor(bias_of(E)) if biased else torch.zeros(E)
    router.weight.copy_(gate)
    router.e_score_correction_bias.copy_(bias)
    _, weights, ids = router(x)
    same_as((ids, weights), ours(routing, "bias_topk,score=sqrt_softplus,scale=1.5", k, x, gate, bias=bias), E)
    if not biased:
        same_as((ids, weights), ours(routing, "sqrt_softplus_topk,scale=1.5", k, x, gate), E)


@pytest.mark.parametrize("groups, kept", [(1, 1), (4, 2)])
@torch.no_grad()
def test_group_topk_is_the_router_of_deepseek_v2(routing, groups, kept):
    E, k = 16, 4
    x, gate = random_input(200, E, torch.float32)
    file = module("deepseek_v2")
    config = file.DeepseekV2Config(
        hidden_size=H, n_routed_experts=E, num_experts_per_tok=k, n_group=groups, topk_group=kept,
        topk_method="group_limited_greedy", routed_scaling_factor=16.0, num_attention_heads=2,
    )  # fmt: skip
    router = released(file, "DeepseekV2TopkRouter")(config)
    router.weight.copy_(gate)
    _, weights, ids = router(x)
    options = f"renormalise=false,scale=16,groups={groups},kept-groups={kept}"
    same_as((ids, weights), ours(routing, f"group_topk,{options}", k, x, gate), E)


@pytest.mark.parametrize("k", [1, 2])
@torch.no_grad()
def test_sigmoid_topk_without_the_sum_is_the_router_of_llama_4(routing, k):
    E = 8
    x, gate = random_input(200, E, torch.float32)
    file = module("llama4")
    router = file.Llama4Router(file.Llama4TextConfig(hidden_size=H, num_local_experts=E, num_experts_per_tok=k))
    router.weight.copy_(gate)
    scores, _ = router(x)
    _, weights = ours(routing, "sigmoid_topk,renormalise=false", k, x, gate)
    torch.testing.assert_close(weights, scores, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["softmax_topk", "topk_softmax"])
@torch.no_grad()
def test_softmax_topk_is_the_router_of_mixtral(routing, name):
    E, k = 8, 3
    x, gate = random_input(200, E, torch.float32)
    file = module("mixtral")
    config = transformers.MixtralConfig(hidden_size=H, num_local_experts=E, num_experts_per_tok=k)
    router = released(file, "MixtralTopKRouter")(config)
    router.weight.copy_(gate)
    _, weights, ids = router(x)
    same_as((ids, weights), ours(routing, name, k, x, gate), E)


@pytest.mark.parametrize("renormalise", [True, False])
@torch.no_grad()
def test_softmax_topk_is_the_router_of_qwen2_moe(routing, renormalise):
    E, k = 8, 3
    x, gate = random_input(200, E, torch.float32)
    file = module("qwen2_moe")
    config = transformers.Qwen2MoeConfig(
        hidden_size=H, num_experts=E, num_experts_per_tok=k, norm_topk_prob=renormalise
    )
    router = released(file, "Qwen2MoeTopKRouter")(config)
    router.weight.copy_(gate)
    _, weights, ids = router(x)
    same_as((ids, weights), ours(routing, f"softmax_topk,renormalise={str(renormalise).lower()}", k, x, gate), E)
