"""Standard input and output, whose errors say so; and what a terminal may be shown."""

import io
import os
import re
import sys

from upmoe.errors import Error

# What a terminal would obey: control characters but tab and line break, and marks that reorder text or break a line.
DISOBEDIENT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class ReaderGone(Exception):
    """Nobody reads standard output any more (`| head`): there is no more to do, and nothing to say."""


class Stream(io.FileIO):
    def __init__(self, number: int):
        self.what = ("standard input", "standard output")[number]
        super().__init__(number, "rw"[number], closefd=False)

    def readinto(self, *to):
        return self._named(super().readinto, *to)

    def readall(self):
        return self._named(super().readall)

    def write(self, *what):
        return self._named(super().write, *what)

    def _named(self, call, *arguments):
        try:
            return call(*arguments)
        except BrokenPipeError:
            raise ReaderGone from None
        except OSError as error:
            raise Error(f"cannot {'write to' if self.what.endswith('output') else 'read'} {self.what}: {error.strerror}") from None


def set_up() -> None:
    """A closed stream becomes one that can neither be read nor written, so that no file gets its number."""
    for number, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open("/dev/null", mode), number)
    sys.stdin = io.TextIOWrapper(io.BufferedReader(Stream(0)), encoding="utf-8")
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(Stream(1)), encoding="utf-8", errors="backslashreplace")
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)


def write_text(text: str) -> None:
    """A stranger's text, byte for byte; on a terminal without what it would obey."""
    if sys.stdout.isatty():
        text = DISOBEDIENT.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    sys.stdout.buffer.write(text.encode(errors="replace"))
    sys.stdout.buffer.flush()
