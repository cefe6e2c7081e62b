#!/usr/bin/env python3
"""The engine as on other processors: its tests, and an evaluation of the real SmolLM2-135M, under limits of instructions.

Needs the tests at build/dev, the program at build/upmoe and models/SmolLM2-135M-Instruct; .ci/run makes them first. Run it
with .venv's Python. Prints whose kernels multiplied, and stops at the first fault.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
MODEL = REPOSITORY / "models" / "SmolLM2-135M-Instruct"
TESTS = REPOSITORY / "build" / "dev" / "tests"
UPMOE = REPOSITORY / "build" / "upmoe"
VARIABLES = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "UPMOE_ISA")
MOST_TOKENS = 512

# Values of VARIABLES; what the processor needs for them; who then multiplies in float32, and who in bf16. oneDNN's
# variable limits nothing but oneDNN, so it is also tried alone. Below AVX512_CORE_BF16 `--compute auto` takes fp32.
LIMITS = [
    (("AVX2", "avx2", "avx2"), "avx2", ("oneDNN AVX2", "oneDNN AVX2")),
    (("AVX2", None, None), "avx2", ("oneDNN AVX2", "oneDNN AVX2")),
    (("AVX512_CORE", "avx512", "avx512"), "avx512bw", ("oneDNN AVX-512", "oneDNN AVX-512")),
    (("AVX512_CORE", None, None), "avx512bw", ("oneDNN AVX-512", "oneDNN AVX-512")),
    (("AVX512_CORE_BF16", "avx512", "avx512"), "avx512_bf16", ("oneDNN AVX-512", "oneDNN AVX-512 BF16")),
    ((None, None, None), None, None),
]
# Of sums in another order, and of roundings to 8 bits.
FLOAT32, BF16 = 1e-5, 5e-3


def run(*command, environment: dict) -> str:
    command = [str(part) for part in command]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    if result.returncode:
        sys.exit(f"isa_test: {' '.join(command)}\n{result.stdout}{result.stderr}")
    return result.stdout


def run_tests(program: str, tests: str, environment: dict) -> None:
    out = run(TESTS / program, f"--gtest_filter={tests}", "--gtest_brief=1", environment=environment)
    if "] 0 tests from" in out:
        sys.exit(f"isa_test: {program} has no test that matches {tests}")
    for line in out.splitlines():
        if line.startswith(("products of", "[  PASSED  ]", "[  SKIPPED ]")):
            print(f"  {program}: {line}", flush=True)


def evaluate(tokens: Path, environment: dict) -> dict:
    """By arithmetic: what `eval --json` says."""
    command = [UPMOE, "eval", MODEL, "--data", tokens, "--context", MOST_TOKENS, "--json", "--compute"]
    found = {compute: json.loads(run(*command, compute, environment=environment)) for compute in ("fp32", "bf16", "auto")}
    for compute, said in found.items():
        print(f"  eval in {compute} ({said['compute']}) by {said['products']}: nll {said['nll']:.6f}, {said['seconds']:.1f} s", flush=True)
    return found


def auto_compute(limit: str | None, cpuinfo: str) -> str:
    """What `--compute auto` takes for bf16 weights on this processor, when oneDNN is limited so."""
    flags = set(cpuinfo.split())
    amd = "avx512_bf16" in flags and "AuthenticAMD" in flags and limit in (None, "AVX512_CORE_BF16")
    amx = "amx_bf16" in flags and limit is None
    return "bf16" if amd or amx else "fp32"


def check_auto(found: dict, expected: str) -> None:
    auto = found["auto"]
    if auto["compute"] != expected:
        sys.exit(f"isa_test: --compute auto took {auto['compute']}, expected {expected}")
    if auto["nll"] != found[expected]["nll"]:
        sys.exit(f"isa_test: --compute auto gives nll {auto['nll']}, and --compute {expected} {found[expected]['nll']}")


def check(found: dict, expected: tuple | None, reference: float | None) -> None:
    by = tuple(found[compute]["products"] for compute in ("fp32", "bf16"))
    if expected and by != expected:
        sys.exit(f"isa_test: multiplied by {by}, expected {expected}")
    fp32, bf16 = (found[compute]["nll"] for compute in ("fp32", "bf16"))
    for nll, other, share in [(fp32, reference or fp32, FLOAT32), (bf16, fp32, BF16)]:
        if not abs(nll - other) <= share * other:
            sys.exit(f"isa_test: nll {nll}, expected {other} to {share} of it")


def main() -> None:
    cpuinfo = Path("/proc/cpuinfo").read_text()
    flags = set(cpuinfo.split())
    plain = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    reference = None
    with tempfile.TemporaryDirectory() as folder:
        run(UPMOE, "tokenize", MODEL, REPOSITORY / "LICENSE", "-o", Path(folder) / "text", environment=plain)
        [whole] = Path(folder).glob("text*.bin")
        tokens = Path(folder) / "tokens.bin"
        tokens.write_bytes(whole.read_bytes()[: 2 * MOST_TOKENS])
        for values, needs, expected in LIMITS:
            limits = {name: value for name, value in zip(VARIABLES, values) if value}
            title = " ".join(f"{name}={value}" for name, value in limits.items()) or "no limit"
            if needs and needs not in flags:
                print(f"{title}: skipped, this processor has no {needs}", flush=True)
                continue
            print(title, flush=True)
            start, environment = time.monotonic(), plain | limits
            run_tests("ops_tests", "Product.*:Linear.*:Processor.*:Experts*", environment)
            if None not in values or not limits:
                run_tests("model_tests", "*", environment)
            found = evaluate(tokens, environment)
            check(found, expected, reference)
            check_auto(found, auto_compute(values[0], cpuinfo))
            reference = reference or found["fp32"]["nll"]
            print(f"  {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
