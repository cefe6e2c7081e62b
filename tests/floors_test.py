"""Fails when an include runs upwards, sideways or in a circle (docs/architecture.md has the picture of the floors).

    floors_test.py FOLDER    checks the tree below FOLDER/upmoe
    floors_test.py           checks this checker against made-up trees, each with one fault
"""

import re
import sys
import tempfile
from pathlib import Path

FLOORS = [
    ["base"],
    ["tensor", "random", "io"],
    ["format"],
    ["checkpoint"],
    ["upcycle", "target", "router_init", "data"],
    ["convert", "inspect", "ops"],
    ["routing"],
    ["balance"],
    ["model"],
    ["eval"],
    ["cli"],
    ["cli_engine"],
]
ABOVE_THE_TORCH_LINE = {"routing", "ops", "balance", "model", "eval", "cli_engine"}
FLOOR_OF = {folder: floor for floor, folders in enumerate(FLOORS) for folder in folders}
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)
RELATIVE = re.compile(r'^\s*#\s*include\s*"(?!upmoe/)([^"]+)"', re.MULTILINE)
TORCH = re.compile(r"(torch|ATen|c10)/")


def faults(root: Path) -> list[str]:
    found, includes = [], {}
    for file in sorted((root / "upmoe").rglob("*")):
        if file.suffix not in (".h", ".cpp"):
            continue
        name = file.relative_to(root).as_posix()
        folder = name.split("/")[1]
        if folder not in FLOOR_OF:
            found.append(f"{name}: folder '{folder}' is on no floor; there are: {' '.join(FLOOR_OF)}")
            continue
        includes[name] = []
        text = file.read_text()
        for target in RELATIVE.findall(text):
            found.append(f'{name}: includes "{target}": a file of ours is included by its full path, "upmoe/..."')
        for target in INCLUDE.findall(text):
            if TORCH.match(target) and folder not in ABOVE_THE_TORCH_LINE:
                found.append(f"{name}: includes <{target}>: below the torch line nothing may")
            if target.startswith("torch/torch") or target.startswith("torch/nn") or target == "ATen/ATen.h":
                found.append(f"{name}: includes <{target}>, which takes ten seconds to compile; name the operators: <ATen/ops/...>")
            if not target.startswith("upmoe/"):
                continue
            includes[name].append(target)
            other = target.split("/")[1]
            if not (root / target).is_file():
                found.append(f"{name}: includes {target}, which is not there")
            elif other != folder and FLOOR_OF.get(other, len(FLOORS)) >= FLOOR_OF[folder]:
                found.append(f"{name}: includes {target}: {folder} may only look below its floor, and {other} is not there")
    return found + circles(includes)


def circles(includes: dict[str, list[str]]) -> list[str]:
    found, done = [], set()

    def walk(name: str, path: list[str]) -> None:
        if name in path:
            found.append("a circle: " + " -> ".join([*path[path.index(name) :], name]))
        elif name not in done:
            for target in includes.get(name, []):
                walk(target, [*path, name])
            done.add(name)

    for name in includes:
        walk(name, [])
    return found


def test_of_the_test() -> None:
    sound = {"base/error.h": "", "tensor/dtype.h": '#include "upmoe/base/error.h"\n'}
    broken = {
        "upwards": {"base/hash.h": '#include "upmoe/tensor/dtype.h"\n'},
        "sideways": {"random/key.h": '#include "upmoe/tensor/dtype.h"\n'},
        "in a circle": {"base/a.h": '#include "upmoe/base/b.h"\n', "base/b.h": '#include "upmoe/base/a.h"\n'},
        "from no floor": {"attic/old.h": ""},
        "by a relative path": {"base/hash.h": '#include "../tensor/dtype.h"\n'},
        "to nowhere": {"base/hash.h": '#include "upmoe/base/gone.h"\n'},
        "to torch": {"tensor/tensor.h": "#include <ATen/core/Tensor.h>\n"},
        "to all of torch": {"model/llama.cpp": "#include <ATen/ATen.h>\n"},
    }
    for fault, files in {"": {}, **broken}.items():
        with tempfile.TemporaryDirectory() as folder:
            for name, text in {**sound, **files}.items():
                path = Path(folder, "upmoe", name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            count = len(faults(Path(folder)))
            if count != (1 if fault else 0):
                sys.exit(f"a tree that is broken {fault or 'nowhere'}: {count} faults found")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        test_of_the_test()
    elif found := faults(Path(sys.argv[1])):
        sys.exit("\n".join(found))
