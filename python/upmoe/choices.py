"""choices: multiple-choice questions to token ids, as lm-evaluation-harness makes them.

After its TemplateLM._encode_pair and loglikelihood (lm_eval/api/model.py) and HFLM.tok_encode (lm_eval/models/huggingface.py).
"""

import json
import sys
from pathlib import Path

from upmoe.chat import special_tokens
from upmoe.documents import checked_text, numbered, open_regular, parsed
from upmoe.encode import nothing
from upmoe.errors import Error, printable
from upmoe.guard import Limits, still_at_work
from upmoe.model import Model

NAME = "choices"
SUMMARY = "multiple-choice questions, a JSON object a line, to one of token ids each"
LIMITS, clean_up = Limits(), nothing
MAX_QUESTION = 1 << 20  # bytes: the context is encoded anew with each choice
KEYS = ("context", "choices", "answer", "target_delimiter", "id")


def add_arguments(parser) -> None:
    parser.add_argument("file", metavar="FILE", nargs="?", help="JSONL of questions (default: standard input)")


def run(asked) -> None:
    encoder = Encoder(Model(asked.model))  # its errors come before we wait for input
    with open_regular(Path(asked.file)) if asked.file else sys.stdin.buffer as file:
        for line, place in numbered(file, printable(asked.file or "standard input")):
            json.dump(encoded(encoder, read_question(line, place), place), sys.stdout, separators=(",", ":"))
            sys.stdout.write("\n")
            still_at_work(LIMITS)


def read_question(line: bytes, place: str) -> dict:
    """What a line says, checked: with all keys, and `answer` a list."""
    said = parsed(line, place)
    if not isinstance(said, dict):
        raise Error(f"{place} is no JSON object")
    for key in said:
        if key not in KEYS:
            raise Error(f"{place}: there is no key '{printable(key)}'; there are: {', '.join(KEYS)}")
    for key in ("context", "choices", "answer"):
        if key not in said:
            raise Error(f"{place} has no '{key}'")
    choices = said["choices"]
    if not isinstance(choices, list) or len(choices) < 2:
        raise Error(f"{place}: 'choices' is no list of at least two")
    for number, choice in enumerate(choices):
        if not checked_text(choice, f"choice {number}", place):
            raise Error(f"{place}: choice {number} is empty")
    answers = said["answer"] if isinstance(said["answer"], list) else [said["answer"]]
    for answer in answers or [None]:
        if type(answer) is not int or not 0 <= answer < len(choices):
            raise Error(f"{place}: 'answer' is {printable(json.dumps(said['answer']), 40)}, expected the number of a choice, "
                        f"from 0 to {len(choices) - 1}, or a list of such")
    identity = said.get("id", place.rpartition(" ")[2])
    if type(identity) is int:
        identity = str(identity)
    if len(line) > MAX_QUESTION:
        raise Error(f"{place}: has {len(line)} bytes, and a question has at most {MAX_QUESTION}; what does not fit in the model's "
                    "context is left out in any case")
    return {
        "id": checked_text(identity, "'id'", place),
        "context": checked_text(said["context"], "'context'", place),
        "choices": choices,
        "answer": answers,
        "target_delimiter": checked_text(said.get("target_delimiter", " "), "'target_delimiter'", place),
    }


def encoded(encoder: "Encoder", question: dict, place: str) -> dict:
    pairs = [encoder.pair(question["context"], question["target_delimiter"] + choice) for choice in question["choices"]]
    context = pairs[0][0]  # the same for all
    if not context:
        raise Error(f"{place}: 'context' has white space and nothing else; leave it empty")
    for number, (_, continuation) in enumerate(pairs):
        if not continuation:
            raise Error(f"{place}: choice {number} adds no token to the context")
    return {
        "id": question["id"],
        "context": context,
        "choices": [continuation for _, continuation in pairs],
        "characters": [len(choice) for choice in question["choices"]],
        "answer": question["answer"],
    }


class Encoder:
    def __init__(self, model: Model):
        self.tokenizer = model.tokenizer
        self.prefix = prefix_token(model)
        self.prefix_text = self.tokenizer.id_to_token(self.prefix)

    def ids(self, text: str) -> list[int]:
        """With the special tokens that the tokenizer adds, unless the text begins with one already."""
        return self.tokenizer.encode(text, add_special_tokens=not text.startswith(self.prefix_text)).ids

    def pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if not context:
            ids = self.tokenizer.encode(continuation, add_special_tokens=False).ids
            return [self.prefix], ids[1:] if ids[:1] == [self.prefix] else ids
        stripped = context.rstrip()
        whole = self.ids(context + continuation)
        before = self.ids(stripped)
        return before, whole[len(before):]


def prefix_token(model: Model) -> int:
    """What stands for an empty context: the tokenizer's bos_token, or else its eos_token."""
    named = special_tokens(model.folder, model.folder.json("tokenizer_config.json"))
    for key in ("bos_token", "eos_token"):
        number = model.tokenizer.token_to_id(named[key]) if key in named else None
        if number is not None:
            return number
    for key in ("bos_token_id", "eos_token_id"):
        number = model.special_id(key)
        if number is not None:
            return model.require_id(number, key)
    raise Error(f"{printable(model.folder.path)}: has neither bos_token nor eos_token, to begin an empty context with")
