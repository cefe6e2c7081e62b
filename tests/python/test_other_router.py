"""`--router`: a Mixture of Experts run with another router than it was made for."""

import json

import pytest

import tiny


@pytest.fixture
def folder(tiny_folder, convert):
    return convert(tiny_folder(tiny.VARIANTS[0]), "--experts", 4)


@pytest.fixture(scope="module")
def ids(tmp_path_factory):
    import numpy as np

    path = tmp_path_factory.mktemp("ids") / "ids.bin"
    np.random.default_rng(1).integers(0, 300, 400).astype(np.uint16).tofile(path)
    return path


def evaluated(upmoe, folder, ids, *options):
    result = upmoe("eval", folder, "--data", ids, "--context", "64", "--json", "--compute", "fp32", *options)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def listed(upmoe):
    return json.loads(upmoe("routers", "--json").stdout)


def test_every_router_runs_a_model_by_its_name_alone(upmoe, folder, ids):
    for router in listed(upmoe):
        report = evaluated(upmoe, folder, ids, "--router", router["name"])
        assert report["router"] == {"name": router["name"], "options": {}, "causal": router["evaluation"]["causal"]}
        assert report["nll"] > 0


def test_the_checkpoints_own_router_gives_the_same_numbers_by_its_name(upmoe, folder, ids):
    own, named = evaluated(upmoe, folder, ids), evaluated(upmoe, folder, ids, "--router", "softmax_topk")
    assert own["router"]["name"] == "softmax_topk" and own["nll"] == named["nll"]
    other = evaluated(upmoe, folder, ids, "--router", "softmax_topk,renormalise=false")
    assert other["router"]["options"] == {"renormalise": "false"} and other["nll"] != own["nll"]


def test_a_router_that_looks_ahead_is_said_to_and_not_generated_with(upmoe, folder, ids):
    for router in listed(upmoe):
        shown = upmoe("eval", folder, "--data", ids, "--context", "64", "--router", router["name"]).stdout
        assert ("not causal" in shown) == (not router["evaluation"]["causal"]), router["name"]
        generate = ("generate", folder, "--tokens", "1 2 3", "--max-tokens", "4", "--router", router["name"])
        plain, allowed = upmoe(*generate), upmoe(*generate, "--allow", "noncausal")
        assert (plain.returncode, allowed.returncode) == (0 if router["token_independent"] else 2, 0), router["name"]
        if not router["token_independent"]:
            assert "--allow noncausal" in plain.stderr and plain.stderr.count("\n") == 1


def test_of_a_router_without_logits_nothing_is_said_that_goes_by_logits(upmoe, folder, ids):
    by_logits = ("router_entropy", "mean_entropy", "logit_std")
    for router, known in [("hash", False), ("hash,gate=true", True)]:
        (text,) = evaluated(upmoe, folder, ids, "--router", router)["texts"]
        assert all((layer[name] is not None) == known for layer in text["layers"] for name in by_logits)
        shown = upmoe("eval", folder, "--data", ids, "--context", "64", "--router", router).stdout.splitlines()
        line = shown[next(i for i, line in enumerate(shown) if line.startswith("(mean of layers)")) + 1].split()
        assert (line[2] == "-", line[-1] == "-") == (not known, not known)


@pytest.mark.parametrize(
    "router, says",
    [
        ("swich", "did you mean 'switch'?"),
        ("switch,jitter=2", "jitter is 2"),
        ("switch,jitter", "'jitter' is not KEY=VALUE"),
        ("switch,jiter=0.1", "did you mean 'jitter'?"),
        ("switch,jitter=0.1,jitter=0.2", "given twice"),
        (",", "the name is missing"),
    ],
)
def test_a_wrong_router_is_told_in_one_sentence(upmoe, folder, ids, router, says):
    result = upmoe("eval", folder, "--data", ids, "--router", router)
    assert result.returncode == 2 and says in result.stderr and result.stderr.count("\n") == 1


def test_a_dense_model_has_no_router_to_replace(upmoe, tiny_folder, ids):
    result = upmoe("eval", tiny_folder(tiny.VARIANTS[0]), "--data", ids, "--router", "switch")
    assert result.returncode == 2 and "dense model" in result.stderr
