"""tokenize: text files, .jsonl and folders into one file of token ids."""

import concurrent.futures
import itertools
import os
import sys
import time
from collections.abc import Iterator

from upmoe.documents import documents
from upmoe.errors import UsageError, printable
from upmoe.model import Model
from upmoe.token_writer import TokenWriter

NAME = "tokenize"
SUMMARY = "turn text into a file of token ids (Megatron's .bin and .idx)"

CHUNK_CHARACTERS, CHUNK_DOCUMENTS = 4 << 20, 16384  # what is encoded at once, over all threads


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
    if asked.threads < 0 or asked.max_tokens < 0:
        raise UsageError("--threads and --max-tokens are 0 or more")
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    if asked.threads:
        os.environ["RAYON_NUM_THREADS"] = str(asked.threads)  # read when tokenizers first encodes
    model = Model(asked.model)
    tokenizer = model.tokenizer
    before, behind = ids_before(model, asked.add_bos), ids_behind(model, asked.eod)
    start = time.monotonic()
    with TokenWriter(asked.output, model.vocabulary, asked.replace) as writer, Progress() as progress:
        found = documents(asked.files, asked.field, progress.note)
        for ids in encoded(tokenizer, found):
            ids = before + ids + behind
            if asked.max_tokens and writer.tokens + len(ids) >= asked.max_tokens:
                writer.add(ids[: asked.max_tokens - writer.tokens])
                break
            writer.add(ids)
            progress.update(writer.tokens, len(writer.lengths))
        size = writer.commit()
    seconds = time.monotonic() - start
    ends = f", each ended by token {behind[0]}" if behind else ""
    print(f"tokens      {writer.tokens} in {len(writer.lengths)} documents{ends}")
    print(f"output      {printable(writer.bin)} and .idx: {writer.name}, {size} bytes")
    print(f"done        {seconds:.2f} s, {count(writer.tokens / seconds)} tokens/s")


def ids_before(model: Model, add_bos: bool) -> list[int]:
    if not add_bos:
        return []
    number = model.special_id("bos_token_id")
    if number is None:
        raise UsageError(f"{printable(model.folder)}: has no bos_token_id for --add-bos")
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
        raise UsageError(f"{printable(model.folder)}: has no eos_token_id; give --eod ID, or --eod none")
    return [model.require_id(number, "eos_token_id")]


def chunks(found: Iterator[str]) -> Iterator[list[str]]:
    while chunk := list(itertools.islice(found, 1)):
        characters = len(chunk[0])
        while characters < CHUNK_CHARACTERS and len(chunk) < CHUNK_DOCUMENTS:
            more = next(found, None)
            if more is None:
                break
            chunk.append(more)
            characters += len(more)
        yield chunk


def encoded(tokenizer, found: Iterator[str]) -> Iterator[list[int]]:
    """Ids of the documents, in order. While one chunk is encoded the next is read and the last is written."""
    def encode(chunk: list[str]):
        return tokenizer.encode_batch_fast(chunk, add_special_tokens=False)

    with concurrent.futures.ThreadPoolExecutor(1) as worker:
        running = None
        for chunk in itertools.chain(chunks(found), [None]):
            before, running = running, worker.submit(encode, chunk) if chunk else None
            for encoding in before.result() if before else ():
                yield encoding.ids


def count(number: float) -> str:
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.2f} {letter}"
    return f"{number:.0f}"


class Progress:
    """On stderr: a line that is drawn anew on a terminal, a plain one every five seconds elsewhere."""

    def __init__(self):
        self.terminal = sys.stderr.isatty()
        self.start = self.shown = time.monotonic()
        self.drawn = False

    def update(self, tokens: int, num_documents: int) -> None:
        now = time.monotonic()
        if now - self.shown < (0.1 if self.terminal else 5):
            return
        self.shown = now
        rate = count(tokens / (now - self.start))
        line = f"tokenizing: {count(tokens)} tokens, {num_documents} documents, {rate} tokens/s"
        print(f"\r\033[K{line}" if self.terminal else line, end="" if self.terminal else "\n", file=sys.stderr, flush=True)
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
