"""Disks that say no late: direct I/O is refused after the file was opened for it; files vanish from the partial folder."""

import os
import re
import signal
import subprocess

import pytest

import faults
import synthetic

FAILED = 1
OPTIONS = ("--experts", "4", "--max-shard-size", "5MB", "--threads", "2")  # five files, ten blocks
PARTIAL = "out.upmoe-partial"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, library):
    """A source, how many system calls a conversion takes, and what comes out of it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    synthetic.make(folder / "source", layers=3, H=256, F=1024)
    (folder / "source" / "tokenizer.json").write_text("{}")
    run = faults.Faults(library, folder / "source", folder / "out", *OPTIONS)
    return folder / "source", run.counts(folder), faults.contents(folder / "out")


@pytest.fixture
def conversion(tmp_path, library, undisturbed):
    place = tmp_path / "place"
    place.mkdir()
    return faults.Faults(library, undisturbed[0], place / "out", *OPTIONS)


def counts_with(conversion, fault: str, folder, *more, under=None) -> dict[str, int]:
    env = conversion.env(fault, under, folder / "count")
    result = subprocess.run(conversion.command(*more), env=env, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return {name: int(number) for name, number in map(str.split, (folder / "count").read_text().splitlines())}


def needs_direct_io(undisturbed) -> None:
    if undisturbed[1]["sync_range"] > 0:
        pytest.skip("this disk takes no direct I/O at all")


@pytest.mark.parametrize("first", [1, 3])
def test_direct_io_that_is_refused_when_it_is_written_goes_through_the_cache_with_write_behind(
    conversion, undisturbed, tmp_path, first
):
    needs_direct_io(undisturbed)
    counts = counts_with(conversion, f"pwrite:{first}+:NODIRECT", tmp_path, under=conversion.out.parent)
    assert faults.contents(conversion.out) == undisturbed[2]
    blocks = sum(-(-file.stat().st_size // (4 << 20)) for file in conversion.out.glob("*.safetensors"))
    assert counts["sync_range"] > blocks - first


@pytest.mark.parametrize("fault", ["pread:1+:NODIRECT", "pread:1+:NODIRECT,pwrite:1+:NODIRECT", "pread:2:NODIRECT"])
def test_direct_io_that_is_refused_when_it_is_read_back_is_no_end_of_a_resume(conversion, undisturbed, tmp_path, fault):
    needs_direct_io(undisturbed)
    late = undisturbed[1]["pwrite"] - 2
    assert conversion.run(f"pwrite:{late}:KILL").returncode == -signal.SIGKILL
    partial = conversion.out.with_name(PARTIAL)
    counts = counts_with(conversion, fault, tmp_path, "--resume", under=partial)
    assert faults.contents(conversion.out) == undisturbed[2]
    assert counts["pwrite"] < undisturbed[1]["pwrite"] / 2  # what was there was kept


@pytest.mark.parametrize("fault", ["pwrite:1+:EINVAL", "pwrite:4+:EINVAL"])
def test_a_write_that_is_refused_for_good_is_an_error(conversion, fault):
    result = conversion.run(fault, under=conversion.out.parent)
    assert result.returncode == FAILED
    assert re.search("cannot write at byte.*Invalid argument", result.stderr), result.stderr
    assert os.listdir(conversion.out.parent) == []


def while_stopped(conversion, fault: str, change, *options) -> tuple[int, str]:
    process = conversion.start(fault, *options, under=conversion.out.parent)
    change()
    process.send_signal(signal.SIGCONT)
    _, message = process.communicate(timeout=60)
    return process.returncode, message


SHARD = "model-00002-of-00005.safetensors"


@pytest.fixture
def when_weights_are_done(undisturbed):
    """At the last but one of the small files."""
    return f"pwrite:{undisturbed[1]['pwrite'] - 1}:STOP"


@pytest.mark.parametrize("when", ["while they are written", "when weights are done"])
@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_a_shard_that_vanishes_from_the_partial_folder_is_noticed(conversion, when_weights_are_done, when, how):
    fault = "pwrite:8:STOP" if when.startswith("while") else when_weights_are_done
    shard = conversion.out.with_name(PARTIAL) / SHARD

    def vanish():
        size = shard.stat().st_size
        shard.unlink()
        if how == "replaced":
            shard.write_bytes(bytes(size))

    code, message = while_stopped(conversion, fault, vanish)
    assert code == FAILED, message
    assert re.fullmatch(rf"upmoe: [^\n]*{SHARD}: was ({how}|changed)[^\n]*\n", message), message
    assert os.listdir(conversion.out.parent) == []


def test_a_shard_that_is_written_to_when_it_is_done_is_noticed(conversion, when_weights_are_done):
    def change():
        with (conversion.out.with_name(PARTIAL) / SHARD).open("r+b") as file:
            file.seek(100_000)
            file.write(b"x")

    code, message = while_stopped(conversion, when_weights_are_done, change)
    assert code == FAILED and re.search(f"{SHARD}: was changed", message), message
    assert os.listdir(conversion.out.parent) == []


def test_a_shard_that_vanished_is_made_again_by_a_resume(conversion, undisturbed, when_weights_are_done):
    shard = conversion.out.with_name(PARTIAL) / SHARD
    code, message = while_stopped(conversion, when_weights_are_done, shard.unlink, "--resume")
    assert code == FAILED and re.search(f"{SHARD}: was deleted.*--resume", message), message
    result = conversion.run("", "--resume")
    assert result.returncode == 0, result.stderr
    assert re.search("kept +[^\n]* that an earlier run had written", result.stdout), result.stdout
    assert faults.contents(conversion.out) == undisturbed[2]


def test_a_rank_whose_shard_vanished_is_not_done(conversion, undisturbed):
    first, second = (faults.Faults(conversion.library, conversion.source, conversion.out, *OPTIONS, "--ranks", 2, "--rank", r)
                     for r in range(2))
    assert second.run().returncode == 0
    (conversion.out.with_name(PARTIAL) / SHARD).unlink()
    result = first.run()
    assert result.returncode == 0 and "not yet done: 1;" in result.stdout, result.stdout + result.stderr
    result = second.run()
    assert result.returncode == 0, result.stderr
    assert faults.contents(conversion.out) == undisturbed[2]
