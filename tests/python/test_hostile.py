"""Checkpoints made to harm: answered with one sentence of plain text, in bounded time and memory.

What the bytes of a header may do is in tests/format/refuses_test.cpp; here is what it takes the whole program to see.
"""

import json
import os
import re
import resource
import shutil
import stat
import struct
import subprocess
from pathlib import Path

import pytest

import conftest
import tiny

FAILED, USAGE = 1, 2
MEMORY = 1_500_000_000  # of address space. The largest header allowed, 100 MB with 1.8 million tensors, takes 0.6 GB.
SECONDS = 60  # against hanging; the slowest takes 4 s on an idle machine

CONFIG = {"model_type": "llama", "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
          "num_attention_heads": 4}
EMPTY = b'{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
EVIL = "\x1b[2J\x9b31m\u202e\r\n"  # clears a terminal, colours it, reverses text, breaks the line
DISOBEDIENT = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    yield folder
    shutil.rmtree(folder)  # some are large


@pytest.fixture
def whole(tmp_path, tiny_folder):
    """A checkpoint in which all is well, to be spoilt."""
    return Path(shutil.copytree(tiny_folder(tiny.VARIANTS[0]), tmp_path / "source"))


def write_weights(folder: Path, header: bytes, data: bytes = b"", length: int | None = None) -> None:
    number = struct.pack("<Q", len(header) if length is None else length)
    (folder / "model.safetensors").write_bytes(number + header + data)


def run(*arguments, memory: int = MEMORY) -> subprocess.CompletedProcess:
    limits = lambda: resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    return conftest.run(*arguments, timeout=SECONDS, preexec_fn=limits)


def assert_refused(folder: Path, says: str, verbs: tuple = ("convert", "inspect"), memory: int = MEMORY) -> None:
    for verb in verbs:
        out = folder.parent / "out"
        result = run(verb, folder, *([out] if verb == "convert" else []), memory=memory)
        assert result.returncode == FAILED, result.stderr[:1000]
        assert re.fullmatch(r"upmoe: [^\n]+\n", result.stderr), result.stderr[:1000]
        assert not DISOBEDIENT.search(result.stdout + result.stderr), repr(result.stderr[:1000])
        assert len(result.stderr) < 2000
        assert re.search(says, result.stderr), result.stderr
        assert os.listdir(folder.parent) == [folder.name]


# ---- headers ----


def many_tensors() -> bytes:
    entries = (b'"%x":%s' % (n, EMPTY) for n in range(1_770_000))
    return b"{" + b",".join(entries) + b"}"


@pytest.mark.parametrize(
    "header,says",
    [
        (many_tensors, "1770000 weights that no llama has"),
        (lambda: b'{"' + b"n" * 99_000_000 + b'":{}}', r"tensor 'n+\.\.\.' has no dtype"),
        (lambda: b'{"__metadata__":{' + b",".join(b'"%x":""' % n for n in range(8_000_000)) + b"}}", "missing"),
        (lambda: b'{"a":{"shape":[' + b"1" * 99_000_000 + b"]}}", r"model\.safetensors.*number"),
        (lambda: b'{"a":{"shape":[0.' + b"1" * 99_000_000 + b"]}}", "expected a whole number"),
        (lambda: b'{"a":{"shape":[' + b"1," * 45_000_000 + b"1]}}", "more than 64 numbers"),
        (lambda: b'{"a":{"x":[' + b"[]," * 33_000_000 + b"1]}}", "tensor 'a' has no dtype"),
        (lambda: b'{"a":{"x":' + b"[" * 99_000_000, "nested deeper than 128"),
        (lambda: b" " * 99_999_999, "does not begin with"),
        (lambda: b"{" + b",".join([b'"":' + EMPTY] * 1_900_000) + b"}", "'' appears twice"),
        (lambda: b"{" + b",".join([b'"__metadata__":{}'] * 1000) + b"}", "__metadata__ appears twice"),
    ],
    ids=["tensors", "name", "metadata", "number", "fraction", "shape", "unknown", "depth", "spaces", "same", "twice"],
)
def test_a_header_of_a_hundred_megabytes(model, header, says):
    write_weights(model, header())
    assert_refused(model, says, ("convert",))


def test_ten_million_tensors_are_more_than_a_header_may_hold(model):
    """540 MB of header: refused by its length, before anything of it is read."""
    with (model / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 540_000_000) + b'{"0":' + EMPTY)
        file.truncate(540_000_008)
    assert_refused(model, "540000000 bytes.*at most 100000000")


