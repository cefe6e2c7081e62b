"""`upmoe verify`: the receipt's figures are transformers', and a checkpoint that was touched is told by the exit code."""

import fcntl
import json
import math
import os
import pty
import re
import shutil
import struct
import subprocess
import termios

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers

import conftest
import tiny

NUM_WINDOW = 32
NUM_EXPERTS = 4
# Of float32 sums in another order, over two layers.
FLOAT32 = 1e-4
METHODS = ["copy", "drop", "noise", "scratch", "split"]


@pytest.fixture
def verify(upmoe):
    """verify(MOE, DENSE, OPTION...): the receipt as JSON, whose `holds` is also the exit code."""

    def receipt(moe, dense, *options) -> dict:
        result = upmoe("verify", moe, "--against", dense, *options, "--json")
        found = json.loads(result.stdout)
        assert result.returncode == (0 if found["holds"] else 1), result.stderr
        assert found["holds"] == all(promise["holds"] for promise in found["promises"])
        return found

    return receipt


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "text.bin"
    ids = torch.randint(3, 320, (3 * NUM_WINDOW + 7,), generator=torch.Generator().manual_seed(2))
    np.asarray(ids, dtype=np.uint16).tofile(path)
    return path


def broken(receipt: dict) -> set[str]:
    return {promise["name"] for promise in receipt["promises"] if not promise["holds"]}


def change_tensor(folder, name: str, change) -> None:
    path = folder / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    weights[name] = change(weights[name]).contiguous()
    safetensors.torch.save_file(weights, path, metadata={"format": "pt"})


class Seen:
    """What transformers computes for the same windows."""

    def __init__(self, dense, moe, token_file):
        ids = torch.from_numpy(np.fromfile(token_file, np.uint16).astype(np.int64))
        self.windows = ids.split(NUM_WINDOW)
        self.dense, self.dense_ffn = self.run(dense, "mlp")
        kind = "mlp" if transformers.__version__.startswith("5") else "block_sparse_moe"
        self.moe, self.moe_ffn = self.run(moe, kind)

    def run(self, folder, ffn: str):
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        inputs = [[] for _ in model.model.layers]
        for l, layer in enumerate(model.model.layers):
            getattr(layer, ffn).register_forward_pre_hook(lambda _, args, l=l: inputs[l].append(args[0].flatten(0, 1)))
        with torch.inference_mode():
            logits = torch.cat([model(window[None]).logits[0].double() for window in self.windows])
            x = [torch.cat(seen) for seen in inputs]
        return logits, (x, lambda l, x: getattr(model.model.layers[l], ffn)(x[None]))

    def nll(self, logits) -> float:
        rows = logits.split([len(w) for w in self.windows])
        losses = [torch.nn.functional.cross_entropy(r[:-1], w[1:], reduction="none") for r, w in zip(rows, self.windows)]
        return torch.cat(losses).mean().item()


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).double().norm().item() / b.double().norm().item()


