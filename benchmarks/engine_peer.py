"""transformers' experts, timed as engine_bench.cpp times ours: a job a line on stdin, seconds of a run and a checksum on stdout.

Jobs: layer T H F E K DTYPE EXPERTS forward|step IMPLEMENTATION
"""

import sys
import time

import torch
import transformers
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

PERIOD = ((torch.arange(1009, dtype=torch.float32) * 367).remainder(1009) / 1009) - 0.5


def numbers(shape: tuple, dtype: torch.dtype, scale: float) -> torch.Tensor:
    """As engine_bench.cpp makes them."""
    out = torch.empty(shape, dtype=dtype)
    flat, whole = out.view(-1), out.numel() // 1009 * 1009
    flat[:whole].view(-1, 1009).copy_(PERIOD * scale)
    flat[whole:].copy_(PERIOD[: out.numel() - whole] * scale)
    return out


def median_seconds(run) -> float:
    """As in engine_bench.cpp: of as many runs as fit into 0.2 s after the first, or of that one."""

    def timed() -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    first, left, all_ = timed(), 0.2, []
    while left >= first and len(all_) < 21:
        all_.append(timed())
        left -= all_[-1]
    return sorted(all_)[len(all_) // 2] if all_ else first


def make_layer(H: int, F: int, E: int, dtype: torch.dtype) -> MixtralExperts:
    with torch.device("meta"):
        layer = MixtralExperts(transformers.MixtralConfig(hidden_size=H, intermediate_size=F, num_local_experts=E))
    layer.gate_up_proj = torch.nn.Parameter(numbers((E, 2 * F, H), dtype, 0.1))
    layer.down_proj = torch.nn.Parameter(numbers((E, H, F), dtype, 0.1))
    return layer


def time_layer(layer: MixtralExperts, T: int, K: int, experts: list[int], mode: str, implementation: str) -> tuple[float, float]:
    H, dtype = layer.down_proj.shape[1], layer.down_proj.dtype
    layer.config._experts_implementation = implementation
    x, dy = numbers((T, H), dtype, 4), numbers((T, H), dtype, 1)
    weight = numbers((T * K,), torch.float32, 1).abs().view(T, K)
    index = torch.tensor(experts).view(T, K)
    step = mode == "step"
    for leaf in (x, weight, *layer.parameters()):
        leaf.requires_grad_(step)
    checked = None

    def run() -> None:
        nonlocal checked
        checked = layer(x, index, weight)
        if step:
            checked = torch.autograd.grad(checked, (x, weight, *layer.parameters()), dy)[0]

    with torch.set_grad_enabled(step):
        return median_seconds(run), checked.abs().double().mean().item()


def main() -> None:
    kept, layer = None, None
    for line in sys.stdin:
        _, T, H, F, E, K, dtype, experts, mode, implementation = line.split()
        if kept != (H, F, E, dtype):
            layer = None  # gives its memory back first
            layer, kept = make_layer(int(H), int(F), int(E), getattr(torch, dtype)), (H, F, E, dtype)
        seconds, checksum = time_layer(layer, int(T), int(K), list(map(int, experts.split(","))), mode, implementation)
        print(f"{seconds:.9f} {checksum:.6g}", flush=True)


if __name__ == "__main__":
    main()
