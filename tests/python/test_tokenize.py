"""`upmoe tokenize` and the Python package behind it say what transformers' own tokenizer says."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import transformers

import conftest
import tiny
from upmoe import token_writer
from upmoe.errors import Error
from upmoe.tokenize import Progress

FAILED, USAGE, INTERRUPTED = 1, 2, 130
ENVIRONMENT = {**os.environ, "UPMOE_PYTHON": sys.executable, "PYTHONPATH": str(tiny.REPOSITORY / "python")}
TEXT = tiny.TEXT.read_text()


@pytest.fixture
def model(tiny_folder):
    return tiny_folder(tiny.VARIANTS[0])


def tokenize(*arguments) -> subprocess.CompletedProcess:
    return conftest.run("tokenize", *arguments, env=ENVIRONMENT)


def package(*arguments, **options) -> subprocess.CompletedProcess:
    """The package itself, which the program calls."""
    command = [sys.executable, "-m", "upmoe", *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, timeout=600, **options)


def documents(out: Path) -> list[list[int]]:
    """Megatron's pair, read as its indexed_dataset.py does."""
    index = out.with_suffix(".idx").read_bytes()
    magic, version, code, sequences, count = struct.unpack_from("<9sQBQQ", index)
    assert (magic, version) == (b"MMIDIDX\0\0", 1)
    lengths = np.frombuffer(index, np.int32, sequences, 34)
    pointers = np.frombuffer(index, np.int64, sequences, 34 + lengths.nbytes)
    starts = np.frombuffer(index, np.int64, count, 34 + lengths.nbytes + pointers.nbytes)
    assert len(index) == 34 + lengths.nbytes + pointers.nbytes + starts.nbytes
    assert starts.tolist() == list(range(sequences + 1))
    dtype = np.dtype({4: np.int32, 8: np.uint16}[code])
    data = out.with_suffix(".bin").read_bytes()
    assert len(data) == int(lengths.sum()) * dtype.itemsize
    return [np.frombuffer(data, dtype, length, pointer).tolist() for length, pointer in zip(lengths, pointers)]


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def ids_of(model: Path, text: str) -> list[int]:
    return transformers.AutoTokenizer.from_pretrained(model)(text, add_special_tokens=False, verbose=False).input_ids


def write_lines(path: Path, texts: list[str], field: str = "text") -> Path:
    path.write_text("".join(json.dumps({"id": i, field: text}) + "\n" for i, text in enumerate(texts)))
    return path


def test_the_package_has_the_version_of_the_program():
    program = conftest.run("--version").stdout
    assert package("--version", text=True).stdout == program
    assert f"VERSION {program.split()[1]} " in (tiny.REPOSITORY / "CMakeLists.txt").read_text()