@pytest.mark.parametrize("method", METHODS)
def test_figures_are_those_of_transformers(method, verify, tiny_folder, convert, token_file):
    dense = tiny_folder(tiny.VARIANTS[0])
    moe = convert(dense, "--method", method, "--experts", NUM_EXPERTS)
    found = verify(moe, dense, "--data", token_file, "--context", NUM_WINDOW)
    assert found["holds"] and found["method"] == method
    seen, got = Seen(dense, moe, token_file), found["comparison"]
    difference = (seen.moe - seen.dense).abs()
    log_dense, log_moe = seen.dense.log_softmax(-1), seen.moe.log_softmax(-1)
    kl = (log_dense.exp() * (log_dense - log_moe)).sum(-1)
    exact = method == "copy"  # then all differences are rounding
    close = {"rel": FLOAT32, "abs": 1e-5 if exact else 0}
    assert got["tokens"] == len(seen.dense)
    assert got["max_logit_difference"] == pytest.approx(difference.max().item(), **close)
    assert got["mean_logit_difference"] == pytest.approx(difference.mean().item(), **close)
    assert got["kl_mean"] == pytest.approx(kl.mean().item(), **close)
    assert got["kl_max"] == pytest.approx(kl.max().item(), **close)
    assert got["top1_agreement"] == pytest.approx((seen.dense.argmax(-1) == seen.moe.argmax(-1)).double().mean().item())
    for name, logits in (("dense", seen.dense), ("moe", seen.moe)):
        assert got[name]["nll"] == pytest.approx(seen.nll(logits), rel=FLOAT32)
        assert got[name]["ppl"] == pytest.approx(math.exp(got[name]["nll"]))
    (dense_x, dense_ffn), (moe_x, moe_ffn) = seen.dense_ffn, seen.moe_ffn
    for l, layer in enumerate(got["layers"]):
        with torch.inference_mode():
            y = moe_ffn(l, dense_x[l])
            y = y[0] if isinstance(y, tuple) else y
            assert layer["ffn_error"] == pytest.approx(relative(y, dense_ffn(l, dense_x[l])), **close)
        assert layer["drift"] == pytest.approx(relative(moe_x[l], dense_x[l]), **{**close, "abs": 1e-6})
        assert sum(layer["load"]) == 2 * got["tokens"]
        if exact:
            assert layer["expert_cosine"] == pytest.approx(1)
    if exact:
        assert got["relative_logit_difference"] <= 1e-5 and got["top1_agreement"] == 1


