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
    """The exit code of work(), which a worker does. `clean_up` removes what a killed worker has left.

    Interrupts wait until they are asked for here, and behind that for the end of this process, which is near.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*INTERRUPTS, signal.SIGCHLD})
    heard = {number for number in INTERRUPTS if signal.getsignal(number) != signal.SIG_IGN}  # nohup stays what it is
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    parent = os.getpid()
    try:
        said, last_word = os.memfd_create("said"), pipe_with_a_byte()
        worker = os.fork()
    except OSError as error:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        raise Error(f"cannot start a process for {limits.who}: {error.strerror}") from None
    if worker == 0:
        be_worker(work, limits, parent, said, last_word, before - set(INTERRUPTS))
    finishing = False
    while (status := end_of(worker, heard)) is None:
        if finishing or os.read(last_word, 1):
            os.kill(worker, signal.SIGKILL)
            os.waitpid(worker, 0)
            if not finishing:
                clean_up()
            say("interrupted again, and ended at once" if finishing else "interrupted; nothing was left behind")
            return INTERRUPTED
        finishing = True
    if os.WIFEXITED(status):
        return os.WEXITSTATUS(status)
    clean_up()
    say(what_killed(os.WTERMSIG(status), limits, said))
    return FAILED


def pipe_with_a_byte() -> int:
    """Who reads it decides: the worker that it is beyond interrupts, or the parent that it is killed. The other reads nothing."""
    to_read, to_write = os.pipe()
    os.write(to_write, b"!")
    os.close(to_write)
    return to_read


def end_of(worker: int, heard: set[int]) -> int | None:
    """How it ended; None: an interrupt came first. All of these signals are blocked."""
    while True:
        number = signal.sigwait({*heard, signal.SIGCHLD})
        done, status = os.waitpid(worker, os.WNOHANG)
        if done:
            return status
        if number != signal.SIGCHLD:
            return None


_last_word = None  # of a worker


def beyond_interrupts() -> None:
    """From here on the first interrupt comes too late, and the parent waits for the worker that calls this."""
    if _last_word is not None and not os.read(_last_word, 1):
        signal.pause()  # until the parent has killed us


def be_worker(work: Callable[[], int], limits: Limits, parent: int, said: int, last_word: int, mask) -> None:
    global _last_word
    _last_word = last_word
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
