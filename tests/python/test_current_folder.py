"""Nothing that lies in the current folder is run: no module, no program, no library, whatever the environment says."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import conftest
import tiny

PACKAGE = str(tiny.REPOSITORY / "python")
# What is imported on the way, by Python itself when it starts, by the hub's package, by ours and by tokenizers.
MODULES = ["sitecustomize", "usercustomize", "tqdm", "huggingface_hub", "upmoe", "tokenizers", "jinja2", "json", "ctypes",
           "argparse", "encodings", "_bootlocale"]
# A Python that looks into a user's folder, as that of a venv does not.
USER = {"UPMOE_PYTHON": sys._base_executable, "PYTHONPATH": f"{PACKAGE}:{sysconfig.get_path('purelib')}"}
PROGRAMS = ["python", "python3", "upmoe-engine"]


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """The current folder, full of what must not run; if it does, there is a file `sprung`."""
    folder = tmp_path / "trap"
    folder.mkdir()
    sprung = f"open({str(folder / 'sprung')!r}, 'a').write(__name__)\n"
    for module in MODULES:
        (folder / f"{module}.py").write_text(sprung)
    (folder / "evil.pth").write_text(f"import sys; exec({sprung!r})\n")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for place in (f"lib/{version}/site-packages", f".local/lib/{version}/site-packages"):
        (folder / place).mkdir(parents=True)
        (folder / place / "evil.pth").write_text(f"import sys; exec({sprung!r})\n")
    for program in PROGRAMS:
        (folder / program).write_text(f"#!/bin/sh\necho {program} >> {folder}/sprung\nexit 1\n")
        (folder / program).chmod(0o755)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("UPMOE_PYTHON", sys.executable)
    monkeypatch.setenv("PYTHONPATH", PACKAGE)
    yield folder
    assert not (folder / "sprung").exists(), (folder / "sprung").read_text()


@pytest.fixture
def model(tiny_folder):
    return tiny_folder(tiny.VARIANTS[0])


ENVIRONMENTS = {
    "nothing": {},
    "empty_entry": {"PYTHONPATH": f":{PACKAGE}"},
    "empty_entry_at_the_end": {"PYTHONPATH": f"{PACKAGE}:"},
    "dot": {"PYTHONPATH": f".:{PACKAGE}"},
    "relative_entry": {"PYTHONPATH": f"{PACKAGE}:../trap"},
    "home": {"PYTHONHOME": "."},
    "user_base": {**USER, "PYTHONUSERBASE": "."},
    "user_home": {**USER, "HOME": "."},
    "bytecode": {"PYTHONPYCACHEPREFIX": "."},
    "inspect": {"PYTHONINSPECT": "1", "PYTHONSTARTUP": "upmoe.py"},
}


@pytest.mark.parametrize("name", ["user_base", "user_home"])
def test_python_itself_would_run_what_lies_in_a_users_folder(name, trap):
    env = {**os.environ, **ENVIRONMENTS[name], "PYTHONPATH": ""}
    subprocess.run([sys._base_executable, "-P", "-c", ""], env=env, check=True)
    (trap / "sprung").unlink()


@pytest.mark.parametrize("environment", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_python_imports_nothing_from_it(environment, trap, model, upmoe):
    (trap.parent / "text").write_text("some text")
    env = {**os.environ, **environment}
    tokenized = upmoe("tokenize", model, trap.parent / "text", "-o", trap.parent / "out", env=env)
    assert tokenized.returncode == 0, tokenized.stderr
    chosen = upmoe("generate", model, "--prompt", "a", "--max-tokens", 1, env=env)
    assert chosen.returncode == 0, chosen.stderr


@pytest.mark.parametrize("environment", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_a_download_from_the_hub_imports_nothing_from_it(environment, trap, upmoe):
    result = upmoe("convert", "nobody/nothing", trap.parent / "out", env={**os.environ, **environment, "HF_HUB_OFFLINE": "1"})
    assert result.returncode == 1
    assert "nobody/nothing" in result.stderr and "no copy of it is in the cache" in result.stderr  # huggingface_hub's own answer


def test_what_is_left_out_of_pythonpath_is_told(trap, model, upmoe):
    for path, noted in ((f":{PACKAGE}", False), (f"lib:{PACKAGE}", True)):
        result = upmoe("generate", model, "--prompt", "a", "--max-tokens", 1, env={**os.environ, "PYTHONPATH": path})
        assert ("note: PYTHONPATH names 'lib'" in result.stderr) == noted


@pytest.mark.parametrize("path", [":{}", ".:{}", "../trap:{}", "{}"])
@pytest.mark.parametrize("name", ["python3", None], ids=["named", "unnamed"])
def test_python_is_not_looked_for_in_it(path, name, trap, model, upmoe, monkeypatch):
    folder = trap.parent / "bin"
    folder.mkdir()
    (folder / "python3").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (folder / "python3").chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.format(folder)}:{os.environ['PATH']}")
    if name:
        monkeypatch.setenv("UPMOE_PYTHON", name)
    else:
        monkeypatch.delenv("UPMOE_PYTHON")
    program = copy_of_the_programs(trap.parent)  # away from the tree that has .venv
    result = upmoe("tokenize", model, tiny.TEXT, "-o", trap.parent / "out", executable=program)
    assert result.returncode == 0, result.stderr


def copy_of_the_programs(folder: Path) -> Path:
    """Beside no source tree; the folder is anybody's, as /tmp is."""
    place = folder / "anybodys"
    (place / ".venv" / "bin").mkdir(parents=True)
    (place / ".venv" / "bin" / "python").symlink_to(folder / "trap" / "python")
    place.chmod(0o777)
    return Path(shutil.copy(conftest.PROGRAM, place))


