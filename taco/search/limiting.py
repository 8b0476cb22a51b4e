"""Limits of a run beside its budget: the file's bytes, multiply-accumulates, and memory of activations.

Bytes and multiply-accumulates are predicted as proportional to widths (`taco.latency.limits`), then counted on the
whole model; where the count is above, the prediction's cap shrinks by as much and the choice is made again. Memory is a
maximum, not a sum: a unit's levels are kept down to those at which the model stays below the limit while its own block
is dense elsewhere and all others are as narrow as can be. Of several units in a block that asks a little more than
needed; where each block has one, it is exact. The whole model is then measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from taco.allocate import Allocation
from taco.compress import stitch
from taco.latency.levels import Choice, Level
from taco.latency.levelsearch import Sought
from taco.latency.limits import Limit, LimitError, Space
from taco.latency.rounds import Round
from taco.search.budget import Limits
from taco.search.micromodels import Holder, Unheld
from taco.search.uniform import Searcher
from taco.search.unit_losses import allocation_of
from taco.surgery.size import count_macs, peak_activation_bytes

#: What one weight takes in the file, for every kind of file that is shipped.
_WIDTHS = (4.0, 2.0, 1.0)
#: Searches with a lower aim, where the count of the whole model is above a limit.
_TIGHTER = 4
#: Names, shapes and biases of the file are no part of the prediction.
_BYTES_AIM = 0.99


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """One limit and what the chosen model uses.

    Attributes:
        flag: How it was asked for.
        asked: At most so much.
        used: Counted on the whole model; bytes before its export.
    """

    flag: str
    asked: float
    used: float

    @property
    def broken(self) -> bool:
        """Whether the model uses more."""
        return self.used > self.asked


@dataclasses.dataclass(frozen=True, slots=True)
class Searched:
    """What one search ended with.

    Attributes:
        choices: The choice, then the next faster ones.
        rounds: All that were made.
        held: What the choice uses of everything that is limited.
        sought: What a search of whole models found; None where the choice has the least sum of losses.
        compared: `blocks` and `spread` for the report, of the choice that the rounds ended with; empty without rounds.
    """

    choices: tuple[Choice, ...]
    rounds: tuple[Round, ...]
    held: tuple[Held, ...] = ()
    sought: Sought | None = None
    compared: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class Limiter:
    """Makes limits for a search and checks what it found.

    Attributes:
        searcher: Has the units, the dense model and its file.
        asked: The limits.
        holders: Unit -> what runs around it; asked only where memory is limited.
    """

    searcher: Searcher
    asked: Limits
    holders: Mapping[str, Holder | Unheld]

    def limits(self, shrunk: Mapping[str, float]) -> tuple[Limit, ...]:
        """Return the limits that add up.

        Args:
            shrunk: Flag -> share of the asked limit to aim at; 1 where missing.
        """
        searcher, found = self.searcher, []
        units = [s.unit for s in searcher.solutions.values()]
        channels, blocks = ([u for u in units if (u.kind == "block") is block] for block in (False, True))
        if self.asked.macs is not None:
            dense = float(count_macs(searcher.dense, searcher.input_size))
            each, whole = {u.name: float(u.macs) for u in channels}, {u.name: float(u.macs) for u in blocks}
            found.append(Limit("--max-macs", self.asked.macs, dense, each, whole))
        if self.asked.size_bytes is not None:
            weight, size = self._weight_bytes(), float(searcher.dense_artifact.size_bytes)
            each, whole = ({u.name: weight * u.parameters for u in some} for some in (channels, blocks))
            found.append(Limit("--max-bytes", _BYTES_AIM * self.asked.size_bytes, size, each, whole))
        return tuple(dataclasses.replace(limit, cap=limit.cap * shrunk.get(limit.flag, 1.0)) for limit in found)

    def fitting(self, options: Mapping[str, Sequence[Level]]) -> dict[str, list[Level]]:
        """Return the levels at which a unit's block stays below the limit on memory; the narrowest where none does."""
        if self.asked.memory_bytes is None:
            return {name: list(levels) for name, levels in options.items()}
        return {name: list(levels[self._first_below(name, options) :]) for name, levels in options.items()}

    def held(self, allocation: Allocation) -> tuple[Held, ...]:
        """Count what a choice uses of everything that is limited."""
        searcher, asked, found = self.searcher, self.asked, []
        if not asked:
            return ()
        smaller = stitch(searcher.dense, searcher.solutions, allocation.widths, compensate=False)
        if asked.macs is not None:
            found.append(Held("--max-macs", asked.macs, float(count_macs(smaller, searcher.input_size))))
        if asked.size_bytes is not None:
            removed = sum(p.numel() for p in searcher.dense.parameters()) - sum(p.numel() for p in smaller.parameters())
            used = searcher.dense_artifact.size_bytes - self._weight_bytes() * removed
            found.append(Held("--max-bytes", asked.size_bytes, used))
        if asked.memory_bytes is not None:
            found.append(Held("--max-memory", asked.memory_bytes, self._peak(allocation.widths)))
        return tuple(found)

    def _first_below(self, name: str, options: Mapping[str, Sequence[Level]]) -> int:
        """Return the place of the widest level that fits; by bisection, because memory falls with width."""
        cap, own = self.asked.memory_bytes or 0.0, self._home(name)
        widths = {n: levels[0 if self._home(n) == own else -1].width for n, levels in options.items()}
        low, high = 0, len(options[name]) - 1
        while low < high:
            middle = (low + high) // 2
            if self._peak({**widths, name: options[name][middle].width}) <= cap:
                high = middle
            else:
                low = middle + 1
        return low

    def _home(self, name: str) -> str:
        """Return what runs around a unit: units of one home are in memory at a time."""
        holder = self.holders.get(name)
        return f"{holder.name}{holder.children}" if isinstance(holder, Holder) else name

    def _peak(self, widths: Mapping[str, int]) -> float:
        searcher = self.searcher
        smaller = stitch(searcher.dense, searcher.solutions, widths, compensate=False)
        return float(peak_activation_bytes(smaller, searcher.input_size))

    def _weight_bytes(self) -> float:
        """Return the bytes of a weight: the largest kind that the dense file has room for."""
        count = sum(p.numel() for p in self.searcher.dense.parameters())
        each = self.searcher.dense_artifact.size_bytes / max(1, count)
        return next((width for width in _WIDTHS if width <= 1.05 * each), _WIDTHS[-1])


