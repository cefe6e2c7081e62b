"""A stranger's tokenizer, chat template and text: in bounded memory and time, and answered with one sentence.

The limits are those of the package. Where reaching them would take long, the test gives a lower one (ulimit), which stays.
"""

import json
import os
import pty
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers

import conftest
import tiny

FAILED, USAGE = 1, 2
ENVIRONMENT = {**os.environ, "UPMOE_PYTHON": sys.executable, "PYTHONPATH": str(tiny.REPOSITORY / "python")}
MESSAGES = json.dumps([{"role": "user", "content": "hi"}])
EVIL = "\x1b]52;c;aGk=\x07"  # puts something into a terminal's clipboard
DISOBEDIENT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e]")  # \r: a terminal's own end of a line


@pytest.fixture
def folder(tmp_path, tiny_folder):
    """A checkpoint of one's own, to be spoilt."""
    return Path(shutil.copytree(tiny_folder(tiny.VARIANTS[0]), tmp_path / "model"))


def package(*arguments, seconds: int = 0, memory: int = 0, **options) -> subprocess.CompletedProcess:
    def limits():
        for kind, most in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_DATA, memory)):
            if most:
                resource.setrlimit(kind, (most, resource.RLIM_INFINITY))

    command = [sys.executable, "-m", "upmoe", *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, timeout=600, text=True, preexec_fn=limits, **options)


def assert_refused(result: subprocess.CompletedProcess, says: str, code: int = FAILED) -> None:
    assert result.returncode == code, result.stderr[:2000]
    assert re.fullmatch(r"upmoe: [^\n]{,1000}\n", result.stderr), result.stderr[:2000]
    assert re.search(says, result.stderr), result.stderr


def change_tokenizer(folder: Path, **changes) -> None:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# ---- which files are read ----

NAMES = ["tokenizer.json", "chat_template.jinja", "tokenizer_config.json", "config.json"]


def read(folder: Path, name: str, **options) -> subprocess.CompletedProcess:
    """By the verb that looks at it."""
    if "chat" in name or "_config" in name:
        return package("chat", folder, input=MESSAGES, **options)
    return package("encode", folder, input="text", **options)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("what", ["link_out", "link_to_device", "link_in_circles", "link_to_nothing", "fifo"])
def test_a_file_that_is_none_of_the_folder(what, name, folder):
    path = folder / name
    if path.exists():
        shutil.move(path, folder.parent / "elsewhere")
    else:
        (folder.parent / "elsewhere").write_text("secret")
    if what == "fifo":
        os.mkfifo(path)
    else:
        targets = {"link_out": "../elsewhere", "link_to_device": "/dev/zero", "link_in_circles": name, "link_to_nothing": "gone"}
        path.symlink_to(targets[what])
    assert_refused(read(folder, name), f"{name}: .*(leads out of the folder|regular file|No such file|Too many levels)")