@pytest.mark.parametrize("length", [2**64 - 1, 2**64 - 8, 2**63, 2**63 - 1, 2**32, 100_000_001])
def test_a_length_that_wraps_around(model, length):
    write_weights(model, b"{}", length=length)
    assert_refused(model, f"{length} bytes.*at most 100000000")


def test_a_terabyte_of_nothing(model):
    write_weights(model, b"\0" * 8, length=99_000_000)
    os.truncate(model / "model.safetensors", 10**12)
    assert_refused(model, "does not begin with", memory=10**12 + MEMORY)  # of addresses: a header is read by a mapping


def test_a_shape_whose_product_is_zero_by_overflow(model):
    name = b'"model.norm.weight":'
    write_weights(model, b"{" + name + b'{"dtype":"BF16","shape":[4294967296,4294967296],"data_offsets":[0,0]}}')
    assert_refused(model, "overflows 64 bits")


def test_many_tensors_that_claim_the_same_160_kb(model):
    """attacks/ of the reference reader: 100 000 of them would be 16 GB in memory."""
    entry = b'{"dtype":"F32","shape":[200,200],"data_offsets":[0,160000]}'
    header = b"{" + b",".join(b'"%d":%s' % (n, entry) for n in range(100_000)) + b"}"
    write_weights(model, header, bytes(160_000))
    assert_refused(model, "begins at byte 0 of the data, expected 160000")


# ---- index ----


def write_index(folder: Path, text: str) -> None:
    (folder / "model.safetensors.index.json").write_text(text)


@pytest.mark.parametrize(
    "entries,says",
    [
        (lambda: ('"t%x":"m%d.safetensors"' % (n, n % 3) for n in range(1_000_000)), r"'m0\.safetensors'"),
        (lambda: ('"t%x":"m%d.safetensors"' % (n, n) for n in range(1_000_000)), r"'m0\.safetensors'"),
        (lambda: ('"%x":1' % n for n in range(6_000_000)), "more than 2000000 values"),
        (lambda: ['"a":[' + "{}," * 20_000_000 + "1]"], "more than 2000000 values"),
        (lambda: ['"a":[' + "{}," * 1_900_000 + "1]"], "'a' is not a string"),
        (lambda: ['"a":' + "[" * 60_000_000], "nested deeper than 64"),
        (lambda: ['"a":"' + "x" * 60_000_000 + '"'], "not the plain name"),
        (lambda: ['"' + "x" * 60_000_000 + '":"a"'], r"not.*\.safetensors"),
    ],
    ids=["million", "million_files", "keys", "objects", "fewer_objects", "depth", "file", "name"],
)
def test_an_index_of_sixty_megabytes(model, entries, says):
    write_index(model, '{"weight_map":{' + ",".join(entries()) + "}}")
    assert_refused(model, says, ("convert",))


def test_an_index_that_is_too_large(model):
    write_index(model, " " * (64 * 2**20 + 1))
    assert_refused(model, r"index\.json.*bytes, at most")


def test_more_shards_than_files_may_be_open(model):
    names = [f"m{n}.safetensors" for n in range(3000)]
    for n, name in enumerate(names):
        header = b'{"t%d":%s}' % (n, EMPTY)
        (model / name).write_bytes(struct.pack("<Q", len(header)) + header)
    write_index(model, json.dumps({"weight_map": {f"t{n}": name for n, name in enumerate(names)}}))
    assert_refused(model, "3000 weights that no llama has|Too many open files")


# ---- config.json ----


@pytest.mark.parametrize(
    "text,says",
    [
        ('"num_hidden_layers":1000000000', "num_hidden_layers is 1000000000"),
        ('"num_hidden_layers":10000', "of 90003 weights are missing"),
        ('"hidden_size":9223372036854775807', "hidden_size is 9223372036854775807"),
        ('"hidden_size":2147483647,"head_dim":2147483646,"num_attention_heads":2147483647', "weights are missing"),
        ('"vocab_size":1e308', "vocab_size is 1e"),
        ('"vocab_size":-9223372036854775808', "vocab_size is -9223372036854775808"),
        ('"x":[' + "{}," * 1_300_000 + "1]", "weights are missing"),
        (",".join('"%x":1' % n for n in range(350_000)), "350000 keys that no llama has"),
        ('"x":' + "[" * 4_000_000, "nested deeper than 64"),
        ('"x":"' + "x" * 5_000_000 + '"', "bytes, at most"),
        ('"torch_dtype":"' + "x" * 4_000_000 + '"', "weights are missing"),
        ('"rope_scaling":{"rope_type":"' + "y" * 4_000_000 + '"}', r"rope scaling 'y+\.\.\.'"),
    ],
    ids=lambda value: value[:24],
)
def test_a_config_that_asks_for_too_much(model, text, says):
    (model / "config.json").write_text('{"model_type":"llama",' + text + "}")
    write_weights(model, b"{}")
    assert_refused(model, says, ("convert",))


