"""The engine's balancing losses from Python: `upmoe.balance.Loss("switch:0.01", experts=8, top_k=2)`.

Shape letters: T tokens, L layers, M numbers that a loss adds up over tokens. docs/routing.md has the formulas.
"""

from typing import NamedTuple

import torch

from upmoe import ops
from upmoe.routing import Routing

Runs = list[tuple[int, int, int]]  # of each stretch of tokens: number of its sequence, first position, length


class Step(NamedTuple):
    """How large an optimizer step is, over all of its micro-batches and processes."""

    micro_batches: int
    sequences: int  # with at least one real token
    tokens: int  # real ones


class Loss:
    """A balancing loss: "NAME[:COEFFICIENT][,scope=sequence|micro-batch|step][,key=value]...".

    The parts of a step's micro-batches add up to the loss of the step, so gradients are accumulated as they are, and
    the coefficient is the one in the gradient however the step is cut.
    """

    def __init__(self, loss: str, experts: int, top_k: int):
        ops.load_once()
        self.loss, self.shape = loss, [experts, top_k]
        torch.ops.upmoe.balance_coefficient(loss, 0)  # says what is wrong with it

    def coefficient(self, step: int) -> float:
        """Of an optimizer step, counted from 0."""
        return torch.ops.upmoe.balance_coefficient(self.loss, step)

    def totals(self, layers: list[Routing], valid: torch.Tensor | None = None) -> torch.Tensor:
        """The sums [L, M] of a micro-batch; those of a step are added up and given to each part of scope `step`."""
        return torch.ops.upmoe.balance_totals(self.loss, self.shape, _tensors(layers), valid)

    def __call__(
        self,
        layers: list[Routing],
        step: Step,
        *,
        valid: torch.Tensor | None = None,
        runs: Runs | None = None,
        totals: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """A micro-batch's part, a scalar without coefficient: the sum over the layers.

        valid [T] bool, False for padding; runs: which tokens are which, by default one sequence; totals: of the whole
        step, for scope `step` where it has several micro-batches.
        """
        numbers = [number for run in runs or [] for number in run]
        return torch.ops.upmoe.balance_loss(
            self.loss, self.shape, _tensors(layers), list(step), valid, numbers, totals
        )


def _tensors(layers: list[Routing]) -> list[torch.Tensor | None]:
    return [x for r in layers for x in (r.token, r.expert, r.weight, r.score, r.chosen, r.logits, r.chance)]
