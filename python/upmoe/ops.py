"""The engine's operations as operators of torch, `torch.ops.upmoe.*`, and as an implementation of experts for transformers.

    upmoe.ops.register()
    AutoModelForCausalLM.from_pretrained(folder, experts_implementation="upmoe")
"""

import importlib.metadata
import os
from pathlib import Path

import torch

from upmoe.errors import Error

LIBRARY = "libupmoe_engine.so"


def find_library() -> Path:
    """What UPMOE_ENGINE_LIBRARY names; or beside this package as installed; or in build/ of a checkout."""
    here = Path(__file__).resolve().parent
    places = [here / LIBRARY, here / "lib" / LIBRARY, here.parents[1] / "build" / LIBRARY]
    if "UPMOE_ENGINE_LIBRARY" in os.environ:
        places = [Path(os.environ["UPMOE_ENGINE_LIBRARY"])]
    for place in places:
        if place.is_file():
            return place
    raise Error(f"{LIBRARY} is in none of: {', '.join(map(str, places))}; `make build` makes it")


def load(path: str | os.PathLike | None = None) -> None:
    """Makes torch.ops.upmoe.* known. Again: does nothing."""
    torch.ops.load_library(str(path or find_library()))


def load_once() -> None:
    """load(), unless it has been called with this or another path."""
    if not hasattr(torch.ops.upmoe, "experts_stacked"):
        load()


def experts(
    self: torch.nn.Module, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """What transformers calls, with `self` one of its modules of experts: weights [E, 2F, H] and [E, H, F]."""
    silu = isinstance(self.act_fn, torch.nn.SiLU) or type(self.act_fn).__name__ == "SiLUActivation"
    plain = self.has_gate and self.is_concatenated and not (self.is_transposed or self.has_bias)
    more = getattr(self, "has_post_expert_norm", False) or getattr(self, "_is_expert_parallel", False)
    if not (silu and plain) or more:
        raise Error(
            "experts_implementation='upmoe' computes down(silu(gate x) * up x), with all experts in one process; "
            f"{type(self).__name__} is different"
        )
    tokens, per_token = top_k_index.shape
    token = torch.arange(tokens, device=top_k_index.device).repeat_interleave(per_token)
    return torch.ops.upmoe.experts_stacked(
        hidden_states,
        token,
        top_k_index.reshape(-1),
        top_k_weights.reshape(-1).float(),
        self.gate_up_proj,
        self.down_proj,
    )


def transformers_here() -> str:
    try:
        return f"this is transformers {importlib.metadata.version('transformers')}"
    except importlib.metadata.PackageNotFoundError:
        return "transformers is not installed"


def register(name: str = "upmoe") -> None:
    """After this, transformers (5 and later) knows experts_implementation=name. Loads the library unless load() has."""
    try:
        from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
    except ImportError:
        raise Error(f"upmoe.ops.register() needs transformers 5 or later, and {transformers_here()}") from None
    load_once()
    ALL_EXPERTS_FUNCTIONS.register(name, experts)
