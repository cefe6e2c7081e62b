"""A stranger's tokenizer or template works in a process of its own: in bounded memory and time, and gone at an interrupt.

Neither can be done within one process: a regular expression or the power of two numbers runs without coming back to Python.
"""

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass

from upmoe.errors import Error, printable
from upmoe.streams import ReaderGone

FAILED, INTERRUPTED = 1, 130
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Limits:
    """Of the worker. A lower limit that it was started with stays (ulimit)."""

    who: str = "the model's tokenizer"  # takes time and memory
    seconds: int = 300  # of processor time, from one still_at_work() to the next
    memory: int = 8 << 30  # bytes of data


def guarded(work: Callable[[], int], limits: Limits, clean_up: Callable[[], None]) -> int:
    """The exit code of work(), which a worker does. `clean_up` removes what a killed worker has left."""
    said = os.memfd_create("said")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
    parent = os.getpid()
    worker = os.fork()
    if worker == 0:
        be_worker(work, limits, parent, said, before)
    try:
        for number in INTERRUPTS:
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup stays what it is
                signal.signal(number, interrupt)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        status = os.waitpid(worker, 0)[1]
    except KeyboardInterrupt:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)
        clean_up()
        say("interrupted; nothing was left behind")
        return INTERRUPTED
    if os.WIFEXITED(status):
        return os.WEXITSTATUS(status)
    clean_up()
    say(what_killed(os.WTERMSIG(status), limits, said))
    return FAILED


def interrupt(_number: int, _frame) -> None:
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def be_worker(work: Callable[[], int], limits: Limits, parent: int, said: int, mask) -> None:
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)  # they are the parent's, which ends us
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    code = FAILED
    try:
        end_with(parent)
        sys.stderr = open(os.dup(2), "w", buffering=1, errors="backslashreplace")
        os.dup2(said, 2)  # what libraries say there, before they abort, is no sentence of ours
        limit(resource.RLIMIT_CORE, 0)
        limit(resource.RLIMIT_DATA, limits.memory)
        still_at_work(limits)
        code = work()
        with contextlib.suppress(Error, OSError, ReaderGone):  # what was printed before an error
            sys.stdout.flush()
    finally:
        os._exit(code)


def end_with(parent: int) -> None:
    try:
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    except (ImportError, OSError, AttributeError):
        pass  # then a killed parent leaves us at work
    if os.getppid() != parent:
        os._exit(FAILED)


def limit(kind: int, most: int) -> None:
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (most if soft == resource.RLIM_INFINITY else min(soft, most), hard))


def still_at_work(limits: Limits, given=resource.getrlimit(resource.RLIMIT_CPU)) -> None:
    """From here on the worker has all its time again."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = int(used.ru_utime + used.ru_stime) + 1 + limits.seconds
    for number in given:
        if number != resource.RLIM_INFINITY:
            most = min(most, number)
    resource.setrlimit(resource.RLIMIT_CPU, (most, given[1]))


def what_killed(number: int, limits: Limits, said: int) -> str:
    if number == signal.SIGXCPU:
        given = resource.getrlimit(resource.RLIMIT_CPU)[0]
        seconds = limits.seconds if given == resource.RLIM_INFINITY else min(given, limits.seconds)
        return f"{limits.who} took more than {seconds} s of processor time, and was stopped"
    told = os.pread(said, 1000, 0).decode(errors="replace").strip()
    if number == signal.SIGABRT and "memory allocation" in told:
        return out_of_memory(limits)
    first = printable(told.split("\n")[0])
    return f"{limits.who} was ended by {signal.Signals(number).name}" + (f": {first}" if first else "")


def out_of_memory(limits: Limits) -> str:
    given = resource.getrlimit(resource.RLIMIT_DATA)[0]
    most = limits.memory if given == resource.RLIM_INFINITY else min(given, limits.memory)
    return f"{limits.who} takes more than {most >> 20} MiB of memory"


def say(what: object) -> None:
    try:
        print(f"upmoe: {what}", file=sys.stderr)
    except OSError:
        pass  # there is nobody to tell