def within_limits(limiter: Limiter, space: Space, attempt: Callable[[Space], Searched]) -> Searched:
    """Search until the choice holds every limit as counted on the whole model, aiming lower each time.

    Args:
        limiter: The limits.
        space: What may be chosen, without them.
        attempt: Searches a space; what its choices use is filled in here.

    Raises:
        LimitError: A limit cannot be held; says what was reached.
    """
    shrunk: dict[str, float] = {}
    rounds: list[Round] = []
    held: tuple[Held, ...] = ()
    for _ in range(_TIGHTER):
        found = attempt(
            dataclasses.replace(space, options=limiter.fitting(space.options), limits=limiter.limits(shrunk))
        )
        rounds += found.rounds
        first, *more = found.choices
        held = limiter.held(allocation_of(limiter.searcher, first))
        broken = [h for h in held if h.broken]
        if not broken:
            kept = [c for c in more if not any(h.broken for h in limiter.held(allocation_of(limiter.searcher, c)))]
            return dataclasses.replace(found, choices=(first, *kept), rounds=tuple(rounds), held=held)
        if any(h.flag == "--max-memory" for h in broken):
            break
        shrunk |= {h.flag: shrunk.get(h.flag, 1.0) * h.asked / h.used for h in broken}
    raise broken_error(held)


def broken_error(held: Sequence[Held]) -> LimitError:
    """Return the error that names every limit that is not held, with what was reached."""
    broken = [h for h in held if h.broken]
    told = ", ".join(f"{h.flag} {h.asked:.4g} (reached: {h.used:.4g})" for h in broken)
    asked = " ".join(f"{h.flag} {1.02 * h.used:.3g}" for h in broken)
    return LimitError(f"{told} cannot be held", f"Ask for {asked} or more, or choose a smaller --model")
