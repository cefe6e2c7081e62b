"""`upmoe generate`: transformers' tokens when greedy, and text that comes while it is made."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import transformers

import conftest
import tiny

NUM_NEW = 24
PROMPT = "Permission is hereby granted, free of charge, to any person"
FP32 = ("--dtype", "fp32", "--compute", "fp32", "--threads", 1)


def generated(upmoe, folder, *arguments) -> dict:
    result = upmoe("generate", folder, "--json", *FP32, *arguments)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def wanted(folder, ids: list[int], count: int = NUM_NEW) -> list[int]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        out = model.generate(torch.tensor([ids]), max_new_tokens=count, do_sample=False, pad_token_id=0)
    return out[0, len(ids):].tolist()


@pytest.fixture(autouse=True)
def python(monkeypatch):
    monkeypatch.setenv("UPMOE_PYTHON", sys.executable)
    monkeypatch.setenv("PYTHONPATH", str(tiny.REPOSITORY / "python"))


@pytest.fixture
def endless_folder(tmp_path):
    """A model that never ends by itself, and takes a while."""
    variant = tiny.Variant("endless", {"eos_token_id": None, "max_position_embeddings": 100_000})
    return tiny.make(tmp_path / "endless", variant)


NAMES = ["llama", "llama3_rope", "linear_rope", "yarn_rope", "tied", "eos_list", "mistral_window"]


@pytest.mark.parametrize("experts", [0, 4])
@pytest.mark.parametrize("name", NAMES)
def test_greedy_is_transformers(name, experts, upmoe, tiny_folder, convert):
    [variant] = [v for v in tiny.VARIANTS if v.name == name]
    folder = tiny_folder(variant)
    if experts:
        folder = convert(folder, "--experts", experts)
    ids = [1, 17, 200, 5, 31]
    found = generated(upmoe, folder, "--tokens", " ".join(map(str, ids)), "--max-tokens", NUM_NEW)
    assert found["ids"] == wanted(folder, ids)
    assert "text" not in found and found["prompt_tokens"] == len(ids)


def test_greedy_is_transformers_for_a_real_model(upmoe, smollm2):
    tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2)
    found = generated(upmoe, smollm2, "--prompt", PROMPT, "--max-tokens", 20)
    assert found["ids"] == wanted(smollm2, tokenizer(PROMPT).input_ids, 20)
    assert found["text"] == tokenizer.decode(found["ids"], skip_special_tokens=True)


def test_text_streams_to_what_json_says(upmoe, tiny_folder):
    folder = tiny_folder(tiny.VARIANTS[0])
    options = ("--prompt", PROMPT, "--max-tokens", NUM_NEW, "--temperature", 2, "--seed", 5, *FP32)
    streamed = upmoe("generate", folder, *options)
    assert streamed.returncode == 0, streamed.stderr
    assert streamed.stdout == generated(upmoe, folder, *options)["text"] + "\n"
    assert "new: " in streamed.stderr


def test_a_prompt_from_a_file_and_from_standard_input(upmoe, tiny_folder, tmp_path):
    folder, path = tiny_folder(tiny.VARIANTS[0]), tmp_path / "prompt.txt"
    path.write_text(PROMPT + " ä")
    found = [generated(upmoe, folder, "--max-tokens", 5, *how)["ids"]
             for how in (("--prompt", PROMPT + " ä"), ("--prompt-file", path))]
    piped = upmoe("generate", folder, "--json", *FP32, "--max-tokens", 5, "--prompt-file", "-", input=PROMPT + " ä")
    assert [*found, json.loads(piped.stdout)["ids"]] == [found[0]] * 3


def test_chat_goes_through_the_template(upmoe, tiny_folder):
    folder = tiny_folder(tiny.VARIANTS[0])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "why?"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    found = generated(upmoe, folder, "--chat", "--system", "be brief", "--prompt", "why?", "--max-tokens", NUM_NEW)
    assert found["prompt_tokens"] == len(ids)
    assert found["ids"] == wanted(folder, ids)


def test_the_seed_decides_and_not_the_threads(upmoe, tiny_folder):
    folder = tiny_folder(tiny.VARIANTS[0])

    def drawn(seed, threads):
        how = ("--tokens", "1 2 3", "--max-tokens", NUM_NEW, "--temperature", 1.5, "--top-k", 50, "--top-p", 0.95)
        return generated(upmoe, folder, *how, "--seed", seed, "--threads", threads)["ids"]

    assert drawn(1, 1) == drawn(1, 2) != drawn(2, 1)


def test_top_p_and_top_k_sample_without_a_temperature(upmoe, tiny_folder):
    folder = tiny_folder(tiny.VARIANTS[0])
    for option in (("--top-p", 0.99), ("--top-k", 100)):
        how = ("--tokens", "1 2 3", "--max-tokens", NUM_NEW, "--seed", 3, *option)
        drawn = generated(upmoe, folder, *how)["ids"]
        assert drawn == generated(upmoe, folder, *how, "--temperature", 1)["ids"] != wanted(folder, [1, 2, 3])


def test_ids_need_no_python(upmoe, tiny_folder):
    result = upmoe("generate", tiny_folder(tiny.VARIANTS[0]), "--tokens", "1 2 3", "--max-tokens", 4, *FP32,
                   env={**os.environ, "UPMOE_PYTHON": "/nonexistent"})
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.split()) == 4


@pytest.mark.parametrize("how", [("--tokens", "1 2 3"), ("--prompt", PROMPT), ("--prompt", PROMPT, "--json")], ids=str)
def test_ctrl_c_ends_with_what_there_is(how, endless_folder):
    command = [str(conftest.PROGRAM), "generate", str(endless_folder), *how, *map(str, FP32), "--max-tokens", "90000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    if "--json" not in how:
        process.stdout.read(1)
    else:
        while ".safetensors" not in Path(f"/proc/{process.pid}/maps").read_text():
            time.sleep(0.05)  # from here on signals are caught
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to everybody
    out, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert b"interrupted" in said and b"Traceback" not in said
    if "--json" in how:
        assert json.loads(out)["stop"] == "interrupt"
    else:
        assert out.endswith(b"\n")


@pytest.mark.parametrize("arguments, parts", [
    ((), ["--prompt"]),
    (("--prompt", "a", "--tokens", "1"), ["one of"]),
    (("--tokens", "1 x"), ["'x'", "whole number"]),
    (("--tokens", "1", "--chat"), ["--chat"]),
    (("--prompt", "a", "--system", "b"), ["--system", "--chat"]),
    (("--tokens", "1", "--max-tokens", "0"), ["--max-tokens"]),
    (("--tokens", "1", "--temperature", "-1"), ["--temperature"]),
    (("--tokens", "1", "--top-p", "0"), ["--top-p"]),
    (("--tokens", "1", "--top-k", "5", "--temperature", "0"), ["--top-k", "--temperature 0"]),
], ids=str)
def test_a_wrong_command_line(arguments, parts, upmoe, tiny_folder):
    result = upmoe("generate", tiny_folder(tiny.VARIANTS[0]), *arguments)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("upmoe: ") and all(part in result.stderr for part in parts)


def test_what_cannot_be_gone_on_from(upmoe, tiny_folder, tmp_path):
    folder = tiny_folder(tiny.VARIANTS[0])
    for tokens, part in [("", "no token"), ("320", "320"), ("1 " * 128, "exceeds the model's 128-token context")]:
        result = upmoe("generate", folder, "--tokens", tokens)
        assert result.returncode == 1 and part in result.stderr, result.stderr


def test_a_folder_without_a_tokenizer(upmoe):  # told once, by Python
    result = upmoe("generate", tiny.REPOSITORY / "tests" / "reference" / "llama", "--prompt", "a")
    assert result.returncode == 1
    assert result.stderr.startswith("upmoe: ") and "tokenizer.json" in result.stderr and result.stderr.count("\n") == 1


def test_routers_are_listed(upmoe):
    listed = json.loads(upmoe("routers", "--json").stdout)
    assert {"softmax_topk", "topk_softmax"} <= {router["name"] for router in listed}
    assert all(router["formula"] and router["source"] and "causal" in router["training"] for router in listed)
    assert all(router["name"] in upmoe("routers").stdout for router in listed)
