"""tokenize: text files, .jsonl and folders into one file of token ids."""

import concurrent.futures
import dataclasses
import itertools
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from upmoe.cuts import MAX_UNCUT, Cuts
from upmoe.documents import documents
from upmoe.errors import Error, UsageError, printable
from upmoe.guard import Limits, still_at_work
from upmoe.model import Model
from upmoe.token_writer import TokenWriter, remove_partial, require_apart

NAME = "tokenize"
SUMMARY = "turn text into a file of token ids (Megatron's .bin and .idx)"

LIMITS = Limits()
CHUNK_CHARACTERS, CHUNK_PIECES = 4 << 20, 16384  # what is encoded at once, over all threads
FEWEST_CHARACTERS, FOR_A_TOKEN = 64 << 10, 8  # of a chunk, where few tokens are asked for
MAX_THREADS, THREADS_FOR_A_CORE = 4096, 4  # the stacks of more would take what memory the worker may have


@dataclasses.dataclass
class Piece:
    text: str
    context: int  # characters in front of it that belong to the piece before
    ends: bool  # the document
    place: str


class OtherIds(Exception):
    """Pieces do not give the ids of the whole, though cuts.py shows that they do."""


def clean_up(asked) -> None:
    remove_partial(asked.output)


def add_arguments(parser) -> None:
    parser.add_argument("files", metavar="FILES", nargs="+", help="text files, .jsonl, folders of such")
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="OUT.bin and OUT.idx are written")
    parser.add_argument("--field", default="text", help="of a .jsonl line, the text (default: text)")
    parser.add_argument("--eod", default="auto", help="id at the end of each document; auto: the model's eos_token_id; none")
    parser.add_argument("--add-bos", action="store_true", help="put the model's bos_token_id before each document")
    parser.add_argument("--max-tokens", type=int, default=0, metavar="N", help="stop after N tokens (default: 0, no limit)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="threads that encode (default: 0, as there are cores)")
    parser.add_argument("--replace", "--force", action="store_true", help="replace an existing output")


def run(asked) -> None:
    if asked.max_tokens < 0:
        raise UsageError(f"--max-tokens is {asked.max_tokens}, expected 0 or more")
    if not 0 <= asked.threads <= MAX_THREADS:
        raise UsageError(f"--threads is {asked.threads}, expected 1 to {MAX_THREADS}, or 0 for as many as there are cores")
    require_apart(asked.output, [asked.model, *asked.files])
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    if asked.threads:
        most = THREADS_FOR_A_CORE * (os.cpu_count() or 1)
        os.environ["RAYON_NUM_THREADS"] = str(min(asked.threads, most))  # read when tokenizers first encodes
    model = Model(asked.model)
    model.tokenizer  # its errors come first
    before, behind = ids_before(model, asked.add_bos), ids_behind(model, asked.eod)
    start = time.monotonic()
    try:
        writer, size = write(asked, model, before, behind, cut=True)
    except OtherIds:  # from the beginning: what is written may be wrong already
        writer, size = write(asked, model, before, behind, cut=False)
    seconds = time.monotonic() - start
    ends = f", each ended by token {behind[0]}" if behind else ""
    print(f"tokens      {writer.tokens} in {len(writer.lengths)} documents{ends}")
    print(f"output      {printable(writer.bin)} and .idx: {writer.name}, {size} bytes")
    print(f"done        {seconds:.2f} s, {count(writer.tokens / seconds)} tokens/s")


def write(asked, model: Model, before: list[int], behind: list[int], cut: bool) -> tuple[TokenWriter, int]:
    """The writer and the bytes of its files; `cut`: long texts may be encoded in pieces."""
    with TokenWriter(asked.output, model.vocabulary, asked.replace) as writer, Progress() as progress:
        found = documents(asked.files, asked.field, progress.note if cut else ignore)
        begins = True
        for ids, ends in encoded(model, found, asked.max_tokens, cut):
            ids = (before if begins else []) + ids + (behind if ends else [])
            if asked.max_tokens and writer.tokens + len(ids) >= asked.max_tokens:
                writer.add(ids[: asked.max_tokens - writer.tokens])
                break
            writer.add(ids, ends)
            begins = ends
            progress.update(writer.tokens, len(writer.lengths))
        return writer, writer.commit()


def ignore(_note: str) -> None:
    """It was told the first time."""


def ids_before(model: Model, add_bos: bool) -> list[int]:
    if not add_bos:
        return []
    number = model.special_id("bos_token_id")
    if number is None:
        raise UsageError(f"{printable(model.folder.path)}: has no bos_token_id for --add-bos")
    return [model.require_id(number, "bos_token_id")]


def ids_behind(model: Model, eod: str) -> list[int]:
    if eod == "none":
        return []
    if eod != "auto":
        if not (eod.isascii() and eod.isdigit()):
            raise UsageError(f"--eod is '{printable(eod)}', expected auto, none or the id of a token")
        return [model.require_id(int(eod), "--eod")]
    number = model.special_id("eos_token_id")
    if number is None:
        raise UsageError(f"{printable(model.folder.path)}: has no eos_token_id; give --eod ID, or --eod none")
    return [model.require_id(number, "eos_token_id")]


def pieces(model: Model, found: Iterator[tuple[str, str]], most: int, cut: bool) -> Iterator[Piece]:
    cuts = None
    for text, place in found:
        spans = [(0, len(text))]
        if cut and len(text) > most:
            cuts = cuts or Cuts(model.folder.json("tokenizer.json"), model.tokenizer.normalizer)
            spans = cuts.pieces(text, most)
        for begin, end in spans:
            if end - begin > MAX_UNCUT:
                raise Error(f"{place}: no place to cut it safely in {end - begin} characters from {begin} on, and at most "
                            f"{MAX_UNCUT} are encoded at once; split it, for example into the lines of a .jsonl")
            context = min(begin, 1)
            yield Piece(text[begin - context : end], context, end == len(text), place)


def chunks(found: Iterator[Piece], most: int) -> Iterator[list[Piece]]:
    while chunk := list(itertools.islice(found, 1)):
        characters = len(chunk[0].text)
        while characters < most and len(chunk) < CHUNK_PIECES:
            more = next(found, None)
            if more is None:
                break
            chunk.append(more)
            characters += len(more.text)
        yield chunk


def encoded(model: Model, found: Iterator[tuple[str, str]], max_tokens: int, cut: bool) -> Iterator[tuple[list[int], bool]]:
    """Ids of the documents, in order, piece by piece, and whether a document ends there. While one chunk is encoded the next
    is read and the last is written."""
    tokenizer = model.tokenizer
    most = min(CHUNK_CHARACTERS, max(FEWEST_CHARACTERS, max_tokens * FOR_A_TOKEN)) if max_tokens else CHUNK_CHARACTERS

    def encode(texts: list[str]):
        return tokenizer.encode_batch_fast(texts, add_special_tokens=False)

    def of_chunk(chunk: list[Piece]) -> list[tuple[list[int], bool]]:
        contexts = sorted({piece.text[:1] for piece in chunk if piece.context})
        known = {letter: one.ids for letter, one in zip(contexts, encode(contexts))}
        out = []
        for piece, encoding in zip(chunk, encode([piece.text for piece in chunk])):
            before = known[piece.text[:1]] if piece.context else []
            ids = encoding.ids
            if ids[: len(before)] != before:
                raise OtherIds
            out.append((ids[len(before):], piece.ends))
        return out

    with concurrent.futures.ThreadPoolExecutor(1) as worker:
        running = None
        for chunk in itertools.chain(chunks(pieces(model, found, most // 4, cut), most), [None]):
            before, running = running, worker.submit(of_chunk, chunk) if chunk else None
            yield from before.result() if before else ()
            still_at_work(LIMITS)


def count(number: float) -> str:
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.2f} {letter}"
    return f"{number:.0f}"


def columns() -> int:
    """Of the terminal on stderr; 80 where it does not say."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except OSError:
        return 80


class Progress:
    """On stderr: one line that is updated, on a terminal that obeys escape sequences; else a plain line every five seconds."""

    def __init__(self):
        self.terminal = sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
        self.start = self.shown = time.monotonic()
        self.drawn = False

    def update(self, tokens: int, num_documents: int) -> None:
        now = time.monotonic()
        if now - self.shown < (0.1 if self.terminal else 5):
            return
        self.shown = now
        rate = count(tokens / (now - self.start))
        line = f"tokenizing: {count(tokens)} tokens, {num_documents} documents, {rate} tokens/s"
        if self.terminal:
            # A line that fills the last column would wrap on some terminals.
            print(f"\r\033[K{line[: columns() - 1]}", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)
        self.drawn = self.terminal

    def clear(self) -> None:
        if self.drawn:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        self.drawn = False

    def note(self, what: str) -> None:
        self.clear()
        print(f"note: {what}", file=sys.stderr)

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.clear()
