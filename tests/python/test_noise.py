"""`noise` adds normal noise to floor(r*d) neurons of each matrix, chosen for each on its own."""

import itertools
import math

import pytest

import checkpoint
import tiny

LAYERS, EXPERTS, D = range(2), range(8), tiny.WIDE.config()["intermediate_size"]


@pytest.fixture
def noise(tiny_folder, convert):
    """noise(OPTION...): {(layer, expert, matrix): (dense, converted)}, one row per neuron."""

    def matrices(*options):
        source = tiny_folder(tiny.WIDE)
        dense, moe = checkpoint.tensors(source), checkpoint.tensors(convert(source, "--method", "noise", *options))
        places = itertools.product(LAYERS, EXPERTS, checkpoint.MATRICES)
        return {p: (checkpoint.dense_FH(dense, p[0], p[2]), checkpoint.expert_FH(moe, *p)) for p in places}

    return matrices


@pytest.mark.parametrize("ratio", [0.001, 0.3, 0.5, 1])
def test_a_share_of_the_neurons_is_disturbed(noise, ratio):
    for place, (dense_FH, expert_FH) in noise("--ratio", ratio).items():
        assert (~checkpoint.kept_F(expert_FH, dense_FH)).sum() == math.floor(ratio * D), place


def test_each_matrix_has_neurons_of_its_own(noise):
    kept = {place: checkpoint.kept_F(expert, dense) for place, (dense, expert) in noise("--ratio", 0.5).items()}
    for a, b in itertools.combinations(kept.values(), 2):
        # Independent sets overlap in r^2 = 1/4 of the neurons; 5 deviations of 1/(4 sqrt(d)).
        assert (~a & ~b).double().mean().item() == pytest.approx(0.25, abs=5 * 0.25 / D**0.5)


@pytest.mark.parametrize("scale", ["absolute", "relative"])
def test_the_noise_has_the_deviation_that_was_asked_for(noise, scale):
    for place, (dense_FH, expert_FH) in noise("--ratio", 0.5, "--sigma", 0.03, "--scale", scale).items():
        disturbed_F = ~checkpoint.kept_F(expert_FH, dense_FH)
        added = (expert_FH.double() - dense_FH.double())[disturbed_F]
        sigma = 0.03 * (dense_FH.double().std().item() if scale == "relative" else 1)
        # Standard errors of the mean and of the deviation of n normals; 5 of them.
        assert added.mean().item() == pytest.approx(0, abs=5 * sigma / added.numel() ** 0.5), place
        assert added.std().item() == pytest.approx(sigma, abs=5 * sigma / (2 * added.numel()) ** 0.5), place


@pytest.mark.parametrize("options", [("--ratio", 0), ("--sigma", 0)], ids=str)
def test_without_noise_it_is_copy(noise, options):
    for place, (dense_FH, expert_FH) in noise(*options).items():
        assert checkpoint.same_bytes(expert_FH, dense_FH), place
