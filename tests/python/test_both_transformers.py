"""What upmoe writes means the same to transformers 4 and 5: the perplexity of a text is one number.

Runs both interpreters, so pytest collects it under transformers 5 only.
"""

import json
import subprocess

import pytest
import torch

import tiny

PYTHONS = [tiny.REPOSITORY / venv / "bin" / "python" for venv in (".venv", ".venv-tf4")]


def perplexity(python, folder) -> dict:
    command = [python, tiny.REPOSITORY / "scripts" / "perplexity.py", folder, tiny.TEXT]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def assert_one_number(folder, dense) -> None:
    five, four = (perplexity(python, folder) for python in PYTHONS)
    expected = perplexity(PYTHONS[0], dense)
    assert (five["transformers"][0], four["transformers"][0]) == ("5", "4")
    assert five["tokens"] == four["tokens"] == expected["tokens"] == 1024
    # float32, and the same kernels but for how experts are multiplied.
    assert four["perplexity"] == pytest.approx(five["perplexity"], rel=1e-6)
    assert five["perplexity"] == pytest.approx(expected["perplexity"], rel=1e-5)


def test_smollm2_copied(smollm2, large_folder, upmoe):
    result = upmoe("convert", smollm2, large_folder / "copy", "--method", "copy", "--experts", "4")
    assert result.returncode == 0, result.stderr
    assert_one_number(large_folder / "copy", smollm2)


# Transformers 4 itself reads such a folder wrong (it does not know rope_parameters); what upmoe makes of it, right.
def test_a_model_that_transformers_5_saved(tmp_path, convert):
    changes = {"rope_theta": 500000.0, "rope_scaling": tiny.LLAMA3_ROPE, "tie_word_embeddings": True,
               "max_position_embeddings": 1024}
    variant = tiny.Variant("saved", changes, dtype=torch.bfloat16, spelling="saved")
    source = tiny.make(tmp_path / "source", variant)
    assert "rope_parameters" in (source / "config.json").read_text()
    assert_one_number(convert(source, "--method", "copy"), source)
