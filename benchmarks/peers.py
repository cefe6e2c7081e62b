"""Other converters, called as their users call them: by their command line, from environments and checkouts of their own.

None of them is needed, and none of their code is here; README.md says how to install them.
"""

import json
import os
from pathlib import Path

OFFLINE = {"HF_HUB_OFFLINE": "1"}  # the model is a folder; saves them a look at the network


def write_mergekit_config(file: Path, model: Path, experts: int, top_k: int, noise: float) -> None:
    """Every expert is the dense model itself, as for upmoe. JSON is YAML too."""
    expert = {"source_model": str(model)} | ({"noise_scale": noise} if noise else {})
    file.write_text(json.dumps({
        "base_model": str(model),
        "gate_mode": "random",
        "dtype": "bfloat16",
        "experts_per_token": top_k,
        "experts": [expert] * experts,
    }, indent=2))


def mergekit(venv: Path, config: Path, out: Path) -> list:
    return [venv / "bin" / "mergekit-moe", config, out, "--quiet"]


def drop_upcycling(checkout: Path, python: Path, model: Path, target_config: Path, experts: int, out: Path) -> list:
    """As conversions/README.md of the published repository has it. The target's config is a Mixtral's for this model."""
    layers = json.loads((model / "config.json").read_text())["num_hidden_layers"]
    return [
        python, checkout / "conversions" / "drop_upcycling.py",
        "--ffn_init_ratio", "0.5",
        "--source_model_path", model,
        "--target_config_path", target_config,
        "--output_path", out,
        "--num_experts", experts,
        "--num_layers", layers,
        "--seed", "1234",
        "--init_method", "torch_rand_002",
    ]


def missing(*paths: Path) -> str | None:
    """Why a peer cannot run, if it cannot."""
    absent = [str(path) for path in paths if not os.access(path, os.R_OK)]
    return f"{absent[0]} is not there" if absent else None
