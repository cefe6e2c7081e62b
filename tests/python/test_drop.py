"""Drop-Upcycling keeps d - floor(r*d) neurons of each expert as they are and re-draws the others."""

import itertools
import math

import pytest
import torch

import checkpoint
import tiny

LAYERS, EXPERTS, D = range(2), range(8), tiny.WIDE.config()["intermediate_size"]
MATRICES = list(checkpoint.MATRICES)
every_ratio = pytest.mark.parametrize("ratio", [0.001, 0.25, 0.3, 0.5, 0.999])
both_indices = pytest.mark.parametrize("indices", ["shared", "per-matrix"])


@pytest.fixture
def drop(tiny_folder, convert):
    """drop(RATIO, INDICES): the dense tensors and the converted ones."""

    def tensors(ratio: float, indices: str = "shared", variant: tiny.Variant = tiny.WIDE, *options):
        source = tiny_folder(variant)
        out = convert(source, "--method", "drop", "--ratio", ratio, "--indices", indices, *options)
        return checkpoint.tensors(source), checkpoint.tensors(out)

    return tensors


def kept(dense: dict, moe: dict) -> dict[tuple[int, int, str], torch.Tensor]:
    """Which neurons are the source's, for each layer, expert and matrix."""
    return {
        (layer, expert, matrix): checkpoint.kept_F(
            checkpoint.expert_FH(moe, layer, expert, matrix), checkpoint.dense_FH(dense, layer, matrix)
        )
        for layer, expert, matrix in itertools.product(LAYERS, EXPERTS, MATRICES)
    }


@every_ratio
@both_indices
def test_exactly_the_neurons_that_are_not_dropped_are_kept(drop, ratio, indices):
    for place, kept_F in kept(*drop(ratio, indices)).items():
        assert kept_F.sum() == D - math.floor(ratio * D), place


@every_ratio
def test_shared_drops_the_same_neurons_of_all_three_matrices(drop, ratio):
    masks = kept(*drop(ratio))
    for layer, expert in itertools.product(LAYERS, EXPERTS):
        gate, up, down = (masks[layer, expert, matrix].tolist() for matrix in MATRICES)
        assert gate == up == down, (layer, expert)


# Overlap of two independent sets: hypergeometric, mean r^2 and deviation r(1-r)/sqrt(d) of all neurons; 5 of them.
def assert_independent(a_F: torch.Tensor, b_F: torch.Tensor, ratio: float, places) -> None:
    overlap = (~a_F & ~b_F).double().mean().item()
    assert overlap == pytest.approx(ratio**2, abs=5 * ratio * (1 - ratio) / D**0.5), places


def test_per_matrix_drops_independent_neurons_of_the_three_matrices(drop):
    masks = kept(*drop(0.5, "per-matrix"))
    for layer, expert in itertools.product(LAYERS, EXPERTS):
        for a, b in itertools.combinations(MATRICES, 2):
            assert_independent(masks[layer, expert, a], masks[layer, expert, b], 0.5, (layer, expert, a, b))


@both_indices
@pytest.mark.parametrize("ratio", [0.25, 0.5])
def test_experts_and_layers_drop_independent_neurons(drop, ratio, indices):
    masks = kept(*drop(ratio, indices))
    for matrix in MATRICES:
        for a, b in itertools.combinations(itertools.product(LAYERS, EXPERTS), 2):
            assert_independent(masks[*a, matrix], masks[*b, matrix], ratio, (a, b, matrix))


@both_indices
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_drawn_has_the_mean_and_deviation_of_what_it_replaces(drop, indices, dtype):
    variant = tiny.Variant(f"wide_{dtype}", tiny.WIDE.changes, dtype=dtype)
    dense, moe = drop(0.5, indices, variant)
    for (layer, expert, matrix), kept_F in kept(dense, moe).items():
        replaced = checkpoint.dense_FH(dense, layer, matrix)[~kept_F].double()
        drawn = checkpoint.expert_FH(moe, layer, expert, matrix)[~kept_F].double()
        # Standard errors of the mean and of the deviation of n normals; 5 of them.
        sigma, n = replaced.std().item(), replaced.numel()
        assert drawn.mean().item() == pytest.approx(replaced.mean().item(), abs=5 * sigma / n**0.5)
        assert drawn.std().item() == pytest.approx(sigma, abs=5 * sigma / (2 * n) ** 0.5)


def test_no_two_drawn_blocks_are_alike(drop):
    dense, moe = drop(0.5)
    masks = kept(dense, moe)
    firsts = [
        checkpoint.expert_FH(moe, *place)[~kept_F].flatten()[:4].tolist() for place, kept_F in masks.items()
    ]
    assert len({tuple(first) for first in firsts}) == len(firsts)


@both_indices
def test_ratio_0_is_copy(tiny_folder, convert, drop, indices):
    _, moe = drop(0, indices)
    copied = checkpoint.tensors(convert(tiny_folder(tiny.WIDE), "--method", "copy"))
    assert moe.keys() == copied.keys()
    for name, weight in copied.items():
        assert checkpoint.same_bytes(moe[name], weight), name


@both_indices
def test_ratio_1_keeps_nothing(drop, indices):
    for place, kept_F in kept(*drop(1, indices)).items():
        assert not kept_F.any(), place


def test_another_seed_drops_other_neurons(drop):
    a, b = (kept(*drop(0.5, "shared", tiny.WIDE, "--seed", seed)) for seed in (1, 2))
    for place in a:
        assert_independent(a[place], b[place], 0.5, place)


def test_everything_but_the_experts_is_the_dense_model(drop):
    dense, moe = drop(0.5)
    for name, weight in dense.items():
        if ".mlp." not in name:
            assert checkpoint.same_bytes(moe[name], weight), name


def test_it_loads_and_generates(tiny_folder, convert):
    model = checkpoint.load(convert(tiny_folder(tiny.WIDE), "--method", "drop"))
    tokens = model.generate(checkpoint.some_ids_BT()[:1], max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert tokens.shape[1] == tiny.NUM_TOKENS + 4
    assert torch.isfinite(checkpoint.logits_BTV(model, checkpoint.some_ids_BT())).all()
