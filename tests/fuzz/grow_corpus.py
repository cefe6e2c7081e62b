#!/usr/bin/env python3
"""grow_corpus.py PROGRAM FOUND: takes the best of what a run has found into tests/fuzz/corpus/TARGET.txt.

The seeds of make_corpus.py stay. Of the rest (FOUND and the corpus as it is) those are kept that add most features of
coverage for their bytes, until MOST_FILES or MOST_BYTES.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

import found_inputs

MOST_FILES, MOST_BYTES = 150, 200_000
HASH = re.compile("[0-9a-f]{40}")


def features(program: str, folders: list[pathlib.Path]) -> dict[pathlib.Path, set[int]]:
    """The features of each file that has some which no smaller one before it has: libFuzzer's own merge."""
    with tempfile.TemporaryDirectory() as scratch:
        control, merged = pathlib.Path(scratch) / "control", pathlib.Path(scratch) / "merged"
        merged.mkdir()
        command = [program, "-merge=1", f"-merge_control_file={control}", merged, *folders]
        subprocess.run(list(map(str, command)), check=True, stderr=subprocess.DEVNULL)
        lines = control.read_text(errors="replace").splitlines()
    count = int(lines[0])
    paths, out = [pathlib.Path(line) for line in lines[2:2 + count]], {}
    for line in lines[2 + count:]:
        kind, number, *rest = line.split()
        if kind == "FT":
            out[paths[int(number)]] = set(map(int, rest))
    return out


def choose(candidates: dict[pathlib.Path, set[int]], covered: set[int]) -> list[pathlib.Path]:
    """Greedily: the most new features for a file's size, where the first 1000 bytes are free."""
    chosen, left, room = [], dict(candidates), MOST_BYTES
    size = {path: path.stat().st_size for path in candidates}
    while left and len(chosen) < MOST_FILES:
        best = max(left, key=lambda path: (len(left[path] - covered) / (1000 + size[path]), str(path)))
        if not left[best] - covered:
            break
        found = left.pop(best)
        if size[best] <= room:
            chosen.append(best)
            covered |= found
            room -= size[best]
    return chosen


def main(program: str, found: pathlib.Path) -> None:
    target = pathlib.Path(program).name
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([sys.executable, pathlib.Path(__file__).with_name("make_corpus.py"), scratch], check=True)
        corpus = pathlib.Path(scratch) / target
        of_file = features(program, [corpus, found])
        is_seed = {path: path.parent == corpus and not HASH.fullmatch(path.name) for path in of_file}
        covered = set().union(*(of_file[path] for path in of_file if is_seed[path]))
        kept = {path.read_bytes() for path in choose({p: f for p, f in of_file.items() if not is_seed[p]}, covered)}
    found_inputs.write(target, kept)
    print(f"{target}: {len(kept)} inputs, {sum(map(len, kept))} bytes beside the seeds")


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]))
