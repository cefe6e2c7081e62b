"""python -m upmoe VERB: a table of verbs, and the one place where errors are caught and printed."""

import argparse
import contextlib
import sys

from upmoe import __version__, chat, choices, encode, streams, tokenize
from upmoe.errors import Error, UsageError, printable
from upmoe.guard import guarded, say

OK, FAILED, USAGE, READER_GONE = 0, 1, 2, 141
VERBS = [tokenize, encode.Encode, encode.Decode, chat, choices]


class Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UsageError(printable(message))


def parser() -> Parser:
    all_verbs = Parser(prog="python -m upmoe", description=sys.modules["upmoe"].__doc__, allow_abbrev=False)
    all_verbs.add_argument("--version", action="version", version=f"upmoe {__version__}")
    verbs = all_verbs.add_subparsers(metavar="VERB", required=True)
    for verb in VERBS:
        one = verbs.add_parser(verb.NAME, help=verb.SUMMARY, description=verb.SUMMARY, allow_abbrev=False)
        one.add_argument("model", metavar="MODEL", help="folder with tokenizer.json")
        verb.add_arguments(one)
        one.set_defaults(verb=verb)
    return all_verbs


def answered(work, model: str = "") -> int:
    """The exit code that work() gives, or OK where it gives none, and the sentence if it fails."""
    try:
        code = work()
        with contextlib.suppress(streams.ReaderGone):  # after all was done
            sys.stdout.flush()
        return code or OK
    except streams.ReaderGone:
        return READER_GONE
    except UsageError as error:
        say(error)
        return USAGE
    except Error as error:
        say(error)
        return FAILED
    except OSError as error:
        say(f"{printable(error.filename)}: {error.strerror}" if error.filename else error)
        return FAILED
    except MemoryError:
        say("out of memory")
        return FAILED
    except BaseException as error:
        # tokenizers' own errors are plain Exception, and a panic of its Rust is not even that.
        of_tokenizers = type(error) is Exception or type(error).__name__ == "PanicException"
        if not isinstance(error, Exception) and not of_tokenizers:
            raise
        what = f"{printable(model)}/tokenizer.json: the tokenizer fails" if of_tokenizers else type(error).__name__
        say(f"{what}: {printable(error, 400)}")
        return FAILED


def run(arguments: list[str] | None) -> int:
    asked = parser().parse_args(arguments)
    verb = asked.verb
    return guarded(lambda: answered(lambda: verb.run(asked), asked.model), verb.LIMITS, lambda: verb.clean_up(asked))


def main(arguments: list[str] | None = None) -> int:
    streams.set_up()
    return answered(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
