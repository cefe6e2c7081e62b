"""--reflink: equal experts share their place on a disk that can do that, and the bytes are the same."""

import os
import re
import shutil
import subprocess

import pytest

import conftest
import synthetic
import tiny
from test_determinism import digests


@pytest.fixture
def xfs(tmp_path):
    """A small file system with reflinks, mounted."""
    mkfs = shutil.which("mkfs.xfs", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if mkfs is None or os.geteuid() != 0:
        pytest.skip("needs root, and mkfs.xfs of the package xfsprogs")
    image, folder = tmp_path / "image", tmp_path / "xfs"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(1 << 30)
    subprocess.run([mkfs, "-q", "-m", "reflink=1", image], check=True)
    mounted = subprocess.run(["mount", "-o", "loop", image, folder], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a file here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def used(folder) -> int:
    os.sync()
    disk = os.statvfs(folder)
    return (disk.f_blocks - disk.f_bfree) * disk.f_frsize


def test_equal_experts_take_the_place_of_one(xfs, large_folder):
    synthetic.make(large_folder / "source", layers=1)
    options = (large_folder / "source", "--method", "copy", "--experts", "16")
    before = used(xfs)
    result = conftest.run("convert", options[0], xfs / "out", *options[1:], "--reflink")
    assert result.returncode == 0, result.stderr
    assert re.search(r"reflink +\d+\.\d+ MB share the place of what was written once", result.stdout)
    taken = used(xfs) - before
    size = sum(file.stat().st_size for file in (xfs / "out").iterdir())
    assert taken < size / 4
    plain = conftest.run("convert", options[0], large_folder / "plain", *options[1:])
    assert plain.returncode == 0, plain.stderr
    assert digests(xfs / "out") == digests(large_folder / "plain")


def test_what_does_not_repeat_is_written(xfs, tiny_folder, convert):
    source = tiny_folder(tiny.WIDE)
    result = conftest.run("convert", source, xfs / "out", "--reflink")
    assert result.returncode == 0, result.stderr
    assert re.search(r"reflink +0 B share", result.stdout)
    assert digests(xfs / "out") == digests(convert(source))


def test_a_disk_that_cannot_gets_everything_written(tiny_folder, convert, tmp_path):
    source = tiny_folder(tiny.WIDE)
    result = conftest.run("convert", source, tmp_path / "out", "--method", "copy", "--reflink")
    assert result.returncode == 0, result.stderr
    assert re.search(r"reflink +(not on this file system \([^)]+\)|.* share)", result.stdout)
    assert digests(tmp_path / "out") == digests(convert(source, "--method", "copy"))
