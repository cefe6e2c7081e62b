"""What the tests ask of a checkpoint folder: its raw tensors, and what stock transformers makes of it.

T = tokens, V = vocabulary, H = hidden, F = neurons of an expert.
"""

from pathlib import Path

import safetensors.torch
import torch
import transformers

import tiny


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    out = {}
    for file in sorted(folder.glob("*.safetensors")):
        out |= safetensors.torch.load_file(file)
    return out


def same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(as_bytes(a), as_bytes(b))


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


def load_dense(folder: Path, variant: tiny.Variant) -> transformers.PreTrainedModel:
    config = tiny.dense_config(variant)
    return transformers.AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32).eval()


def load(folder: Path) -> transformers.PreTrainedModel:
    """Loads in float32 and lets nothing pass that transformers would only warn about."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    complaints = {kind: names for kind, names in info.items() if names}
    assert not complaints, f"{folder} does not load cleanly: {complaints}"
    return model.eval()


def some_ids_BT() -> torch.Tensor:
    return torch.randint(3, 320, (2, tiny.NUM_TOKENS), generator=torch.Generator().manual_seed(1))


def logits_BTV(model: transformers.PreTrainedModel, ids_BT: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(ids_BT, use_cache=False).logits.double()


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    return ((got - expected).abs().max() / expected.abs().max()).item()


# Per-expert names of a Mixtral beside the dense names, and the dimension along which neurons lie.
MATRICES = {"gate": ("w1", "mlp.gate_proj", 0), "up": ("w3", "mlp.up_proj", 0), "down": ("w2", "mlp.down_proj", 1)}


def expert_FH(weights: dict, layer: int, expert: int, matrix: str) -> torch.Tensor:
    """One row per neuron, also for down."""
    name, _, dim = MATRICES[matrix]
    weight = weights[f"model.layers.{layer}.block_sparse_moe.experts.{expert}.{name}.weight"]
    return weight if dim == 0 else weight.T.contiguous()


def dense_FH(weights: dict, layer: int, matrix: str) -> torch.Tensor:
    _, name, dim = MATRICES[matrix]
    weight = weights[f"model.layers.{layer}.{name}.weight"]
    return weight if dim == 0 else weight.T.contiguous()


def kept_F(got_FH: torch.Tensor, source_FH: torch.Tensor) -> torch.Tensor:
    """Which neurons are the source's, byte for byte."""
    return (as_bytes(got_FH) == as_bytes(source_FH)).all(dim=1)
