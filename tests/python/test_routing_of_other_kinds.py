"""Routers that are more than a softmax and its largest, against plain Python written from their papers."""

import math
import os
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import transformers

import tiny

sys.path.insert(0, str(tiny.REPOSITORY / "python"))

LIBRARY = Path(os.environ.get("UPMOE_ENGINE_LIBRARY", tiny.REPOSITORY / "build" / "libupmoe_engine.so"))
pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason="needs the engine's library")

from upmoe.routing import Router  # noqa: E402

SIZES = [(2, 1), (2, 2), (5, 1), (5, 2), (8, 2), (8, 8), (64, 6)]  # experts, k
T = 24


@dataclass
class Plain:
    """What a router decides: of each token the experts in order, with their weights."""

    chosen: list[list[int]]
    weight: list[list[float]]
    score: list[list[float]]
    extra: list[list[float]] | None = None


def softmax(z):
    exp = [math.exp(one - max(z)) for one in z]
    return [one / sum(exp) for one in exp]


def dot(a, b):
    return sum(one * other for one, other in zip(a, b, strict=True))


def times(matrix, x):
    return [dot(row, x) for row in matrix]


def best(score, k):
    return sorted(range(len(score)), key=lambda e: (-score[e], e))[:k]


def plain_topk(logits, k, renormalise=True, scale=1.0):
    out = Plain([], [], [softmax(z) for z in logits])
    for p in out.score:
        experts = best(p, k)
        total = sum(p[e] for e in experts) if renormalise else 1
        out.chosen.append(experts)
        out.weight.append([scale * p[e] / total for e in experts])
    return out


def plain_dense(x, gate, state, k):
    score = [softmax(times(gate, one)) for one in x]
    return Plain([list(range(len(gate)))] * len(x), score, score)


def plain_top_p(x, gate, state, k, threshold=0.4, renormalise=False):
    out = Plain([], [], [softmax(times(gate, one)) for one in x])
    for p in out.score:
        experts, total = [], 0.0
        for e in best(p, len(p)):
            experts.append(e)
            total += p[e]
            if total >= threshold:
                break
        experts.sort()
        out.chosen.append(experts)
        out.weight.append([p[e] / total if renormalise else p[e] for e in experts])
    return out


def plain_relu(x, gate, state, k):
    score = [[max(z, 0.0) for z in times(gate, one)] for one in x]
    chosen = [[e for e, one in enumerate(row) if one > 0] for row in score]
    return Plain(chosen, [[row[e] for e in experts] for row, experts in zip(score, chosen, strict=True)], score)


def plain_expert_choice(x, gate, state, k, factor=None, sequences=None, valid=None):
    score = [softmax(times(gate, one)) for one in x]
    chosen = [[] for _ in x]
    for tokens in sequences or [range(len(x))]:
        real = [t for t in tokens if valid is None or valid[t]]
        capacity = min(math.ceil((factor or k) * len(real) / len(gate) - 1e-9), len(real))
        for e in range(len(gate)):
            for t in sorted(real, key=lambda t: (-score[t][e], t))[:capacity]:
                chosen[t].append(e)
    return Plain(chosen, [[row[e] for e in experts] for row, experts in zip(score, chosen, strict=True)], score)


def plain_zero_experts(x, gate, state, k, zero=1, copy=1, constant=1, renormalise=True, scale=1.0):
    rows = [*gate, *state["gate"]]
    out = plain_topk([times(rows, one) for one in x], k, renormalise, scale)
    out.extra = []
    for t, one in enumerate(x):
        sums = [0.0] * len(one)
        for e, weight in zip(out.chosen[t], out.weight[t], strict=True):
            kind, c = e - len(gate), e - len(gate) - zero - copy
            given = [0.0] * len(one)
            if c >= 0:
                a = softmax(times(state["mix"][c], one))
                given = [a[0] * value + a[1] * learned for value, learned in zip(one, state["vector"][c], strict=True)]
            elif kind >= zero:
                given = one
            sums = [total + weight * value for total, value in zip(sums, given, strict=True)]
        out.extra.append(sums)
    return out