def test_every_text_becomes_a_document_as_transformers_reads_it(model, tmp_path):
    texts = ["one\r\n text", "zwei Wörter 🙂", "", "  three  "]
    folder = tmp_path / "texts"
    (folder / "a").mkdir(parents=True)
    (folder / "b.txt").write_bytes(texts[0].encode())  # behind a/, as names are sorted
    write_lines(folder / "a" / "x.jsonl", texts[1:3])
    last = tmp_path / "last"
    last.write_text(texts[3])
    result = tokenize(model, folder, last, "-o", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    expected = [ids_of(model, text) + [2] for text in (texts[1], texts[2], texts[0], texts[3])]
    assert documents(tmp_path / "out") == expected
    assert re.search(rf"{sum(map(len, expected))} in 4 documents", result.stdout)
    assert listing(tmp_path) == ["last", "out.bin", "out.idx", "texts", "texts/a", "texts/a/x.jsonl", "texts/b.txt"]


@pytest.mark.parametrize(
    "options,before,behind",
    [([], [], [2]), (["--add-bos"], [1], [2]), (["--eod", "none"], [], []), (["--eod", "7"], [], [7])],
)
def test_documents_begin_and_end_as_asked(model, tmp_path, options, before, behind):
    assert tokenize(model, tiny.TEXT, "-o", tmp_path / "out.bin", *options).returncode == 0
    assert documents(tmp_path / "out") == [before + ids_of(model, TEXT) + behind]


def test_of_a_list_of_end_tokens_the_first_is_taken(tiny_folder, tmp_path):
    model = tiny_folder(next(variant for variant in tiny.VARIANTS if variant.name == "eos_list"))
    assert tokenize(model, tiny.TEXT, "-o", tmp_path / "out").returncode == 0
    assert documents(tmp_path / "out")[0][-1] == 2


def test_a_large_vocabulary_takes_32_bits(tmp_path):
    words = {f"w{i}": i for i in range(70000)} | {"<unk>": 70000}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    (tmp_path / "model").mkdir()
    model.save(str(tmp_path / "model" / "tokenizer.json"))
    (tmp_path / "text").write_text("w3 w69999 w65536")
    result = tokenize(tmp_path / "model", tmp_path / "text", "-o", tmp_path / "out", "--eod", "none")
    assert result.returncode == 0, result.stderr
    assert documents(tmp_path / "out") == [[3, 69999, 65536]]


def test_the_bytes_do_not_depend_on_the_number_of_threads(model, tmp_path):
    # More documents than are encoded at once.
    source = write_lines(tmp_path / "many.jsonl", [f"{i} {TEXT[i % 9000:][:i % 37]}" for i in range(40000)])
    outs = []
    for threads in ("1", "4"):
        assert tokenize(model, source, "-o", tmp_path / threads, "--threads", threads).returncode == 0
        outs.append([(tmp_path / threads).with_suffix(end).read_bytes() for end in (".bin", ".idx")])
    assert outs[0] == outs[1]
    assert len(documents(tmp_path / "1")) == 40000


def test_the_most_threads_that_may_be_asked_for_do_not_take_all_memory(model, tmp_path):
    assert tokenize(model, tiny.TEXT, "-o", tmp_path / "out", "--threads", "4096").returncode == 0
    assert documents(tmp_path / "out") == [ids_of(model, TEXT) + [2]]


WITHOUT = """
import errno, os, sys
from upmoe.__main__ import main
def refused(*_):
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
os.{call} = refused
sys.exit(main())
"""


@pytest.mark.parametrize("call", ["fork", "memfd_create", "pipe"])
def test_a_worker_that_cannot_be_started_is_told_in_a_sentence(call, model):
    command = [sys.executable, "-c", WITHOUT.format(call=call), "encode", str(model)]
    result = subprocess.run(command, env=ENVIRONMENT, input="a", capture_output=True, text=True, timeout=600)
    assert result.returncode == FAILED
    assert result.stderr == "upmoe: cannot start a process for the model's tokenizer: Resource temporarily unavailable\n"


def test_a_limit_of_tokens_is_met_exactly(model, tmp_path):
    source = write_lines(tmp_path / "x.jsonl", [TEXT[:300]] * 10)
    assert tokenize(model, source, "-o", tmp_path / "all").returncode == 0
    assert tokenize(model, source, "-o", tmp_path / "some", "--max-tokens", "1000").returncode == 0
    every, some = (sum(documents(tmp_path / name), []) for name in ("all", "some"))
    assert len(every) > 1000
    assert some == every[:1000]


CUT_AT_EVERY_WORD = """
import sys
from upmoe.__main__ import main
from upmoe.cuts import Cuts
Cuts.is_safe = lambda self, c, d: c.isalpha() and d == " "
Cuts.__init__ = lambda self, *_: setattr(self, "marks", " ")
sys.exit(main())
"""


def test_a_text_whose_pieces_give_other_ids_is_encoded_whole(tmp_path):
    """With cuts that were taken for safe, and a tokenizer whose merges reach across them."""
    folder, files = tmp_path / "model", tmp_path / "files"
    for place in (folder, files):
        place.mkdir()
    crossing = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    crossing.train_from_iterator([TEXT], tokenizers.trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>"], show_progress=False))
    crossing.save(str(folder / "tokenizer.json"))
    whole = crossing.encode(TEXT * 9).ids
    (files / "text").write_text(TEXT * 9)
    (files / ".hidden").write_text("x")
    arguments = ["tokenize", folder, files, "-o", tmp_path / "out", "--eod", "none", "--max-tokens", len(whole)]
    command = [sys.executable, "-c", CUT_AT_EVERY_WORD, *map(str, arguments)]
    result = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    assert documents(tmp_path / "out") == [whole]
    assert result.stderr.count("note: left out") == 1


def test_an_output_is_replaced_only_by_force(model, tmp_path):
    out = tmp_path / "out"
    assert tokenize(model, tiny.TEXT, "-o", out).returncode == 0
    before = out.with_suffix(".bin").read_bytes()
    refused = tokenize(model, tiny.TEXT, "-o", out, "--eod", "none")
    assert (refused.returncode, "--replace" in refused.stderr) == (FAILED, True)
    assert out.with_suffix(".bin").read_bytes() == before
    assert tokenize(model, tiny.TEXT, "-o", out, "--eod", "none", "--replace").returncode == 0
    assert out.with_suffix(".bin").read_bytes() == before[:-2]


def test_what_is_left_out_of_a_folder_is_named(model, tmp_path):
    folder = tmp_path / "texts"
    (folder / ".git").mkdir(parents=True)
    (folder / "a").write_text("text")
    (folder / "link").symlink_to(tmp_path)
    result = tokenize(model, folder, "-o", tmp_path / "out")
    assert result.returncode == 0
    assert re.fullmatch(r"note: left out \S+/\.git, which is hidden\nnote: left out \S+/link, a link to a folder\n", result.stderr)
    assert len(documents(tmp_path / "out")) == 1


BAD = {
    "binary": ("a.txt", b"text\0", "a.txt: byte 4 is zero.*binary"),
    "latin1": ("a.txt", "Wörter".encode("latin1"), "a.txt: byte 1 is not UTF-8"),
    "hostile name": ("a\x1b[2J.txt", b"\xff", r"a\\x1b\[2J\.txt: byte 0"),
    "no json": ("a.jsonl", b'{"text": "a"}\n\n{"text": \n', "a.jsonl: line 3 is not valid JSON"),
    "no field": ("a.jsonl", b'{"body": "a"}\n', "line 1 has no 'text'; it has: body; choose with --field"),
    "no object": ("a.jsonl", b"[1]\n", "line 1 has no 'text', being no JSON object"),
    "no text": ("a.jsonl", b'{"text": 1}\n', "line 1: 'text' is no text"),
    "half a pair": ("a.jsonl", b'{"text": "\\ud800"}\n', "half of a surrogate pair"),
    "deep": ("a.jsonl", b"[" * 100000 + b"\n", "line 1 is not valid JSON"),
}


@pytest.mark.parametrize("name,data,says", BAD.values(), ids=BAD.keys())
def test_a_bad_text_is_named_and_nothing_is_written(model, tmp_path, name, data, says):
    (tmp_path / "good.txt").write_text("text")
    (tmp_path / name).write_bytes(data)
    assert_refused(tmp_path, [model, tmp_path / "good.txt", tmp_path / name], FAILED, says)


def assert_refused(folder: Path, arguments: list, code: int, says: str) -> None:
    before = listing(folder)
    result = tokenize(*arguments, "-o", folder / "out")
    assert result.returncode == code, result.stderr
    assert re.fullmatch(r"upmoe: [^\n]+\n", result.stderr), result.stderr
    assert re.search(says, result.stderr), result.stderr
    assert listing(folder) == before


def test_what_is_no_file_is_refused_without_waiting_for_it(model, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert_refused(tmp_path, [model, tmp_path / "pipe"], FAILED, "pipe: is not a regular file")
    assert_refused(tmp_path, [model, tmp_path / "gone"], FAILED, "gone: No such file")


def test_bad_models_and_options_are_answered_in_a_sentence(model, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "tokenizer.json").write_text("{}")
    assert_refused(tmp_path, [tmp_path / "empty", tiny.TEXT], FAILED, "no tokenizer.json")
    assert_refused(tmp_path, [tmp_path / "broken", tiny.TEXT], FAILED, "tokenizer.json: cannot be read")
    assert_refused(tmp_path, [tmp_path / "gone", tiny.TEXT], FAILED, "gone")
    assert_refused(tmp_path, [model, tiny.TEXT, "--eod", "320"], USAGE, "320.*ends at 319")
    assert_refused(tmp_path, [model, tiny.TEXT, "--eod", "x"], USAGE, "'x'.*auto, none")
    assert_refused(tmp_path, [model, tiny.TEXT, "--threads", "-1"], USAGE, "--threads is -1, expected 1 to 4096")
    assert_refused(tmp_path, [model, tiny.TEXT, "--feild", "x"], USAGE, "did you mean '--field'")


def test_a_python_without_the_package_says_how_to_get_it(model, tmp_path):
    environment = {**ENVIRONMENT, "PYTHONPATH": "", "PYTHONNOUSERSITE": "1", "UPMOE_PYTHON": str(bare_python(tmp_path))}
    # From the repository, whose folder upmoe/ is not the package.
    result = conftest.run("tokenize", model, tiny.TEXT, "-o", tmp_path / "out", env=environment, cwd=tiny.REPOSITORY)
    assert result.returncode == FAILED
    assert re.fullmatch(r"upmoe: the Python package upmoe is not installed for [^\n]+pip install[^\n]+\n", result.stderr)


def bare_python(folder: Path) -> Path:
    """A Python that finds no installed packages."""
    script = folder / "python"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    script.chmod(0o755)
    return script


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing(model, tmp_path, number):
    source = write_lines(tmp_path / "long.jsonl", [TEXT] * 4000)
    command = [conftest.PROGRAM, "tokenize", model, source, "-o", tmp_path / "out", "--threads", "1"]
    process = subprocess.Popen(list(map(str, command)), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    partial = tmp_path / "out.bin.upmoe-partial"
    while not (partial.exists() and partial.stat().st_size > 0):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(number)
    _, said = process.communicate(timeout=600)
    assert process.returncode == INTERRUPTED, said
    assert re.fullmatch(r"upmoe: interrupted[^\n]*\n", said)
    assert listing(tmp_path) == ["long.jsonl"]


FOREIGN = ["out.bin.upmoe-partial", "out.idx.upmoe-partial"]


def test_partial_files_of_others_are_no_hindrance_and_stay(model, tmp_path):
    for name in FOREIGN:
        (tmp_path / name).write_text("foreign")
    assert tokenize(model, tiny.TEXT, "-o", tmp_path / "out").returncode == 0
    assert documents(tmp_path / "out") == [ids_of(model, TEXT) + [2]]
    assert listing(tmp_path) == ["out.bin", *FOREIGN[:1], "out.idx", *FOREIGN[1:]]
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    assert tokenize(model, tmp_path / "bad.txt", "-o", tmp_path / "out", "--replace").returncode == FAILED
    assert [(tmp_path / name).read_text() for name in FOREIGN] == ["foreign"] * 2
    assert len(listing(tmp_path)) == 5


def test_the_files_of_a_worker_that_was_killed_are_removed_and_no_others(tmp_path):
    (tmp_path / FOREIGN[0]).write_text("foreign")
    (tmp_path / FOREIGN[1]).write_text("foreign")
    out = str(tmp_path / "out")
    token_writer.TokenWriter(out, 320, replace=False)
    assert len(listing(tmp_path)) == 3
    token_writer.remove_partial(out)
    assert listing(tmp_path) == FOREIGN


def test_another_run_that_writes_the_same_is_told(tmp_path):
    with token_writer.TokenWriter(str(tmp_path / "out"), 320, replace=False):
        with pytest.raises(Error, match="out.bin.upmoe-partial: another process is writing it"):
            token_writer.TokenWriter(str(tmp_path / "out"), 320, replace=False)
    assert listing(tmp_path) == []


def test_what_another_run_finishes_meanwhile_is_left_alone(tmp_path, monkeypatch):
    out = str(tmp_path / "out")
    with token_writer.TokenWriter(out, 320, replace=False) as other:
        other.add([1, 2, 3])
        flock = fcntl.flock

        def flock_after_the_other(file, how):
            monkeypatch.setattr(fcntl, "flock", flock)
            other.commit()
            other.__exit__()
            flock(file, how)

        monkeypatch.setattr(fcntl, "flock", flock_after_the_other)
        with token_writer.TokenWriter(out, 320, replace=True) as ours:
            ours.add([4])
            assert documents(tmp_path / "out") == [[1, 2, 3]]
    assert documents(tmp_path / "out") == [[1, 2, 3]]
    assert listing(tmp_path) == ["out.bin", "out.idx"]


@pytest.mark.parametrize("fails", range(4))
def test_an_old_pair_that_could_not_be_replaced_is_there_again(tmp_path, monkeypatch, fails):
    """Each of the four renames."""
    out = str(tmp_path / "out")
    with token_writer.TokenWriter(out, 320, replace=False) as old:
        old.add([1, 2, 3])
        old.commit()
    replace, left = os.replace, [fails]

    def refused(*paths):
        left[0] -= 1
        if left[0] == -1:
            raise OSError(5, "Input/output error")
        replace(*paths)

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(Error, match="Input/output error"), token_writer.TokenWriter(out, 320, replace=True) as ours:
        ours.add([4])
        ours.commit()
    assert documents(tmp_path / "out") == [[1, 2, 3]]
    assert listing(tmp_path) == ["out.bin", "out.idx"]


@pytest.mark.parametrize("end", ["bin", "idx"])
def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path, end):
    with pytest.raises(Error, match=f"out.{end}: File exists"), token_writer.TokenWriter(str(tmp_path / "out"), 320, replace=False) as ours:
        ours.add([4])
        (tmp_path / f"out.{end}").write_text("foreign")
        ours.commit()
    assert (tmp_path / f"out.{end}").read_text() == "foreign"
    assert listing(tmp_path) == [f"out.{end}"]


def test_behind_its_commit_a_writer_removes_nothing(tmp_path):
    out = str(tmp_path / "out")
    with token_writer.TokenWriter(out, 320, replace=False) as first:
        first.add([1])
        first.commit()
        second = token_writer.TokenWriter(out, 320, replace=True)
    with second:
        second.add([2])
        second.commit()
    assert documents(tmp_path / "out") == [[2]]


def test_encode_gives_the_ids_of_transformers(model):
    text = "Zwei Wörter 🙂</s>"
    expected = transformers.AutoTokenizer.from_pretrained(model)
    for options, special in ([], True), (["--no-special-tokens"], False):
        found = package("encode", model, *options, input=text.encode())
        assert json.loads(found.stdout) == expected(text, add_special_tokens=special).input_ids


@pytest.mark.parametrize("options", [[], ["--stream"]], ids=["whole", "stream"])
def test_decode_gives_the_text_again(model, options):
    text = "Zwei Wörter, 🙂 ein Ende  "
    ids = ids_of(model, text) + [2]
    lines = "\n".join(map(str, ids)).encode()
    assert package("decode", model, *options, input=lines).stdout.decode() == text
    assert package("decode", model, *options, "--keep-special-tokens", input=lines).stdout.decode() == text + "</s>"


def test_decode_streams_every_character_once_it_is_whole(model):
    text = "a🙂b"
    ids = ids_of(model, text)
    assert len(ids) == 6  # four of them are the smile's bytes
    command = [sys.executable, "-m", "upmoe", "decode", str(model), "--stream"]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    for before, number in enumerate(ids):
        process.stdin.write(f"{number}\n".encode())
        process.stdin.flush()
        if before in (0, 4, 5):
            whole = {0: "a", 4: "🙂", 5: "b"}[before].encode()
            assert process.stdout.read(len(whole)) == whole  # would wait for ever if it were held back
    process.stdin.close()
    assert process.stdout.read() == b""
    assert process.wait() == 0


def test_decode_gives_what_is_left_of_a_cut_character(model):
    ids = ids_of(model, "a🙂")[:3]
    found = package("decode", model, "--stream", input=" ".join(map(str, ids)).encode()).stdout.decode()
    assert found == transformers.AutoTokenizer.from_pretrained(model).decode(ids)


def test_decode_names_what_is_no_id(model):
    for word in (b"x", b"-1", b"320", b"9" * 30):
        result = package("decode", model, "--stream", input=b"5 " + word)
        assert result.returncode == FAILED
        assert re.fullmatch(rb"upmoe: standard input: '[^']+' is no id[^\n]+319\n", result.stderr)


TEMPLATES = [
    "{% for message in messages %}<s>{{ message['content'] }}</s>{% endfor %}",
    "{{ bos_token }}{% for message in messages %}\n  {%- if message.role == 'system' %}{% continue %}{% endif %}"
    "{% generation %}[{{ message.role }}] {{ message.content | trim }}{{ eos_token }}{% endgeneration %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}{{ {'ö': messages[0]} | tojson }}",
]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("prompt", [True, False])
def test_chat_renders_as_transformers_does(tmp_path, template, prompt):
    tokenizer = tiny.make_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(tmp_path)
    messages = [{"role": "system", "content": "Sei nett"}, {"role": "user", "content": " <b>Größe?</b> ", "name": None}]
    result = package("chat", tmp_path, *([] if prompt else ["--no-generation-prompt"]), input=json.dumps(messages).encode())
    assert result.returncode == 0, result.stderr
    del messages[1]["name"]  # transformers 5 does that, 4 does not
    expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    assert result.stdout.decode() == expected


def test_chat_refuses_in_a_sentence(model, tmp_path):
    def said(folder, text):
        result = package("chat", folder, input=text)
        assert result.returncode == FAILED
        assert re.fullmatch(rb"upmoe: [^\n]+\n", result.stderr), result.stderr
        return result.stderr.decode()

    good = b'[{"role": "user", "content": "hi"}]'
    assert "not valid JSON" in said(model, b"[")
    assert "list of messages" in said(model, b"{}")
    assert "base model?" in said(tmp_path, good)
    for template, says in (
        ("{{ raise_exception('no systems') }}", "no systems"),
        ("{{ messages.append(1) }}", "refuses"),
        ("{{ ''.__class__.__mro__ }}", "refuses"),
        ("{% if %}", "refuses"),
    ):
        (tmp_path / "chat_template.jinja").write_text(template)
        assert says in said(tmp_path, good)


@pytest.fixture
def progress_on_a_terminal(monkeypatch):
    """progress_on_a_terminal(TERM, columns): what it shows there of a few million tokens."""

    def shown(term: str, columns: int) -> str:
        ours, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
        with os.fdopen(its, "w") as terminal, monkeypatch.context() as here:
            here.setattr(sys, "stderr", terminal)
            here.setenv("TERM", term)
            with Progress() as progress:
                progress.shown -= 60
                progress.update(3_000_000, 12_345)
            text = os.read(ours, 4096).decode()
        os.close(ours)
        return text

    return shown


@pytest.mark.parametrize("columns", [200, 40, 0])
def test_the_progress_line_fits_the_terminal(progress_on_a_terminal, columns):
    """0: the terminal does not say."""
    shown = progress_on_a_terminal("xterm", columns)
    line = re.fullmatch(r"\r\x1b\[K([ -~]*)\r\x1b\[K", shown)[1]
    assert line.startswith("tokenizing: 3.00 M tokens, 12345 docume") and len(line) < (columns or 80)
    assert line.endswith("tokens/s") == (columns != 40)


@pytest.mark.parametrize("term", ["dumb", ""])
def test_a_terminal_that_obeys_nothing_gets_plain_lines_of_progress(progress_on_a_terminal, term):
    shown = progress_on_a_terminal(term, 40)
    assert re.fullmatch(r"tokenizing: 3\.00 M tokens, 12345 documents, [0-9.]+ [kMG] tokens/s\r\n", shown)
