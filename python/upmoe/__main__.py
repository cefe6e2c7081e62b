"""python -m upmoe VERB: a table of verbs, and the one place where errors are caught and printed."""

import argparse
import signal
import sys

from upmoe import __version__, chat, choices, encode, tokenize
from upmoe.errors import Error, UsageError, printable

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
VERBS = [tokenize, encode.Encode, encode.Decode, chat, choices]


class Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UsageError(message)


def parser() -> Parser:
    all_verbs = Parser(prog="python -m upmoe", description=sys.modules["upmoe"].__doc__, allow_abbrev=False)
    all_verbs.add_argument("--version", action="version", version=f"upmoe {__version__}")
    verbs = all_verbs.add_subparsers(metavar="VERB", required=True)
    for verb in VERBS:
        one = verbs.add_parser(verb.NAME, help=verb.SUMMARY, description=verb.SUMMARY, allow_abbrev=False)
        one.add_argument("model", metavar="MODEL", help="folder with tokenizer.json")
        verb.add_arguments(one)
        one.set_defaults(run=verb.run)
    return all_verbs


def interrupt(number: int, _frame) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second one ends the program at once
    raise KeyboardInterrupt


def say(what: object) -> None:
    print(f"upmoe: {what}", file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup stays what it is
            signal.signal(number, interrupt)
    try:
        asked = parser().parse_args(arguments)
        asked.run(asked)
        sys.stdout.flush()
        return OK
    except KeyboardInterrupt:
        say("interrupted; nothing was left behind")
        return INTERRUPTED
    except UsageError as error:
        say(error)
        return USAGE
    except Error as error:
        say(error)
        return FAILED
    except BrokenPipeError:
        sys.stdout = None  # what is left in it can go nowhere
        say("cannot write to standard output")
        return FAILED
    except OSError as error:
        say(f"{printable(error.filename)}: {error.strerror}" if error.filename else error)
        return FAILED
    except MemoryError:
        say("out of memory")
        return FAILED
    except BaseException as error:
        # tokenizers' own errors are plain Exception, and a panic of its Rust is not even that.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        say(f"{type(error).__name__}: {printable(error, 400)}")
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
