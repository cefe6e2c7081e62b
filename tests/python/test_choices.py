"""`upmoe eval --choices` says what lm-evaluation-harness says: TemplateLM._encode_pair, its sums and its two accuracies."""

import json
import math
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tokenizers
import torch
import transformers

import conftest
import tiny

ENVIRONMENT = {**os.environ, "UPMOE_PYTHON": sys.executable, "PYTHONPATH": str(tiny.REPOSITORY / "python")}
# Of float32 sums in another order.
FLOAT32 = 1e-5
WORDS = tiny.TEXT.read_text().split()
QUESTIONS = [
    {"context": " ".join(WORDS[:20]), "choices": ["License", "Version 2.0", "a"], "answer": 1},
    {"context": "The work, ", "choices": ["Derivative Works", "shall mean"], "answer": 0, "id": "space"},
    {"context": "The work,\n \t", "choices": ["x", "y", "z"], "answer": [0, 2], "id": 7},
    {"context": "", "choices": ["no context", "</s> at all"], "answer": 0},
    {"context": "", "choices": ["<s>a", "<s> and more"], "answer": 1, "target_delimiter": ""},
    {"context": "<s>Begins itself", "choices": ["yes", "no"], "answer": [1]},
    {"context": "Wie heißt 日本? ", "choices": ["Straße 🦜", "日本語", "é"], "answer": 2, "target_delimiter": "\n"},
    {"context": "(A) one (B) two:", "choices": ["A", "B", "C", "D"], "answer": 3},
    {"context": " ".join(WORDS[:90]), "choices": ["or", " ".join(WORDS[90:96])], "answer": 1},
]


def encode_pair(tokenizer, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """lm_eval/api/model.py, TemplateLM.loglikelihood and _encode_pair."""
    if context == "":
        ids = tokenizer.encode(continuation, add_special_tokens=False)
        prefix = tokenizer.bos_token_id
        return ([prefix], ids) if prefix != ids[0] else (ids[:1], ids[1:])
    num_spaces = len(context) - len(context.rstrip())
    if num_spaces > 0:
        continuation = context[-num_spaces:] + continuation
        context = context[:-num_spaces]

    def encode(text):
        return tokenizer.encode(text, **({"add_special_tokens": False} if text.startswith(tokenizer.bos_token) else {}))

    whole, before = encode(context + continuation), encode(context)
    return before, whole[len(before) :]


def pairs_of(tokenizer, question: dict) -> list[tuple[list[int], list[int]]]:
    delimiter = question.get("target_delimiter", " ")
    return [encode_pair(tokenizer, question["context"], delimiter + choice) for choice in question["choices"]]


def log_likelihood(model, context: list[int], continuation: list[int], max_length: int) -> float:
    """lm_eval/models/huggingface.py, HFLM._loglikelihood_tokens, one request at a time."""
    ids = torch.tensor((context + continuation)[-(max_length + 1) :][:-1])
    with torch.inference_mode():
        log_p = model(ids[None]).logits[0].float().log_softmax(-1)
    return log_p[-len(continuation) :].gather(1, torch.tensor(continuation)[:, None]).sum().item()


def write(path, questions: list) -> None:
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in questions), encoding="utf-8")


def evaluate(*arguments) -> dict:
    result = conftest.run("eval", *arguments, "--json", env=ENVIRONMENT)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def package(folder, text: str | bytes) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "upmoe", "choices", str(folder)]
    given = text if isinstance(text, bytes) else text.encode()
    return subprocess.run(command, env=ENVIRONMENT, input=given, capture_output=True, timeout=600)


