"""The inputs that runs of a fuzz target have found: corpus/TARGET.txt, an input a line, with Python's escapes."""

import hashlib
import pathlib

CORPUS = pathlib.Path(__file__).parent / "corpus"


def name(text: bytes) -> str:
    """As libFuzzer calls a file with this text."""
    return hashlib.sha1(text).hexdigest()


def as_line(text: bytes) -> str:
    line = text.decode("latin-1").encode("unicode_escape").decode()
    return line[:-1] + r"\x20" if line.endswith(" ") else line  # an editor may cut blanks off


def of_line(line: str) -> bytes:
    return line.encode().decode("unicode_escape").encode("latin-1")


def read(target: str) -> list[bytes]:
    file = CORPUS / f"{target}.txt"
    return [of_line(line) for line in file.read_text().split("\n")[:-1]] if file.exists() else []


def write(target: str, texts: set[bytes]) -> None:
    (CORPUS / f"{target}.txt").write_text("".join(f"{line}\n" for line in sorted(map(as_line, texts))))
