"""Whatever goes wrong with a disk ends in one sentence and an exit code; nothing half-done is seen, nothing is left."""

import itertools
import os
import re
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

import conftest
import faults
import synthetic

FAILED, INTERRUPTED = 1, 130
OPTIONS = ("--experts", "4", "--max-shard-size", "12MB")  # four files, eleven blocks
REASONS = {"EIO": "Input/output error", "ENOSPC": "No space left on device", "EDQUOT": "Disk quota exceeded",
           "EACCES": "Permission denied", "EROFS": "Read-only file system", "EFBIG": "File too large",
           "ESTALE": "Stale file handle", "EMFILE": "Too many open files", "ENOLCK": "No locks available",
           "EXDEV": "Invalid cross-device link"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, library):
    """A source, what comes out of it, and how many system calls that takes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    synthetic.make(folder / "source", layers=3, H=512, F=1024)
    (folder / "source" / "tokenizer.json").write_text("{}")
    run = faults.Faults(library, folder / "source", folder / "out", *OPTIONS)
    return folder / "source", run.counts(folder), faults.contents(folder / "out")


@pytest.fixture
def conversion(tmp_path, library, undisturbed):
    """A conversion with the source of `undisturbed` to a place of its own."""
    return faults.Faults(library, undisturbed[0], tmp_path / "place" / "out", *OPTIONS)


@pytest.fixture
def own_source(tmp_path, conversion):
    """Gives the conversion a source of its own, which may be spoilt."""
    conversion.source = shutil.copytree(conversion.source, tmp_path / "source")
    return conversion.source


def assert_failed(code: int, message: str, says: str) -> None:
    assert code == FAILED, message
    assert re.fullmatch(r"upmoe: [^\n]+\n", message), message
    assert re.search(says, message), message


def assert_nothing_left(conversion) -> None:
    place = conversion.out.parent
    assert not place.exists() or os.listdir(place) == []


# The call that fails, and what the sentence has to name.
@pytest.mark.parametrize(
    "fault,says",
    [
        ("pwrite:3:ENOSPC", r"model-0000\d-of-00004\.safetensors"),
        ("pwrite:1+:ENOSPC", r"model-0000\d-of-00004\.safetensors"),
        ("pwrite:4:EDQUOT", r"model-0000\d-of-00004\.safetensors"),
        ("pwrite:11:EIO", r"model-0000\d-of-00004\.safetensors"),
        ("pwrite:1:EFBIG", r"model-0000\d-of-00004\.safetensors"),
        ("fallocate:2:ENOSPC", r"model-0000\d-of-00004\.safetensors.*reserve"),
        ("fallocate:1:EDQUOT", r"model-0000\d-of-00004\.safetensors.*reserve"),
        ("fallocate:1+:ENOTSUP,pwrite:4:ENOSPC", r"model-0000\d-of-00004\.safetensors"),
        ("ftruncate:1:EIO", r"out\.upmoe-partial/\S+"),
        ("ftruncate:2:EIO", r"model-0000\d-of-00004\.safetensors"),
        ("fdatasync:1:EDQUOT", r"model-0000\d-of-00004\.safetensors"),
        ("fdatasync:4:EIO", r"model-0000\d-of-00004\.safetensors"),
        ("write:1:ENOSPC", r"out\.upmoe-partial/\S+"),
        ("write:3:EDQUOT", r"out\.upmoe-partial/\S+"),
        ("fsync:1:EIO", r"out\.upmoe-partial"),
        ("fsync:1:EDQUOT", r"out\.upmoe-partial"),
        ("rename:1:EXDEV", "out"),
        ("rename:1:EACCES", "out"),
        ("mkdir:1:EACCES", "place"),
        ("mkdir:1:EROFS", "place"),
        ("mkdir:2:ENOSPC", "out"),
        ("open:1:EACCES", "out"),
        ("open:2:EMFILE", "out"),
        ("open:5:EIO", "out"),
        ("flock:1:ENOLCK", "out"),
    ],
    ids=str,
)
def test_a_failing_output_is_named_and_gone(conversion, fault, says):
    result = conversion.run(fault, under=conversion.out.parent)
    assert_failed(result.returncode, result.stderr, f"{says}.*{REASONS[fault.split(':')[-1]]}")
    assert_nothing_left(conversion)


@pytest.mark.parametrize(
    "fault", ["pread:1:EIO", "pread:2:ESTALE", "pread:5:EIO", "pread:9+:EIO", "open:1:EACCES", "open:2:EMFILE", "read:1:EIO"]
)
def test_a_failing_source_is_named_and_the_output_gone(conversion, undisturbed, fault):
    result = conversion.run(fault, under=undisturbed[0])
    assert_failed(result.returncode, result.stderr, f"source.*{REASONS[fault.split(':')[-1]]}")
    assert_nothing_left(conversion)


@pytest.mark.parametrize(
    "fault",
    [
        "pwrite:1+:SHORT", "pwrite:3:EINTR", "pwrite:2:EINVAL", "write:1+:SHORT", "write:2:EINTR", "read:1+:SHORT",
        "read:1:EINTR", "pread:1+:SHORT", "pread:2:EINTR", "fallocate:1+:ENOTSUP", "pwrite:4:DELAY", "pread:6:DELAY",
    ],
)
def test_what_is_no_failure_changes_no_byte(conversion, undisturbed, fault):
    result = conversion.run(fault)
    assert result.returncode == 0, result.stderr
    assert faults.contents(conversion.out) == undisturbed[2]
    assert os.listdir(conversion.out.parent) == ["out"]


def test_any_system_call_may_fail(conversion, undisturbed):
    _, counts, expected = undisturbed
    failures = 0
    for n, reason in zip(range(1, counts["any"] + 1), itertools.cycle(["EIO", "ENOSPC", "EACCES"])):
        result = conversion.run(f"any:{n}:{reason}")
        if result.returncode == 0:  # it could do without
            assert result.stderr == ""
        else:
            assert_failed(result.returncode, result.stderr, f"(out|source|place).*{REASONS[reason]}")
            failures += 1
        # When the last sync fails the whole output is there; else there is nothing.
        if conversion.out.exists():
            assert faults.contents(conversion.out) == expected, f"any:{n}:{reason}"
            shutil.rmtree(conversion.out)
        assert_nothing_left(conversion)
    assert failures > counts["any"] / 2


def test_interrupted_anywhere_it_leaves_nothing(conversion, undisturbed):
    _, counts, expected = undisturbed
    for n in range(1, counts["any"], 7):
        process = conversion.start(f"any:{n}:STOP")
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        _, message = process.communicate(timeout=60)
        if process.returncode == 0:  # it came too late
            assert faults.contents(conversion.out) == expected
            shutil.rmtree(conversion.out)
        elif process.returncode != -signal.SIGINT:  # that is before anything is written
            assert process.returncode == INTERRUPTED, message
            assert re.search("upmoe: interrupted[^\n]*\n$", message)
        assert_nothing_left(conversion)


def while_stopped(conversion, fault: str, change) -> tuple[int, str]:
    process = conversion.start(fault)
    change()
    process.send_signal(signal.SIGCONT)
    _, message = process.communicate(timeout=60)
    return process.returncode, message


@pytest.mark.parametrize("fault", ["pwrite:1:STOP", "pwrite:9:STOP", "write:2:STOP", "fsync:1:STOP"])
def test_the_partial_folder_vanishes(conversion, fault):
    partial = conversion.out.with_name("out.upmoe-partial")
    code, message = while_stopped(conversion, fault, lambda: shutil.rmtree(partial))
    assert_failed(code, message, r"out.*No such file")
    assert_nothing_left(conversion)


def test_the_folder_around_the_output_vanishes(conversion):
    code, message = while_stopped(conversion, "pwrite:3:STOP", lambda: shutil.rmtree(conversion.out.parent))
    assert_failed(code, message, r"out.*No such file")
    assert_nothing_left(conversion)


def test_the_output_appears_meanwhile(conversion):
    def appear():
        conversion.out.mkdir()
        (conversion.out / "thesis.tex").write_text("mine")

    code, message = while_stopped(conversion, "pwrite:3:STOP", appear)
    assert_failed(code, message, r"out.*exists already")
    assert os.listdir(conversion.out.parent) == ["out"]
    assert (conversion.out / "thesis.tex").read_text() == "mine"


SHARD = "model-00003-of-00004.safetensors"  # the last layer: still to be read when the first block is written


@pytest.mark.parametrize("bytes_left", [0, 100, 1_000_000])
def test_the_source_is_truncated_meanwhile(conversion, own_source, bytes_left):
    code, message = while_stopped(conversion, "pwrite:1:STOP", lambda: os.truncate(own_source / SHARD, bytes_left))
    assert_failed(code, message, f"{SHARD}.*(changed|ended|short)")
    assert_nothing_left(conversion)


@pytest.mark.parametrize("fault", ["pwrite:1:STOP", "pwrite:11:STOP"])
def test_the_source_is_written_to_meanwhile(conversion, own_source, fault):
    def change():
        with (own_source / SHARD).open("r+b") as file:
            file.seek(-100, os.SEEK_END)
            file.write(b"x" * 100)

    code, message = while_stopped(conversion, fault, change)
    assert_failed(code, message, f"{SHARD}.*changed")
    assert_nothing_left(conversion)


def test_the_source_grows_meanwhile(conversion, own_source):
    def grow():
        with (own_source / SHARD).open("ab") as file:
            file.write(b"more")

    code, message = while_stopped(conversion, "pwrite:1:STOP", grow)
    assert_failed(code, message, f"{SHARD}.*changed")
    assert_nothing_left(conversion)


def test_a_limit_on_the_size_of_files(conversion):
    for megabytes in (1, 6):
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (megabytes * 1_000_000, megabytes * 1_000_000))
        result = conversion.run(preexec_fn=limit)
        # The memory to read into is a file as well, without a name.
        assert_failed(result.returncode, result.stderr, "(model-0000\\d-of-00004|memory to read into).*File too large")
        assert_nothing_left(conversion)


def test_a_limit_on_open_files(conversion):
    for limit in range(5, 16):
        result = conversion.run("", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)))
        if result.returncode == 0:
            break
        assert_failed(result.returncode, result.stderr, "Too many open files")
        assert_nothing_left(conversion)


# ---- a disk that is really too small ----


@pytest.fixture
def small_disk(tmp_path):
    """small_disk(BYTES): a file system of that size in a mount namespace of its own: its folder as we see it, and what
    to put in front of a command for it to run there."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "nsenter", "mount"))):
        pytest.skip("mounting a small file system needs root, unshare, nsenter and mount")
    keepers = []

    def disk(size: int) -> tuple[Path, list[str]]:
        mount = tmp_path / "disk"
        mount.mkdir()
        script = 'mount -t tmpfs -o size="$1" none "$2" && echo mounted && exec sleep 600'
        keeper = subprocess.Popen(["unshare", "-m", "sh", "-c", script, "sh", str(size), mount], stdout=subprocess.PIPE)
        keepers.append(keeper)
        if keeper.stdout.readline() != b"mounted\n":
            pytest.skip("this machine does not let us mount a tmpfs")
        return Path(f"/proc/{keeper.pid}/root") / mount.relative_to("/"), ["nsenter", "-m", "-t", str(keeper.pid)]

    yield disk
    for keeper in keepers:
        keeper.kill()
        keeper.communicate()


