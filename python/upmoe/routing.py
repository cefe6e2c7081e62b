"""The engine's routers from Python: `upmoe.routing.route(x, gate, "softmax_topk", top_k=2)`.

Shape letters: T tokens, H hidden size, E experts, X experts with those that compute nothing, N routed pairs, M most
experts of any token. `upmoe routers` lists the routers with their formulas and options.
"""

from typing import NamedTuple

import torch

from upmoe import ops


class Routing(NamedTuple):
    """Which tokens go to which experts. What a strategy does not have is None."""

    token: torch.Tensor  # [N] int64, sorted
    expert: torch.Tensor  # [N] int64
    weight: torch.Tensor  # [N] float32, with gradients
    score: torch.Tensor  # [T, X] float32 after the score function, with gradients
    chosen: torch.Tensor  # [T, M] int64: what each token chose before any were dropped; -1: none
    load: torch.Tensor  # [X] int64: how many real tokens chose each expert, before any were dropped
    logits: torch.Tensor | None  # [T, X] float32, before noise
    extra: torch.Tensor | None  # [T, H] float32: what the experts from E on give
    chance: torch.Tensor | None  # [T, X] float32: the probability of being chosen, where noise gives one
    loss: torch.Tensor | None  # scalar for the training loss, a mean over this micro-batch: divide by their number


class Router:
    """A router of one layer: "NAME" or "NAME,key=value,...". `state` holds its parameters and buffers by name."""

    def __init__(
        self, router: str, experts: int, top_k: int, hidden: int, vocabulary: int = 0, seed: int = 0, layer: int = 0
    ):
        ops.load_once()
        self.router, self.seed, self.layer = router, seed, layer
        self.shape = [experts, top_k, hidden, vocabulary]
        names = torch.ops.upmoe.router_state_names(router, self.shape)
        self.state = dict(zip(names, torch.ops.upmoe.router_state(router, self.shape, seed, layer), strict=True))

    def __call__(
        self,
        x: torch.Tensor,
        gate: torch.Tensor,
        *,
        token_id: torch.Tensor | None = None,
        valid: torch.Tensor | None = None,
        runs: list[tuple[int, int, int]] | None = None,
        replay: torch.Tensor | None = None,
        training: bool = False,
        step: int = 0,
    ) -> Routing:
        """Routes x [T, H] by the layer's router weight [E, H].

        token_id [T] int64, for strategies that go by it; valid [T] bool, False for padding; runs: for each stretch of
        tokens its sequence's number within the step, the position it begins at and its length, by default one
        sequence; replay: `chosen` of an earlier Routing. What is drawn in training depends on the seed, the layer, the
        step, the sequence and the position alone.
        """
        numbers = [number for run in runs or [] for number in run]
        out = torch.ops.upmoe.route(
            x, gate, self.router, self.shape, list(self.state.values()), token_id, valid, numbers, replay, training,
            self.seed, self.layer, step,
        )  # fmt: skip
        return Routing(*out)

    def after_step(self, load: torch.Tensor, tokens: int, step: int, learning_rate: float) -> None:
        """Once after each optimizer step: `load` [X] int64 and real tokens, summed over all of its micro-batches."""
        out = torch.ops.upmoe.router_after_step(
            self.router, self.shape, list(self.state.values()), load, tokens, step, learning_rate
        )
        self.state = dict(zip(self.state, out, strict=True))


def route(x: torch.Tensor, gate: torch.Tensor, router: str, top_k: int = 2, **call) -> Routing:
    """One call of a fresh router: see Router."""
    vocabulary = int(call["token_id"].max()) + 1 if call.get("token_id") is not None else 0
    return Router(router, gate.shape[0], top_k, x.shape[1], vocabulary)(x, gate, **call)
