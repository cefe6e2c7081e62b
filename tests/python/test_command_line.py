"""The command line as met in the first hour: help, guesses, recipes, what is printed and what is next."""

import json
import os
import re
import shlex
import shutil
import subprocess

import pytest

import conftest
import tiny

FAILED, USAGE = 1, 2


@pytest.fixture
def source(tiny_folder):
    return tiny_folder(tiny.VARIANTS[0])


def said(*words, code: int = 0, **options) -> str:
    """What a command that ends with `code` prints: a refusal is one sentence on standard error."""
    result = conftest.run(*words, **options)
    assert result.returncode == code, result.stdout + result.stderr
    if code:
        assert re.fullmatch(r"upmoe: [^\n]+\n", result.stderr) and result.stdout == "", result.stderr
    return result.stderr if code else result.stdout


def test_help_is_a_verb_too():
    assert said("help") == said("--help") == said("-h")
    assert said("help", "convert") == said("convert", "--help")
    assert "'nonsense'; see upmoe --help" in said("help", "nonsense", code=USAGE)
    assert said("-V") == said("--version")


def test_two_dashes_end_the_options(source, tmp_path):
    said("convert", "--", source, "-out", cwd=tmp_path)
    assert (tmp_path / "-out" / "config.json").exists()


@pytest.mark.parametrize(
    "words,says",
    [
        (("convert", "--nothing-like-it"), "has no option '--nothing-like-it'; see upmoe convert --help"),
        (("convert", "--methd", "copy"), "did you mean '--method'"),
        (("--vrsion",), "there is no option '--vrsion'"),
        (("convert", "a"), "missing OUT; usage: upmoe convert SRC OUT"),
        (("convert",), "missing SRC and OUT; usage"),
        (("inspect",), "missing DIR; usage"),
        (("tokenize", "a"), "missing FILES; usage"),
        (("methods", "dorp"), "did you mean 'drop'"),
        (("convert", "a", "b", "--recipe", "/nonexistent.toml"), "/nonexistent.toml"),
        (("convert", "a", "b", "--max-shard-size", "5"), "'5' has no unit; write for example 5GB"),
        (("convert", "a", "b", "--json", "--quiet"), "--json and --quiet"),
    ],
    ids=str,
)
def test_a_wrong_command_line(words, says):
    assert says in said(*words, code=USAGE)


def test_one_method_shows_its_options():
    shown = said("methods", "drop")
    assert "--ratio" in shown and "--indices" in shown and "--sigma" not in shown
    assert [entry["name"] for entry in json.loads(said("methods", "drop", "--json"))] == ["drop"]


def test_the_help_of_convert_has_the_options_of_the_method_that_is_asked_for():
    assert "--ratio" not in re.sub("Examples:.*", "", said("convert", "--help"), flags=re.S)
    shown = said("convert", "--method", "noise", "--router-init", "auto", "--help")
    assert "--sigma X" in shown and "--router-logit-std X" in shown and "--indices" not in shown


@pytest.mark.parametrize("columns", [50, 120])
def test_help_is_as_wide_as_the_terminal(columns):
    shown = said("convert", "--help", env={**os.environ, "COLUMNS": str(columns)})
    lines = shown[: shown.index("Methods and router")].splitlines()
    assert columns - 15 < max(map(len, lines)) <= columns


