"""What a command may replace, and what it may do that is advised against: said on the command line, never remembered."""

import json
import os
import re
import shutil
import subprocess

import pytest

import conftest
import tiny

FAILED, USAGE = 1, 2


@pytest.fixture
def source(tiny_folder):
    return tiny_folder(tiny.VARIANTS[0])


def test_what_was_allowed_is_recorded_and_the_recipe_does_it_again(source, convert):
    first = convert(source, "--router-init", "zero", "--allow", "router-init")
    assert 'allow = ["router-init"]\n' in (first / "upmoe-recipe.toml").read_text()
    assert json.loads((first / "upmoe.json").read_text())["options"]["allow"] == ["router-init"]
    again = convert(source, "--recipe", first / "upmoe-recipe.toml")
    assert (again / "model.safetensors").read_bytes() == (first / "model.safetensors").read_bytes()


def test_that_an_output_was_replaced_is_not_recorded(source, tmp_path):
    for _ in range(2):
        assert conftest.run("convert", source, tmp_path / "out", "--replace").returncode == 0
    for name in ("upmoe.json", "upmoe-recipe.toml", "README.md"):
        text = (tmp_path / "out" / name).read_text()
        assert "replace" not in text and "force" not in text


def test_force_in_an_old_recipe_allows_the_router_start_and_replaces_nothing(source, tmp_path):
    recipe = tmp_path / "old.toml"
    recipe.write_text('router-init = "zero"\nforce = true\n')
    made = conftest.run("convert", source, tmp_path / "out", "--recipe", recipe)
    assert made.returncode == 0 and 'note: ' in made.stdout and 'allow = ["router-init"]' in made.stdout
    before = (tmp_path / "out" / "upmoe.json").stat().st_ino
    again = conftest.run("convert", source, tmp_path / "out", "--recipe", recipe)
    assert again.returncode == FAILED and "--replace" in again.stderr
    assert (tmp_path / "out" / "upmoe.json").stat().st_ino == before


def test_a_recipe_does_not_replace(source, tmp_path):
    recipe = tmp_path / "r.toml"
    recipe.write_text("replace = true\n")
    result = conftest.run("convert", source, tmp_path / "out", "--recipe", recipe)
    assert result.returncode == USAGE and "r.toml" in result.stderr and "command line" in result.stderr


