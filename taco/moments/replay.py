"""A model run many times on the same pictures while only later and later layers of it change.

What comes before those layers gives what it gave before, so one module's outputs are kept, and the next pass begins
there. Which module may be begun at is not known from its name: it is tried, on one picture, whether the model's answer
depends on anything before that module except through it. So no list of architectures is kept, and a model in which
nothing of that kind is found is run whole.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import nn

#: What the kept outputs of one model may occupy, those of the pass before and those of this one together.
BUDGET_BYTES = 1024**3
#: What a model raises where something before a module is needed after it: timm asserts shapes.
_NEEDED = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)
#: Runs a model on a batch, which has a number that is the same in every pass.
Run = Callable[[int, torch.Tensor], object]


@dataclasses.dataclass(frozen=True, slots=True)
class _Ran:
    """What one module did in a forward pass; times count events.

    `shape` is None of what is no tensor with one entry a picture, as windows and tables of positions are: its size
    in a batch is not known.
    """

    began: int
    ended: int
    shape: torch.Size | None


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """Outputs of one module for every batch."""

    name: str
    outputs: dict[int, torch.Tensor]


class _ReachedError(Exception):
    """A layer was reached: the rest of the forward pass is not needed."""


class Replay:
    """Runs one model on the same batches again and again.

    Between passes, only what runs after the layers of the pass before may be changed, and those layers themselves.

    Args:
        model: In eval mode. Its modules are given other `forward`s during a pass, and have their own after it.
        budget_bytes: For kept outputs; what does not fit is computed again.
    """

    def __init__(self, model: nn.Module, budget_bytes: int = BUDGET_BYTES) -> None:
        self.model, self.budget_bytes = model, budget_bytes
        self._kept: _Kept | None = None
        self._trace: dict[str, _Ran] | None = None
        self._number = 0

    @contextmanager
    def before(self, layers: Sequence[str], picture: torch.Tensor, *, last: bool = False) -> Iterator[Run]:
        """Open a pass that needs nothing of the model before some layers.

        Args:
            layers: What will be looked at in this pass.
            picture: (1, ...) of the first batch.
            last: No pass follows, so nothing is kept for one.

        Yields:
            A function of a batch's number and the batch; it runs the model, from the last kept outputs on where there
            are any, and gives the model's answer. What a hook raises goes through it.
        """
        cut = None if last else self._latest(layers, picture)
        ran, kept = self._traced(picture), self._kept
        if kept is not None and not self._follow(layers, kept, ran):
            kept = self._kept = None
        later = cut is not None and (kept is None or ran[cut].ended > ran[kept.name].ended)
        found = _Kept("" if cut is None else cut, {})
        blanks = _Blanks({} if kept is None else self._before(kept.name))
        with ExitStack() as stack:
            if cut is not None and later:
                stack.callback(self.model.get_submodule(cut).register_forward_hook(self._keeper(found)).remove)

            def run(number: int, batch: torch.Tensor) -> object:
                self._number = number
                if kept is None or number not in kept.outputs:
                    return self.model(batch)
                with _starting(self.model, blanks, kept.name, kept.outputs[number]):
                    return self.model(batch)

            yield run
        if found.outputs and (kept is None or len(found.outputs) >= len(kept.outputs)):  # or there was no room for all
            self._kept = found

    def reach(self, layer: str, batches: Iterable[torch.Tensor]) -> None:
        """Run as far as a layer: the next pass begins before it, also one of a `fork`.

        Args:
            layer: Or any other module.
            batches: Inputs of the model, the same as in every pass.
        """

        def stop(_module: nn.Module, _args: object) -> None:
            raise _ReachedError

        with ExitStack() as stack, torch.no_grad():
            run: Run | None = None
            for number, batch in enumerate(batches):
                if run is None:
                    run = stack.enter_context(self.before([layer], batch[:1]))
                    stack.callback(self.model.get_submodule(layer).register_forward_pre_hook(stop).remove)
                with suppress(_ReachedError):
                    run(number, batch)

    def fork(self, model: nn.Module) -> Replay:
        """Return one of a model that differs only in what follows the last pass: it begins where this one would."""
        other = Replay(model, self.budget_bytes)
        other._kept = self._kept
        return other

    def _follow(self, layers: Sequence[str], kept: _Kept, ran: dict[str, _Ran]) -> bool:
        """Whether all of some layers run after a module has given what was kept of it."""
        end = ran[kept.name].ended if kept.name in ran else math.inf
        return all(name in ran and ran[name].began > end for name in layers)

    def runs_once(self, layers: Sequence[str], picture: torch.Tensor) -> bool:
        """Whether the model runs each of some layers exactly once."""
        return all(name in self._traced(picture) for name in layers)

    def _traced(self, picture: torch.Tensor) -> dict[str, _Ran]:
        if self._trace is None:
            self._trace = _traced(self.model, picture)
        return self._trace

    def _keeper(self, found: _Kept) -> Callable[[nn.Module, Any, torch.Tensor], None]:
        room = self.budget_bytes - sum(map(_size, self._kept.outputs.values())) if self._kept else self.budget_bytes

        def keep(_module: nn.Module, _args: object, output: torch.Tensor) -> None:
            nonlocal room
            room -= _size(output)
            if room >= 0:
                found.outputs[self._number] = output.detach().clone()  # what follows may write into it

        return keep

    def _latest(self, layers: Sequence[str], picture: torch.Tensor) -> str | None:
        """Return the last module before the layers that the model can be begun at; None is from its input."""
        ran = self._traced(picture)
        first = min((name for name in layers if name in ran), key=lambda n: ran[n].began, default=None)
        if first is None or any(name not in ran for name in layers):
            return None
        options = []
        for around in _around(first):
            inside = [n for n in self._children(around) if n in ran and ran[n].shape is not None]
            done = [n for n in inside if ran[n].ended < ran[first].began]
            if done:
                options.append(max(done, key=lambda n: ran[n].ended))
        later = [n for n, r in ran.items() if r.began >= ran[first].began and self._weighs(n)]
        return self._first_that_works(options, later, picture)

    def _weighs(self, name: str) -> bool:
        return isinstance(self.model.get_submodule(name), nn.Conv2d | nn.Linear)

    def _children(self, around: str) -> list[str]:
        children = self.model.get_submodule(around).named_children()
        return [f"{around}.{name}" if around else name for name, _ in children]

    def _before(self, cut: str) -> dict[str, torch.Size]:
        """Return the outermost modules that have ended before a module begins, and the shapes of what they give."""
        ran, found = self._trace or {}, dict[str, torch.Size]()
        waiting = [""]
        while waiting:
            for name in self._children(waiting.pop()):
                own = ran.get(name)  # a list of modules does not run itself
                if own is not None and own.shape is not None and own.ended < ran[cut].began:
                    found[name] = own.shape
                elif own is None or own.began < ran[cut].began:
                    waiting.append(name)
        return found

    def _first_that_works(self, options: Sequence[str], later: Sequence[str], picture: torch.Tensor) -> str | None:
        """Return the first module after which what later layers read, and the answer, need nothing that ran before."""
        seen: dict[str, torch.Tensor] = {}
        with torch.no_grad():
            with ExitStack() as stack:
                for name in options:

                    def keep(_module: nn.Module, _args: object, output: torch.Tensor, name: str = name) -> None:
                        seen[name] = output.clone()

                    stack.callback(self.model.get_submodule(name).register_forward_hook(keep).remove)
                expected = self._seen_by(later, picture)
            for name in options:
                try:
                    with _starting(self.model, _Blanks(self._before(name)), name, seen[name]):
                        found = self._seen_by(later, picture)
                except _NEEDED:
                    continue
                if len(found) == len(expected) and all(map(torch.equal, found, expected)):
                    return name
        return None

    def _seen_by(self, layers: Sequence[str], picture: torch.Tensor) -> list[torch.Tensor]:
        """Return what layers are given for a picture, and the model's answer."""
        seen: list[torch.Tensor] = []
        with ExitStack() as stack:
            for name in layers:
                watch = self.model.get_submodule(name).register_forward_pre_hook(_note(seen), with_kwargs=True)
                stack.callback(watch.remove)
            answer = self.model(picture)
        return [*seen, answer]


