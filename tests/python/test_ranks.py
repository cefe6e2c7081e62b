"""Several processes share a conversion, file by file, and end in the bytes of one."""

import os
import re
import signal
import subprocess

import pytest

import conftest
import synthetic
import tiny
from test_determinism import digests

SHARDS = ("--max-shard-size", "300KB")


def rank(source, out, number, count, *options, **more):
    return conftest.run("convert", source, out, *SHARDS, "--ranks", count, "--rank", number, *options, **more)


def without_launchers() -> dict:
    names = ("RANK", "WORLD_SIZE", "SLURM_", "OMPI_", "PMI_")
    return {key: value for key, value in os.environ.items() if not key.startswith(names)}


def test_ranks_that_run_one_after_the_other(tiny_folder, convert, tmp_path):
    source, out = tiny_folder(tiny.WIDE), tmp_path / "shared"
    alone = convert(source, *SHARDS)
    for number in (2, 0):
        result = rank(source, out, number, 3)
        assert result.returncode == 0, result.stderr
        assert not out.exists()
    assert re.search(r"missing +rank 0 of 3 is done, not yet done: 1;", result.stdout)
    assert rank(source, out, 1, 3).returncode == 0
    assert digests(out) == digests(alone)
    assert not (tmp_path / "shared.upmoe-partial").exists()


def test_ranks_that_run_together(tiny_folder, convert, tmp_path):
    source, out = tiny_folder(tiny.WIDE), tmp_path / "shared"
    command = [conftest.PROGRAM, "convert", source, out, *SHARDS, "--ranks", "4", "--rank"]
    ranks = [subprocess.Popen(list(map(str, [*command, number])), stdout=subprocess.PIPE) for number in range(4)]
    outputs = [process.communicate()[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0] * 4
    assert any(b"missing" not in output for output in outputs)
    assert digests(out) == digests(convert(source, *SHARDS))


def test_a_rank_that_has_finished_only_says_who_is_missing(tiny_folder, tmp_path):
    source, out = tiny_folder(tiny.WIDE), tmp_path / "shared"
    for _ in range(2):
        result = rank(source, out, 1, 3)
        assert result.returncode == 0, result.stderr
        assert re.search(r"not yet done: 0, 2;", result.stdout)


def test_more_ranks_than_files(tiny_folder, convert, tmp_path):
    source, out = tiny_folder(tiny.WIDE), tmp_path / "shared"
    for number in range(3):
        result = conftest.run("convert", source, out, "--ranks", 3, "--rank", number)
        assert result.returncode == 0, result.stderr
    assert digests(out) == digests(convert(source))


def test_a_killed_rank_goes_on(large_folder, tmp_path):
    synthetic.make(large_folder / "source", layers=3)
    source, out = large_folder / "source", large_folder / "out"
    options = ("--max-shard-size", "150MB", "--experts", "8", "--method", "drop")
    command = [conftest.PROGRAM, "convert", source, out, *options, "--ranks", "2", "--rank", "1"]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = large_folder / "out.upmoe-partial" / "upmoe-journal-1-of-2"
    while process.poll() is None and not (journal.exists() and journal.stat().st_size > 1500):
        pass
    assert process.poll() is None, "it was over too soon to show anything"
    process.send_signal(signal.SIGKILL)
    process.wait()
    first = conftest.run("convert", source, out, *options, "--ranks", "2", "--rank", "0")
    assert re.search("not yet done: 1;", first.stdout), first.stderr
    second = conftest.run("convert", source, out, *options, "--ranks", "2", "--rank", "1")
    assert second.returncode == 0, second.stderr
    assert re.search("kept +[^\n]* that an earlier run had written", second.stdout)
    alone = conftest.run("convert", source, large_folder / "alone", *options)
    assert alone.returncode == 0, alone.stderr
    assert digests(out) == digests(large_folder / "alone")


@pytest.mark.parametrize(
    "variables",
    [("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
     ("PMI_RANK", "PMI_SIZE")],
    ids=lambda names: names[0],
)
def test_the_launcher_says_which_rank_this_is(tiny_folder, convert, tmp_path, variables):
    source, out = tiny_folder(tiny.WIDE), tmp_path / "shared"
    for number in range(2):
        env = without_launchers() | {variables[0]: str(number), variables[1]: "2"}
        result = conftest.run("convert", source, out, *SHARDS, "--ranks", "auto", env=env)
        assert result.returncode == 0, result.stderr
        assert ("not yet done: 1;" in result.stdout) == (number == 0)
    assert digests(out) == digests(convert(source, *SHARDS))


# A batch script of Slurm has these variables although it is one process.
def test_nothing_is_shared_unless_it_is_asked_for(tiny_folder, tmp_path):
    env = without_launchers() | {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}
    result = conftest.run("convert", tiny_folder(tiny.WIDE), tmp_path / "out", env=env)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize(
    "options,says",
    [
        (("--ranks", "2"), "which of them"),
        (("--ranks", "2", "--rank", "2"), "--rank is 2, expected 0 to 1"),
        (("--rank", "1"), "--rank is 1, expected 0 to 0"),
        (("--ranks", "0", "--rank", "0"), "--ranks is 0"),
        (("--ranks", "two", "--rank", "0"), "'two' is not a whole number"),
        (("--ranks", "auto"), "SLURM_PROCID"),
        (("--ranks", "auto", "--rank", "0"), "one of the two"),
    ],
    ids=str,
)
def test_ranks_that_make_no_sense(tiny_folder, tmp_path, options, says):
    result = conftest.run("convert", tiny_folder(tiny.WIDE), tmp_path / "out", *options, env=without_launchers())
    assert result.returncode == 2
    assert re.fullmatch(r"upmoe: [^\n]+\n", result.stderr) and says in result.stderr
    assert list(tmp_path.iterdir()) == []
