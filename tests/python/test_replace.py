"""What a command may replace, and what it may do that is advised against: said on the command line, never remembered."""

import json

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
