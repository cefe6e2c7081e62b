"""Documents of files and folders, in a fixed order. What cannot be read is an error that names it."""

import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from upmoe.errors import Error, printable

MAX_DOCUMENT = 256 << 20  # bytes: it is in memory as a whole


def documents(paths: list[str], field: str, note: Callable[[str], None]) -> Iterator[tuple[str, str]]:
    """Each with what to call it in an error. A text file is a document, and so is each line of a .jsonl. `note` is told what
    is left out in a folder."""
    for path in files(paths, note):
        if path.suffix == ".jsonl":
            yield from lines(path, field)
        else:
            yield text(path), printable(path)


def files(paths: list[str], note: Callable[[str], None]) -> Iterator[Path]:
    for name in paths:
        path = Path(name)
        if path.is_dir():
            yield from walk(path, note)
        else:
            yield path


def walk(folder: Path, note: Callable[[str], None]) -> Iterator[Path]:
    """Depth first, in the order of the names. Folders may be nested deeper than functions of Python."""
    within = [iter(sorted(folder.iterdir()))]
    while within:
        path = next(within[-1], None)
        if path is None:
            within.pop()
        elif path.name.startswith("."):
            note(f"left out {printable(path)}, which is hidden")
        elif not path.is_dir():
            yield path
        elif path.is_symlink():
            note(f"left out {printable(path)}, a link to a folder")
        else:
            within.append(iter(sorted(path.iterdir())))


def open_regular(path: Path):
    """Not a pipe, which would have us wait, nor a device."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Error(f"{printable(path)}: is not a regular file")
    return open(descriptor, "rb")


def text(path: Path) -> str:
    with open_regular(path) as file:
        data = file.read(MAX_DOCUMENT + 1)
    if len(data) > MAX_DOCUMENT:
        raise Error(f"{printable(path)}: a document of more than {MAX_DOCUMENT >> 20} MiB; "
                    "split it, for example into the lines of a .jsonl")
    return decoded(data, path)


def decoded(data: bytes, path: Path) -> str:
    zero = data.find(b"\0")
    if zero >= 0:
        raise Error(f"{printable(path)}: byte {zero} is zero; is it a binary file?")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Error(f"{printable(path)}: byte {error.start} is not UTF-8; is it a binary file?") from None


def lines(path: Path, field: str) -> Iterator[tuple[str, str]]:
    with open_regular(path) as file:
        for line, place in numbered(file, printable(path)):
            yield field_of(line, field, place), place


def numbered(file, name: str) -> Iterator[tuple[bytes, str]]:
    """The lines that are not blank, each with what to call it in an error."""
    number = 0
    while line := file.readline(MAX_DOCUMENT + 1):
        number += 1
        place = f"{name}: line {number}"
        if len(line) > MAX_DOCUMENT:
            raise Error(f"{place} has more than {MAX_DOCUMENT >> 20} MiB")
        if not line.isspace():
            yield line, place


def field_of(line: bytes, field: str, place: str) -> str:
    found = parsed(line, place)
    if not isinstance(found, dict) or field not in found:
        known = ", ".join(found) if isinstance(found, dict) else ""
        raise Error(f"{place} has no '{printable(field)}'"
                    + (f"; it has: {printable(known)}; choose with --field" if known else ", being no JSON object"))
    return checked_text(found[field], f"'{printable(field)}'", place)


def parsed(text: bytes | str, place: str):
    try:
        return json.loads(text)
    except RecursionError:
        why = "it is nested too deeply"
    except UnicodeDecodeError as error:
        why = f"byte {error.start} is not UTF-8"
    except json.JSONDecodeError as error:
        why = error
    except ValueError:  # as Python 3.11 says it
        why = f"it has a number of more than {sys.get_int_max_str_digits()} digits"
    raise Error(f"{place} is not valid JSON: {printable(why)}")


def checked_text(value, what: str, place: str) -> str:
    if not isinstance(value, str):
        raise Error(f"{place}: {what} is no text")
    if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        raise Error(f"{place}: {what} has half of a surrogate pair, which is no text")
    return value
