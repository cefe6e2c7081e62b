"""A run that was killed anywhere goes on with --resume and ends in the bytes of an undisturbed one."""

import concurrent.futures
import os
import random
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

import conftest
import faults
import synthetic
import tiny

FAILED, USAGE, INTERRUPTED = 1, 2, 130
KILLS = int(os.environ.get("UPMOE_KILLS", "200"))  # make kill-test: 1000
SEED = int(os.environ.get("UPMOE_KILL_SEED", "1"))
OPTIONS = ("--experts", "4", "--max-shard-size", "5MB", "--threads", "2")  # five files, ten blocks
PARTIAL, JOURNAL = "out.upmoe-partial", "upmoe-journal"

pytestmark = pytest.mark.skipif(
    "--resume" not in conftest.run("convert", "--help").stdout, reason="this program has no --resume"
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, library):
    """A source, what comes out of it, and how many system calls that takes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    synthetic.make(folder / "source", layers=3, H=256, F=1024)
    (folder / "source" / "tokenizer.json").write_text("{}")
    plain = faults.Faults(library, folder / "source", folder / "plain", *OPTIONS)
    assert plain.run().returncode == 0
    run = faults.Faults(library, folder / "source", folder / "out", *OPTIONS)
    counts = run.counts(folder, "--resume")
    expected = faults.contents(folder / "plain")
    assert faults.contents(folder / "out") == expected  # --resume alone changes nothing
    return folder / "source", counts, expected


@pytest.fixture
def conversion(tmp_path, library, undisturbed):
    place = tmp_path / "place"
    place.mkdir()
    return faults.Faults(library, undisturbed[0], place / "out", *OPTIONS)


@pytest.fixture
def late(undisturbed):
    """A call with only a few blocks left."""
    return f"pwrite:{undisturbed[1]['pwrite'] - 2}"


@pytest.fixture
def killed(conversion, late):
    """One that was killed late among its blocks."""
    assert conversion.run(f"{late}:KILL").returncode == -signal.SIGKILL
    assert os.listdir(conversion.out.parent) == [PARTIAL]
    return conversion


def partial_of(conversion) -> Path:
    return conversion.out.with_name(PARTIAL)


def assert_refused(result: subprocess.CompletedProcess, says: str) -> None:
    assert result.returncode in (FAILED, USAGE), result.stderr
    assert re.fullmatch(r"upmoe: [^\n]+\n", result.stderr), result.stderr
    assert re.search(says, result.stderr), result.stderr


def assert_finished(conversion, expected, result: subprocess.CompletedProcess, what: str = "") -> None:
    assert result.returncode == 0, f"{what}: {result.stderr}"
    assert faults.contents(conversion.out) == expected, what
    assert os.listdir(conversion.out.parent) == ["out"], what


# ---- what may have happened to the files of a run that was killed ----


def some_file(folder: Path, draw: random.Random, pattern: str) -> Path | None:
    files = sorted(path for path in folder.glob(pattern) if path.is_file() and path.stat().st_size > 0)
    return draw.choice(files) if files else None


def zero_a_page(folder: Path, draw: random.Random) -> str:
    if (path := some_file(folder, draw, "*.safetensors")) is None:
        return "nothing"
    page = draw.randrange((path.stat().st_size + 4095) // 4096)
    with path.open("r+b") as file:
        file.seek(page * 4096)
        file.write(bytes(min(4096, path.stat().st_size - page * 4096)))
    return f"page {page} of {path.name} zeroed"


def flip_a_bit(folder: Path, draw: random.Random) -> str:
    if (path := some_file(folder, draw, "*")) is None:
        return "nothing"
    at, bit = draw.randrange(path.stat().st_size), draw.randrange(8)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))
    return f"bit {bit} of byte {at} of {path.name} flipped"


def cut(folder: Path, draw: random.Random, pattern: str) -> str:
    if (path := some_file(folder, draw, pattern)) is None:
        return "nothing"
    size = draw.randrange(path.stat().st_size)
    os.truncate(path, size)
    return f"{path.name} cut to {size} bytes"


def append_garbage(folder: Path, draw: random.Random) -> str:
    journal = folder / JOURNAL
    if not journal.exists():
        return "nothing"
    garbage = draw.choice([draw.randbytes(draw.randrange(1, 100)), bytes(draw.randrange(1, 5000)), b"\n\n", b"block "])
    with journal.open("ab") as file:
        file.write(garbage)
    return f"{garbage[:20]!r}... behind the journal"


def lose_a_file(folder: Path, draw: random.Random) -> str:
    """But not the journal, which is durable before anything else is written: without it, nothing is known to be ours."""
    if (path := some_file(folder, draw, "*")) is None or path.name == JOURNAL:
        return "nothing"
    path.unlink()
    return f"{path.name} lost"


DAMAGES = [
    zero_a_page, flip_a_bit, lambda folder, draw: cut(folder, draw, JOURNAL), append_garbage,
    lambda folder, draw: cut(folder, draw, "*.safetensors"), lose_a_file,
]


def kill_and_resume(conversion, counts, expected, draw: random.Random) -> str:
    """One story, from a first run that is killed to the last that is not; returns what happened."""
    story = []
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        fault = f"any:{draw.randint(1, counts['any'])}:{draw.choice(['KILL', 'KILL', 'TORN'])}"
        result = conversion.run(fault, "--resume")
        story.append(fault)
        what = ", ".join(story)
        if result.returncode == 0:  # it resumed with so few calls that it ended before
            assert_finished(conversion, expected, result, what)
            return what
        assert result.returncode == -signal.SIGKILL, f"{what}: {result.stderr}"
        if conversion.out.exists():  # killed after the last rename
            assert faults.contents_but_journals(conversion.out) == expected, what
            return what
        folder = partial_of(conversion)
        if folder.exists() and draw.random() < 0.6:
            story.append(draw.choice(DAMAGES)(folder, draw))
    result = conversion.run("", "--resume")
    assert_finished(conversion, expected, result, ", ".join(story))
    return ", ".join(story)


def test_killed_anywhere_it_goes_on_to_the_same_bytes(tmp_path, library, undisturbed):
    source, counts, expected = undisturbed

    def one(number: int) -> str:
        place = tmp_path / str(number)
        place.mkdir()
        conversion = faults.Faults(library, source, place / "out", *OPTIONS)
        story = kill_and_resume(conversion, counts, expected, random.Random(f"{SEED} {number}"))
        shutil.rmtree(place)
        return story

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        stories = list(pool.map(one, range(KILLS)))
    assert len(stories) == KILLS
    print(f"\n{sum(story.count('any:') for story in stories)} kills in {KILLS} stories, seed {SEED}")


def test_killed_at_every_call_of_the_end(tmp_path, library, undisturbed):
    """The last calls make files durable and rename: the order of these is what a power cut would find out."""
    source, counts, expected = undisturbed
    for n in range(counts["any"] - 12, counts["any"] + 1):
        place = tmp_path / str(n)
        place.mkdir()
        conversion = faults.Faults(library, source, place / "out", *OPTIONS)
        assert conversion.run(f"any:{n}:KILL", "--resume").returncode == -signal.SIGKILL
        again = "--resume"
        if conversion.out.exists():
            assert faults.contents_but_journals(conversion.out) == expected
            again = "--replace"  # which knows a journal that may have stayed
        assert_finished(conversion, expected, conversion.run("", again), f"any:{n}:KILL")


def test_an_output_that_does_not_get_its_name_is_kept_for_a_resume(conversion, undisturbed, tmp_path):
    _, full, expected = undisturbed
    assert_refused(conversion.run(f"rename:{full['rename']}:EIO", "--resume"), "its name: .*continue with --resume")
    assert (partial_of(conversion) / JOURNAL).exists()
    resumed = conversion.counts(tmp_path, "--resume", under=partial_of(conversion))
    assert faults.contents(conversion.out) == expected
    assert resumed["pwrite"] < full["pwrite"] / 2


def test_killed_while_it_tries_reflinks_it_can_go_on(conversion, undisturbed):
    assert conversion.run("unlink:1:KILL", "--resume", "--reflink").returncode == -signal.SIGKILL
    assert any("reflink-trial" in name for name in os.listdir(partial_of(conversion)))
    assert_finished(conversion, undisturbed[2], conversion.run("", "--resume"))


def test_what_is_there_is_not_made_again(killed, undisturbed, tmp_path):
    _, full, expected = undisturbed
    resumed = killed.counts(tmp_path, "--resume", under=partial_of(killed))
    assert faults.contents(killed.out) == expected
    assert resumed["pwrite"] < full["pwrite"] / 2


def test_before_anything_is_done_an_interrupt_leaves_nothing_even_so(conversion):
    process = conversion.start("pwrite:1:STOP", "--resume")
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=60)
    left = os.listdir(conversion.out.parent)
    assert process.returncode == INTERRUPTED and left in ([], [PARTIAL])  # the first blocks may be done by then


def test_without_anything_to_go_on_with_it_starts(conversion, undisturbed):
    assert_finished(conversion, undisturbed[2], conversion.run("", "--resume"))


@pytest.mark.parametrize("damage", range(len(DAMAGES)))
def test_damage_is_found_and_made_good(killed, undisturbed, damage):
    what = DAMAGES[damage](partial_of(killed), random.Random(damage))
    assert_finished(killed, undisturbed[2], killed.run("", "--resume"), what)


@pytest.mark.parametrize(
    "options,says",
    [
        (("--seed", "7"), "seed.*7"),
        (("--method", "copy"), "method.*(copy.*drop|drop.*copy)"),
        (("--experts", "8"), "experts.*(8.*4|4.*8)"),
        (("--max-shard-size", "6MB"), "max-shard-size"),
        (("--ratio", "0.25"), "ratio.*0.25"),
        (("--router-init", "uniform"), "router-init.*uniform"),
    ],
    ids=str,
)
def test_it_does_not_go_on_with_other_options(killed, options, says):
    before = faults.contents(killed.out.parent)
    assert_refused(killed.run("", "--resume", *options), says)
    assert faults.contents(killed.out.parent) == before


def test_it_goes_on_with_other_options_that_change_no_byte(killed, undisturbed):
    assert_finished(killed, undisturbed[2], killed.run("", "--resume", "--threads", "1"))


def test_on_a_finished_output_it_says_so_and_writes_nothing(conversion, undisturbed, tmp_path):
    assert conversion.run("", "--resume").returncode == 0
    record = (conversion.out / "upmoe.json").stat()
    for options in ((), ("--dry-run",), ("--threads", "1"), ("--ranks", "3", "--rank", "0")):
        again = conversion.run("", *(options if "--ranks" in options else ("--resume", *options)))
        assert again.returncode == 0, again.stderr
        assert re.search("complete +the output is there already", again.stdout)
    assert faults.contents(conversion.out) == undisturbed[2] and (conversion.out / "upmoe.json").stat() == record
    assert os.listdir(conversion.out.parent) == ["out"]


def test_on_another_finished_output_it_says_what_differs(conversion, undisturbed):
    assert conversion.run("", "--resume").returncode == 0
    for options, says in ((("--method", "copy"), "used --method drop, not copy"), (("--ratio", "0.25"), "used --ratio 0.5, not 0.25")):
        assert_refused(conversion.run("", "--resume", *options), f"exists already, and the run that made it {says};.*--replace")
    assert faults.contents(conversion.out) == undisturbed[2]


def test_on_an_output_that_is_not_whole_it_fails(conversion):
    assert conversion.run("", "--resume").returncode == 0
    shard = sorted(conversion.out.glob("*.safetensors"))[0]
    os.truncate(shard, 100)
    assert_refused(conversion.run("", "--resume"), f"exists already, but {shard.name} is missing or incomplete")


def test_on_an_output_of_an_older_source_it_fails(conversion, tmp_path):
    conversion.source = shutil.copytree(conversion.source, tmp_path / "source")
    assert conversion.run("", "--resume").returncode == 0
    weights = sorted(conversion.source.glob("*.safetensors"))[0]
    os.utime(weights)
    assert_refused(conversion.run("", "--resume"), f"exists already, and .*{weights.name} was changed after it was made")


def test_it_does_not_go_on_with_another_source(killed, tmp_path):
    source = shutil.copytree(killed.source, tmp_path / "source")
    shard = source / "model-00001-of-00004.safetensors"
    with shard.open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(b"x" * 100)
    killed.source = source
    before = faults.contents(killed.out.parent)
    assert_refused(killed.run("", "--resume"), "source|changed")
    assert faults.contents(killed.out.parent) == before


def test_without_a_word_it_neither_goes_on_nor_starts_anew(killed):
    before = faults.contents(killed.out.parent)
    assert_refused(killed.run(), "--resume.*--replace|--replace.*--resume")
    assert faults.contents(killed.out.parent) == before


def test_force_starts_anew(killed, undisturbed):
    assert_finished(killed, undisturbed[2], killed.run("", "--replace", "--seed", "0"))


def test_an_error_leaves_what_a_resume_needs_only_if_one_was_asked_for(conversion, undisturbed, late):
    assert conversion.run(f"{late}:ENOSPC").returncode == FAILED
    assert os.listdir(conversion.out.parent) == []
    assert_refused(conversion.run(f"{late}:ENOSPC", "--resume"), "No space left.*--resume")
    assert os.listdir(conversion.out.parent) == [PARTIAL]
    assert_finished(conversion, undisturbed[2], conversion.run("", "--resume"))


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=lambda sent: sent.name)
def test_an_interrupt_leaves_what_a_resume_needs_only_if_one_was_asked_for(conversion, undisturbed, late, sent):
    for options, left in (((), []), (("--resume",), [PARTIAL])):
        process = conversion.start(f"{late}:STOP", *options)
        process.send_signal(sent)
        process.send_signal(signal.SIGCONT)
        _, message = process.communicate(timeout=60)
        assert process.returncode == INTERRUPTED, message
        assert re.search("upmoe: interrupted[^\n]*\n$", message)
        assert ("--resume" in message) == bool(options)
        assert os.listdir(conversion.out.parent) == left
    assert_finished(conversion, undisturbed[2], conversion.run("", "--resume"))


def test_two_runs_do_not_go_on_with_the_same_output(killed, undisturbed):
    first = killed.start("pwrite:1:STOP", "--resume")
    assert_refused(killed.run("", "--resume"), "another run")
    first.send_signal(signal.SIGCONT)
    _, message = first.communicate(timeout=60)
    assert first.returncode == 0, message
    assert faults.contents(killed.out) == undisturbed[2]


def test_a_partial_folder_that_is_a_link_is_not_followed(conversion, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "thesis.tex").write_text("mine")
    partial_of(conversion).symlink_to(elsewhere)
    for option in ("--resume", "--replace"):
        assert_refused(conversion.run("", option), PARTIAL)
        assert (elsewhere / "thesis.tex").read_text() == "mine"


def test_a_journal_that_is_no_file_is_refused(killed):
    journal = partial_of(killed) / JOURNAL
    journal.unlink()
    os.mkfifo(journal)
    assert_refused(killed.run("", "--resume"), JOURNAL)


def test_a_folder_without_a_journal_is_refused(killed):
    (partial_of(killed) / JOURNAL).unlink()
    before = faults.contents(killed.out.parent)
    for option in ("--resume", "--replace"):
        assert_refused(killed.run("", option), f"{PARTIAL}.*journal")
        assert faults.contents(killed.out.parent) == before


def test_a_link_in_the_partial_folder_is_not_written_through(killed, undisturbed, tmp_path):
    other = tmp_path / "other"
    other.write_bytes(b"mine" * 1000)
    shard = sorted(partial_of(killed).glob("*.safetensors"))[0]
    shard.unlink()
    shard.symlink_to(other)
    result = killed.run("", "--resume")
    assert other.read_bytes() == b"mine" * 1000
    if result.returncode == 0:
        assert_finished(killed, undisturbed[2], result)
    else:
        assert_refused(result, shard.name)
