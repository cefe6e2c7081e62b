"""Megatron's .bin and .idx (docs/formats.md has the grammar), which appear whole or not at all."""

import array
import contextlib
import fcntl
import os
import struct
import sys
from pathlib import Path

from upmoe.errors import Error, UsageError, printable
from upmoe.guard import beyond_interrupts

PARTIAL = ".upmoe-partial"
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


def remove_partial(out: str) -> None:
    """What a writer that was killed has left, unless another one is at work there."""
    for path in names(out):
        partial = Path(f"{path}{PARTIAL}")
        try:
            with TokenWriter._open(partial, os.O_RDWR):
                partial.unlink()
        except (OSError, Error):
            continue


def require_apart(out: str, inputs: list[str]) -> None:
    """That no file we write is an input or lies in one, also through links and mounts."""
    for path in names(out):
        for made in (path, Path(f"{path}{PARTIAL}")):
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
        self._file = self._open(Path(f"{self.bin}{PARTIAL}"))

    @staticmethod
    def _open(path: Path, flags: int = os.O_RDWR | os.O_CREAT):
        """What a killed run has left is used again; what another one is writing is not."""
        while True:
            file = open(os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666), "wb")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                raise Error(f"{printable(path)}: another process is writing it") from None
            if _is_at(path, file):
                break
            file.close()  # another one has finished it between the two: it has its name by now
        if os.fstat(file.fileno()).st_nlink > 1:
            file.close()
            raise Error(f"{printable(path)}: is a file with another name, which would be overwritten; move it away")
        file.truncate(0)
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
        index = self._open(Path(f"{self.idx}{PARTIAL}"))
        for file, path in ((index, self.idx), (self._file, self.bin)):
            with self._naming(path):
                if file is index:
                    file.write(self._index())
                file.flush()
                os.fsync(file.fileno())
        size = self._file.tell() + index.tell()
        beyond_interrupts()
        if self._replace:
            with self._naming(self.bin):
                self.bin.unlink(missing_ok=True)  # with the new .idx it could be read, and wrongly
        self._give_name(self.idx)
        try:
            self._give_name(self.bin)
        except Error:
            self.idx.unlink()
            raise
        index.close()
        return size

    def _give_name(self, path: Path) -> None:
        partial = f"{path}{PARTIAL}"
        with self._naming(path):
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
        """What has no name yet is removed; behind commit() another one may be writing there."""
        uncommitted = _is_at(Path(f"{self.bin}{PARTIAL}"), self._file)
        for path in (self.idx, self.bin) if uncommitted else ():
            partial = Path(f"{path}{PARTIAL}")
            if partial.exists() and partial.stat().st_nlink == 1:  # one with another name is not ours
                partial.unlink()
        with contextlib.suppress(OSError):  # of a full disk, which was told
            self._file.close()