def fill(folder: Path) -> None:
    with (folder / "hog").open("wb", buffering=0) as hog:
        try:
            while True:
                hog.write(bytes(1 << 16))
        except OSError:
            pass


@pytest.mark.parametrize("resume", [(), ("--resume",)], ids=["", "resume"])
def test_a_disk_that_is_too_small_from_the_start(conversion, small_disk, tmp_path, resume):
    folder, inside = small_disk(20_000_000)
    out = tmp_path / "disk" / "out"
    command = [*inside, *map(str, [conftest.PROGRAM, "convert", conversion.source, out, *OPTIONS, *resume])]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert_failed(result.returncode, result.stderr, "disk.*42.* MB.*20.* MB.*free")
    assert os.listdir(folder) == []


@pytest.mark.parametrize(
    "fault,says",
    [
        ("pwrite:2:STOP", r"out\.upmoe-partial/[^/ ]+:"),  # the weights have their space, the small files have none
        ("fallocate:1+:ENOTSUP,pwrite:2:STOP", r"out\.upmoe-partial/model-0000\d-of-00004\.safetensors:"),
    ],
)
def test_a_disk_that_someone_else_fills_meanwhile(conversion, small_disk, tmp_path, fault, says):
    folder, inside = small_disk(60_000_000)
    conversion.out = tmp_path / "disk" / "out"
    command, env = conversion.command(), conversion.env(fault)
    process = subprocess.Popen([*inside, *command], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    fill(folder)
    process.send_signal(signal.SIGCONT)
    _, message = process.communicate(timeout=60)
    assert_failed(process.returncode, message, f"{says}.*{REASONS['ENOSPC']}")
    assert os.listdir(folder) == ["hog"]


# ---- no permission ----


@pytest.fixture
def unprivileged():
    """What to put in front of a command so that permissions hold for it even if we are root."""
    if os.geteuid() != 0:
        return []
    if not shutil.which("setpriv"):
        pytest.skip("we are root, and there is no setpriv to be less")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


def refuse(conversion, unprivileged, says: str) -> None:
    result = subprocess.run([*unprivileged, *conversion.command()], capture_output=True, text=True, timeout=60)
    assert_failed(result.returncode, result.stderr, f"{says}.*Permission denied")


def test_no_permission_to_write(conversion, unprivileged):
    conversion.out.parent.mkdir()
    conversion.out.parent.chmod(0o555)
    refuse(conversion, unprivileged, "out")
    assert_nothing_left(conversion)


@pytest.mark.parametrize("name", ["config.json", SHARD, "tokenizer.json", "model.safetensors.index.json"])
def test_no_permission_to_read_a_file(conversion, own_source, unprivileged, name):
    (own_source / name).chmod(0)
    refuse(conversion, unprivileged, name)
    assert_nothing_left(conversion)


def test_no_permission_to_read_the_folder(conversion, own_source, unprivileged):
    own_source.chmod(0)
    refuse(conversion, unprivileged, "source")
    own_source.chmod(0o755)
    assert_nothing_left(conversion)
