"""`make install` puts the program somewhere else, where it works without the build folder."""

import os
import re
import subprocess

import pytest

import tiny

BUILT = ["upmoe", "upmoe-engine", "libupmoe_engine.so"]
INSTALL = tiny.REPOSITORY / "scripts" / "install"


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    folder = tmp_path_factory.mktemp("a prefix")
    result = subprocess.run([INSTALL, folder], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"install: {folder}/bin/upmoe\n", "")
    return folder


@pytest.fixture
def installed(prefix, tmp_path):
    """installed("convert", ...) runs the installed program in another folder, without help from the environment."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("UPMOE", "PYTHON", "VIRTUAL_ENV", "LD_"))}

    def run(*arguments) -> str:
        command = [prefix / "bin" / "upmoe", *map(str, arguments)]
        result = subprocess.run(command, cwd=tmp_path, env={**env, "PATH": "/nowhere"}, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


def test_every_file_has_its_place(prefix):
    places = {str(path.relative_to(prefix)) for path in prefix.rglob("*") if not path.is_dir() and ".venv" not in path.parts}
    shells = ["bash-completion/completions/upmoe", "zsh/site-functions/_upmoe", "fish/vendor_completions.d/upmoe.fish"]
    assert places == {"bin/upmoe", *(f"lib/upmoe/{name}" for name in BUILT), *(f"share/{shell}" for shell in shells)}
    assert all((prefix / "share" / shell).stat().st_size > 0 for shell in shells)


def test_it_converts_and_runs_a_model_from_another_folder(installed, upmoe, tiny_folder, tmp_path):
    dense = tiny_folder(tiny.VARIANTS[0])
    assert installed("--version") == upmoe("--version").stdout
    installed("convert", dense, "moe", "--experts", 4)
    words = ("--tokens", "1 2 3", "--max-tokens", 4)
    assert installed("generate", "moe", *words) == upmoe("generate", tmp_path / "moe", *words).stdout != ""


def test_its_python_is_its_own(prefix, installed, tiny_folder, tmp_path):
    installed("tokenize", tiny_folder(tiny.VARIANTS[0]), tiny.TEXT, "-o", "text")
    assert (tmp_path / "text.bin").stat().st_size > 0
    python = prefix / "lib" / "upmoe" / ".venv" / "bin" / "python"
    program = "import torch, upmoe.ops; upmoe.ops.load(); print(upmoe.ops.find_library(), torch.ops.upmoe.experts)"
    said = subprocess.run([python, "-P", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"{prefix}/lib/upmoe/.venv/")


@pytest.mark.parametrize("name", BUILT)
def test_libraries_are_looked_for_beside_it_and_where_torch_lies(prefix, name):
    file = prefix / "lib" / "upmoe" / name
    said = subprocess.run(["readelf", "--dynamic", "--wide", file], capture_output=True, text=True, check=True).stdout
    for places in re.findall(r"\((?:RUNPATH|RPATH)\)\s+Library \w+: \[(.*)\]", said):
        for place in places.split(":"):
            assert place.startswith("/") or place.split("/")[0] == "$ORIGIN", places
            assert str(tiny.REPOSITORY / "build") not in place
    assert "not found" not in subprocess.run(["ldd", file], capture_output=True, text=True, check=True).stdout


def test_a_second_installation_replaces_the_first(prefix):
    before = sorted(prefix.rglob("*"))
    (prefix / "lib" / "upmoe" / ".venv" / "stale").touch()
    subprocess.run([INSTALL, prefix], check=True, capture_output=True)
    assert [path for path in sorted(prefix.rglob("*")) if "__pycache__" not in path.parts] == [
        path for path in before if "__pycache__" not in path.parts
    ]


@pytest.mark.parametrize("place", ["", "here", "/proc/nowhere"])
def test_a_place_that_cannot_be_is_refused_in_a_sentence(place):
    result = subprocess.run([INSTALL, place], capture_output=True, text=True)
    assert result.returncode == 1 and re.fullmatch(r"install: [^\n]+\n", result.stderr)