def test_a_mixture_that_claims_a_billion_experts(model):
    moe = CONFIG | {"model_type": "mixtral", "num_local_experts": 10**9, "num_experts_per_tok": 2}
    for layers in (1, 10**9):
        (model / "config.json").write_text(json.dumps(moe | {"num_hidden_layers": layers}))
        write_weights(model, b"{}")
        assert_refused(model, "1000000000 experts", ("inspect",))


def test_many_unknown_keys_make_a_short_note(whole):
    tiny.change_config(whole, **{f"key{n}{EVIL}": n for n in range(200)}, **{"y" * 1_000_000: 1})
    result = run("convert", whole, whole.parent / "out", "--dry-run")
    assert result.returncode == 0, result.stderr
    assert not DISOBEDIENT.search(result.stdout)
    assert len(result.stdout) < 10_000  # 200 names


# ---- files that are no files ----

CARRIED = ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "LICENSE", "README.md"]
NEEDED = ["config.json", "model.safetensors"]


@pytest.mark.parametrize("name", CARRIED + NEEDED)
@pytest.mark.parametrize("what", ["fifo", "link_to_device", "link_out", "link_in_circles", "link_to_nothing", "socket"])
def test_a_file_that_is_none(whole, name, what):
    path = whole / name
    path.unlink(missing_ok=True)
    if what == "fifo":
        os.mkfifo(path)
    elif what == "link_to_device":
        path.symlink_to("/dev/zero")
    elif what == "link_out":
        (whole.parent.parent / f"{whole.parent.name}-secret").write_text("secret")
        path.symlink_to(f"../../{whole.parent.name}-secret")
    elif what == "link_in_circles":
        path.symlink_to(name)
    elif what == "link_to_nothing":
        path.symlink_to("nothing")
    else:
        os.mknod(path, 0o600 | stat.S_IFSOCK)
    assert_refused(whole, f"{re.escape(name)}.*(regular file|leads out|No such file|Too many levels)", ("convert",))


