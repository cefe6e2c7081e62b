"""The corpus of the fuzz targets: kept as lines of text, read by libFuzzer as files."""

import subprocess
import sys

import pytest

import tiny

FUZZ = tiny.REPOSITORY / "tests" / "fuzz"
sys.path.append(str(FUZZ))
import found_inputs  # noqa: E402

KEPT = sorted(file.stem for file in found_inputs.CORPUS.glob("*.txt"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    stale = folder / KEPT[0] / "of_an_earlier_corpus"
    stale.parent.mkdir()
    stale.touch()
    subprocess.run([sys.executable, FUZZ / "make_corpus.py", folder], check=True)
    assert not stale.exists()
    return folder


def test_every_target_has_inputs(made):
    targets = {file.stem for file in FUZZ.glob("*_fuzz.cpp")}
    assert {folder.name for folder in made.iterdir() if any(folder.iterdir())} == targets
    assert targets.issuperset(KEPT)


@pytest.mark.parametrize("target", KEPT)
def test_every_line_is_a_file_named_by_its_hash(made, target):
    lines = (found_inputs.CORPUS / f"{target}.txt").read_bytes().splitlines()
    files = {file.name: file.read_bytes() for file in (made / target).iterdir()}
    found = {name: text for name, text in files.items() if found_inputs.name(text) == name}
    assert len(found) == len(lines) > 0
    assert sorted(found_inputs.as_line(text).encode() for text in found.values()) == lines


@pytest.mark.parametrize("text", [b"", b"a b ", b" ", b"\\x20", b"two\nlines\r\n", bytes(range(256))])
def test_any_bytes_are_one_line_that_says_them(text):
    line = found_inputs.as_line(text)
    assert line.isascii() and line.isprintable() and not line.endswith(" ")
    assert found_inputs.of_line(line) == text
