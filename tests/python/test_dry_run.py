"""--dry-run writes nothing, and ends as the run would end before it writes."""

import os
import re
import subprocess

import pytest

import conftest
import faults
import tiny

FAILED, USAGE = 1, 2


@pytest.fixture
def source(tiny_folder):
    return tiny_folder(tiny.WIDE)


def assert_fails_as_the_run(source, out, *options) -> str:
    dry = conftest.run("convert", source, out, *options, "--dry-run")
    wet = conftest.run("convert", source, out, *options)
    assert (dry.returncode, dry.stderr) == (wet.returncode, wet.stderr)
    assert dry.returncode == FAILED
    return dry.stderr


def writes(library, source, out, *options) -> int:
    return faults.Faults(library, source, out).counts(out.parent, "--dry-run", *options, under=out.parent)["pwrite"]


def test_the_disk_is_measured_only_when_asked(source, tmp_path, library):
    assert writes(library, source, tmp_path / "out") == 0
    assert writes(library, source, tmp_path / "out", "--measure-disk") > 0
    assert re.search(r"time +about .* s at 1.00 GB/s", conftest.run("convert", source, tmp_path / "out", "--dry-run").stdout)


def test_it_plans_for_a_folder_that_cannot_be_measured(source, tmp_path):
    out = tmp_path / "not" / "yet" / "out"
    assert conftest.run("convert", source, out, "--dry-run").returncode == 0
    assert os.listdir(tmp_path) == []


def test_measuring_belongs_to_a_dry_run(source, tmp_path):
    result = conftest.run("convert", source, tmp_path / "out", "--measure-disk")
    assert result.returncode == USAGE and "--dry-run" in result.stderr and not (tmp_path / "out").exists()


def test_it_fails_where_an_output_exists(source, tmp_path, convert):
    assert "exists already" in assert_fails_as_the_run(source, convert(source))
    assert "used --seed 0, not 1" in assert_fails_as_the_run(source, convert(source), "--seed", "1", "--resume")


def test_it_fails_where_a_file_is_in_the_way(source, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert "is a file" in assert_fails_as_the_run(source, tmp_path / "file" / "out")
    assert "not a folder" in assert_fails_as_the_run(source, tmp_path / "file")


def test_it_fails_where_the_folder_may_not_be_written(source, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    # Root may write everywhere, unless it goes without that privilege.
    before = ["setpriv", "--bounding-set=-dac_override"] if os.getuid() == 0 else []
    command = list(map(str, [*before, conftest.PROGRAM, "convert", source, tmp_path / "locked" / "out"]))
    dry, wet = (subprocess.run([*command, *more], capture_output=True, text=True) for more in (["--dry-run"], []))
    assert (dry.returncode, dry.stderr) == (wet.returncode, wet.stderr)
    assert dry.returncode == FAILED and "Permission denied" in dry.stderr


def test_it_fails_on_a_disk_that_cannot_be_written(source):
    script = 'mount -t tmpfs -o ro none "$1" 2>/dev/null || exit 99; shift; exec "$@"'
    command = ["unshare", "-rm", "sh", "-c", script, "sh", "/mnt", conftest.PROGRAM, "convert", source, "/mnt/out"]
    results = [subprocess.run(list(map(str, [*command, *more])), capture_output=True, text=True) for more in ([], ["--dry-run"])]
    if results[0].returncode == 99 or "unshare" in results[0].stderr:
        pytest.skip("this machine lets nobody mount in a namespace")
    assert results[0].stderr == results[1].stderr and "Read-only file system" in results[0].stderr
    assert [result.returncode for result in results] == [FAILED, FAILED]


def test_it_fails_on_what_a_killed_run_has_left(source, tmp_path, library):
    out = tmp_path / "out"
    faults.Faults(library, source, out, "--resume").run("pwrite:3:KILL")
    assert "--resume" in assert_fails_as_the_run(source, out)
    assert "used --seed 0, not 1" in assert_fails_as_the_run(source, out, "--resume", "--seed", "1")
    assert conftest.run("convert", source, out, "--resume", "--dry-run").returncode == 0
    assert os.listdir(tmp_path) == ["out.upmoe-partial"]
