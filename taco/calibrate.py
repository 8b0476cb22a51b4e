"""Second moments at the input of chosen layers, streamed over the task's pictures.

For a layer with unfolded inputs X (METHOD.md 1) that is `second = X X^T / n` and `mean = X 1 / n`. The solvers' H is
`2 * second`; the centred version serves the affine refit, where a bias absorbs the mean. `calibrate` keeps everything
in one pass; `calibrate_in_waves` keeps to a budget of memory, takes as many passes as that needs, and ends each where
its last layer has run.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import torch
from torch import nn

from taco.errors import TaskError, UnsupportedModuleError
from taco.moments.sampling import draw_positions, keys_of
from taco.moments.sums import LayerMoments, Moments, Sums
from taco.moments.unfold import channels_last, known, positions_of, unfold, weight_matrix

#: Unfolded inputs, their index and the copied input that are in memory at a time; small enough to
#: be reused by malloc rather than returned to the system each time.
CHUNK_BYTES = 24 * 1024**2

#: Where positions are sampled, a picture gives at most so many for each column: a depthwise layer has only 9 or 25.
PER_COLUMN = 4

Batches = Callable[[], Iterable[torch.Tensor]]


@dataclasses.dataclass(frozen=True, slots=True)
class CalibrationOptions:
    """How to calibrate in waves.

    Attributes:
        budget_bytes: For the float64 sums of all layers of one wave, both halves counted. Besides them a pass takes the
            model's own activations, `CHUNK_BYTES` of unfolded inputs and the float32 products of one stripe.
        positions: Of one picture and layer at most so many are summed, drawn at random, and at most `PER_COLUMN` times
            the layer's columns; None sums all.
        halves: Keep pictures with even and odd numbers apart.
        seed: Draws the positions.
        first_picture: Number of the first picture, where the batches are a shard of more.
        progress: Called with the number of pictures of each batch when it is done, in every wave again.
    """

    budget_bytes: int = 2 * 1024**3
    positions: int | None = 256
    halves: bool = True
    seed: int = 0
    first_picture: int = 0
    progress: Callable[[int], None] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Wave:
    """Layers whose moments are taken in one pass.

    Attributes:
        layers: In the order in which the model runs them.
        calls: How often one forward pass calls them, all together.
        size_bytes: What their sums occupy.
    """

    layers: tuple[str, ...]
    calls: int
    size_bytes: int


def calibrate(
    model: nn.Module,
    layers: Sequence[str],
    batches: Iterable[torch.Tensor],
    progress: Callable[[int], None] | None = None,
) -> Mapping[str, Moments]:
    """Stream `batches` (N, C, H, W) through the model once and return the moments at each layer's input.

    All positions are summed, and all layers' sums are in memory.

    Args:
        model: In eval mode; not modified.
        layers: Names of Linear and Conv2d modules.
        batches: Float32 inputs.
        progress: Called with the number of pictures of each batch when it is done.

    Raises:
        TaskError: There is no picture.
        UnsupportedModuleError: A layer cannot be unfolded, or the model never runs it.
        SolverError: A layer's inputs overflow.
    """
    run = _Pass(layers, CalibrationOptions(positions=None, halves=False, progress=progress))
    run.over(model, batches)
    return {name: moments.fit for name, moments in run.finish()}


def plan_waves(
    model: nn.Module, layers: Sequence[str], picture: torch.Tensor, options: CalibrationOptions
) -> tuple[Wave, ...]:
    """Divide layers into waves that fit the budget, in the order in which the model runs them.

    Args:
        model: In eval mode. It runs the same layers in the same order for every batch; otherwise a wave could end too
            early.
        layers: Names of Linear and Conv2d modules.
        picture: (1, C, H, W) float32, to see the order.
        options: For the budget and the halves.

    Raises:
        UnsupportedModuleError: A layer cannot be unfolded, is never run, or its sums alone exceed the budget; all but
            the second are found before the model runs.
    """
    sizes = {name: size_bytes(model, name, options) for name in layers}
    calls: list[str] = []
    with ExitStack() as stack, torch.no_grad():
        for name in sizes:
            _hook(stack, model, name, functools.partial(_note, calls, name))
        model(picture)
    _all_ran(sizes, calls)
    last = {name: number for number, name in enumerate(calls)}
    waves: list[list[str]] = []
    for name in sorted(sizes, key=last.__getitem__):
        if not waves or sum(map(sizes.__getitem__, (*waves[-1], name))) > options.budget_bytes:
            waves.append([])
        waves[-1].append(name)
    return tuple(Wave(tuple(w), sum(map(calls.count, w)), sum(map(sizes.__getitem__, w))) for w in waves)


def calibrate_in_waves(
    model: nn.Module, layers: Sequence[str], batches: Batches, options: CalibrationOptions | None = None
) -> Iterator[tuple[str, LayerMoments]]:
    """Yield the moments at each layer's input, in the order in which the model runs the layers.

    A layer's sums are given away as they are yielded: use them and let them go, and the memory is within the budget.

    Args:
        model: In eval mode; not modified. See `plan_waves` for what is asked of it.
        layers: Names of Linear and Conv2d modules.
        batches: Called once a wave and once to plan; gives float32 inputs (N, C, H, W), each time the same.
        options: Budget, sampling, halves.

    Raises:
        TaskError: There is no picture.
        UnsupportedModuleError: See `plan_waves`.
        SolverError: A layer's inputs overflow.
    """
    options = options or CalibrationOptions()
    for wave in waves_for(model, layers, batches, options):
        yield from calibrate_wave(model, wave, batches(), options)


def waves_for(
    model: nn.Module, layers: Sequence[str], batches: Batches, options: CalibrationOptions
) -> tuple[Wave, ...]:
    """Plan the waves by the first picture; arguments and errors as of `calibrate_in_waves`."""
    for name in layers:
        size_bytes(model, name, options)
    first = next(iter(batches()), None)
    if first is None:
        raise _no_picture()
    return plan_waves(model, layers, first[:1], options)


def calibrate_wave(
    model: nn.Module, wave: Wave, batches: Iterable[torch.Tensor], options: CalibrationOptions
) -> Iterator[tuple[str, LayerMoments]]:
    """Take one pass, and yield the moments of the wave's layers; for `calibrate_in_waves` and whoever counts waves.

    Raises:
        TaskError: There is no picture.
        SolverError: A layer's inputs overflow.
    """
    run = _Pass(wave.layers, options, wave.calls)
    run.over(model, batches)
    yield from run.finish()


class _EnoughError(Exception):
    """The last layer of a wave has run: the rest of the forward pass is not needed."""


class _Pass:
    """One pass over the pictures, with the sums of some layers."""

    def __init__(self, layers: Sequence[str], options: CalibrationOptions, calls: int = -1) -> None:
        self.options, self.calls = options, calls
        self.sums = {name: tuple(Sums() for _ in range(1 + options.halves)) for name in layers}
        self.pictures = 0  # of the batches that are done
        self.batch = torch.zeros(0)
        self.calls_left = calls
        self.keys: list[int] = []  # of the pictures of that batch, once they are asked for
        self.drawn: dict[tuple[int, int], torch.Tensor] = {}  # for the batch that runs

    def over(self, model: nn.Module, batches: Iterable[torch.Tensor]) -> None:
        """Run the model and add."""
        with ExitStack() as stack, torch.no_grad():
            for name, sums in self.sums.items():
                known(model.get_submodule(name))
                _hook(stack, model, name, functools.partial(self._see, sums))
            for batch in batches:
                self._run(model, batch)
        if not self.pictures:
            raise _no_picture()
        _all_ran(self.sums, [name for name, sums in self.sums.items() if sums[0].origin is not None])

    def finish(self) -> Iterator[tuple[str, LayerMoments]]:
        """Yield every layer's moments; its sums are gone afterwards."""
        for name in list(self.sums):
            yield name, self._moments(name)

    def _moments(self, name: str) -> LayerMoments:
        fit, *held_out = [sums.finish(name) for sums in self.sums.pop(name) if sums.origin is not None]
        return LayerMoments(fit, held_out[0] if held_out else None)

    def _run(self, model: nn.Module, batch: torch.Tensor) -> None:
        self.batch, self.calls_left, self.keys = batch, self.calls, []
        self.drawn.clear()
        with suppress(_EnoughError):
            model(channels_last(batch))
        self.pictures += len(batch)
        if self.options.progress is not None:
            self.options.progress(len(batch))

    def _see(self, sums: tuple[Sums, ...], layer: nn.Module, x: torch.Tensor) -> None:
        self._add(sums, known(layer), x.float())
        self.calls_left -= 1
        if self.calls_left == 0:
            raise _EnoughError

    def _add(self, sums: tuple[Sums, ...], layer: nn.Conv2d | nn.Linear, x: torch.Tensor) -> None:
        if isinstance(layer, nn.Conv2d):
            x = (x if x.ndim == 4 else x[None]).contiguous(memory_format=torch.channels_last)
        whole = x.ndim == 1 or len(x) % len(self.batch)  # a table of positions, say: the same for every picture
        pictures = x[None] if whole else x.unflatten(0, (len(self.batch), -1))
        drawn = None if whole else self._draw(layer, pictures[0])
        for half, part in enumerate(sums):
            first = 0 if whole else (half - self.options.first_picture - self.pictures) % len(sums)
            own = range(first, len(pictures), 1 if whole else len(sums))
            _add_pictures(part, layer, pictures, own, drawn)

    def _draw(self, layer: nn.Conv2d | nn.Linear, picture: torch.Tensor) -> torch.Tensor | None:
        """Return the positions to look at in each picture of the batch, (N, positions) int64; None is all."""
        if self.options.positions is None:
            return None
        total = positions_of(layer, picture)
        count = min(self.options.positions, PER_COLUMN * weight_matrix(layer).shape[2])
        if total <= count:
            return None
        if (total, count) not in self.drawn:
            self.keys = self.keys or keys_of(self.batch)
            self.drawn[total, count] = draw_positions(total, count, self.keys, self.options.seed).to(picture.device)
        return self.drawn[total, count]