@pytest.mark.parametrize("open_to_others", [".", ".venv", ".venv/bin"])
def test_a_venv_that_others_can_write_to_is_passed_over(open_to_others, trap, model, upmoe, monkeypatch):
    program = copy_of_the_programs(trap.parent)
    program.parent.chmod(0o755)
    (program.parent / open_to_others).chmod(0o777)
    monkeypatch.delenv("UPMOE_PYTHON")
    env = {**os.environ, "PATH": "/nowhere"}
    result = upmoe("tokenize", model, tiny.TEXT, "-o", trap.parent / "out", env=env, executable=program)
    assert result.returncode == 1 and "was passed over, because others can write" in result.stderr


@pytest.mark.parametrize("path", ["", ".", ":"])
def test_a_path_of_the_current_folder_alone_is_the_usual_one(path, trap, model, upmoe):
    shim = trap.parent / "python"  # a shell, which looks for the next program in PATH
    shim.write_text(f'#!/bin/sh\ncase $PATH in /*) exec "{sys.executable}" "$@";; esac\nexec python3 "$@"\n')
    shim.chmod(0o755)
    env = {**os.environ, "PATH": path, "UPMOE_PYTHON": str(shim)}
    result = upmoe("tokenize", model, tiny.TEXT, "-o", trap.parent / "out", env=env)
    assert result.returncode == 0, result.stderr


def test_a_venv_that_is_passed_over_is_named_in_the_error(trap, model, upmoe, monkeypatch):
    program = copy_of_the_programs(trap.parent)
    monkeypatch.delenv("UPMOE_PYTHON")
    says = r"anybodys/\.venv was passed over, because others can write to it or its folder"
    place = trap.parent / "bin"
    place.mkdir()
    arguments = ("tokenize", model, tiny.TEXT, "-o", trap.parent / "out")
    result = upmoe(*arguments, env={**os.environ, "PATH": str(place)}, executable=program)
    assert re.fullmatch(rf"upmoe: there is no python3 in PATH; \S+{says}; set UPMOE_PYTHON[^\n]+\n", result.stderr)
    (place / "python3").write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')  # finds no package
    (place / "python3").chmod(0o755)
    env = {**os.environ, "PATH": f"{place}:{os.environ['PATH']}", "PYTHONPATH": ""}
    result = upmoe(*arguments, env=env, executable=program)
    assert re.fullmatch(rf"upmoe: the Python package upmoe is not installed for [^\n]+{says}: 'make build'[^\n]+\n", result.stderr)
    result = upmoe("convert", "nobody/nothing", trap.parent / "out", env=env, executable=program)
    assert re.search(rf"huggingface_hub is not installed for [^\n]+{says}\n", result.stderr)


