"""What scripts/isa_test.py takes for a passed test. Running it whole is a part of .ci/run."""

import sys

import pytest

import tiny

sys.path.insert(0, str(tiny.REPOSITORY / "scripts"))
import isa_test


@pytest.mark.parametrize("count", [0, 10])
def test_a_filter_that_matches_no_test_fails(count, tmp_path, monkeypatch):
    program = tmp_path / "ops_tests"
    program.write_text(f"#!/bin/sh\necho '[==========] {count} tests from {count} test suites ran.'\necho '[  PASSED  ] {count} tests.'\n")
    program.chmod(0o755)
    monkeypatch.setattr(isa_test, "TESTS", tmp_path)
    if count:
        return isa_test.run_tests("ops_tests", "Linear.*", {})
    with pytest.raises(SystemExit, match=r"isa_test: ops_tests has no test that matches Linear\.\*"):
        isa_test.run_tests("ops_tests", "Linear.*", {})