def plain_mlp(x, gate, state, k, renormalise=True):
    logits = []
    for one in x:
        hidden = [u / (1 + math.exp(-u)) for u in times(state["up"], one)]
        logits.append([a + b for a, b in zip(times(gate, one), times(state["down"], hidden), strict=True)])
    return plain_topk(logits, k, renormalise)


def plain_cosine(x, gate, state, k, renormalise=True):
    scale = math.exp(min(state["scale"], math.log(100)))
    logits = []
    for one in x:
        small = times(state["project"], one)
        length = math.sqrt(dot(small, small))
        logits.append([scale * dot(m, small) / length / math.sqrt(dot(m, m)) for m in state["expert"]])
    return plain_topk(logits, k, renormalise)


# Name with options: the plain one, and what these options are to it.
ROUTERS = {
    "dense": (plain_dense, {}),
    "top_p": (plain_top_p, {}),
    "top_p,threshold=0.75,renormalise=true": (plain_top_p, {"threshold": 0.75, "renormalise": True}),
    "top_p,threshold=1": (plain_top_p, {"threshold": 1.0}),
    "relu": (plain_relu, {}),
    "expert_choice": (plain_expert_choice, {}),
    "expert_choice,capacity-factor=1.3": (plain_expert_choice, {"factor": 1.3}),
    "zero_experts": (plain_zero_experts, {}),
    "zero_experts,zero=0,copy=3,constant=0,renormalise=false,scale=2.5": (
        plain_zero_experts, {"zero": 0, "copy": 3, "constant": 0, "renormalise": False, "scale": 2.5}),
    "zero_experts,zero=2,copy=0,constant=2": (plain_zero_experts, {"zero": 2, "copy": 0, "constant": 2}),
    "mlp,width=7": (plain_mlp, {}),
    "mlp,width=3,renormalise=false": (plain_mlp, {"renormalise": False}),
    "cosine": (plain_cosine, {}),
    "cosine,renormalise=false": (plain_cosine, {"renormalise": False}),
}  # fmt: skip


def made(router, experts, k, hidden, dtype):
    """A router whose parameters are no longer where they started; x and gate."""
    torch.manual_seed(experts * 100 + k)
    one = Router(router, experts, k, hidden, vocabulary=50)
    for name, value in one.state.items():
        if value.requires_grad:
            one.state[name] = (value.detach() + 0.4 * torch.randn_like(value)).to(dtype)
    return one, torch.randn(T, hidden, dtype=dtype), torch.randn(experts, hidden, dtype=dtype)


def plain(router, x, gate, state, k, **call):
    function, options = ROUTERS[router]
    numbers = {name: value.double().tolist() for name, value in state.items()}
    return function(x.double().tolist(), gate.double().tolist(), numbers, k, **options, **call)


