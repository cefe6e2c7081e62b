"""Every command of the README runs, in the order in which it stands there, and prints the lines that are shown."""

import re
import subprocess
import sys

import pytest

import conftest
import tiny

README = (tiny.REPOSITORY / "README.md").read_text()
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
# Of a time, a speed or a memory: another one each time.
MEASURED = re.compile(r"\d[\d.,]* (?:m?s|[kMG]?B/s|[kMG]?B of memory|(?:[kMG] )?tokens/s)\b|(?<=at the peak: )\d[\d.]* [kMG]?B")


@pytest.fixture
def clone(smollm2, large_folder):
    """The folder that the commands are run in, as it is after `make demo`."""
    (large_folder / "build").mkdir()
    for program in conftest.PROGRAM.parent.glob("*upmoe*"):
        if program.is_file():
            (large_folder / "build" / program.name).symlink_to(program)
    for name in ("models", "examples"):
        (large_folder / name).symlink_to(tiny.REPOSITORY / name)
    (large_folder / "texts").mkdir()
    (large_folder / "texts" / "prose.txt").write_text(tiny.TEXT.read_text())  # no figure of the README is of the real one
    return large_folder


def commands(block: str) -> list[tuple[str, list[str]]]:
    """Each with the lines that are shown of what it prints."""
    out = []
    for line in block.splitlines():
        if line.startswith("$ "):
            out.append((line[2:], []))
        else:
            out[-1][1].append(line)
    return out


def lines_of(text: str) -> list[str]:
    """The end of a line says nothing, nor does what is measured."""
    return [MEASURED.sub("#", line.rstrip()) for line in text.splitlines()]


def missing_line(shown: list[str], printed: str) -> str | None:
    """The first shown line that is not printed behind those before it; `...` stands for any lines."""
    rest = lines_of(printed)
    for line in lines_of("\n".join(shown)):
        if line == "...":
            continue
        if line not in rest:
            return line
        rest = rest[rest.index(line) + 1:]
    return None


def test_the_readme_can_be_followed_from_its_first_command_to_its_last(clone):
    ran = 0
    for language, block in BLOCK.findall(README):
        if language == "python":
            result = subprocess.run([sys.executable, "-c", block], cwd=clone, capture_output=True, text=True, timeout=600)
            assert result.returncode == 0, result.stderr
            ran += 1
        for command, shown in commands(block) if block.startswith("$ ") else []:
            result = subprocess.run(command, shell=True, cwd=clone, capture_output=True, text=True, timeout=600)
            assert result.returncode == 0, f"{command}\n{result.stderr}"
            printed = result.stdout + result.stderr
            missing = missing_line(shown, printed)
            assert missing is None, f"{command}\ndoes not print, where README.md shows it:\n{missing}\nbut:\n{printed}"
            ran += 1
    assert ran >= 9


def test_every_make_target_of_the_readme_exists():
    makefile = (tiny.REPOSITORY / "Makefile").read_text()
    targets = set(re.findall(r"^(\w[\w-]*):", makefile, re.M))
    used = set(re.findall(r"(?:^|`|=\S+ )make ([\w-]+)", README, re.M))
    assert used and used <= targets


def test_every_file_that_the_readme_links_to_exists():
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", README)
    assert links and not [link for link in links if not (tiny.REPOSITORY / link).exists()]


def test_a_line_that_is_not_printed_is_found():
    assert missing_line(["a", "...", "c"], "x\na\nb\nc\n") is None
    assert missing_line(["c", "a"], "a\nc\n") == "a"
    assert missing_line(["done  1.2 s, 999 MB/s, 3 MB of memory"], "done  9.99 s, 1.02 GB/s, 77.7 MB of memory\n") is None
