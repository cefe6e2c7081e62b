"""What the documents show is true. Their plug-ins compile against the tree as they stand there, with their registry line."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest

import tiny

PLUGINS = {
    "add_a_method": "upcycle",
    "add_a_target": "target",
    "add_a_router_init": "router_init",
    "add_a_router": "routing",
    "add_a_balance_loss": "balance",
}
CONTRACTS = {"add_a_router": "*tempered_topk*", "add_a_balance_loss": "*even_probability*"}
MACRO = re.compile(r"#define UPMOE_[A-Z_]+\([A-Z]+\)(?:[^\n]*\\\n)*[^\n]*\n")  # with all its lines


def blocks(document: str) -> list[str]:
    return re.findall(r"^```cpp\n(.*?)^```$", (tiny.REPOSITORY / "docs" / f"{document}.md").read_text(), re.M | re.S)


def compile_command(folder: str) -> tuple[list[str], str]:
    """What compiles a plug-in of that folder, up to the name of its source, and where."""
    database = tiny.REPOSITORY / "build" / "dev" / "compile_commands.json"
    if not database.is_file():
        pytest.skip("no build/dev/compile_commands.json: cmake --preset dev makes it")
    for entry in json.loads(database.read_text()):
        if entry["file"].startswith(f"{tiny.REPOSITORY}/upmoe/{folder}/"):
            words = shlex.split(entry["command"])
            return words[:words.index("-o")], entry["directory"]
    pytest.skip(f"build/dev compiles nothing of upmoe/{folder}: the engine is not built")


def without_ccache(command: list[str]) -> list[str]:
    return command[1 + max((i for i, word in enumerate(command) if word.endswith("/ccache")), default=-1):]


def compiles(document: str, tmp_path, registry_line: bool = True, to: tuple = ("-fsyntax-only",)) -> subprocess.CompletedProcess:
    """The document's file, beside a copy of the registry in which its list is the document's."""
    folder = PLUGINS[document]
    source, macro = blocks(document)
    registry = (tiny.REPOSITORY / "upmoe" / folder / "registry.h").read_text()
    assert len(MACRO.findall(registry)) == 1
    place = tmp_path / "upmoe" / folder
    place.mkdir(parents=True)
    (place / "registry.h").write_text(MACRO.sub(lambda _: macro, registry) if registry_line else registry)
    (place / "plugin.cpp").write_text(source)
    command, directory = compile_command(folder)
    command = without_ccache(command)
    command[1:1] = ["-I", str(tmp_path)]  # in front of the tree's own
    return subprocess.run([*command, *to, str(place / "plugin.cpp")], cwd=directory, capture_output=True, text=True)


@pytest.mark.parametrize("document", PLUGINS)
def test_the_plugin_of_the_document_compiles(document, tmp_path):
    result = compiles(document, tmp_path)
    assert result.returncode == 0, result.stderr


def link_command(folder: str, build) -> list[str]:
    commands = subprocess.run(
        ["ninja", "-C", build, "-t", "commands", f"tests/{folder}_tests"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    link = next(line for line in reversed(commands) if f"-o tests/{folder}_tests " in line)
    parts = [part for part in link.split("&&") if f"-o tests/{folder}_tests " in part]
    return without_ccache(shlex.split(parts[0]))


@pytest.mark.parametrize("document,contracts", CONTRACTS.items())
def test_the_plugin_of_the_document_keeps_the_contract(document, contracts, tmp_path):
    """The document's plug-in and a registry that has it, linked with the contract tests of build/dev in front of the engine."""
    folder, build = PLUGINS[document], tiny.REPOSITORY / "build" / "dev"
    if not (build / "tests" / f"{folder}_tests").is_file():
        pytest.skip(f"build/dev/tests/{folder}_tests is not there: cmake --workflow --preset dev makes it")
    plugin, registry, program = tmp_path / "plugin.o", tmp_path / "registry.o", tmp_path / "tests"
    result = compiles(document, tmp_path, to=("-o", str(plugin), "-c"))
    assert result.returncode == 0, result.stderr
    command, directory = compile_command(folder)
    source = tmp_path / "upmoe" / folder / "registry.cpp"
    source.write_text((tiny.REPOSITORY / "upmoe" / folder / "registry.cpp").read_text())
    command = without_ccache(command)
    command[1:1] = ["-I", str(tmp_path)]
    subprocess.run([*command, "-o", str(registry), "-c", str(source)], cwd=directory, check=True)
    link = link_command(folder, build)
    at = link.index("-o")
    link[at : at + 2] = [str(plugin), str(registry), "-o", str(program)]
    subprocess.run(link, cwd=build, check=True)
    run = subprocess.run([program, f"--gtest_filter={contracts}"], cwd=build, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:]
    assert "[  PASSED  ]" in run.stdout and "[  PASSED  ] 0 tests" not in run.stdout


@pytest.mark.parametrize("document", PLUGINS)
def test_without_its_line_the_plugin_does_not_compile(document, tmp_path):
    result = compiles(document, tmp_path, registry_line=False)
    assert result.returncode != 0
    assert "no previous declaration" in result.stderr and "[-Werror=missing-declarations]" in result.stderr


@pytest.mark.parametrize("document,folder", PLUGINS.items())
def test_the_list_of_the_document_is_the_registry_and_its_own_line(document, folder):
    source, macro = blocks(document)
    registry = MACRO.search((tiny.REPOSITORY / "upmoe" / folder / "registry.h").read_text()).group()
    shown, there = (re.findall(r"\b[A-Z_]+\((\w+)\)", text)[1:] for text in (macro, registry))
    own = re.search(r"^[\w:]+ (\w+)\(\) \{$", source, re.M).group(1)
    assert [name for name in shown if name != own] == there and shown.count(own) == 1


@pytest.mark.parametrize("verb", ["routers", "losses"])
def test_the_page_of_routing_has_every_router_and_loss_with_its_formula(upmoe, verb):
    page = (tiny.REPOSITORY / "docs" / "routing.md").read_text()
    for entry in json.loads(upmoe(verb, "--json").stdout):
        row = f"| `{entry['name']}` | `{entry['formula']}` |"
        assert row in page, row


def test_the_python_of_the_page_of_routing_runs(tmp_path):
    (source,) = re.findall(r"^```python\n(.*?)^```$", (tiny.REPOSITORY / "docs" / "routing.md").read_text(), re.M | re.S)
    environment = {**os.environ, "PYTHONPATH": str(tiny.REPOSITORY / "python")}
    run = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count(",") == 7  # the loads of eight experts