def test_a_snapshot_of_the_hubs_cache_is_read_through_its_links(folder):
    snapshot, blobs = (folder.parent / "models--a--b" / place for place in ("snapshots/0123", "blobs"))
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(folder.iterdir()):
        shutil.copy(path, blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert read(snapshot, name).stdout == read(folder, name).stdout != ""
    (snapshot / "tokenizer.json").unlink()
    (snapshot / "tokenizer.json").symlink_to(folder / "tokenizer.json")
    assert_refused(read(snapshot, "tokenizer.json"), "leads out")


@pytest.mark.parametrize("value,says", [
    ("1" * 5000, "it has a number of more than 4300 digits"),
    ("[" * 5000 + "]" * 5000, "it is nested too deeply"),
], ids=["digits", "deep"])
def test_json_beyond_what_python_takes(value, says, folder):
    (folder / "config.json").write_text(f'{{"key": {value}}}')
    assert_refused(package("encode", folder, input="a"), f"config.json: is not valid JSON: {says}\n")


@pytest.mark.parametrize("name,most", [("config.json", 4), ("tokenizer_config.json", 16), ("tokenizer.json", 256),
                                       ("chat_template.jinja", 256)])
def test_a_file_larger_than_convert_takes(name, most, folder):
    for size in ((most << 20) + 1, 10**12):
        (folder / name).touch()
        os.truncate(folder / name, size)
        assert_refused(read(folder, name), f"{name}: {size} bytes, at most {most << 20} expected")


# ---- templates ----


@pytest.mark.parametrize("template", [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{{ 9 ** 99999999 }}",
], ids=["loops", "power"])
def test_a_template_that_does_not_end(template, folder, upmoe):
    (folder / "chat_template.jinja").write_text(template)
    assert_refused(package("chat", folder, input=MESSAGES, seconds=2), "chat template took more than 2 s of processor time")


@pytest.mark.parametrize("template", [
    "{{ '%2000000000d' % 1 }}", "{{ 'x' * 10**10 }}", "{% for a in range(99999) %}{{ 'x' * 999999 }}{% endfor %}",
    "{% set ns = namespace(x='x') %}{% for a in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
], ids=["format", "times", "output", "doubled"])
def test_a_template_that_takes_all_memory(template, folder):
    (folder / "chat_template.jinja").write_text(template)
    assert_refused(package("chat", folder, input=MESSAGES), "chat template takes more than 1024 MiB of memory")


def test_the_program_says_the_same(folder, upmoe):
    (folder / "chat_template.jinja").write_text("{{ 'x' * 10**10 }}")
    result = upmoe("generate", folder, "--chat", "--prompt", "a", env=ENVIRONMENT)
    assert_refused(result, "chat template takes more than 1024 MiB of memory")


# ---- tokenizers ----


def test_a_tokenizer_whose_pattern_goes_back_for_ever(folder, tmp_path):
    pattern = {"type": "Split", "pattern": {"Regex": r"(x+x+)+(?=y)"}, "behavior": "Isolated", "invert": False}
    change_tokenizer(folder, pre_tokenizer=pattern)
    (tmp_path / "text").write_text("x" * 5000)
    for result in (package("encode", folder, input="x" * 5000, seconds=3),
                   package("tokenize", folder, tmp_path / "text", "-o", tmp_path / "out", seconds=3)):
        assert_refused(result, "tokenizer took more than 3 s of processor time|model/tokenizer.json: the tokenizer fails: ")
    assert sorted(os.listdir(tmp_path)) == ["model", "text"]


def test_a_tokenizer_that_makes_a_novel_of_a_letter(folder, tmp_path):
    replace = {"type": "Replace", "pattern": {"String": "x"}, "content": "y" * 1_000_000}
    change_tokenizer(folder, normalizer=replace)
    (tmp_path / "text").write_text("x" * 5000)
    for result in (package("encode", folder, input="x" * 5000, memory=700 << 20),
                   package("tokenize", folder, tmp_path / "text", "-o", tmp_path / "out", memory=700 << 20)):
        assert_refused(result, "takes more than .* MiB of memory")
    assert sorted(os.listdir(tmp_path)) == ["model", "text"]


def test_an_id_that_no_token_file_has(folder, tmp_path):
    spec = json.loads((folder / "tokenizer.json").read_text())
    spec["model"]["vocab"]["zz"] = 3_000_000_000
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    result = package("tokenize", folder, tiny.TEXT, "-o", tmp_path / "out")
    assert_refused(result, "ids up to 3000000000, and a token file has ids below 2147483648")


# ---- long texts ----

LINE = tiny.TEXT.read_text()


@pytest.mark.parametrize("name", ["long.txt", "long.jsonl"])
def test_a_long_text_stops_at_the_limit(name, folder, tmp_path):
    """60 MB, whole in 6 GB; here with 600 MB, of which the text takes some."""
    text = (LINE * (60_000_000 // len(LINE))).replace("\n", " ")
    (tmp_path / name).write_text(text if name.endswith(".txt") else json.dumps({"text": text}))
    result = package("tokenize", folder, tmp_path / name, "-o", tmp_path / "out", "--max-tokens", 2000, memory=600 << 20)
    assert result.returncode == 0, result.stderr
    assert "tokens      2000 in 1 documents" in result.stdout


def test_the_limit_is_passed_on(folder, tmp_path, upmoe, convert):
    (tmp_path / "long.txt").write_text(LINE * (60_000_000 // len(LINE)))
    limits = lambda: resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, 2 << 30))
    data = ("--data", tmp_path / "long.txt", "--max-tokens", 50)
    for verb in (["eval", folder], ["verify", convert(folder), "--against", folder], ["calibrate", folder, "-o", tmp_path / "out"]):
        result = upmoe(*verb, *data, env=ENVIRONMENT, preexec_fn=limits)
        assert result.returncode == 0, result.stderr


def test_pieces_make_the_documents_that_the_whole_would(folder, tmp_path):
    """A limit has the text encoded in pieces; the second document begins behind the first one's end."""
    texts = [(LINE * 30)[:300_000], LINE[:50], LINE * 4]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    expected = sum(([1, *tokenizer.encode(text, add_special_tokens=False).ids, 2] for text in texts), [])
    for most in (20_000, len(expected) - 1, len(expected)):
        result = package("tokenize", folder, tmp_path / "x.jsonl", "-o", tmp_path / "out", "--max-tokens", most, "--add-bos", "--force")
        assert result.returncode == 0, result.stderr
        data = (tmp_path / "out.bin").read_bytes()
        assert [int.from_bytes(data[i : i + 2], "little") for i in range(0, len(data), 2)] == expected[:most]


def test_what_cannot_be_cut_is_refused_above_a_size(folder, tmp_path):
    (tmp_path / "long.txt").write_text("x" * (17 << 20))
    result = package("tokenize", folder, tmp_path / "long.txt", "-o", tmp_path / "out", "--max-tokens", 10)
    assert_refused(result, r"long\.txt: no place to cut it safely in 17825792 characters from 0 on, and at most 16777216")
    assert_refused(package("encode", folder, input="x" * (17 << 20)), "17825792 characters, at most 16777216")
    assert not list(tmp_path.glob("out*"))


def test_folders_may_be_nested_deeper_than_python_calls(folder, tmp_path):
    place = tmp_path / "texts"
    deep = str(place)
    for _ in range(1200):
        os.mkdir(deep)
        deep += "/a"
    Path(deep).write_text("text")
    result = package("tokenize", folder, place, "-o", tmp_path / "out")
    subprocess.run(["rm", "-r", place], check=True)  # pytest's way to remove it is recursive
    assert result.returncode == 0 and " in 1 documents" in result.stdout, result.stderr


# ---- where the output goes ----


@pytest.mark.parametrize("out", [".", "..", "texts/", "texts/.", "/"])
def test_an_output_that_is_a_folder(out, folder, tmp_path):
    (tmp_path / "texts").mkdir()
    result = package("tokenize", folder, tiny.TEXT, "-o", out, cwd=tmp_path)
    assert_refused(result, "--output is .*, a folder", USAGE)
    assert sorted(os.listdir(tmp_path)) == ["model", "texts"]


@pytest.mark.parametrize("out", ["texts/out", "texts/deep/out.bin", "texts/a", "link/a"])
def test_an_output_among_what_is_read(out, folder, tmp_path):
    (tmp_path / "texts" / "deep").mkdir(parents=True)
    (tmp_path / "texts" / "a.bin").write_text("text")
    (tmp_path / "link").symlink_to("texts")
    for given in ("texts", "texts/a.bin"):
        if given == "texts" or "a" in out.split("/"):
            result = package("tokenize", folder, given, "-o", out, "--force", cwd=tmp_path)
            assert_refused(result, "--output would write .*which is (in )?what is read", USAGE)
    assert (tmp_path / "texts" / "a.bin").read_text() == "text"


@pytest.mark.parametrize("fault", ["write:1:ENOSPC", "write:1+:EDQUOT", "fsync:1:EIO", "fsync:2:ENOSPC", "rename:2:EIO"])
def test_a_full_disk_is_told_with_the_files_name(fault, folder, library, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    env = {**ENVIRONMENT, "LD_PRELOAD": str(library), "UPMOE_FAULTS": fault, "UPMOE_FAULTS_UNDER": str(place)}
    result = conftest.run("tokenize", folder, tiny.TEXT, "-o", place / "out", "--replace", env=env)
    assert_refused(result, r"out\.(bin|idx)\S*: (No space left|Disk quota|Input/output)")
    assert not list(place.glob("*partial"))


@pytest.mark.parametrize("fault", ["unlink:1:KILL", "unlink:1:TORN", "rename:1:KILL", "rename:1:TORN", "rename:2:KILL", "rename:2:TORN"])
def test_a_killed_replacement_leaves_no_pair_of_old_and_new(fault, folder, library, tmp_path):
    """Both have as many tokens, so that such a pair could be read."""
    place = tmp_path / "place"
    place.mkdir()
    faulty = {"LD_PRELOAD": str(library), "UPMOE_FAULTS": fault, "UPMOE_FAULTS_UNDER": str(place)}
    texts = ["one", "one and two"]

    def pair_of(texts: list[str], out: Path, env: dict) -> tuple[list[bytes], int]:
        (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        result = conftest.run("tokenize", folder, tmp_path / "texts.jsonl", "-o", out, "--replace", env=ENVIRONMENT | env)
        paths = (out.with_suffix(".bin"), out.with_suffix(".idx"))
        return [path.read_bytes() if path.exists() else b"" for path in paths], result.returncode

    new, _ = pair_of(texts[::-1], tmp_path / "new", {})
    old, _ = pair_of(texts, place / "out", {})
    assert [*map(len, old)] == [*map(len, new)] and old != new
    found, code = pair_of(texts[::-1], place / "out", faulty)
    assert code in (FAILED, -9)  # the worker is killed, and its parent where it cleans up
    assert found in (old, new) or not found[0], "a .bin without its .idx, or with the other one"


# ---- prompts ----


def test_a_prompt_that_is_no_utf8(folder, tmp_path):
    (tmp_path / "prompt").write_bytes(b"a\xff")
    for options, name in ((["--prompt", b"a\xff"], "--prompt"), (["--prompt-file", tmp_path / "prompt"], "prompt"),
                          (["--prompt-file", "-"], "standard input"), (["--chat", "--prompt", b"\xc0\x80"], "--prompt"),
                          (["--chat", "--prompt", "a", "--system", b"\xed\xa0\x80"], "--system")):
        command = [conftest.PROGRAM, "generate", folder, *options]
        result = subprocess.run(command, env=ENVIRONMENT, input=b"\xff", capture_output=True)
        assert result.returncode == FAILED
        assert re.fullmatch(rf"upmoe: \S*{name}: is not UTF-8 text\n", result.stderr.decode()), result.stderr


@pytest.mark.parametrize("threads", ["33000", "4294967297", "4097", "-1"])
def test_more_threads_than_any_machine_has(threads, folder, tmp_path, upmoe):
    text = tmp_path / "tokens.bin"
    text.write_bytes(bytes([5, 0] * 50))
    for verb in (["tokenize", folder, tiny.TEXT, "-o", tmp_path / "out"], ["eval", folder, "--data", text],
                 ["generate", folder, "--tokens", "1"], ["verify", folder, "--against", folder],
                 ["calibrate", folder, "--data", text, "-o", tmp_path / "out"], ["convert", folder, tmp_path / "out"]):
        result = upmoe(*verb, "--threads", threads, env=ENVIRONMENT)
        assert_refused(result, rf"--threads is {threads}, expected 1 to 4096", USAGE)


# ---- terminals ----


def on_terminal(command: list, text: str = "") -> str:
    """What a terminal is sent on standard output."""
    ours, its = pty.openpty()
    process = subprocess.Popen(list(map(str, command)), env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=its, stderr=subprocess.PIPE)
    os.close(its)
    _, said = process.communicate(text.encode())
    assert process.returncode == 0, said
    out = b""
    try:
        while more := os.read(ours, 1 << 16):
            out += more
    except OSError:  # that is how a terminal ends
        pass
    os.close(ours)
    return out.decode()


@pytest.fixture
def evil(folder):
    """A checkpoint every token of which is a command to a terminal."""
    words = {f"{EVIL}\u202e\x9b{n}": n for n in range(320)}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token=next(iter(words))))
    model.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text("a\tb\n" + EVIL)
    return folder


def test_a_terminal_is_told_nothing_by_a_text(evil):
    decode = [sys.executable, "-m", "upmoe", "decode", evil]
    for command, text in (([conftest.PROGRAM, "generate", evil, "--prompt", "a", "--max-tokens", "3"], ""),
                          (decode, "1 2"), ([*decode, "--stream"], "1\n2\n"),
                          ([sys.executable, "-m", "upmoe", "chat", evil], MESSAGES)):
        shown = on_terminal(command, text)
        assert r"\x1b]52;c;aGk=\x07" in shown and not DISOBEDIENT.search(shown), repr(shown)
    assert shown.startswith("a\tb\r\n")


def test_a_pipe_gets_the_text_as_it_is(evil, upmoe):
    result = upmoe("generate", evil, "--prompt", "a", "--max-tokens", 3, env=ENVIRONMENT)
    assert result.returncode == 0 and EVIL in result.stdout
    assert package("chat", evil, input=MESSAGES).stdout == "a\tb\n" + EVIL


# ---- closed streams ----


def closing(*streams: int):
    return lambda: [os.close(stream) for stream in streams]


@pytest.mark.parametrize("streams", [(2,), (0, 2), (0, 1, 2), (1,), (1, 2)], ids=str)
@pytest.mark.parametrize("program", ["upmoe", "package"])
def test_no_file_gets_the_number_of_a_closed_stream(program, streams, folder, tmp_path):
    """What is written is whole; and a result that cannot be printed is an error."""
    tokenize = ["tokenize", folder, tiny.TEXT, "-o", tmp_path / "out"]
    start = [conftest.PROGRAM] if program == "upmoe" else [sys.executable, "-m", "upmoe"]
    expected = tmp_path / "expected"
    assert conftest.run(*tokenize[:-1], expected, env=ENVIRONMENT).returncode == 0
    result = subprocess.run([*start, *tokenize], env=ENVIRONMENT, preexec_fn=closing(*streams), stderr=subprocess.PIPE)
    assert result.returncode == (FAILED if 1 in streams else 0)
    for end in (".bin", ".idx"):
        assert (tmp_path / f"out{end}").read_bytes() == expected.with_suffix(end).read_bytes()
    if 1 in streams and 2 not in streams:
        assert re.fullmatch(rb"upmoe: cannot write to standard output[^\n]*\n", result.stderr)


@pytest.mark.parametrize("streams", [(2,), (0, 1, 2)], ids=str)
def test_a_conversion_with_closed_streams_is_whole(streams, folder, tmp_path, convert):
    text = tmp_path / "tokens.bin"
    text.write_bytes(bytes([5, 0] * 50))
    arguments = {"convert": [folder, tmp_path / "out"], "calibrate": [folder, "--data", text, "-o", tmp_path / "statistics"]}
    for verb, rest in arguments.items():
        result = subprocess.run([conftest.PROGRAM, verb, *rest], preexec_fn=closing(*streams))
        assert result.returncode == (FAILED if 1 in streams else 0)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (convert(folder) / "model.safetensors").read_bytes()
    again = conftest.run("calibrate", folder, "--data", text, "-o", tmp_path / "again")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "statistics").read_bytes() == (tmp_path / "again").read_bytes()


def test_a_prompt_from_a_closed_standard_input(folder):
    for command in ([conftest.PROGRAM, "generate", folder, "--prompt-file", "-"], [sys.executable, "-m", "upmoe", "encode", folder]):
        result = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, preexec_fn=closing(0))
        assert_refused(result, "cannot read standard input")
