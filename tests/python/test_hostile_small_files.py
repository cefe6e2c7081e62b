"""Small files that ask for much: memory, time, depth, long answers. Answered in one sentence, within bounds."""

import json
import os
import re
import resource
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

import conftest
import tiny

FAILED, USAGE = 1, 2
MEMORY = 1_500_000_000  # of address space
SECONDS = 60  # against hanging; the slowest takes a few


@pytest.fixture
def whole(tmp_path, tiny_folder):
    folder = Path(shutil.copytree(tiny_folder(tiny.VARIANTS[0]), tmp_path / "source"))
    yield folder
    shutil.rmtree(folder)


def run(*arguments, memory: int = MEMORY):
    limits = lambda: resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    return conftest.run(*arguments, timeout=SECONDS, preexec_fn=limits)


def assert_refused(result, code: int, says: str) -> None:
    assert result.returncode == code, result.stderr[:1000]
    assert re.fullmatch(r"upmoe: [^\n]{,1500}\n", result.stderr), result.stderr[:2000]
    assert re.search(says, result.stderr), result.stderr


# ---- recipes ----

DEPTH = 50_000


@pytest.mark.parametrize(
    "text",
    [
        "a." * DEPTH + "x = 1\n",
        "seed = 1\n[" + "a." * DEPTH + "x]\n",
        "[[" + "a." * DEPTH + "x]]\n",
        "seed = {" + "a." * DEPTH + "x = 1}\n",
        "'a'." * DEPTH + "x = 1\n",
        "seed = " + "[" * DEPTH + "\n",
        "seed = " + "{a=" * DEPTH + "\n",
        '"' * DEPTH + "\n",
    ],
    ids=["key", "table", "tables", "inline", "quoted", "lists", "inline_tables", "quotes"],
)
def test_a_recipe_of_many_levels(whole, text):
    recipe = whole.parent / "recipe.toml"
    recipe.write_text(text)
    assert_refused(run("convert", whole, whole.parent / "out", "--recipe", recipe), USAGE, "recipe.toml: ")


def test_a_recipe_of_as_many_levels_as_its_lines_may_have(whole):
    recipe = whole.parent / "recipe.toml"
    recipe.write_text("[" + "a." * 999 + "x]\n" + "b." * 999 + "y = 1\n" + "z = {" + "c." * 990 + "z = 1}\n")
    assert_refused(run("convert", whole, whole.parent / "out", "--recipe", recipe), USAGE, "there is no option 'a'")


def test_a_recipe_may_have_a_long_path_with_dots(whole):
    recipe = whole.parent / "recipe.toml"
    recipe.write_text(f"source = '{'./' * 300}{whole.name}'\noutput = 'out'\n")
    result = conftest.run("convert", "--recipe", recipe, cwd=whole.parent)
    assert result.returncode == 0, result.stderr


# ---- configurations ----


@pytest.mark.parametrize("experts,layers", [(100_000, 2), (1_000_000, 10_000), (8, 10_000)])
def test_a_mixture_that_claims_more_than_its_files_hold(whole, convert, experts, layers):
    out = convert(whole)
    tiny.change_config(out, num_local_experts=experts, num_hidden_layers=layers)
    assert_refused(run("inspect", out), FAILED, "has shape|has no '")


def stacked_mixture(folder: Path, experts: int, spoil) -> None:
    """One layer of many experts of 16 neurons, equal but for what `spoil` does to their bytes."""
    H, F, name = 16, 16, "model.layers.0."
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(
        {"model_type": "mixtral", "hidden_size": H, "intermediate_size": F, "num_hidden_layers": 1,
         "num_local_experts": experts, "num_experts_per_tok": 2}))
    down = bytearray(b"\x00\x3c" * (experts * H * F))
    for e in range(experts):
        spoil(down, e, e * H * F * 2)
    tensors = {
        name + "mlp.experts.gate_up_proj": ([experts, 2 * F, H], b"\x00\x3d" * (experts * 2 * F * H)),
        name + "mlp.experts.down_proj": ([experts, H, F], bytes(down)),
        name + "mlp.gate.weight": ([experts, H], b"\x00\x3c" * (experts * H)),
        name + "post_attention_layernorm.weight": ([H], b"\x80\x3f" * H),
    }
    header, at = {}, 0
    for tensor, (shape, data) in tensors.items():
        header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, data in tensors.values():
            file.write(data)


