"""encode and decode: text to ids and back, between pipes."""

import json
import sys
from collections.abc import Iterable, Iterator

from upmoe.errors import Error, printable
from upmoe.guard import Limits, still_at_work
from upmoe.model import Model
from upmoe.streams import write_text
from upmoe.cuts import MAX_UNCUT

BROKEN = "\N{REPLACEMENT CHARACTER}"  # what an incomplete character decodes to


def read_text() -> str:
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise Error(f"standard input: byte {error.start} is not UTF-8") from None


def nothing(_asked) -> None:
    """What a killed worker leaves that writes no file."""


class Encode:
    NAME, SUMMARY = "encode", "text on standard input to a JSON list of ids"
    LIMITS, clean_up = Limits(), nothing

    @staticmethod
    def add_arguments(parser) -> None:
        parser.add_argument("--no-special-tokens", action="store_true",
                            help="add none, as behind a chat template, which has them already")

    @staticmethod
    def run(asked) -> None:
        text = read_text()
        if len(text) > MAX_UNCUT:
            raise Error(f"standard input: {len(text)} characters, at most {MAX_UNCUT} are encoded at once")
        encoding = Model(asked.model).tokenizer.encode(text, add_special_tokens=not asked.no_special_tokens)
        json.dump(encoding.ids, sys.stdout)
        sys.stdout.write("\n")


class Decode:
    NAME, SUMMARY = "decode", "ids on standard input, between white space, to text"
    LIMITS, clean_up = Limits(), nothing

    @staticmethod
    def add_arguments(parser) -> None:
        parser.add_argument("--stream", action="store_true", help="write text as soon as it is whole, line by line of ids")
        parser.add_argument("--keep-special-tokens", action="store_true", help="show </s> and the like")

    @staticmethod
    def run(asked) -> None:
        model = Model(asked.model)
        model.tokenizer  # its errors come before we wait for input
        skip = not asked.keep_special_tokens
        ids = read_ids(sys.stdin.buffer, model)
        for text in streamed(model.tokenizer, ids, skip) if asked.stream else [model.tokenizer.decode(list(ids), skip)]:
            write_text(text)
            still_at_work(Decode.LIMITS)


def read_ids(lines: Iterable[bytes], model: Model) -> Iterator[int]:
    vocabulary = model.vocabulary
    for line in lines:
        for word in line.split():
            if not word.isdigit() or len(word) > 18 or int(word) >= vocabulary:
                raise Error(f"standard input: '{printable(word.decode(errors='replace'))}' is no id; "
                            f"expected whole numbers from 0 to {vocabulary - 1}")
            yield int(word)


def streamed(tokenizer, ids: Iterable[int], skip_special: bool) -> Iterator[str]:
    """Pieces that add up to the text of all ids. A piece is held back while it ends within a character.

    Decoding depends on the token before (a space that only the first one loses), so the last piece is decoded again
    with the new one behind it.
    """
    last, new = [], []
    for number in ids:
        new.append(number)
        text = added(tokenizer, last, new, skip_special)
        if text and not text.endswith(BROKEN):
            yield text
            last, new = new, []
    if new:
        yield added(tokenizer, last, new, skip_special)


def added(tokenizer, last: list[int], new: list[int], skip_special: bool) -> str:
    return tokenizer.decode(last + new, skip_special)[len(tokenizer.decode(last, skip_special)):]
