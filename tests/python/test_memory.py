"""Memory stays within 300 MB beyond one source layer, whatever the model and the number of experts."""

import subprocess
import sys

import pytest

import conftest
import synthetic

# A small process between this large one and the program: a child's peak counts its parent's pages until exec.
LAUNCHER = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
sys.exit(code)
"""


def peak_bytes(*arguments) -> int:
    command = [sys.executable, "-I", "-S", "-c", LAUNCHER, conftest.PROGRAM, *arguments]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return int(result.stdout)


@pytest.mark.parametrize("method", ["copy", "drop", "noise", "scratch"])
@pytest.mark.parametrize("layers,experts", [(20, 4), (3, 32)], ids=["many_layers", "many_experts"])
def test_the_peak_is_one_source_layer_and_300_mb(large_folder, method, layers, experts):
    layer_bytes = synthetic.make(large_folder / "source", layers)
    out = large_folder / "out"
    peak = peak_bytes("convert", large_folder / "source", out, "--method", method, "--experts", experts)
    assert sum(file.stat().st_size for file in out.iterdir()) > 3 * 300e6 + layer_bytes  # else it would show nothing
    assert peak <= layer_bytes + 300e6
