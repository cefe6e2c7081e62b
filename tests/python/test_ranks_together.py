"""Ranks that end at the same moment, or are killed at any: one of them completes the output, and it is whole."""

import fcntl
import itertools
import os
import random
import re
import signal
import subprocess
import time

import pytest

import faults
import synthetic

OPTIONS = ("--experts", "4", "--max-shard-size", "5MB", "--threads", "1")  # five files
BY_THIS, BY_ANOTHER = "complete    this rank has completed", "complete    another rank has completed"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, library):
    """A source and what comes out of it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    synthetic.make(folder / "source", layers=3, H=256, F=1024)
    (folder / "source" / "tokenizer.json").write_text("{}")
    assert faults.Faults(library, folder / "source", folder / "plain", *OPTIONS).run().returncode == 0
    return folder / "source", faults.contents(folder / "plain")


@pytest.fixture
def ranks(tmp_path, library, undisturbed):
    """ranks(NAME, N): N conversions that share an output in a folder of that name."""

    def make(name: str, count: int) -> list[faults.Faults]:
        place = tmp_path / name
        place.mkdir()
        each = range(count)
        return [faults.Faults(library, undisturbed[0], place / "out", *OPTIONS, "--ranks", count, "--rank", r) for r in each]

    return make


def settle(process: subprocess.Popen, seconds: float = 0.2) -> None:
    """Lets it run to its next stop or its end; or to where it waits for another, which nobody can see."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None:
            return
        time.sleep(0.005)


def start(conversion: faults.Faults, fault: str) -> subprocess.Popen:
    pipe = subprocess.PIPE
    process = subprocess.Popen(conversion.command(), env=conversion.env(fault), stdout=pipe, stderr=pipe, text=True)
    settle(process, 20)
    return process


def go_on(process: subprocess.Popen) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        settle(process)


def test_a_rank_that_ends_while_another_completes_the_output_leaves_it_alone(ranks, tmp_path, undisturbed):
    """Rank 0 stops when it is done with its part, and before it gives the folder its name; rank 1 at each of its last
    calls in between, so that each of its steps meets each of the other's."""
    calls = ranks("undisturbed", 2)[1].counts(tmp_path)["any"]
    for n in range(calls - 6, calls + 7):
        zero, one = ranks(str(n), 2)
        first = start(zero, "fsync:4:STOP,rename:2:STOP")
        late = start(one, f"any:{n}:STOP")
        is_done = (zero.out.with_name("out.upmoe-partial") / "upmoe-rank-1-of-2.json").exists()
        for process in (first, late, first, late, first):
            go_on(process)
        outputs = [process.communicate(timeout=60) for process in (first, late)]
        assert [process.returncode for process in (first, late)] == [0, 0], f"{n}: {outputs}"
        assert faults.contents(zero.out) == undisturbed[1], n
        assert os.listdir(zero.out.parent) == ["out"], n
        assert sorted(BY_THIS in output for output, _ in outputs) == [False, True], f"{n}: {outputs}"
        other = BY_ANOTHER if is_done else "not yet done: 1;"
        assert sorted(other in output for output, _ in outputs) == [False, True], f"{n}: {outputs}"


def test_ranks_that_are_killed_anywhere_go_on_to_the_same_bytes(ranks, tmp_path, undisturbed):
    calls = ranks("undisturbed", 3)[0].counts(tmp_path)["any"]
    for story in range(int(os.environ.get("UPMOE_KILLS", "200")) // 10):
        draw = random.Random(f"ranks {story}")
        shared = ranks(str(story), 3)
        place = shared[0].out.parent
        told = [f"any:{draw.randint(1, calls + 10)}:{draw.choice(['KILL', 'TORN'])}" for _ in shared]
        for again in itertools.count():
            pipe = subprocess.PIPE
            running = [
                subprocess.Popen(one.command(), env=one.env(fault), stdout=pipe, stderr=pipe, text=True)
                for one, fault in zip(shared, told if again == 0 else [""] * 3)
            ]
            errors = [process.communicate(timeout=60)[1] for process in running]
            if shared[0].out.exists():
                break
            assert again < 2, f"{story} {told}: not completed: {errors}"
            assert again == 0 or all(process.returncode == 0 for process in running), f"{story} {told}: {errors}"
        assert faults.contents_but_journals(shared[0].out) == undisturbed[1], f"{story} {told}"
        for process, error in zip(running, errors):
            assert process.returncode in (0, -signal.SIGKILL) or re.search("exists already", error), f"{told} {error}"
        assert os.listdir(place) == ["out"], f"{story} {told}"


def test_a_rank_that_makes_its_deleted_shard_again_is_not_done_before_it_is(ranks, undisturbed):
    zero, one = ranks("deleted", 2)
    assert one.run().returncode == 0
    (one.out.with_name("out.upmoe-partial") / "model-00002-of-00005.safetensors").unlink()
    assert one.run("pwrite:1:KILL").returncode == -signal.SIGKILL
    result = zero.run()
    assert result.returncode == 0 and "not yet done: 1;" in result.stdout, result.stdout + result.stderr
    assert one.run().returncode == 0
    assert faults.contents(zero.out) == undisturbed[1]


def test_what_ranks_have_done_is_not_completed_with_the_record_of_another_request(ranks, undisturbed):
    zero, one = ranks("another", 2)
    assert zero.run().returncode == 0
    assert one.run("flock:4:KILL").returncode == -signal.SIGKILL  # its part is done, and nothing completed
    result = zero.run("", "--seed", "2")
    assert result.returncode == 1 and "seed" in result.stderr, result.stdout + result.stderr
    assert zero.run().returncode == 0
    assert faults.contents(zero.out) == undisturbed[1]


def test_a_rank_that_waits_for_its_turn_can_be_interrupted(ranks):
    zero, one = ranks("waits", 2)
    assert zero.run().returncode == 0
    with (zero.out.with_name("out.upmoe-partial") / "model-00001-of-00005.safetensors").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        waiting = start(one, "flock:3:STOP")  # the first try was in vain
        waiting.send_signal(signal.SIGINT)
        go_on(waiting)
        waiting.communicate(timeout=20)
    assert waiting.returncode == 130
