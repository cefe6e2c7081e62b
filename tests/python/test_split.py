"""LLaMA-MoE's partition: each expert is its part of the dense FFN's neurons, and all of them together are all of it."""

import pytest
import torch

import checkpoint
import tiny

LAYERS, D = range(2), tiny.WIDE.config()["intermediate_size"]
both_orders = pytest.mark.parametrize("order", ["sequential", "random"])


@pytest.fixture
def split(tiny_folder, convert):
    """split(OPTION...): the dense tensors and the converted ones."""

    def tensors(*options, variant: tiny.Variant = tiny.WIDE):
        source = tiny_folder(variant)
        return checkpoint.tensors(source), checkpoint.tensors(convert(source, "--method", "split", *options))

    return tensors


def rows_of(weight_FH: torch.Tensor) -> list[bytes]:
    return [bytes(row) for row in checkpoint.as_bytes(weight_FH).numpy()]


def neurons(dense: dict, moe: dict, layer: int, expert: int) -> list[int]:
    """Which neurons of the dense FFN the expert's are, by their gates."""
    place = {row: i for i, row in enumerate(rows_of(checkpoint.dense_FH(dense, layer, "gate")))}
    return [place[row] for row in rows_of(checkpoint.expert_FH(moe, layer, expert, "gate"))]


# All E experts see every token with a weight of 1/E (equal logits), so E times their mean is the dense FFN. 1e-5: what
# copy is allowed, for sums in another order.
@both_orders
@pytest.mark.parametrize("experts", [1, 2, 3, 8])
@pytest.mark.parametrize("variant", [tiny.VARIANTS[0], tiny.WIDE], ids=str)
def test_all_experts_together_are_the_dense_model(tiny_folder, convert, variant, experts, order):
    if variant.config()["intermediate_size"] % experts:
        pytest.skip(f"{experts} experts can't share the neurons of {variant}")
    source, ids_BT = tiny_folder(variant), checkpoint.some_ids_BT()
    out = convert(source, "--method", "split", "--order", order, "--rescale", experts, "--experts", experts,
                  "--top-k", experts, "--router-init", "zero", "--allow", "router-init")
    expected_BTV = checkpoint.logits_BTV(checkpoint.load_dense(source, variant), ids_BT)
    assert checkpoint.relative_error(checkpoint.logits_BTV(checkpoint.load(out), ids_BT), expected_BTV) <= 1e-5


@both_orders
def test_every_neuron_goes_to_one_expert_whole(split, order):
    dense, moe = split("--order", order, "--experts", 8, "--rescale", 1)
    for layer in LAYERS:
        dealt = [neurons(dense, moe, layer, expert) for expert in range(8)]
        assert sorted(sum(dealt, [])) == list(range(D))
        assert (sum(dealt, []) == list(range(D))) == (order == "sequential")
        for expert, mine in enumerate(dealt):
            assert len(mine) == D // 8 and mine == sorted(mine)
            for matrix in checkpoint.MATRICES:
                picked = checkpoint.dense_FH(dense, layer, matrix)[mine]
                assert checkpoint.same_bytes(checkpoint.expert_FH(moe, layer, expert, matrix), picked)


def test_layers_and_seeds_are_dealt_out_by_themselves(split):
    dense, moe = split("--seed", 1)
    _, other = split("--seed", 2)
    assert neurons(dense, moe, 0, 0) != neurons(dense, moe, 1, 0)
    assert neurons(dense, moe, 0, 0) != neurons(dense, other, 0, 0)


# E/K, as published; or what is asked for. In float, rounded once: what torch does in float32.
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("options,factor", [((), 4.0), (("--top-k", 4), 2.0), (("--rescale", 0.3), 0.3)], ids=str)
def test_only_down_is_rescaled(split, dtype, options, factor):
    variant = tiny.Variant(f"wide_{dtype}", tiny.WIDE.changes, dtype=dtype)
    dense, moe = split("--experts", 8, *options, variant=variant)
    for layer in LAYERS:
        mine = neurons(dense, moe, layer, 3)
        for matrix in checkpoint.MATRICES:
            expected_FH = checkpoint.dense_FH(dense, layer, matrix)[mine]
            if matrix == "down":
                expected_FH = (expected_FH.float() * torch.tensor(factor)).to(dtype)
            assert checkpoint.same_bytes(checkpoint.expert_FH(moe, layer, 3, matrix), expected_FH), matrix


def test_everything_but_the_experts_is_the_dense_model(split):
    dense, moe = split()
    for name, weight in dense.items():
        if ".mlp." not in name:
            assert checkpoint.same_bytes(moe[name], weight), name


def test_experts_that_cannot_share_the_neurons_equally_are_refused(tiny_folder, upmoe, tmp_path):
    result = upmoe("convert", tiny_folder(tiny.WIDE), tmp_path / "out", "--method", "split", "--experts", 7)
    assert result.returncode != 0
    assert "7 experts can't share 512 neurons equally" in result.stderr
    assert not (tmp_path / "out").exists()


def test_it_says_what_a_token_does_not_see(tiny_folder, upmoe, tmp_path):
    result = upmoe("convert", tiny_folder(tiny.WIDE), tmp_path / "out", "--method", "split", "--dry-run")
    assert "a token sees only K of the E parts" in result.stdout


def test_it_loads_and_generates(tiny_folder, convert):
    model = checkpoint.load(convert(tiny_folder(tiny.WIDE), "--method", "split"))
    tokens = model.generate(checkpoint.some_ids_BT()[:1], max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert tokens.shape[1] == tiny.NUM_TOKENS + 4
    assert torch.isfinite(checkpoint.logits_BTV(model, checkpoint.some_ids_BT())).all()