def assert_same(found, expected, experts, tolerance):
    pairs = [
        (t, e, weight)
        for t, (some, weights) in enumerate(zip(expected.chosen, expected.weight, strict=True))
        for e, weight in zip(some, weights, strict=True)
        if e < experts
    ]
    assert list(zip(found.token.tolist(), found.expert.tolist(), strict=True)) == [(t, e) for t, e, _ in pairs]
    weights = torch.tensor([weight for _, _, weight in pairs], dtype=torch.float64)
    torch.testing.assert_close(found.weight.double(), weights, rtol=tolerance, atol=tolerance)
    score = torch.tensor(expected.score, dtype=torch.float64)
    torch.testing.assert_close(found.score.double(), score, rtol=tolerance, atol=tolerance)
    assert [[e for e in row if e >= 0] for row in found.chosen.tolist()] == expected.chosen
    count = Counter(e for row in expected.chosen for e in row)
    assert found.load.tolist() == [count[e] for e in range(found.score.shape[1])]
    assert (found.extra is None) == (expected.extra is None)
    if expected.extra:
        extra = torch.tensor(expected.extra, dtype=torch.float64)
        torch.testing.assert_close(found.extra.double(), extra, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize(("experts", "k"), SIZES)
@pytest.mark.parametrize("router", ROUTERS)
def test_routes_as_plain_python_does(router, experts, k, dtype, tolerance):
    one, x, gate = made(router, experts, k, 16, dtype)
    gate = gate / 4
    found = one(x, gate)
    assert found.weight.dtype == found.score.dtype == dtype
    assert_same(found, plain(router, x, gate, one.state, k), experts, tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("logits", ["tied", "zero"])
@pytest.mark.parametrize(("experts", "k"), SIZES)
@pytest.mark.parametrize("router", [name for name in ROUTERS if not name.startswith("cosine")])
def test_equal_scores_go_to_the_lower_expert_and_the_earlier_token(router, experts, k, logits, dtype):
    torch.manual_seed(1)
    x = torch.zeros(T, experts, dtype=dtype)
    if logits == "tied":  # rows that recur, so that tokens are equal too
        x = torch.randint(0, 3, (5, experts)).to(dtype)[torch.randint(0, 5, (T,))]
    one = Router(router, experts, k, experts)
    gate = torch.eye(experts, dtype=dtype)
    expected = plain(router, x, gate, one.state, k)
    assert_same(one(x, gate), expected, experts, 1e-12 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize(("experts", "k"), [(2, 1), (5, 2), (5, 5)])
@pytest.mark.parametrize("router", ROUTERS)
def test_gradients_are_those_of_small_steps_of_plain_python(router, experts, k):
    one, x, gate = made(router, experts, k, 4, torch.float64)
    x = x[:4]
    leaves = {"x": x, "gate_EH": gate, **{name: value for name, value in one.state.items() if value.dim() or name == "scale"}}
    state = [name for name in leaves if name in one.state]
    width = one(x, gate).score.shape[1]
    to_weight, to_score, to_extra = torch.randn(4, width).double(), torch.randn(4, width).double(), torch.randn(4, 4).double()

    def plain_loss(values):
        got = plain(router, values["x"], values["gate_EH"], {name: values[name] for name in state}, k)
        out = sum(dot(row, c) for row, c in zip(got.score, to_score.tolist(), strict=True))
        for t, (some, weights) in enumerate(zip(got.chosen, got.weight, strict=True)):
            out += sum(w * to_weight[t, e].item() for e, w in zip(some, weights, strict=True) if e < experts)
        for row, c in zip(got.extra or [], to_extra.tolist(), strict=False):
            out += dot(row, c)
        return out

    for leaf in leaves.values():
        leaf.requires_grad_()
    found = one(x, gate)
    loss = (found.weight * to_weight[found.token, found.expert]).sum() + (found.score * to_score).sum()
    if found.extra is not None:
        loss = loss + (found.extra * to_extra).sum()
    loss.backward()
    step = 1e-6
    for name, leaf in leaves.items():
        grad = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        for i in range(leaf.numel()):

            def moved(by, name=name, i=i):
                values = {other: value.detach().clone() for other, value in leaves.items()}
                values[name].view(-1)[i] += by
                return plain_loss(values)

            slope = (moved(step) - moved(-step)) / (2 * step)
            assert grad.reshape(-1)[i].item() == pytest.approx(slope, abs=1e-7), (name, i)


@pytest.mark.parametrize("experts", [2, 5, 8, 64])
@pytest.mark.parametrize("threshold", [0.1, 0.4, 0.5, 0.999])
def test_top_p_is_the_smallest_set_that_reaches_the_threshold(experts, threshold):
    torch.manual_seed(0)
    found = Router(f"top_p,threshold={threshold}", experts, 1, experts)(3 * torch.randn(200, experts).double(), torch.eye(experts).double())
    for t in range(200):
        weights = found.weight[found.token == t].tolist()
        assert sum(weights) >= threshold - 1e-12
        assert len(weights) == 1 or sum(weights) - min(weights) < threshold


def test_relu_gives_a_token_without_a_positive_logit_no_expert():
    found = Router("relu", 4, 2, 4)(torch.tensor([[-1.0, 0, -2, -3], [1, -1, 2, 0]]), torch.eye(4))
    assert found.token.tolist() == [1, 1]
    assert found.expert.tolist() == [0, 2]
    assert found.weight.tolist() == [1, 2]
    assert found.chosen.tolist() == [[-1] * 4, [0, -1, 2, -1]]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("experts", "k"), SIZES)
def test_relu_has_the_loss_of_the_paper_in_training_alone(experts, k, padded):
    one, x, gate = made("relu", experts, k, 8, torch.float64)
    one.state["lambda"] = torch.tensor(0.3)
    valid = torch.arange(T) % 3 != 0 if padded else None
    assert one(x, gate, valid=valid).loss is None
    x.requires_grad_()
    found = one(x, gate, valid=valid, training=True)
    real = [t for t in range(T) if not padded or t % 3 != 0]

    def paper(x):  # equation: 1/(LT) sum over layers, tokens and experts of f_e R(x_t)_e, f_e = E/(kT) * tokens with e
        weight = [[max(z, 0.0) for z in times(gate.tolist(), x[t])] for t in real]
        out = 0.0
        for e in range(experts):
            f = experts / (k * len(real)) * sum(row[e] > 0 for row in weight)
            out += f * sum(row[e] for row in weight) / len(real)
        return 0.3 * out

    assert found.loss.item() == pytest.approx(paper(x.tolist()), rel=1e-7)  # lambda is float32
    found.loss.backward()
    for t, h in [(0, 0), (1, 3), (4, 7)]:
        moved = [x.tolist(), x.tolist()]
        moved[0][t][h] += 1e-6
        moved[1][t][h] -= 1e-6
        slope = (paper(moved[0]) - paper(moved[1])) / 2e-6
        assert x.grad[t, h].item() == pytest.approx(slope, abs=1e-7)


def test_relu_moves_lambda_by_alpha_until_tokens_have_k_experts_on_average():
    one = Router("relu", 8, 2, 4)
    assert one.state["lambda"].item() == pytest.approx(1e-8)
    expected = 1e-8
    for step, (pairs, factor) in enumerate([(33, 1.2), (32, 1), (31, 1 / 1.2), (0, 1 / 1.2), (128, 1.2), (128, 1.2)]):
        load = torch.zeros(8, dtype=torch.int64)
        load[3] = pairs
        one.after_step(load, tokens=16, step=step, learning_rate=1e-3)
        expected *= factor
        assert one.state["lambda"].item() == pytest.approx(expected, rel=1e-6)
        assert one.state["lambda"].dtype == torch.float32
    for _ in range(2000):  # no experts for long: it can still come back
        one.after_step(torch.zeros(8, dtype=torch.int64), tokens=16, step=0, learning_rate=1e-3)
    assert one.state["lambda"].item() > 0


def test_relu_comes_to_k_experts_a_token_in_training():
    torch.manual_seed(0)
    one, x = Router("relu", 8, 2, 16), torch.randn(256, 16)
    x[:, 0] = 3  # as activations are: not even around 0
    gate, value = torch.nn.Parameter(torch.randn(8, 16) / 4), torch.nn.Parameter(torch.randn(8, 16) / 4)
    target = x @ torch.randn(16, 16) / 4
    optimizer = torch.optim.Adam([gate, value], lr=0.01)
    mean = []
    for step in range(600):
        found = one(x, gate, training=True, step=step)
        out = torch.zeros(256, 16).index_add(0, found.token, found.weight[:, None] * value[found.expert])
        optimizer.zero_grad()
        ((out - target).square().mean() + found.loss).backward()
        optimizer.step()
        one.after_step(found.load, 256, step, 0.01)
        mean.append(found.load.sum().item() / 256)
    assert mean[0] > 3
    assert sum(mean[-200:]) / 200 == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("experts", "k"), SIZES)
def test_expert_choice_takes_its_tokens_out_of_each_sequence_and_none_of_padding(experts, k, dtype):
    one, x, gate = made("expert_choice", experts, k, 16, dtype)
    gate = gate / 4
    x[5:9] = x[20]  # equal tokens
    valid = torch.ones(T, dtype=torch.bool)
    valid[[0, 6, 15, 16]] = False
    runs = [(7, 0, 10), (9, 0, 6), (7, 10, 5), (3, 4, 3)]  # the first sequence goes on later
    sequences = [[*range(10), *range(16, 21)], range(10, 16), range(21, 24)]
    expected = plain("expert_choice", x, gate, {}, k, sequences=sequences, valid=valid.tolist())
    found = one(x, gate, valid=valid, runs=runs)
    assert_same(found, expected, experts, 1e-12 if dtype == torch.float64 else 1e-6)
    assert not set(found.token.tolist()) & {0, 6, 15, 16}
    assert found.load.tolist() == [sum(math.ceil(k * n / experts) for n in (12, 5, 3))] * experts


def test_expert_choice_gives_k_experts_to_a_token_on_average():
    x = torch.randn(64, 8)
    for k in (1, 2, 8):
        assert len(Router("expert_choice", 8, k, 8)(x, torch.eye(8)).token) == 64 * k


V = 101


@pytest.mark.parametrize(("experts", "k"), SIZES)
def test_hash_has_a_balanced_table_of_distinct_experts(experts, k):
    table = Router("hash", experts, k, 4, vocabulary=V).state["table"]
    assert table.shape == (V, k)
    assert table.dtype == torch.int64
    assert all(len(set(row)) == k and 0 <= min(row) and max(row) < experts for row in table.tolist())
    for place in range(k):
        count = Counter(table[:, place].tolist())
        assert {count[e] for e in range(experts)} <= {V // experts, V // experts + 1}


def test_hash_has_a_table_by_seed_and_layer_in_which_pairs_of_experts_are_mixed():
    tables = [Router("hash", 8, 2, 4, vocabulary=4000, seed=s, layer=n).state["table"] for s, n in [(0, 0), (0, 0), (0, 1), (1, 0)]]
    assert torch.equal(tables[0], tables[1])
    assert (tables[0] == tables[2]).float().mean() < 0.2
    assert (tables[0] == tables[3]).float().mean() < 0.2
    together = Counter(map(tuple, tables[0].tolist()))
    assert len(together) == 56
    assert max(together.values()) < 2 * 4000 / 56


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(("experts", "k"), SIZES)
def test_hash_goes_by_token_ids(experts, k, gated, dtype):
    torch.manual_seed(0)
    one = Router(f"hash,gate={str(gated).lower()}", experts, k, 6, vocabulary=V)
    x, gate, token_id = torch.randn(T, 6, dtype=dtype), torch.randn(experts, 6, dtype=dtype), torch.randint(0, V, (T,))
    chosen = [one.state["table"][i].tolist() for i in token_id.tolist()]
    logits = [times(gate.double().tolist(), row) for row in x.double().tolist()]
    if gated:
        weight = [softmax([z[e] for e in some]) for z, some in zip(logits, chosen, strict=True)]
        score = [softmax(z) for z in logits]
    else:
        weight = [[1 / k] * k] * T
        score = [[1 / k if e in some else 0.0 for e in range(experts)] for some in chosen]
    found = one(x, gate, token_id=token_id)
    assert_same(found, Plain(chosen, weight, score), experts, 1e-12 if dtype == torch.float64 else 1e-6)
    assert (found.logits is not None) == gated
    assert found.loss is None


def test_hash_with_a_gate_has_the_gradient_of_small_steps():
    torch.manual_seed(0)
    one, token_id = Router("hash,gate=true", 5, 3, 4, vocabulary=V), torch.randint(0, V, (6,))
    gate, c = torch.randn(5, 4).double(), torch.randn(6, 3).double()
    x = torch.randn(6, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, gate: (one(x, gate, token_id=token_id).weight.view(6, 3) * c).sum(), (x, gate.requires_grad_()))


def test_hash_says_what_is_missing_and_takes_any_id_for_padding():
    with pytest.raises(RuntimeError, match="hash' needs the size of the model's vocabulary"):
        Router("hash", 4, 2, 4)
    one, x, gate = Router("hash", 4, 2, 4, vocabulary=V), torch.randn(3, 4), torch.randn(4, 4)
    with pytest.raises(RuntimeError, match="hash' goes by token ids, and there are none"):
        one(x, gate)
    for wrong in (V, -1):
        ids = torch.tensor([1, wrong, 5])
        with pytest.raises(RuntimeError, match=f"token id {wrong}, and the table of the router 'hash' has {V} ids"):
            one(x, gate, token_id=ids)
        found = one(x, gate, token_id=ids, valid=torch.tensor([True, False, True]))
        assert found.load.sum() == 4


@pytest.mark.parametrize("policy", ["position", "probability"])
def test_zero_experts_share_the_capacity_with_the_others(policy):
    one, x, gate = made("zero_experts", 5, 2, 4, torch.float64)
    capacity = math.ceil(1.0 * 2 * T / 8)
    one.router = f"zero_experts,capacity=1,drop={policy}"
    found = one(x, gate, training=True)
    expected = plain("zero_experts", x, gate, one.state, 2)
    pairs = [(t, e, w) for t in range(T) for e, w in zip(expected.chosen[t], expected.weight[t], strict=True)]
    kept = set()
    for e in range(8):
        mine = [pair for pair in pairs if pair[1] == e]
        if policy == "probability":
            mine.sort(key=lambda pair: (-pair[2], pair[0]))
        kept |= {(t, e) for t, _, _ in mine[:capacity]}
    assert set(zip(found.token.tolist(), found.expert.tolist(), strict=True)) == {(t, e) for t, e in kept if e < 5}
    assert len(kept) < len(pairs)
    for t in range(T):
        if all((t, e) in kept for e in expected.chosen[t]):
            torch.testing.assert_close(found.extra[t], torch.tensor(expected.extra[t]).double())
        elif not any((t, e) in kept and e >= 5 for e in expected.chosen[t]):
            assert found.extra[t].abs().max() == 0


def test_zero_experts_start_near_zero_with_real_experts_before_them():
    one = Router("zero_experts,zero=2,copy=3,constant=4", 8, 2, 64)
    assert {name: tuple(value.shape) for name, value in one.state.items()} == {"gate": (9, 64), "mix": (4, 2, 64), "vector": (4, 64)}
    assert 0 < one.state["gate"].std() < 0.01
    assert one(torch.zeros(5, 64), torch.randn(8, 64)).chosen.tolist() == [[0, 1]] * 5
    assert one(torch.randn(5, 64), torch.zeros(8, 64)).chosen.max() >= 8


@pytest.mark.parametrize("wrong", ["zero=0,copy=0,constant=0", "copy=-1", "scale=0"])
def test_zero_experts_refuse_numbers_that_mean_nothing(wrong):
    with pytest.raises(RuntimeError, match="zero_experts: .*expected"):
        Router(f"zero_experts,{wrong}", 4, 2, 4)


@pytest.mark.parametrize("wrong", ["top_p,threshold=0", "top_p,threshold=1.1", "relu,alpha=0.5", "relu,lambda=0", "mlp,width=-1", "expert_choice,capacity-factor=-1"])  # fmt: skip
def test_options_that_mean_nothing_are_refused(wrong):
    with pytest.raises(RuntimeError, match=f"{wrong.split(',')[0]}: {wrong.split(',')[1].split('=')[0]} is .*, expected"):
        Router(wrong, 4, 2, 4)


def test_mlp_starts_as_the_plain_router_of_the_checkpoint():
    x, gate = torch.randn(T, 32), torch.randn(8, 32)
    for options in ("", ",renormalise=false"):
        found, expected = (Router(name + options, 8, 2, 32)(x, gate) for name in ("mlp", "softmax_topk"))
        for one, other in zip(found[:6], expected[:6], strict=True):
            assert torch.equal(one, other)


def test_cosine_goes_by_directions_alone_and_at_most_100_times_them():
    one, x, gate = Router("cosine", 8, 2, 300), torch.randn(T, 300), torch.zeros(8, 300)
    assert {name: tuple(value.shape) for name, value in one.state.items()} == {"project": (256, 300), "expert": (8, 256), "scale": ()}
    assert one.state["scale"].item() == pytest.approx(math.log(1 / 0.5))
    torch.testing.assert_close(one(7 * x, gate).logits, one(x, gate).logits)
    plain = one(x, gate).logits / 2
    one.state["scale"] = torch.tensor(50.0)
    torch.testing.assert_close(one(x, gate).logits, 100 * plain, rtol=1e-4, atol=1e-4)


def module_of(model, name):
    """A class of transformers; where this release has none, the test is skipped."""
    module = pytest.importorskip(f"transformers.models.{model}.modeling_{model}", reason=f"transformers {transformers.__version__}")
    if not hasattr(module, name):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    return module, getattr(module, name)


def test_dense_is_mixtral_with_all_experts():
    _, router_class = module_of("mixtral", "MixtralTopKRouter")
    mixtral = router_class(transformers.MixtralConfig(hidden_size=16, num_local_experts=8, num_experts_per_tok=8))
    x, gate = torch.randn(T, 16), torch.randn(8, 16)
    mixtral.weight.data = gate
    _, weights, experts = mixtral(x)
    found = Router("dense", 8, 2, 16)(x, gate)
    table = torch.zeros(T, 8).scatter(1, experts, weights)
    torch.testing.assert_close(found.weight.view(T, 8), table, rtol=1e-6, atol=1e-7)


def test_zero_experts_that_copy_are_those_of_longcat_flash():
    _, moe_class = module_of("longcat_flash", "LongcatFlashMoE")
    torch.manual_seed(0)
    config = transformers.LongcatFlashConfig(
        hidden_size=16, expert_ffn_hidden_size=12, n_routed_experts=5, zero_expert_num=3, moe_topk=4,
        routed_scaling_factor=1.7,
    )  # fmt: skip
    moe = moe_class(config).eval()
    for value in moe.parameters():
        torch.nn.init.normal_(value, std=0.3)
    x, rows = torch.randn(1, T, 16), moe.router.classifier.weight.detach()
    one = Router("zero_experts,zero=0,copy=3,constant=0,renormalise=false,scale=1.7", 5, 4, 16)
    one.state["gate"] = rows[5:]
    found = one(x[0], rows[:5])
    assert found.load[5:].sum() > 0
    experts, out = moe.experts, found.extra.clone()
    with torch.no_grad():
        for t, e, weight in zip(found.token.tolist(), found.expert.tolist(), found.weight, strict=True):
            if hasattr(experts, "gate_up_proj"):
                gate, up = (experts.gate_up_proj[e] @ x[0, t]).chunk(2)
                given = experts.down_proj[e] @ (torch.nn.functional.silu(gate) * up)
            else:
                given = experts[e](x[0, t])
            out[t] += weight * given
        expected = moe(x)
    torch.testing.assert_close(out, expected[0], rtol=1e-5, atol=1e-5)


def test_hash_with_a_gate_is_that_of_deepseek_v4_with_a_softmax():
    _, router_class = module_of("deepseek_v4", "DeepseekV4HashRouter")
    config = transformers.DeepseekV4Config(hidden_size=16, n_routed_experts=8, num_experts_per_tok=3, vocab_size=V, routed_scaling_factor=1.0)  # fmt: skip
    theirs = router_class(config)
    theirs.score_fn = torch.nn.Softmax(dim=-1)
    one = Router("hash,gate=true", 8, 3, 16, vocabulary=V)
    x, gate, token_id = torch.randn(T, 16), torch.randn(8, 16), torch.randint(0, V, (T,))
    theirs.weight.data, theirs.tid2eid = gate, one.state["table"]
    logits, weights, experts = theirs(x, token_id)
    found = one(x, gate, token_id=token_id)
    assert torch.equal(found.chosen, experts)
    torch.testing.assert_close(found.weight.view(T, 3), weights, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found.logits, logits)
