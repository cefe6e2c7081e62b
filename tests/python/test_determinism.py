"""The same options give the same bytes: however many threads, whatever the machine's vectors, however often."""

import hashlib
import json
import platform
from pathlib import Path

import pytest

import checkpoint
import tiny

METHODS = {
    "copy": (),
    "drop": ("--ratio", "0.5"),
    "drop_per_matrix": ("--ratio", "0.3", "--indices", "per-matrix"),
    "noise": ("--ratio", "0.5", "--sigma", "0.1"),
    "scratch": (),
    "split": ("--rescale", "0.3"),
}
every_method = pytest.mark.parametrize("method", METHODS)


def options(method: str) -> tuple:
    experts = "4" if method == "split" else "5"  # they have to share the neurons equally
    return ("--method", method.split("_")[0], *METHODS[method], "--experts", experts)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def isa_levels() -> list[str]:
    """What this machine has."""
    levels = {"avx2": {"avx2", "fma", "f16c"}, "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"}}
    cpuinfo = Path("/proc/cpuinfo")
    if platform.machine() != "x86_64" or not cpuinfo.exists():
        return ["scalar"]
    flags = set(cpuinfo.read_text().split())
    return ["scalar", *(level for level, needed in levels.items() if needed <= flags)]


@every_method
@pytest.mark.parametrize("threads", [2, 3, 16])
def test_any_number_of_threads_gives_the_same_bytes(tiny_folder, convert, method, threads):
    source = tiny_folder(tiny.WIDE)
    one, many = (convert(source, *options(method), "--threads", n) for n in (1, threads))
    assert digests(one) == digests(many)


@every_method
def test_a_second_run_gives_the_same_bytes(tiny_folder, convert, method):
    source = tiny_folder(tiny.WIDE)
    assert digests(convert(source, *options(method))) == digests(convert(source, *options(method)))


@every_method
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("isa", isa_levels()[1:])
def test_every_instruction_set_gives_the_bytes_of_the_scalar_code(tiny_folder, convert, method, dtype, isa):
    source = tiny_folder(tiny.Variant(f"wide_{dtype}", tiny.WIDE.changes, dtype=getattr(tiny.torch, dtype)))
    scalar, vector = (convert(source, *options(method), env={"UPMOE_ISA": level}) for level in ("scalar", isa))
    assert digests(scalar) == digests(vector)


@every_method
def test_the_recipe_does_it_again(tiny_folder, convert, method):
    source = tiny_folder(tiny.WIDE)
    first = convert(source, *options(method), "--seed", "7")
    assert digests(first) == digests(convert(source, "--recipe", first / "upmoe-recipe.toml"))


@every_method
def test_any_shard_size_gives_the_same_tensors(tiny_folder, convert, method):
    source = tiny_folder(tiny.WIDE)
    whole = checkpoint.tensors(convert(source, *options(method)))
    for size in ("300KB", "2MB"):
        sharded = checkpoint.tensors(convert(source, *options(method), "--max-shard-size", size))
        assert sharded.keys() == whole.keys()
        for name, weight in whole.items():
            assert checkpoint.same_bytes(sharded[name], weight), (size, name)


def test_shards_have_the_index_that_transformers_expects(tiny_folder, convert):
    out = convert(tiny_folder(tiny.WIDE), "--max-shard-size", "2MB")
    index = json.loads((out / "model.safetensors.index.json").read_text())
    weights = checkpoint.tensors(out)
    assert index["weight_map"].keys() == weights.keys()
    assert index["metadata"]["total_size"] == sum(weight.nbytes for weight in weights.values())
    files = sorted(path.name for path in out.glob("*.safetensors"))
    assert files == [f"model-{i:05d}-of-{len(files):05d}.safetensors" for i in range(1, len(files) + 1)]
    assert files == sorted(set(index["weight_map"].values()))
    assert len(files) > 1
    for file in files:
        nbytes = sum(weights[name].nbytes for name, where in index["weight_map"].items() if where == file)
        assert nbytes <= 2_000_000, file


def test_another_seed_gives_other_experts_and_routers(tiny_folder, convert):
    a, b = (checkpoint.tensors(convert(tiny_folder(tiny.WIDE), "--seed", seed)) for seed in (0, 1))
    for name in a:
        assert checkpoint.same_bytes(a[name], b[name]) == ("block_sparse_moe" not in name), name
