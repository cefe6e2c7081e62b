"""What the documents show is true. Their plug-ins compile against the tree as they stand there, with their registry line."""

import json
import re
import shlex
import subprocess

import pytest

import tiny

PLUGINS = {"add_a_method": "upcycle", "add_a_target": "target", "add_a_router_init": "router_init", "add_a_router": "routing"}
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


def compiles(document: str, tmp_path, registry_line: bool = True) -> subprocess.CompletedProcess:
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
    command = command[1 + max((i for i, word in enumerate(command) if word.endswith("/ccache")), default=-1):]
    command[1:1] = ["-I", str(tmp_path)]  # in front of the tree's own
    return subprocess.run([*command, "-fsyntax-only", str(place / "plugin.cpp")], cwd=directory, capture_output=True, text=True)


@pytest.mark.parametrize("document", PLUGINS)
def test_the_plugin_of_the_document_compiles(document, tmp_path):
    result = compiles(document, tmp_path)
    assert result.returncode == 0, result.stderr


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