@pytest.fixture
def with_bos(tiny_folder, tmp_path):
    """A tokenizer that puts <s> before a text, as Llama's do."""
    tokenizer = tiny.make_tokenizer()
    backend = tokenizer.backend_tokenizer
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.bos_token_id)])
    folder = tmp_path / "with_bos"
    folder.mkdir()
    for path in tiny_folder(tiny.VARIANTS[0]).iterdir():
        if "token" not in path.name:
            shutil.copy(path, folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    assert transformers.AutoTokenizer.from_pretrained(folder).encode("a")[0] == tokenizer.bos_token_id
    return folder


@pytest.mark.parametrize("bos", [False, True])
def test_the_ids_are_those_of_the_harness(bos, tiny_folder, with_bos):
    folder = with_bos if bos else tiny_folder(tiny.VARIANTS[0])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    result = package(folder, "\n".join(json.dumps(one) for one in QUESTIONS) + "\n\n")
    assert result.returncode == 0, result.stderr
    for number, (line, asked) in enumerate(zip(result.stdout.splitlines(), QUESTIONS, strict=True), 1):
        found, pairs = json.loads(line), pairs_of(tokenizer, asked)
        assert [(found["context"], choice) for choice in found["choices"]] == pairs
        assert found["characters"] == [len(choice) for choice in asked["choices"]]
        assert found["id"] == str(asked.get("id", number))
        assert found["answer"] == np.atleast_1d(asked["answer"]).tolist()


@pytest.mark.parametrize("context", [0, 40])
@pytest.mark.parametrize("experts", [0, 4])
def test_log_likelihoods_and_accuracies_are_those_of_the_harness(experts, context, tiny_folder, convert, tmp_path):
    folder = tiny_folder(tiny.VARIANTS[0])
    if experts:
        folder = convert(folder, "--experts", experts, "--method", "drop", "--ratio", 0.5)
    write(tmp_path / "some.jsonl", QUESTIONS)
    options = ["--context", context] if context else []
    [found] = evaluate(folder, "--choices", tmp_path / "some.jsonl", *options)["choices"]

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    max_length = context or model.config.max_position_embeddings
    right, right_norm, truncated = [], [], 0
    for asked, detail in zip(QUESTIONS, found["details"], strict=True):
        pairs = pairs_of(tokenizer, asked)
        lls = np.array([log_likelihood(model, *pair, max_length) for pair in pairs])
        assert detail["log_likelihoods"] == pytest.approx(lls.tolist(), rel=FLOAT32)
        gold = np.atleast_1d(asked["answer"]).tolist()
        right.append(float(lls.argmax() in gold))
        right_norm.append(float((lls / [len(choice) for choice in asked["choices"]]).argmax() in gold))
        truncated += any(len(before) + len(behind) > max_length + 1 for before, behind in pairs)
    assert found["name"] == "some" and found["questions"] == len(QUESTIONS) and found["truncated"] == truncated > 0
    for name, values in [("acc", right), ("acc_norm", right_norm)]:
        assert found[name] == pytest.approx(np.mean(values))
        assert found[f"{name}_stderr"] == pytest.approx(np.std(values, ddof=1) / math.sqrt(len(values)))


def test_texts_and_several_files_go_together(tiny_folder, tmp_path):
    folder, one, many = tiny_folder(tiny.VARIANTS[0]), tmp_path / "one.jsonl", tmp_path / "many.jsonl"
    write(one, QUESTIONS[:1])
    write(many, QUESTIONS[:5])
    np.arange(3, 40, dtype=np.uint16).tofile(tmp_path / "text.bin")
    arguments = [folder, "--choices", one, "--data", tmp_path / "text.bin", "--choices", many]
    found, table = evaluate(*arguments), conftest.run("eval", *arguments, env=ENVIRONMENT).stdout
    assert [choices["name"] for choices in found["choices"]] == ["one", "many"] and found["tokens"] == 36
    assert found["choices"][0]["acc_stderr"] is None
    a, b = (choices["details"][0] for choices in found["choices"])
    assert a["log_likelihoods"] == pytest.approx(b["log_likelihoods"], rel=FLOAT32)
    many = found["choices"][1]
    assert f"{many['acc']:.4f} ± {many['acc_stderr']:.4f}" in table and f"{found['ppl']:.4g}" in table


GOOD = json.dumps(QUESTIONS[0])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2 is not valid JSON"),
        ("[" * 100000, "line 2 is not valid JSON"),
        ("[1]", "line 2 is no JSON object"),
        ('{"choices": ["a", "b"], "answer": 0}', "line 2 has no 'context'"),
        ('{"context": "", "choices": ["a", "b"]}', "line 2 has no 'answer'"),
        ('{"context": "", "choices": ["a", "b"], "label": 0}', "there is no key 'label'; there are: context, choices, answer"),
        ('{"context": 5, "choices": ["a", "b"], "answer": 0}', "'context' is no text"),
        ('{"context": "\\ud800", "choices": ["a", "b"], "answer": 0}', "half of a surrogate pair"),
        ('{"context": "", "choices": "ab", "answer": 0}', "'choices' is no list of at least two"),
        ('{"context": "", "choices": ["a"], "answer": 0}', "'choices' is no list of at least two"),
        ('{"context": "", "choices": ["a", 1], "answer": 0}', "choice 1 is no text"),
        ('{"context": "", "choices": ["a", ""], "answer": 0}', "choice 1 is empty"),
        ('{"context": "", "choices": ["a", "b"], "answer": 2}', "'answer' is 2, expected the number of a choice, from 0 to 1"),
        ('{"context": "", "choices": ["a", "b"], "answer": -1}', "'answer' is -1"),
        ('{"context": "", "choices": ["a", "b"], "answer": true}', "'answer' is true"),
        ('{"context": "", "choices": ["a", "b"], "answer": "a"}', "'answer' is \"a\""),
        ('{"context": "", "choices": ["a", "b"], "answer": []}', "'answer' is []"),
        ('{"context": "", "choices": ["a", "b"], "answer": [0, 5]}', "'answer' is [0, 5]"),
        ('{"context": "", "choices": ["a", "b"], "answer": 0, "id": 1.5}', "'id' is no text"),
        ('{"context": "", "choices": ["a", "b"], "answer": 0, "target_delimiter": null}', "'target_delimiter' is no text"),
        ('{"context": " \\n", "choices": ["a", "b"], "answer": 0}', "'context' has white space and nothing else"),
        ('{"context": "", "choices": ["<s>", "b"], "answer": 0, "target_delimiter": ""}', "choice 0 adds no token"),
        (json.dumps({"context": "word " * 250_000, "choices": ["a", "b"], "answer": 0}), "a question has at most 1048576"),
    ],
)
def test_a_bad_line_is_named(line, words, tiny_folder, tmp_path):
    folder, path = tiny_folder(tiny.VARIANTS[0]), tmp_path / "bad.jsonl"
    path.write_text(f"{GOOD}\n{line}\n{GOOD}\n")
    result = package(folder, path.read_bytes())
    assert result.returncode == 1 and len(result.stdout.splitlines()) == 1
    assert b"standard input: line 2" in result.stderr and words.encode() in result.stderr
    result = conftest.run("eval", folder, "--choices", path, env=ENVIRONMENT)
    assert result.returncode == 1 and f"{path}: line 2" in result.stderr and words in result.stderr
    assert result.stderr.count("\n") == 1