def test_another_method_drops_what_the_recipe_says_for_the_first(source, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('method = "drop"\nratio = 0.25\nindices = "per-matrix"\nexperts = 4\n')
    plan = said("convert", source, tmp_path / "out", "--recipe", recipe, "--method", "copy", "--dry-run")
    assert "method      copy, seed 0\n" in plan and "4 experts" in plan
    for name in ("ratio", "indices"):
        assert f"recipe.toml: '{name}' belongs to method 'drop', which --method copy replaces, and is left out" in plan
    noted = json.loads(said("convert", source, tmp_path / "out", "--recipe", recipe, "--method", "copy", "--dry-run", "--json"))
    assert len(noted["recipe_notes"]) == 2
    plan = said("convert", source, tmp_path / "out", "--recipe", recipe, "--method", "noise", "--dry-run")
    assert "ratio 0.25" in plan and "'indices'" in plan and "'ratio'" not in plan  # both have it, and it means the same
    assert "indices" in said("convert", source, tmp_path / "out", "--method", "copy", "--indices", "shared", code=USAGE)


def test_a_recipe_from_standard_input(source, tmp_path):
    plan = said("convert", source, tmp_path / "out", "--recipe", "-", "--dry-run", input='method = "copy"\nexperts = 3\n')
    assert "method      copy" in plan and "3 experts" in plan
    assert "standard input: there is no option 'methd'" in said("convert", "a", "b", "--recipe", "-", input="methd = 1\n", code=USAGE)


def test_a_conversion_ends_with_the_command_that_checks_it(source, tmp_path):
    out = tmp_path / "an output"
    last = said("convert", source, out).splitlines()[-1]
    assert shlex.split(last) == ["next", "upmoe", "verify", str(out), "--against", str(source)]


def test_json_is_one_object_with_plan_and_result(source, tmp_path):
    words = ("convert", source, tmp_path / "out", "--json")
    dry = json.loads(said(*words, "--dry-run"))
    assert dry["plan"]["method_options"] == {"ratio": 0.5, "indices": "shared"} and dry["forecast"]["seconds"] > 0
    wet = json.loads(said(*words))
    assert wet["plan"] == dry["plan"] and wet["result"]["complete"] and wet["next"].startswith("upmoe verify ")
    assert wet["result"]["bytes_written"] == wet["plan"]["bytes"] == (tmp_path / "out" / "model.safetensors").stat().st_size
    assert json.loads(said(*words, "--resume"))["result"] == {"complete": True, "was_complete": True}
    said(*words, code=FAILED)


def test_quiet_prints_errors_only(source, tmp_path):
    result = conftest.run("convert", source, tmp_path / "out", "-q")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    said("convert", source, tmp_path / "out", "-q", code=FAILED)


def test_the_head_of_a_tied_model_is_untied(tiny_folder, tmp_path):
    tied = tiny_folder(next(variant for variant in tiny.VARIANTS if variant.name == "tied"))
    assert ", lm_head untied\n" in said("convert", tied, tmp_path / "out", "--dry-run")
    assert ", lm_head tied\n" in said("convert", tied, tmp_path / "out", "--dry-run", "--keep-tied")


def test_an_empty_isa_is_as_unset():
    said("methods", env={**os.environ, "UPMOE_ISA": ""})


def test_inspect_takes_a_hub_id():
    assert "nobody/nothing: no such folder here, and it could not be downloaded" in said("inspect", "nobody/nothing", code=FAILED)


def test_inspect_spells_dtypes_as_convert_does(tiny_folder, tmp_path):
    folder = tiny_folder(next(variant for variant in tiny.VARIANTS if variant.name == "bf16"))
    assert re.search(r"dtype +bfloat16 ", said("inspect", folder))
    assert ", bfloat16\n" in said("convert", folder, tmp_path / "out", "--dry-run")


def test_weights_that_git_lfs_has_not_fetched(source, tmp_path):
    folder = shutil.copytree(source, tmp_path / "source")
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    for words in (("convert", folder, tmp_path / "out"), ("inspect", folder)):
        assert re.search("model.safetensors: is a Git LFS pointer.*git lfs pull", said(*words, code=FAILED))


def test_a_file_in_place_of_a_folder(source, tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert re.search("model.gguf: the weights are GGUF.*gguf_file", said("convert", tmp_path / "model.gguf", tmp_path / "out", code=FAILED))
    weights = source / "model.safetensors"
    assert "not a folder; name the folder" in said("convert", weights, tmp_path / "out", code=FAILED)


def test_missing_folders_around_an_output_of_tokens_are_made(source, tmp_path):
    said("tokenize", source, tiny.TEXT, "-o", tmp_path / "a" / "b" / "ids")
    assert (tmp_path / "a" / "b" / "ids.bin").exists()


def test_an_engine_that_is_not_there(tmp_path):
    alone = shutil.copy(conftest.PROGRAM, tmp_path / "upmoe")
    result = subprocess.run([alone, "eval", "x"], capture_output=True, text=True)
    assert result.returncode == FAILED
    assert re.search(f"upmoe-engine, which was not found beside {tmp_path}/upmoe", result.stderr)