@pytest.mark.parametrize("name", CARRIED)
def test_a_device_in_place_of_a_file(whole, name):
    (whole / name).unlink(missing_ok=True)
    try:
        os.mknod(whole / name, 0o666 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero
    except PermissionError:
        pytest.skip("making a device needs root")
    assert_refused(whole, f"{re.escape(name)}.*regular file", ("convert",))


def test_a_tokenizer_of_a_terabyte(whole):
    os.truncate(whole / "tokenizer.json", 10**12)
    assert_refused(whole, r"tokenizer\.json: 1000000000000 bytes, at most", ("convert",))


def test_many_licences_of_the_size_that_one_may_have(whole):
    for n in range(20):
        (whole / f"LICENSE{n}").touch()
        os.truncate(whole / f"LICENSE{n}", 200_000_000)
    assert_refused(whole, "with 'LICENSE1' .*side files take more than 268\.4 MB", ("convert",))


@pytest.mark.parametrize(
    "text,says",
    [
        ('"tokenizer_class":"TokenizersBackend",' + ",".join('"%x":0' % n for n in range(1_500_000)), None),
        ('"tokenizer_class":"TokenizersBackend","x":{' + ",".join('"%x":{}' % n for n in range(1_400_000)) + "}", None),
        ('"x":[' + "{}," * 5_000_000 + "1]", "more than 2000000 values"),
        ('"x":"' + "x" * 20_000_000 + '"', "bytes, at most"),
    ],
    ids=["keys", "inner_keys", "objects", "size"],
)
def test_a_tokenizer_config_of_many_megabytes(whole, text, says):
    (whole / "tokenizer_config.json").write_text("{" + text + "}")
    if says is not None:
        return assert_refused(whole, r"tokenizer_config\.json.*" + says, ("convert",))
    result = run("convert", whole, whole.parent / "out")
    assert result.returncode == 0, result.stderr
    written = json.loads((whole.parent / "out" / "tokenizer_config.json").read_text())
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast" and len(written) > 1


@pytest.mark.parametrize("what", ["/dev/zero", "fifo", "huge", "deep"])
def test_a_recipe_that_is_none(whole, what):
    recipe = whole.parent / "source" / "recipe.toml"
    if what == "fifo":
        os.mkfifo(recipe)
    elif what == "huge":
        recipe.touch()
        os.truncate(recipe, 10**12)
    elif what == "deep":
        recipe.write_text("seed = " + "[" * 1_000_000)
    else:
        recipe = Path(what)
    result = run("convert", whole, whole.parent / "out", "--recipe", recipe)
    assert result.returncode in (FAILED, USAGE)
    assert re.fullmatch(r"upmoe: [^\n]{,500}\n", result.stderr), result.stderr


# ---- names that a terminal would obey ----


def spoil_tensor_name(folder: Path) -> None:
    write_weights(folder, b"{" + json.dumps(EVIL).encode() + b":" + EMPTY + b"}")


def spoil_dtype(folder: Path) -> None:
    write_weights(folder, json.dumps({"a": {"dtype": EVIL, "shape": [0], "data_offsets": [0, 0]}}).encode())


def spoil_field(folder: Path) -> None:
    write_weights(folder, b'{"a":{' + json.dumps(EVIL).encode() + b":1}}")


def spoil_shard_name(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    write_index(folder, json.dumps({"weight_map": {EVIL: f"{EVIL}.safetensors"}}))


def spoil_index_key(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    write_index(folder, '{"weight_map":{%s:"a.safetensors",%s:"a.safetensors"}}' % ((json.dumps(EVIL),) * 2))


def spoil_model_type(folder: Path) -> None:
    tiny.change_config(folder, model_type=EVIL)


def spoil_activation(folder: Path) -> None:
    tiny.change_config(folder, hidden_act=EVIL)


def spoil_rope(folder: Path) -> None:
    tiny.change_config(folder, rope_scaling={"rope_type": EVIL})


def spoil_rope_key(folder: Path) -> None:
    tiny.change_config(folder, rope_scaling={"rope_type": "linear", "factor": 2.0, EVIL: [EVIL]})


def spoil_size(folder: Path) -> None:
    tiny.change_config(folder, hidden_size=EVIL)


def spoil_config_json(folder: Path) -> None:
    (folder / "config.json").write_text('{"%s' % EVIL)


def spoil_licence_name(folder: Path) -> None:
    (folder / f"LICENSE{EVIL}").write_text("x")


def spoil_link(folder: Path) -> None:
    target = folder.parent.parent / f"{folder.parent.name}{EVIL}"
    target.write_text("x")
    (folder / "LICENSE").symlink_to(target)


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_tensor_name, spoil_dtype, spoil_field, spoil_shard_name, spoil_index_key, spoil_model_type, spoil_activation,
        spoil_rope, spoil_rope_key, spoil_size, spoil_config_json, spoil_licence_name, spoil_link,
    ],
)
def test_hostile_names_are_shown_as_plain_text(whole, spoil):
    spoil(whole)
    assert_refused(whole, "", ("convert",))


def test_a_hostile_name_of_the_folder_itself_is_shown_as_plain_text(tmp_path):
    folder = tmp_path / f"source{EVIL}"
    folder.mkdir()
    assert_refused(folder, r"source\\x1b\[2J\\x")


def test_hostile_names_in_what_inspect_prints(whole, convert):
    out = convert(whole)
    manifest = json.loads((out / "upmoe.json").read_text())
    manifest |= {"upmoe": EVIL, "command": EVIL, "source": {"name": EVIL}, "options": {EVIL: EVIL}}
    (out / "upmoe.json").write_text(json.dumps(manifest))
    for options in ((), ("--json",)):
        result = run("inspect", out, *options)
        assert result.returncode == 0, result.stderr
        assert not DISOBEDIENT.search(result.stdout + result.stderr), repr(result.stdout)


def test_a_hostile_card_writes_no_second_key(whole, convert):
    (whole / "README.md").write_text(f"---\nlicense: mit{EVIL}\nlicense: x\nlanguage: {EVIL}\n---\n# Card\n")
    card = (convert(whole) / "README.md").read_text()
    assert not DISOBEDIENT.search(card)


@pytest.mark.parametrize("what", ["fifo", "link"])
@pytest.mark.parametrize("name", ["model.safetensors.index.json", "a.safetensors"])
def test_an_index_or_a_shard_that_is_no_file(whole, name, what):
    (whole / "model.safetensors").unlink()
    write_index(whole, json.dumps({"weight_map": {"a": "a.safetensors"}}))
    (whole / name).unlink(missing_ok=True)
    os.mkfifo(whole / name) if what == "fifo" else (whole / name).symlink_to("/dev/zero")
    assert_refused(whole, f"{re.escape(name)}.*(regular file|leads out)")