def _note(seen: list[torch.Tensor]) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
    def note(_module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen.extend(x.clone() for x in (*args, *named.values()) if isinstance(x, torch.Tensor))

    return note


class _Blanks:
    """Zeros that modules give which are not needed, the same memory for all of them.

    Args:
        shapes: Module -> shape of what it gives for one picture.
    """

    def __init__(self, shapes: dict[str, torch.Size]) -> None:
        self.shapes = shapes
        self._zeros, self._version = torch.zeros(0), 0

    def give(self, name: str, like: torch.Tensor) -> torch.Tensor:
        """Return the zeros of one module for as many pictures as there are in another's output."""
        shape = torch.Size([len(like), *self.shapes[name][1:]])
        if self._zeros.numel() < shape.numel():
            most = max(len(like) * s[1:].numel() for s in self.shapes.values())
            self._zeros, self._version = like.new_zeros(most), 0
        if self._zeros._version != self._version:  # what follows wrote into it
            self._zeros.zero_()
            self._version = self._zeros._version
        return self._zeros[: shape.numel()].view(shape)


@contextmanager
def _starting(model: nn.Module, blanks: _Blanks, cut: str, output: torch.Tensor) -> Iterator[None]:
    """Let a module give what it gave before, and all modules before it nothing but zeros of the right shape."""
    with ExitStack() as stack:
        for name in blanks.shapes:
            _replace(stack, model.get_submodule(name), functools.partial(blanks.give, name, output))
        _replace(stack, model.get_submodule(cut), output.clone)
        yield


def _replace(stack: ExitStack, module: nn.Module, give: Callable[[], torch.Tensor]) -> None:
    own = module.__dict__.get("forward")  # as a rule there is none, and the class's is used

    def restore() -> None:
        if own is None:
            del module.forward
        else:
            module.forward = own

    module.forward = lambda *_args, **_named: give()
    stack.callback(restore)


def _around(layer: str) -> Iterator[str]:
    """Yield the modules that a layer lies in, the innermost first, and the model itself as an empty name."""
    while layer:
        layer = layer.rpartition(".")[0]
        yield layer


def _traced(model: nn.Module, picture: torch.Tensor) -> dict[str, _Ran]:
    """Return what every module that runs once did on one picture."""
    clock = 0
    began: dict[str, list[int]] = {}
    ended: dict[str, tuple[int, torch.Size | None]] = {}

    def tick() -> int:
        nonlocal clock
        clock += 1
        return clock

    with ExitStack() as stack, torch.no_grad():
        for name, module in model.named_modules():
            if not name:
                continue

            def begin(_module: nn.Module, _args: object, name: str = name) -> None:
                began.setdefault(name, []).append(tick())

            def end(_module: nn.Module, _args: object, output: object, name: str = name) -> None:
                shape = output.shape if isinstance(output, torch.Tensor) and output.ndim else None
                ended[name] = tick(), shape if shape is not None and shape[0] == len(picture) else None

            stack.callback(module.register_forward_pre_hook(begin).remove)
            stack.callback(module.register_forward_hook(end).remove)
        model(picture)
    return {n: _Ran(times[0], *ended[n]) for n, times in began.items() if len(times) == 1 and n in ended}


def _size(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
