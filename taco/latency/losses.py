"""In which currency the losses of different units are added up, chosen by what predicts the whole model best.

What a unit loses is known as a share of its readers' output. How much a lost share matters differs a hundredfold
between units (docs/adr/0012), so units are also probed: cut alone, with the divergence of the answers taken. Models cut
in many units at once then say which sum ranks them best: that of plain shares, of their logarithms, or of the probes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Currency = Literal["shares", "logarithms", "probes"]
CURRENCIES: tuple[Currency, ...] = get_args(Currency)
_Floats = npt.NDArray[np.float64]

_NOTHING_LEFT = 1e-9
_USUAL: Currency = "probes"
#: Standard errors by which another currency has to lead.
_SURELY = 2.0


@dataclasses.dataclass(frozen=True, slots=True)
class Probe:
    """One unit cut alone.

    Attributes:
        width: Kept.
        harm: Divergence of the model's answers from the dense ones on pictures that the cut never saw, in nats.
    """

    width: int
    harm: float


@dataclasses.dataclass(frozen=True, slots=True)
class Joint:
    """Many units cut at once.

    Attributes:
        widths: Unit -> width.
        harm: As of a probe.
    """

    widths: Mapping[str, int]
    harm: float


@dataclasses.dataclass(frozen=True, eq=False)
class UnitLoss:
    """What one unit loses at every width.

    Attributes:
        shares: (width + 1,) float64, the share of its readers' output that is lost when so many channels have left,
            summed over readers; see `taco.surgery.removal.Removal.loss`.
        readers: How many layers read it.
        probes: The widest first.
    """

    shares: npt.NDArray[np.float64]
    readers: int
    probes: Sequence[Probe]

    @property
    def width(self) -> int:
        """Dense width."""
        return len(self.shares) - 1

    def at(self, width: int, currency: Currency) -> float:
        """Return the loss of a width; 0 at the dense one."""
        share = self._share(width)
        if currency == "shares":
            return share
        return lost(share, self.readers) if currency == "logarithms" else self._harm(width)

    def _share(self, width: int) -> float:
        return float(self.shares[self.width - width])

    def _harm(self, width: int) -> float:
        """Between probes harm follows the share on a line, beyond the last one in proportion to its logarithm."""
        shares = np.maximum.accumulate([0.0, *(self._share(p.width) for p in self.probes)])
        harms = np.maximum.accumulate([0.0, *(p.harm for p in self.probes)])
        share = self._share(width)
        if share <= shares[-1]:
            return float(np.interp(share, shares, harms))
        last = max(_NOTHING_LEFT, lost(float(shares[-1]), self.readers))
        return float(harms[-1]) * lost(share, self.readers) / last


@dataclasses.dataclass(frozen=True, slots=True)
class Chosen:
    """The currency of a run.

    Attributes:
        currency: Probes, or what surely ranks better.
        correlations: Currency -> Spearman's rank correlation of its sums with the harms of the models.
        models: How many were ranked.
    """

    currency: Currency
    correlations: Mapping[Currency, float]
    models: int


def lost(share: float, readers: int) -> float:
    """Turn the share of its readers' output that a unit loses into something that has no upper end.

    What is left of a signal after several layers is about the product of what each leaves, so logarithms add:
    -log(1 - share). A plain sum would give a layer up wholly, since no layer can lose more than its output.

    Args:
        share: Summed over readers.
        readers: How many.
    """
    return -readers * math.log1p(-min(1.0 - _NOTHING_LEFT, max(0.0, share) / readers))


def exchange_rate(units: Mapping[str, UnitLoss], currency: Currency) -> float | None:
    """Return how much of a currency one nat of harm is: over all probes, the sum of their losses over that of harms.

    A block that is left out has no share of a reader's output to lose: its harm is measured, and counts so beside
    widths. None where probes did no harm, so that there is no rate.
    """
    pairs = [(u.at(probe.width, currency), probe.harm) for u in units.values() for probe in u.probes]
    loss, harm = (math.fsum(part) for part in zip(*pairs, strict=True)) if pairs else (0.0, 0.0)
    return loss / harm if harm > 0 else None


def choose_currency(units: Mapping[str, UnitLoss], joints: Sequence[Joint]) -> Chosen:
    """Return the currency in which losses are added up: probes, or what surely ranks models cut in many units better.

    Sixteen models tell a rank correlation but for a quarter or so: taken as it came, shares were chosen by chance where
    probes find models whose answers lie half as far (docs/adr/0012). So a lead counts from `_SURELY` times its standard
    error on, by the jackknife (Tukey, 1958).

    Args:
        units: Unit -> what it loses.
        joints: At least four: of fewer no error can be told.
    """
    harms = np.array([joint.harm for joint in joints])
    sums = {
        currency: np.array([math.fsum(units[n].at(w, currency) for n, w in j.widths.items()) for j in joints])
        for currency in CURRENCIES
    }
    found: dict[Currency, float] = {currency: rank_correlation(sums[currency], harms) for currency in CURRENCIES}
    mute = float(np.ptp(sums[_USUAL])) == 0  # no cut of one unit alone changed an answer
    rivals = [currency for currency in CURRENCIES if not (mute and currency == _USUAL)]
    best = max(rivals, key=lambda c: (found[c], CURRENCIES.index(c)))
    lead, error = _lead(sums[best], sums[_USUAL], harms)
    return Chosen(best if mute or lead > _SURELY * error else _USUAL, found, len(joints))


def _lead(first: _Floats, second: _Floats, harms: _Floats) -> tuple[float, float]:
    """Return by how much the first ranks `harms` better than the second, all (n,), and the standard error of that."""

    def ahead(*left_out: int) -> float:
        own, other, asked = (np.delete(values, left_out) for values in (first, second, harms))
        return rank_correlation(own, asked) - rank_correlation(other, asked)

    n = len(harms)
    without = np.array([ahead(index) for index in range(n)])
    return ahead(), math.sqrt((n - 1) * float(without.var()))


def rank_correlation(first: Sequence[float] | _Floats, second: Sequence[float] | _Floats) -> float:
    """Return Spearman's rank correlation, equal values sharing their rank; 0 where one side has one value only.

    Args:
        first: (n,), n >= 2.
        second: (n,).
    """
    a, b = _ranks(first), _ranks(second)
    a, b = a - a.mean(), b - b.mean()
    energy = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / energy if energy > 0 else 0.0


def _ranks(values: Sequence[float] | _Floats) -> _Floats:
    _, where, counts = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    ranks: _Floats = (np.cumsum(counts) - (counts - 1) / 2)[where]
    return ranks
