"""Megatron's .bin and .idx (docs/formats.md has the grammar), which appear whole or not at all."""

import array
import contextlib
import fcntl
import mmap
import os
import struct
import sys
from pathlib import Path

from upmoe.errors import Error, UsageError, printable
from upmoe.guard import beyond_interrupts

PARTIAL, REPLACED = ".upmoe-partial", ".upmoe-replaced"
MOST_NAMES = 100  # of which a file under way takes the first that is free
UINT16, INT32 = 8, 4  # Megatron's codes

assert sys.byteorder == "little", "token files are little endian"


MAX_IDS = 2**31


def names(out: str) -> tuple[Path, Path]:
    """The .bin and the .idx that are written."""
    if out.endswith("/") or Path(out).name in ("", "..") or os.path.basename(out) == ".":
        raise UsageError(f"--output is '{printable(out)}', a folder; expected the name that both files begin with")
    base = Path(out)
    if base.suffix in (".bin", ".idx"):
        base = base.with_suffix("")
    return Path(f"{base}.bin"), Path(f"{base}.idx")


# Which of their names the partial .bin and .idx have; 0: none. A worker's parent sees it too.
_made = mmap.mmap(-1, 2)


def _name_under_way(path: Path, end: str, number: int) -> Path:
    return Path(f"{path}{end}" if number == 1 else f"{path}.{number}{end}")


def _create(path: Path, end: str):
    """A new file under the first of the names that is free. What has another is foreign or a killed run's: it is left alone."""
    for number in range(1, MOST_NAMES + 1):
        place = _name_under_way(path, end, number)
        try:
            file = open(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), "wb")
        except FileExistsError:
            _require_unlocked(place)
            continue
        fcntl.flock(file, fcntl.LOCK_EX)
        return number, place, file
    raise Error(f"{printable(place)}: is there already, as are {MOST_NAMES - 1} others; remove what killed runs have left")


def _require_unlocked(place: Path) -> None:
    try:
        file = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return  # gone by now, or none of ours
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Error(f"{printable(place)}: another process is writing it") from None
    finally:
        os.close(file)


def remove_partial(out: str) -> None:
    """What the worker that was killed has left of its own."""
    for number, path in zip(_made[:], names(out)):
        if number:
            with contextlib.suppress(OSError):
                _name_under_way(path, PARTIAL, number).unlink()


def require_apart(out: str, inputs: list[str]) -> None:
    """That no file we write is an input or lies in one, also through links and mounts."""
    for made in names(out):
        real = Path(os.path.realpath(made))
        for name in inputs:
            inside = any(_same(place, name) for place in (made, real, *real.parents))
            if inside or (made.exists() and any(_same(made, file) for file in _files(name))):
                where = "" if _same(made, name) else "in "
                raise UsageError(f"--output would write {printable(made)}, which is {where}what is read: {printable(name)}")


def _files(folder: str):
    for root, _, found in os.walk(folder):
        yield from (os.path.join(root, name) for name in found)


def _is_at(path: Path, file) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _same(a: Path, b: str) -> bool:
    try:
        return os.path.samefile(a, b)
    except OSError:
        return False


class TokenWriter:
    """with TokenWriter(...) as writer: writer.add(ids); ... writer.commit()"""

    def __init__(self, out: str, vocabulary: int, replace: bool):
        if vocabulary > MAX_IDS:
            raise Error(f"the tokenizer has ids up to {vocabulary - 1}, and a token file has ids below {MAX_IDS}")
        self.bin, self.idx = names(out)
        self._replace = replace
        for path in (self.bin, self.idx):
            if path.is_symlink() or (os.path.lexists(path) and not path.is_file()):
                raise Error(f"{printable(path)}: is there already, and is no file that could be replaced")
            if path.exists() and not replace:
                raise Error(f"{printable(path)}: is there already; --replace replaces it")
        self.code, self.type, self.name = (UINT16, "H", "uint16") if vocabulary <= 65536 else (INT32, "i", "int32")
        self.lengths = array.array("i")
        self.tokens, self._length = 0, 0
        self.bin.parent.mkdir(parents=True, exist_ok=True)
        self._partials = {}  # what we have made and has no name yet: place by path
        self._file = self._create_partial(self.bin)

    def _create_partial(self, path: Path):
        number, place, file = _create(path, PARTIAL)
        _made[path == self.idx] = number
        self._partials[path] = place, file
        return file

    def add(self, ids: list[int], ends: bool = True) -> None:
        """More of a document; `ends`: the last of it."""
        try:
            data = array.array(self.type, ids).tobytes()
        except OverflowError:
            raise Error(f"{printable(self.bin)}: the tokenizer gives token {max(ids)}, which {self.name} cannot hold; "
                        "do tokenizer and config.json belong together?") from None
        with self._naming(self.bin):
            self._file.write(data)
        self.tokens += len(ids)
        self._length += len(ids)
        if ends:
            self.lengths.append(self._length)
            self._length = 0

    @staticmethod
    @contextlib.contextmanager
    def _naming(path: Path):
        """An error of writing does not say by itself of which file it is."""
        try:
            yield
        except OSError as error:
            raise Error(f"{printable(path)}: {error.strerror}") from None

    def _index(self) -> bytes:
        width, count, byte = array.array(self.type).itemsize, len(self.lengths), 0
        pointers = array.array("q")
        for length in self.lengths:
            pointers.append(byte)
            byte += length * width
        head = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, self.code, count, count + 1)
        return b"".join([head, self.lengths.tobytes(), pointers.tobytes(), array.array("q", range(count + 1)).tobytes()])

    def commit(self) -> int:
        """Makes both durable and gives them their names; the .idx first: alone, a .bin would be another format."""
        index = self._create_partial(self.idx)
        for file, path in ((index, self.idx), (self._file, self.bin)):
            with self._naming(path):
                if file is index:
                    file.write(self._index())
                file.flush()
                os.fsync(file.fileno())
        size = self._file.tell() + index.tell()
        beyond_interrupts()
        with self._old_pair_aside():
            self._give_name(self.idx)
            try:
                self._give_name(self.bin)
            except Error:
                self.idx.unlink()
                raise
        index.close()
        return size

    @contextlib.contextmanager
    def _old_pair_aside(self):
        """The .bin first: with the new .idx it could be read, and wrongly. Both come back on an error."""
        aside = []
        try:
            for path in (self.bin, self.idx) if self._replace else ():
                if path.exists():
                    aside.append((path, self._set_aside(path)))
            yield
        except Error:
            for path, place in reversed(aside):
                os.replace(place, path)
            raise
        for _, place in aside:
            place.unlink()

    def _set_aside(self, path: Path) -> Path:
        with self._naming(path):
            _, place, file = _create(path, REPLACED)
            file.close()
            try:
                os.replace(path, place)
            except OSError:
                place.unlink()
                raise
        return place

    def _give_name(self, path: Path) -> None:
        with self._naming(path):
            self._rename(self._partials[path][0], path)
        del self._partials[path]
        _made[path == self.idx] = 0

    def _rename(self, partial: Path, path: Path) -> None:
        if not self._replace:
            try:
                os.link(partial, path)  # unlike a rename, it fails where somebody has taken the name
                os.unlink(partial)
                return
            except OSError:
                if os.path.lexists(path):
                    raise
        os.replace(partial, path)  # as asked, or on a file system without links

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        """What has no name yet is removed."""
        for place, file in self._partials.values():
            if _is_at(place, file):
                place.unlink()
        _made[:] = bytes(2)
        for file in (self._file, *(file for _, file in self._partials.values())):
            with contextlib.suppress(OSError):  # of a full disk, which was told
                file.close()