def test_bad_files(tiny_folder, tmp_path):
    folder = tiny_folder(tiny.VARIANTS[0])
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "binary.jsonl").write_bytes(b'{"context": "\xff", "choices": ["a", "b"], "answer": 0}')
    write(tmp_path / "long.jsonl", [{"context": "a", "choices": ["b", " ".join(WORDS)], "answer": 0, "id": "very\nlong"}])
    os.mkfifo(tmp_path / "pipe")
    for name, words in [("no", "No such file"), ("empty.jsonl", "has no question"), ("binary.jsonl", "not valid JSON"),
                        ("long.jsonl", r"long.jsonl: question very\x0along: a choice of"), ("pipe", "not a regular file")]:
        result = conftest.run("eval", folder, "--choices", tmp_path / name, env=ENVIRONMENT)
        assert result.returncode == 1 and words in result.stderr and result.stderr.count("\n") == 1, result.stderr
    result = conftest.run("eval", folder)
    assert result.returncode == 2 and "--data" in result.stderr and "--choices" in result.stderr


def test_a_model_without_bos_begins_with_eos(tiny_folder, tmp_path):
    tokenizer = tiny.make_tokenizer()
    tokenizer.bos_token = None
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"bos_token_id": 1}))
    question = {"context": "", "choices": ["a", "b"], "answer": 0}
    assert json.loads(package(tmp_path, json.dumps(question)).stdout)["context"] == [tokenizer.eos_token_id]