def test_without_a_python_there_is_one_sentence(trap, model, upmoe):
    for environment in ({"UPMOE_PYTHON": "python9"}, {"PATH": f":{trap}/nothing:.", "UPMOE_PYTHON": "python3"}):
        result = upmoe("tokenize", model, tiny.TEXT, "-o", trap.parent / "out", env={**os.environ, **environment})
        assert result.returncode == 1
        assert re.fullmatch(r"upmoe: there is no python\d in PATH; set UPMOE_PYTHON[^\n]+\n", result.stderr)


# ---- the engine ----


@pytest.mark.parametrize("name", ["upmoe", "upmoe-engine", "libupmoe_engine.so"])
def test_libraries_are_looked_for_in_absolute_places_only(name):
    file = conftest.PROGRAM.parent / name
    if not file.exists():
        pytest.skip(f"no {file}: the engine was not built")
    said = subprocess.run(["readelf", "--dynamic", "--wide", file], capture_output=True, text=True, check=True).stdout
    for places in re.findall(r"\((?:RUNPATH|RPATH)\)\s+Library \w+: \[(.*)\]", said):
        for place in places.split(":"):
            assert place.startswith("/") or place.split("/")[0] == "$ORIGIN", places
    for needed in re.findall(r"\(NEEDED\)\s+Shared library: \[(.*)\]", said):
        assert "/" not in needed or needed.startswith("/"), needed


@pytest.mark.parametrize("libraries", ["", ":", ".", "/nowhere:", ":/nowhere"])
def test_an_empty_entry_of_the_library_path_is_no_place_for_the_engine(libraries, trap, model, upmoe):
    for name in ("libfmt.so.9", "libtorch_cpu.so", "libgomp.so.1"):
        (trap / name).write_text("no library")
    env = {**os.environ, "LD_LIBRARY_PATH": libraries}
    # upmoe itself is started by whoever set the variable; with it, only the engine's libraries are at stake here.
    (trap / "libfmt.so.9").unlink()
    result = upmoe("generate", model, "--tokens", "1 2", "--max-tokens", 1, env=env)
    assert result.returncode == 0, result.stderr


def test_a_library_in_it_is_not_loaded(trap, model, upmoe):
    said = subprocess.run(["ldd", conftest.PROGRAM.parent / "upmoe-engine"], capture_output=True, text=True, check=True).stdout
    for library in re.findall(r"^\t(\S+) => ", said, re.MULTILINE):
        (trap / library).write_text("no library at all")  # the loader would stop at it
    result = upmoe("routers", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)


@pytest.fixture
def without_proc():
    """What to put in front of a command for it to see no /proc."""
    start = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh"]
    if os.geteuid() != 0 or subprocess.run([*start, "true"], capture_output=True).returncode != 0:
        pytest.skip("hiding /proc needs root, unshare and mount")
    return start


@pytest.mark.parametrize("verb", ["routers", "eval", "tokenize"])
def test_without_proc_nothing_is_guessed(verb, without_proc, trap, model):
    (trap / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(trap / "python", trap / ".venv" / "bin" / "python")
    arguments = {"tokenize": [model, tiny.TEXT, "-o", "out"]}.get(verb, [])
    env = {key: value for key, value in os.environ.items() if key != "UPMOE_PYTHON"}
    result = subprocess.run([*without_proc, conftest.PROGRAM, verb, *arguments], env=env, capture_output=True, text=True)
    assert result.returncode == 1
    assert re.fullmatch(r"upmoe: [^\n]*/proc is missing[^\n]*\n", result.stderr), result.stderr