def contents(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refused(folder, *arguments, says: str, code: int = FAILED) -> None:
    """The command fails with one sentence, and everything in the folder is as before."""
    before = contents(folder)
    result = conftest.run(*arguments)
    assert result.returncode == code, result.stdout + result.stderr
    assert re.fullmatch(r"upmoe: [^\n]*\n", result.stderr) and re.search(says, result.stderr), result.stderr
    assert contents(folder) == before


@pytest.fixture
def model(source, tmp_path):
    return shutil.copytree(source, tmp_path / "model")


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(tiny.TEXT if isinstance(tiny.TEXT, str) else tiny.TEXT.read_text())
    return path


@pytest.mark.parametrize("name", [".git/HEAD", "thesis.tex", "optimizer.pt", "checkpoint-500/model.safetensors"])
def test_an_output_with_something_else_in_it_is_not_replaced(source, tmp_path, name):
    out = tmp_path / "out"
    assert conftest.run("convert", source, out).returncode == 0
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("mine")
    refused(tmp_path, "convert", source, out, "--replace", says=f"out: holds .*'{name.split('/')[0]}'")


def test_a_foreign_partial_folder_is_not_gone_on_with(source, tmp_path):
    partial = tmp_path / "out.upmoe-partial"
    partial.mkdir()
    (partial / "thesis.tex").write_text("mine")
    for option in (["--resume"], ["--replace"], ["--ranks", "2", "--rank", "0"]):
        refused(tmp_path, "convert", source, tmp_path / "out", *option, says="thesis.tex")


@pytest.mark.parametrize("place", ["model", "model/out", ".", "model.upmoe-partial/..", "link", "link/out"])
def test_a_conversion_does_not_replace_its_source(model, tmp_path, place):
    (tmp_path / "link").symlink_to("model")
    (tmp_path / "model.upmoe-partial").mkdir()
    refused(tmp_path, "convert", model, tmp_path / place, "--replace", code=USAGE, says="its own source")


def test_a_conversion_does_not_take_its_source_for_a_killed_run(model, tmp_path):
    partial = model.rename(tmp_path / "out.upmoe-partial")
    for option in ("--resume", "--replace"):
        refused(tmp_path, "convert", partial, tmp_path / "out", option, code=USAGE, says="its own source")


def test_a_conversion_does_not_replace_its_recipe(source, tmp_path):
    out = tmp_path / "out"
    assert conftest.run("convert", source, out).returncode == 0
    refused(tmp_path, "convert", source, out, "--recipe", out / "upmoe-recipe.toml", "--replace", code=USAGE, says="its own source")


@pytest.mark.parametrize("out", ["model/model.safetensors", "model/new.safetensors", "link/model.safetensors", "hard", "weights", "text.txt", "ids.idx"])
def test_a_calibration_does_not_replace_its_inputs(model, text, tmp_path, out):
    (tmp_path / "link").symlink_to("model")
    (tmp_path / "hard").hardlink_to(text)
    (tmp_path / "weights").hardlink_to(model / "model.safetensors")
    assert conftest.run("tokenize", model, text, "-o", tmp_path / "ids").returncode == 0
    refused(tmp_path, "calibrate", model, "--data", text, "--data", tmp_path / "ids", "-o", tmp_path / out, "--replace", code=USAGE, says="its own source")


def test_a_calibration_does_not_write_over_an_input_that_has_the_name_of_its_partial_file(model, text, tmp_path):
    data = text.rename(tmp_path / "out.upmoe-partial")
    before = data.read_bytes()
    result = conftest.run("calibrate", model, "--data", data, "-o", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert data.read_bytes() == before


def test_a_calibration_is_not_refused_for_a_file_that_is_not_there(model, text, tmp_path):
    result = conftest.run("calibrate", model, "--data", text, "-o", text.with_suffix(".bin"))
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("out", ["text", "model/config", "link/new", "texts/new", "blob"])
def test_a_tokenization_does_not_replace_its_inputs(model, text, tmp_path, out):
    text = text.rename(tmp_path / "text.bin")
    (tmp_path / "link").symlink_to("model")
    (tmp_path / "texts").mkdir()
    shutil.copy(text, tmp_path / "texts" / "a.txt")
    (tmp_path / "blob.bin").write_text("some text")
    (tmp_path / "texts" / "b.txt").symlink_to(tmp_path / "blob.bin")
    refused(tmp_path, "tokenize", model, text, tmp_path / "texts", "-o", tmp_path / out, "--replace", code=USAGE, says="what is read")


@pytest.mark.parametrize("out", [".", "..", "", "new/", "model/.."])
def test_a_tokenization_names_its_files(model, text, tmp_path, out):
    before = contents(tmp_path)
    result = conftest.run("tokenize", model, text, "-o", out, "--replace", cwd=tmp_path)
    assert result.returncode == USAGE, result.stderr
    assert contents(tmp_path) == before


@pytest.mark.parametrize("target", ["mine.txt", "nowhere"])
def test_a_tokenization_does_not_replace_a_link(model, text, tmp_path, target):
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "out.bin").symlink_to(target)
    refused(tmp_path, "tokenize", model, text, "-o", tmp_path / "out", "--replace", says="out.bin.*already")
    assert (tmp_path / "out.bin").is_symlink()


@pytest.mark.parametrize("end", [".bin", ".idx"])
def test_a_tokenization_does_not_write_through_another_name(model, text, tmp_path, end):
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / f"out{end}.upmoe-partial").hardlink_to(tmp_path / "mine.txt")
    assert conftest.run("tokenize", model, text, "-o", tmp_path / "out", "--replace").returncode == 0
    assert (tmp_path / "mine.txt").read_text() == (tmp_path / f"out{end}.upmoe-partial").read_text() == "mine"


@pytest.mark.parametrize("place, name", [("additional_chat_templates", "x.jinja"), (".cache/huggingface/download", "x.metadata")])
def test_what_is_mounted_inside_an_output_is_not_deleted(place, name, source, tmp_path):
    precious, out = tmp_path / "precious", tmp_path / "out"
    precious.mkdir()
    (precious / name).write_text("thesis")
    assert conftest.run("convert", source, out).returncode == 0
    (out / place).mkdir(parents=True)
    script = 'mount --bind "$1" "$2" 2>/dev/null || exit 99; shift 2; exec "$@"'
    command = ["unshare", "-rm", "sh", "-c", script, "sh", precious, out / place, conftest.PROGRAM, "convert", source, out, "--replace"]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if result.returncode == 99 or "unshare" in result.stderr:
        pytest.skip("this machine lets nobody mount in a namespace")
    assert result.returncode == FAILED and "holds the folder" in result.stderr, result.stderr
    assert (precious / name).read_text() == "thesis" and sorted(os.listdir(tmp_path)) == ["out", "precious"]