def _add_pictures(
    sums: Sums, layer: nn.Conv2d | nn.Linear, pictures: torch.Tensor, own: range, drawn: torch.Tensor | None
) -> None:
    """Add some pictures, a few at a time.

    Args:
        sums: To add to.
        layer: Whose input it is.
        pictures: (N, maps of one picture, ...) float32.
        own: Which of them.
        drawn: (N, positions) int64, where to look; None is everywhere.
    """
    total = positions_of(layer, pictures[0])
    kept = total if drawn is None else drawn.shape[1]
    groups, _, cols = weight_matrix(layer).shape
    copied = pictures[0].numel() if drawn is None else kept * groups * cols
    size = max(1, CHUNK_BYTES // (4 * (kept * groups * cols + copied)))
    for begin in range(0, len(own), size):
        few = own[begin : begin + size]
        x, chosen = pictures[few.start : few.stop : few.step], None
        origin = _origin(sums, layer, x.flatten(0, 1))
        if drawn is not None:
            numbers = torch.arange(few.start, few.stop, few.step, device=drawn.device)
            x, chosen = pictures, (drawn[numbers] + total * numbers[:, None]).flatten()
        sums.add(unfold(layer, x.flatten(0, 1), chosen, origin), (total - kept) * len(few))


def _origin(sums: Sums, layer: nn.Conv2d | nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """Return what to subtract from each channel or feature; before the first inputs, their mean becomes it."""
    groups, _, cols = weight_matrix(layer).shape
    taps = layer.weight[0, 0].numel()
    if sums.origin is None:
        features = x.mean((0, 2, 3)) if isinstance(layer, nn.Conv2d) else x.reshape(-1, cols).mean(0)
        sums.start(features.repeat_interleave(taps).view(groups, cols))
    assert sums.origin is not None  # noqa: S101 - started above
    return sums.origin.flatten()[::taps]


def size_bytes(model: nn.Module, name: str, options: CalibrationOptions) -> int:
    """Return what the sums of a layer occupy while its wave runs.

    Raises:
        UnsupportedModuleError: It cannot be unfolded, or that is more than the budget.
    """
    groups, _, cols = weight_matrix(known(model.get_submodule(name))).shape
    size = Sums.size_bytes(groups, cols) * (1 + options.halves)
    if size > options.budget_bytes:
        raise UnsupportedModuleError(
            f"the second moments of {name} ({cols} columns) need {size / 1024**3:.2f} GiB,"
            f" and {options.budget_bytes / 1024**3:.2f} GiB are allowed",
            "Leave this layer dense",
        )
    return size


def _all_ran(layers: Iterable[str], ran: Iterable[str]) -> None:
    missing = [name for name in layers if name not in set(ran)]
    if missing:
        raise UnsupportedModuleError(f"{missing[0]} was never run by the model", "Leave this layer dense")


def _note(calls: list[str], name: str, _layer: nn.Module, _x: torch.Tensor) -> None:
    calls.append(name)


def _no_picture() -> TaskError:
    return TaskError("there is no picture to calibrate on", "Give more pictures a class")


def _hook(stack: ExitStack, model: nn.Module, name: str, see: Callable[[nn.Module, torch.Tensor], object]) -> None:
    """Let `see` have the input of every call of a layer, until the stack is left."""

    def hook(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        see(layer, inputs[0] if inputs else named["input"])

    stack.callback(model.get_submodule(name).register_forward_pre_hook(hook, with_kwargs=True).remove)
