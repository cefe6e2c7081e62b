"""What the scripts print while they work, and which presets they run."""

import json
import os
import pty
import subprocess

import tiny

PROGRESS = tiny.REPOSITORY / "scripts" / "progress"
SAID = "[1/3] first\nan error\n[2/3] second\n  its last words"


def test_what_is_no_progress_is_passed_on_as_it_is():
    result = subprocess.run([PROGRESS, "build", r"^\[[0-9]+/"], input=SAID, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "an error\n  its last words\n", "")


def test_a_long_silence_is_broken_now_and_then():
    command = ["sh", "-c", f"(echo 'Collecting torch'; sleep 17) | '{PROGRESS}' setup"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.startswith("setup: ") and said.endswith(" s  Collecting torch\n")


def test_on_a_terminal_one_line_moves():
    ours, theirs = pty.openpty()
    subprocess.run([PROGRESS, "build", r"^\[[0-9]+/"], input=SAID.encode(), stdout=theirs, check=True)
    os.close(theirs)
    said = os.read(ours, 10_000).decode()
    os.close(ours)
    assert "\r\x1b[Kbuild: " in said and " s  [1/3] first" in said
    assert "\r\x1b[Kan error\r\n" in said and said.endswith("its last words\r\n\r\x1b[K")


def test_ci_runs_every_preset_that_tests():
    presets = json.loads((tiny.REPOSITORY / "CMakePresets.json").read_text())["testPresets"]
    last = (tiny.REPOSITORY / ".ci" / "run").read_text().splitlines()[-1]
    assert set(last.split()) == {"scripts/test", *(preset["name"] for preset in presets if not preset.get("hidden"))}