def test_what_cannot_be_compared_is_left_open_and_the_rest_is_told(verify, upmoe, tiny_folder, convert, token_file, tmp_path):
    dense = tiny_folder(tiny.VARIANTS[0])
    moe = convert(dense, "--method", "copy")
    silent = shutil.copytree(dense, tmp_path / "silent")  # the first FFN gives zeros
    weights = safetensors.torch.load_file(silent / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"].zero_()
    safetensors.torch.save_file(weights, silent / "model.safetensors", metadata={"format": "pt"})
    layers = verify(moe, silent, "--data", token_file, "--context", NUM_WINDOW)["comparison"]["layers"]
    assert layers[0]["ffn_error"] is None and layers[1]["ffn_error"] < FLOAT32
    both = verify(convert(silent, "--method", "copy"), silent, "--data", token_file, "--context", NUM_WINDOW)["comparison"]["layers"]
    assert both[0]["ffn_error"] == 0
    table = upmoe("verify", moe, "--against", silent, "--data", token_file, "--context", NUM_WINDOW).stdout
    assert re.search(r"\n0 +- ", table), table


def test_likeness_of_experts(verify, tiny_folder, convert, token_file):
    dense = tiny_folder(tiny.VARIANTS[0])
    moe = convert(dense, "--method", "drop", "--experts", NUM_EXPERTS)
    # One window of fewer tokens than are sampled, so that all of them are.
    layers = verify(moe, dense, "--data", token_file, "--max-tokens", 20)["comparison"]["layers"]
    ids = torch.from_numpy(np.fromfile(token_file, np.uint16).astype(np.int64))[:20]
    model = transformers.AutoModelForCausalLM.from_pretrained(dense, dtype=torch.float32).eval()
    weights = safetensors.torch.load_file(moe / "model.safetensors")
    for l, layer in enumerate(layers):
        inputs = []
        hook = model.model.layers[l].mlp.register_forward_pre_hook(lambda _, args: inputs.append(args[0][0]))
        with torch.inference_mode():
            model(ids[None])
        hook.remove()
        outputs = []
        for e in range(NUM_EXPERTS):
            w1, w2, w3 = (weights[f"model.layers.{l}.block_sparse_moe.experts.{e}.w{i}.weight"].float() for i in (1, 2, 3))
            outputs.append((torch.nn.functional.silu(inputs[0] @ w1.T) * (inputs[0] @ w3.T)) @ w2.T)
        pairs = [
            torch.cosine_similarity(a, b, dim=-1).mean() for i, a in enumerate(outputs) for b in outputs[:i]
        ]
        assert layer["expert_cosine"] == pytest.approx(torch.stack(pairs).mean().item(), abs=1e-5)


def test_what_copy_and_drop_keep(verify, tiny_folder, convert):
    dense = tiny_folder(tiny.WIDE)
    for method, share in (("copy", 1), ("drop", 0.5)):
        found = verify(convert(dense, "--method", method, "--experts", NUM_EXPERTS), dense)
        assert found["holds"] and "comparison" not in found
        for layer in found["kept"]:
            for expert in layer:
                assert {expert[key] for key in ("gate", "up", "down", "all_three")} == {share * found["dense_size"]}
        assert found["others"]["identical"] == found["others"]["tensors"]


def test_the_table_and_the_tied_head(upmoe, tiny_folder, convert, token_file):
    dense = tiny_folder(next(variant for variant in tiny.VARIANTS if variant.name == "tied"))
    moe = convert(dense, "--experts", NUM_EXPERTS)
    result = upmoe("verify", moe, "--against", dense, "--data", token_file)
    assert result.returncode == 0, result.stderr
    for part in ("experts 0–3", "50.00 %", "which was tied", "perplexity", "KL(dense || this)", "holds", "top-2"):
        assert part in result.stdout
    assert "BROKEN" not in result.stdout and "all 4" not in result.stdout
    assert re.search(r"\nPASS: (\d+) of \1 promises hold\n$", result.stdout)


@pytest.mark.parametrize("name, promise", [
    ("model.layers.1.block_sparse_moe.experts.2.w2.weight", "neurons"),
    ("model.layers.0.input_layernorm.weight", "others"),
    ("model.layers.0.block_sparse_moe.gate.weight", "output"),
])
def test_a_tensor_that_was_trained_further(name, promise, verify, tiny_folder, convert):
    dense = tiny_folder(tiny.VARIANTS[0])
    moe = convert(dense, "--method", "copy", "--experts", NUM_EXPERTS)
    change_tensor(moe, name, lambda weight: weight * 1.001)
    assert broken(verify(moe, dense)) == {"output", promise}


def test_the_last_line_counts_what_is_broken_and_lines_that_are_alike_are_one(upmoe, tiny_folder, convert):
    dense = tiny_folder(tiny.VARIANTS[0])
    moe = convert(dense, "--method", "copy", "--experts", NUM_EXPERTS)
    change_tensor(moe, "model.layers.1.block_sparse_moe.experts.2.w2.weight", lambda weight: weight * 1.001)
    shown = upmoe("verify", moe, "--against", dense).stdout
    names = [line.split("  ")[0] for line in shown.splitlines() if line.startswith(("expert", "all"))]
    assert names == ["experts 0–1", "expert 2", "expert 3", "all 4"]
    assert re.search(r"\nFAIL: 2 of \d promises do not hold\n$", shown)
    (moe / "upmoe.json").unlink()
    assert upmoe("verify", moe, "--against", dense).stdout.endswith("no upmoe.json: nothing was promised\n")


def on_a_terminal(*arguments, **variables) -> str:
    """What is shown on both streams."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    env = {**os.environ, "TERM": "xterm", **variables}
    process = subprocess.Popen(list(map(str, [conftest.PROGRAM, *arguments])), stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    shown = b""
    try:
        while some := os.read(ours, 4096):
            shown += some
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    process.wait()
    return shown.decode()


def test_verdicts_are_coloured_on_a_terminal_that_has_colours(tiny_folder, convert):
    dense = tiny_folder(tiny.VARIANTS[0])
    moe = convert(dense, "--method", "copy", "--experts", NUM_EXPERTS)
    assert "\x1b[32mPASS\x1b[0m: " in on_a_terminal("verify", moe, "--against", dense)
    for variable in ({"NO_COLOR": "1"}, {"TERM": "dumb"}, {"TERM": ""}):
        assert "\x1b" not in on_a_terminal("verify", moe, "--against", dense, **variable)
    change_tensor(moe, "model.norm.weight", lambda weight: weight * 2)
    assert "\x1b[31mFAIL\x1b[0m: " in on_a_terminal("verify", moe, "--against", dense)


def test_a_progress_bar_fits_its_terminal_and_a_dumb_one_has_none(tiny_folder, tmp_path):
    np.asarray(np.arange(200_000) % 300, dtype=np.uint16).tofile(tmp_path / "text.bin")
    arguments = ("eval", tiny_folder(tiny.VARIANTS[0]), "--data", tmp_path / "text.bin")
    drawn = on_a_terminal(*arguments).split("\r\x1b[K")[1:]
    assert len(drawn) > 1 and all(len(line) < 40 for line in drawn[:-1])
    assert "\x1b" not in on_a_terminal(*arguments, TERM="dumb")


def test_a_function_that_is_not_preserved_in_spite_of_the_record(verify, tiny_folder, convert, token_file):
    dense = tiny_folder(tiny.VARIANTS[0])
    moe = convert(dense, "--method", "copy", "--experts", NUM_EXPERTS)
    change_tensor(moe, "model.norm.weight", lambda weight: weight * 2)
    assert broken(verify(moe, dense)) == {"others", "output"}
    assert broken(verify(moe, dense, "--data", token_file)) == {"others", "output", "function"}


def test_no_record_no_promise(upmoe, verify, tiny_folder, convert):
    dense = tiny_folder(tiny.VARIANTS[0])
    moe = convert(dense, "--method", "drop", "--experts", NUM_EXPERTS)
    (moe / "upmoe.json").unlink()
    change_tensor(moe, "model.norm.weight", lambda weight: weight * 2)
    found = verify(moe, dense)
    assert found["holds"] and found["promises"] == [] and found["method"] is None
    assert found["others"]["not_identical"] == [{"name": "model.norm.weight", "what": "differs"}]
    result = upmoe("verify", moe, "--against", dense)
    assert result.returncode == 0 and "no upmoe.json: nothing was promised" in result.stdout


def test_what_cannot_be_compared(upmoe, tiny_folder, convert, tmp_path):
    dense = tiny_folder(tiny.VARIANTS[0])
    moe = convert(dense, "--method", "copy", "--experts", NUM_EXPERTS)
    wide = tiny_folder(tiny.WIDE)
    spoiled = tmp_path / "spoiled"
    shutil.copytree(moe, spoiled)
    (spoiled / "upmoe.json").write_text("{")
    for arguments, code, message in [
        ([moe], 2, "name both folders"),
        ([moe, "--against", wide], 1, "was not converted from that model"),
        ([dense, "--against", dense], 1, "is not a Mixture of Experts"),
        ([moe, "--against", moe], 1, "config.json"),
        ([moe, "--against", tmp_path / "nowhere"], 1, "nowhere"),
        ([moe, "--against", dense, "--data", tmp_path / "nowhere.bin"], 1, "nowhere.bin"),
        ([moe, "--against", dense, "--dtype", "int4"], 2, "int4"),
        ([spoiled, "--against", dense], 1, "upmoe.json"),
    ]:
        result = upmoe("verify", *arguments)
        assert result.returncode == code, (arguments, result.stderr)
        assert result.stderr.startswith("upmoe: ") and message in result.stderr and result.stderr.count("\n") == 1
        assert result.stdout == ""


@pytest.mark.parametrize("ranks", [1, 2])
def test_every_byte_beside_the_weights_is_held(ranks, upmoe, verify, tiny_folder, tmp_path):
    dense, moe = tiny_folder(tiny.VARIANTS[0]), tmp_path / "moe"
    for rank in range(ranks):
        options = ["--ranks", ranks, "--rank", rank, "--max-shard-size", "300KB"]
        assert upmoe("convert", dense, moe, *(options if ranks > 1 else [])).returncode == 0
    found = verify(moe, dense)
    assert found["holds"] and found["notes"] == []
    names = {path.name for path in moe.iterdir()} - {"upmoe.json", "README.md"}
    assert set(json.loads((moe / "upmoe.json").read_text())["output"]["files"]) == names
    for name in sorted(name for name in names if "safetensors" not in name):
        before = (moe / name).read_bytes()
        (moe / name).write_bytes(before + b"\n")
        found = verify(moe, dense)
        assert broken(found) == (set() if name == "config.json" else {"files"})
        assert name != "config.json" or re.search("config.json has other bytes.*every field", found["notes"][0])
        (moe / name).write_bytes(before)
    (moe / "README.md").write_text("mine")
    assert verify(moe, dense)["notes"] == ["README.md was edited"]


@pytest.mark.parametrize("name", ["special_tokens_map.json", "added_tokens.json", "additional_chat_templates/tool_use.jinja",
                                  "adapter_config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors",
                                  "zzz.safetensors", "modeling_evil.py", "pytorch_model.bin"])
def test_an_added_file_that_loaders_read_is_a_failure(name, upmoe, tiny_folder, convert):
    dense = tiny_folder(tiny.VARIANTS[0])
    moe = convert(dense, "--method", "copy", "--experts", NUM_EXPERTS)
    (moe / name).parent.mkdir(exist_ok=True)
    (moe / name).write_text("{}")
    result = upmoe("verify", moe, "--against", dense)
    assert result.returncode == 1 and f"{name} was added" in result.stdout


def test_an_added_file_that_nobody_loads_is_a_note(verify, tiny_folder, convert):
    dense = tiny_folder(tiny.VARIANTS[0])
    moe = convert(dense, "--method", "copy", "--experts", NUM_EXPERTS)
    (moe / "thoughts.txt").write_text("mine")
    found = verify(moe, dense)
    assert found["holds"] and found["notes"] == ["thoughts.txt was added: upmoe.json does not know it"]


def change_record(moe, change) -> None:
    record = json.loads((moe / "upmoe.json").read_text())
    change(record)
    (moe / "upmoe.json").write_text(json.dumps(record))


@pytest.mark.parametrize("change, says", [
    (lambda r: r["output"]["files"].pop("tokenizer.json"), "upmoe.json has no hash of tokenizer.json"),
    (lambda r: r["output"].update(files={}), "upmoe.json has no hash of "),
    (lambda r: r["output"].update(tensors={}), "upmoe.json: has no hashes of tensors"),
    (lambda r: r.update(function_preserving=True), "says both that the conversion preserves the function and"),
    (lambda r: r.update(function_preserving=True, not_exact_because=""), "says both that the conversion preserves the function and"),
])
def test_a_record_from_which_something_was_taken_is_a_failure(change, says, upmoe, tiny_folder, convert):
    dense = tiny_folder(tiny.VARIANTS[0])
    moe = convert(dense, "--method", "drop", "--experts", NUM_EXPERTS)
    change_record(moe, change)
    result = upmoe("verify", moe, "--against", dense)
    assert result.returncode == 1 and says in result.stdout + result.stderr


def test_weights_that_may_be_not_finite_are_a_note(upmoe, verify, tiny_folder, tmp_path):
    dense, moe = tiny_folder(tiny.VARIANTS[0]), tmp_path / "moe"
    assert upmoe("convert", dense, moe, "--allow", "not-finite").returncode == 0
    assert any("--allow not-finite" in note for note in verify(moe, dense)["notes"])


@pytest.mark.parametrize("key, value", [("rope_theta", 1e6), ("vocab_size", 319), ("tie_word_embeddings", True), ("rms_norm_eps", 1e-3)])
def test_a_field_of_the_configuration_that_was_changed(key, value, upmoe, tiny_folder, convert):
    dense = tiny_folder(tiny.VARIANTS[0])
    moe = convert(dense, "--method", "copy", "--experts", NUM_EXPERTS)
    tiny.change_config(moe, **{key: value})
    result = upmoe("verify", moe, "--against", dense)
    assert result.returncode == 1 and "BROKEN    config.json" in result.stdout
    assert f"{key} is " in result.stdout and ", expected " in result.stdout


def test_a_configuration_that_transformers_saved_again_is_a_note(verify, tiny_folder, convert):
    dense = tiny_folder(tiny.VARIANTS[0])
    moe = convert(dense, "--method", "copy", "--experts", NUM_EXPERTS)
    transformers.AutoConfig.from_pretrained(moe).save_pretrained(moe)
    found = verify(moe, dense)
    assert broken(found) == set() and any(note.startswith("config.json has other bytes") for note in found["notes"])
    tiny.change_config(moe, rms_norm_eps=1e-3)
    assert broken(verify(moe, dense)) == {"config"}
