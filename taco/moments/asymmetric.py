"""Second moments of a compressed model's inputs against the dense model's outputs, at the same layer and positions.

A layer behind compressed ones sees inputs X^ that are not the dense model's X. What it should give is still Y = W X, so
the problem to solve is min over V of |Y - V X^|^2, whose moments are X^ X^^T and Y X^^T.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import torch
from torch import nn

from taco.calibrate import PER_COLUMN, CalibrationOptions
from taco.errors import TaskError, UnsupportedModuleError
from taco.moments.replay import Replay, Run
from taco.moments.sampling import draw_positions, keys_of
from taco.moments.sums import Moments, Sums
from taco.moments.unfold import channels_last, known, positions_of, unfold, weight_matrix


@dataclasses.dataclass(frozen=True, slots=True)
class AsymmetricMoments:
    """What one layer sees in the compressed model, and what it should make of it.

    Attributes:
        inputs: Moments of X^, the compressed model's unfolded inputs.
        cross: (groups, rows, cols) float64, Y X^^T / n; Y without the layer's bias.
        target_mean: (groups, rows) float64, Y 1 / n.
    """

    inputs: Moments
    cross: torch.Tensor
    target_mean: torch.Tensor


def effective_weight(moments: AsymmetricMoments, W: torch.Tensor, damping: float, centred: bool) -> torch.Tensor:
    """Return the weights that would be best without any constraint.

    That is W_eff = (2 Y X^^T / n + ridge W)(H^ + ridge I)^-1. For any V,
    |Y - V X^|^2 / n + ridge/2 |V - W|^2 = 1/2 tr((V - W_eff)(H^ + ridge I)(V - W_eff)^T) + const: whatever solves the
    symmetric problem of (W_eff, H^) at this damping solves the asymmetric one.

    Args:
        moments: Of the layer.
        W: (groups, rows, cols), what the ridge draws to.
        damping: Multiple of mean(diag H^).
        centred: Means are left to the bias.

    Returns:
        (groups, rows, cols) float64.
    """
    inputs = moments.inputs
    H, cross = (inputs.centred_H, moments.cross) if centred else (inputs.H, moments.cross)
    if centred:
        cross = cross - moments.target_mean[:, :, None] * inputs.mean[:, None, :]
    diagonal = H.diagonal(dim1=1, dim2=2)
    ridge = (damping * diagonal.mean(1)).clamp_min(torch.finfo(torch.float64).tiny)[:, None, None]
    damped = H + ridge * torch.eye(H.shape[1], dtype=H.dtype)
    factor = torch.linalg.cholesky(damped)
    best: torch.Tensor = torch.cholesky_solve((2.0 * cross + ridge * W.double()).mT, factor).mT
    return best


class PairedModels:
    """Two models of the same structure, compared at some layers on the same pictures, pass after pass.

    Args:
        dense: Gives the targets; eval mode, not modified.
        compressed: Gives the inputs; eval mode. After a pass over some layers these may be changed, and any later ones.
        begun: Of the dense model on the same pictures, as far as both are the same; None begins with the pictures.
    """

    def __init__(self, dense: nn.Module, compressed: nn.Module, begun: Replay | None = None) -> None:
        self.dense = dense
        self.compressed = copy.deepcopy(compressed) if compressed is dense else compressed  # each has its own hooks
        own = Replay(dense) if begun is None else begun
        self._replays = own, own.fork(self.compressed)

    def calibrate(
        self, layers: Sequence[str], batches: Iterable[torch.Tensor], options: CalibrationOptions,
        rows: Mapping[str, torch.Tensor] | None = None, *, last: bool = False,
    ) -> Mapping[str, AsymmetricMoments]:  # fmt: skip
        """Run both once; what comes before the layers of earlier passes is not computed again (`taco.moments.replay`).

        Args:
            layers: Names of Linear and Conv2d modules of both, none before those of the pass before.
            batches: Float32 inputs (N, C, H, W), in every pass the same.
            options: `positions` and `seed` are used.
            rows: Layer of one group -> (kept,) int64, which of the dense layer's outputs the compressed one still has.
            last: No pass follows.

        Raises:
            TaskError: There is no picture.
            UnsupportedModuleError: A layer cannot be unfolded, or is never run.
            SolverError: Inputs overflow.
        """
        run = _Pair(layers, options, rows or {})
        with ExitStack() as stack, torch.no_grad():
            passes: list[Run] = []
            for number, batch in enumerate(batches):
                if not passes:
                    picture = channels_last(batch[:1])
                    passes = [stack.enter_context(r.before(layers, picture, last=last)) for r in self._replays]
                    if all(r.runs_once(layers, picture) for r in self._replays):
                        run.calls_a_pass = len(layers)
                    for name in layers:
                        run.watch(stack, name, self.dense.get_submodule(name), self.compressed.get_submodule(name))
                run.over(passes, number, batch)
        return run.finish()


class _EnoughError(Exception):
    """The last of the layers has run: the rest of the forward pass is not needed."""


class _Pair:
    """The sums of some layers while both models run."""

    def __init__(
        self, layers: Sequence[str], options: CalibrationOptions, kept_rows: Mapping[str, torch.Tensor]
    ) -> None:
        self.options, self.kept_rows = options, kept_rows
        self.sums = {name: Sums() for name in layers}
        self.cross: dict[str, torch.Tensor] = {}
        self.total: dict[str, torch.Tensor] = {}
        self.counts: dict[str, int] = dict.fromkeys(layers, 0)
        self.targets: dict[str, list[torch.Tensor]] = {}
        self.batch, self.keys = torch.zeros(0), list[int]()
        self.calls = self.calls_a_pass = self.pictures = 0
        self.drawn: dict[tuple[int, int], torch.Tensor] = {}

    def watch(self, stack: ExitStack, name: str, dense: nn.Module, compressed: nn.Module) -> None:
        """Hook one layer of both models until the stack is left."""
        known(dense)
        after = functools.partial(self._target, name)
        before = functools.partial(self._input, name)
        stack.callback(dense.register_forward_hook(after, with_kwargs=True).remove)
        stack.callback(compressed.register_forward_pre_hook(before, with_kwargs=True).remove)

    def over(self, passes: Sequence[Run], number: int, batch: torch.Tensor) -> None:
        """Run both on one batch: the dense one first, which gives the targets."""
        self.batch, self.keys = batch, [] if self.options.positions is None else keys_of(batch)
        self.drawn.clear()
        self.targets.clear()
        x = channels_last(batch)
        for run in passes:
            self.calls = 0
            with suppress(_EnoughError):
                run(number, x)
        self.calls_a_pass = self.calls
        self.pictures += len(batch)

    def finish(self) -> dict[str, AsymmetricMoments]:
        """Return the moments."""
        if not self.pictures:
            raise TaskError("there is no picture to calibrate on", "Give more pictures a class")
        found = {}
        for name, sums in self.sums.items():
            if sums.origin is None:
                raise UnsupportedModuleError(f"{name} was never run by the model", "Leave this layer dense")
            n, origin = self.counts[name], sums.origin.double()
            total = self.total[name]
            cross = (self.cross[name] + total[:, :, None] * origin[:, None, :]) / n
            found[name] = AsymmetricMoments(sums.finish(name), cross, total / n)
        return found

    def _count(self) -> None:
        self.calls += 1
        if self.calls == self.calls_a_pass:
            raise _EnoughError

    def _target(
        self, name: str, layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], y: torch.Tensor
    ) -> None:
        x = _pictures(layer, inputs[0] if inputs else named["input"])
        bias = known(layer).bias
        if bias is not None:  # a linear layer has its channels last, in pictures too
            y = y - (bias[:, None, None] if isinstance(layer, nn.Conv2d) else bias)
        rows = y.permute(0, 2, 3, 1).flatten(0, 2) if isinstance(layer, nn.Conv2d) else y.reshape(-1, y.shape[-1])
        chosen = self._chosen(known(layer), x)
        rows = rows if chosen is None else rows[chosen]
        if name in self.kept_rows:
            rows = rows[:, self.kept_rows[name]]
        groups = weight_matrix(known(layer)).shape[0]
        self.targets.setdefault(name, []).append(rows.float().unflatten(1, (groups, -1)).permute(1, 2, 0))
        self._count()

    def _input(self, name: str, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        layer, sums = known(module), self.sums[name]
        x = _pictures(layer, inputs[0] if inputs else named["input"])
        chosen = self._chosen(layer, x)
        y = self.targets[name].pop(0)
        groups, rows, cols = weight_matrix(layer).shape
        if sums.origin is None:
            taps = layer.weight[0, 0].numel()
            mean = x.mean((0, 2, 3)) if isinstance(layer, nn.Conv2d) else x.reshape(-1, cols).mean(0)
            sums.start(mean.repeat_interleave(taps).view(groups, cols))
            self.cross[name] = x.new_zeros((groups, rows, cols), dtype=torch.float64)
            self.total[name] = x.new_zeros((groups, rows), dtype=torch.float64)
        assert sums.origin is not None  # noqa: S101 - started above
        taps = layer.weight[0, 0].numel()
        unfolded = unfold(layer, x, chosen, sums.origin.flatten()[::taps])
        sums.add(unfolded, 0 if chosen is None else positions_of(layer, x) - len(chosen))
        self.cross[name] += y @ unfolded
        self.total[name] += y.sum(2)
        self.counts[name] += y.shape[2]
        self._count()

    def _chosen(self, layer: nn.Conv2d | nn.Linear, x: torch.Tensor) -> torch.Tensor | None:
        """Return the rows of the unfolded batch that are looked at, (k,) int64; None is all."""
        total = positions_of(layer, x)
        if self.options.positions is None or total % len(self.batch):
            return None
        each = total // len(self.batch)
        count = min(self.options.positions, PER_COLUMN * weight_matrix(layer).shape[2])
        if each <= count:
            return None
        if (each, count) not in self.drawn:
            own = draw_positions(each, count, self.keys, self.options.seed)
            self.drawn[each, count] = (own + each * torch.arange(len(own))[:, None]).flatten()
        return self.drawn[each, count]


def _pictures(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x = x.float()
    if not isinstance(layer, nn.Conv2d):
        return x
    return (x if x.ndim == 4 else x[None]).contiguous(memory_format=torch.channels_last)