def test_many_experts_that_differ_in_their_last_numbers(tmp_path):
    """Compared each with each, that is some minutes."""
    experts = 30_000

    def spoil(down: bytearray, e: int, begin: int) -> None:
        struct.pack_into("<H", down, begin + 508, 0x3000 + (e % 25_000) // 1000)
        struct.pack_into("<H", down, begin + 510, 0x3000 + (e % 25_000) % 1000)

    stacked_mixture(tmp_path / "many", experts, spoil)
    result = run("inspect", tmp_path / "many", "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)["identical_experts"]
    assert found == [[e, e + 25_000] for e in range(5000)]


def dense_of_many_layers(folder: Path, layers: int) -> None:
    """Of one neuron and two hidden numbers."""
    H, F, name = 2, 1, "model.layers.{}."
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(
        {"model_type": "llama", "vocab_size": 4, "hidden_size": H, "intermediate_size": F, "num_hidden_layers": layers,
         "num_attention_heads": 1, "head_dim": 2}))
    layer = {"input_layernorm": [H], "post_attention_layernorm": [H], "mlp.gate_proj": [F, H], "mlp.up_proj": [F, H],
             "mlp.down_proj": [H, F]} | {f"self_attn.{p}_proj": [2, H] for p in "qkvo"}
    shapes = {"model.embed_tokens": [4, H], "model.norm": [H], "lm_head": [4, H]}
    shapes |= {name.format(l) + part: shape for l in range(layers) for part, shape in layer.items()}
    header, at = {}, 0
    for tensor, shape in shapes.items():
        end = at + 2 * shape[0] * shape[-1] if len(shape) > 1 else at + 2 * shape[0]
        header[f"{tensor}.weight"] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"\x80\x3f" * (at // 2))


def test_a_model_of_as_many_layers_as_there_may_be(tmp_path):
    """With a search among all tensors for each of them, that is some minutes."""
    dense_of_many_layers(tmp_path / "deep", 10_000)
    result = run("convert", tmp_path / "deep", tmp_path / "out", "--experts", "4")
    assert result.returncode == 0, result.stderr
    assert len(json.loads((tmp_path / "out" / "upmoe.json").read_text())["output"]["tensors"]) == 3 + 10_000 * (6 + 1 + 12)
    result = run("inspect", tmp_path / "out")
    assert result.returncode == 0, result.stderr


# ---- numbers of a configuration that are carried ----


@pytest.mark.parametrize(
    "changes,says",
    [
        ({"head_dim": 15}, "head_dim is 15"),
        ({"rope_theta": 1e-308}, "rope_theta is 1e-308"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "'factor' of the rope scaling is 0"),
        ({"rope_scaling": {"type": "dynamic", "factor": -2.0}}, "'factor' of the rope scaling is -2"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "truncate": "x"}}, "'truncate' of the rope scaling is \"x\""),
        ({"eos_token_id": 2**63}, "eos_token_id is 9223372036854775808, expected a token id, from 0 to 319"),
        ({"eos_token_id": [1, 320]}, r"eos_token_id is \[1,320\]"),
        ({"pad_token_id": 2**31}, "pad_token_id is 2147483648"),
        ({"bos_token_id": 320}, "bos_token_id is 320"),
    ],
    ids=lambda value: json.dumps(value)[:40],
)
def test_numbers_that_no_model_can_have(whole, changes, says):
    tiny.change_config(whole, **changes)
    result = run("convert", whole, whole.parent / "out")
    assert_refused(result, FAILED, r"config\.json: .*" + says)
    assert not (whole.parent / "out").exists()


# ---- what is carried beside the weights ----


def test_code_of_a_tokenizer_is_not_carried_and_said_so(whole, convert):
    path = whole / "tokenizer_config.json"
    text = json.loads(path.read_text()) if path.exists() else {}
    code = {"AutoTokenizer": ["evil.Evil", None]}
    path.write_text(json.dumps(text | {"auto_map": code, "x": [{"y": {"auto_map": code}}]}))
    result = run("convert", whole, whole.parent / "out", "--dry-run")
    assert "auto_map" in result.stdout
    out = convert(whole)
    assert "auto_map" not in (out / "tokenizer_config.json").read_text()
    assert json.loads((out / "tokenizer_config.json").read_text())["x"] == [{"y": {}}]
    assert "(auto_map)" in (out / "README.md").read_text()


@pytest.mark.parametrize(
    "header",
    ["license: [mit", "license: 'mit", 'language:\n- "en', "license: {a: [b}", "license: *x", "license: a: b",
     "language:\n- en\n  - de", "license: 2021-99-99", "license: =", "license: !!python/name:os.system"],
)
def test_a_card_whose_header_is_no_yaml_is_carried_as_one_that_is(whole, convert, header):
    yaml = pytest.importorskip("yaml")
    (whole / "README.md").write_text(f"---\n{header}\nlicense_name: fine\n---\n# Card\n")
    card = (convert(whole) / "README.md").read_text()
    found = yaml.safe_load(card.split("---\n")[1])
    assert found["license_name"] == "fine" and found["library_name"] == "transformers"


# ---- answers ----


def test_one_rank_of_many_names_a_few_that_are_missing(whole):
    result = run("convert", whole, whole.parent / "out", "--ranks", "100000", "--rank", "7")
    assert result.returncode == 0, result.stderr
    assert "0, 1, 2 and 99996 more" in result.stdout and len(result.stdout) < 5000


# ---- token files ----


def test_a_token_file_of_a_terabyte_is_read_as_far_as_it_is_used(whole):
    tokens = whole / "tokens.bin"
    tokens.write_bytes(struct.pack("<H", 5) * 2000)
    os.truncate(tokens, 10**12)
    arguments = ("--data", tokens, "--max-tokens", "200", "--context", "100", "--json")
    result = conftest.run("eval", whole, *arguments, timeout=SECONDS)
    assert result.returncode == 0, result.stderr
    tokens.write_bytes(struct.pack("<200H", *[5] * 199, 320))  # the last that is used
    os.truncate(tokens, 10**12)
    assert_refused(conftest.run("eval", whole, *arguments, timeout=SECONDS), FAILED, "token 199 is 320")


# ---- text ----


def test_folders_nested_deeper_than_functions_of_python(whole):
    top = whole / "texts"
    try:
        for depth in range(1200):
            os.mkdir(top / ("d/" * depth))
        (top / ("d/" * 1199) / "a.txt").write_text("the first of all")
        (top / "z.txt").write_text("and one more")
        result = conftest.run("tokenize", whole, top, "-o", whole.parent / "tokens")
    finally:
        subprocess.run(["rm", "-r", top], check=True)  # Python's own needs a function for each level
    assert result.returncode == 0, result.stderr
    assert "in 2 documents" in result.stdout
