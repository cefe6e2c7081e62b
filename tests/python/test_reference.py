"""The numbers of tests/reference are what this transformers computes; dump.py there has made them."""

import pytest
import safetensors.torch
import torch

import reference
import tiny


@pytest.mark.parametrize("name", ["llama", "mistral", "mixtral"])
def test_the_committed_numbers(name):
    folder = tiny.REPOSITORY / "tests" / "reference" / name
    numbers = safetensors.torch.load_file(folder / "expected.safetensors")
    given = {key: numbers.pop(key) for key in list(numbers) if numbers[key].dtype == torch.int64}
    reference.assert_close(reference.expected(folder, **given), numbers)
