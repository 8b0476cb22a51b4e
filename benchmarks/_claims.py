"""The five claims of docs/evidence.md, judged from the cells that are there: pure functions of their JSON.

A claim holds here only when its cells say so beyond their intervals; what has no cells is `not measured yet`, and what
was measured and does not hold is told in the same plain words.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks._machine import PROCESSORS, processor
from benchmarks._page import told_drop

Cells = Sequence[Mapping[str, Any]]
Verdict = Literal[
    "holds", "holds on the one seed that was run", "holds in part", "does not hold", "not clear", "not measured yet"
]  # fmt: skip

#: Points that count as a small loss, and as a moderate one.
SMALL, MODERATE = 2.0, 5.0
#: Points that the fast model may lose on average (issue 10).
LIMIT = 1.0


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim.

    Attributes:
        letter: a to e.
        claim: As the paper or the issue has it.
        verdict: What the cells say.
        found: The figures, with seeds and intervals, in plain sentences.
        command: What makes its cells.
    """

    letter: str
    claim: str
    verdict: Verdict
    found: str
    command: str

    def markdown(self) -> str:
        """Return the claim as a paragraph."""
        told = self.found if not self.found or self.found.startswith("\n") else f" {self.found}"
        return f"**({self.letter}) {self.claim}** *{self.verdict.capitalize()}.*{told} `{self.command}`"


def unmeasured(letter: str, claim: str, command: str) -> Claim:
    """Return a claim without cells."""
    return Claim(letter, claim, "not measured yet", "", command)


def specialisation(cells: Cells) -> Claim:
    """(a): the task's own pictures calibrate better than as many others, and the more so the sparser."""
    claim = "Calibrating on the task's own pictures beats as many other ones, the more so the sparser."
    command = "python -m benchmarks.specialisation"
    pairs = {
        sparsity: _pairs(c for c in cells if c["sparsity"] == sparsity and not c["steps"])
        for sparsity in sorted({c["sparsity"] for c in cells if not c["steps"]})
    }
    gains = {sparsity: {a["seed"]: _gain(a, b) for a, b in found} for sparsity, found in pairs.items() if found}
    if not gains:
        return unmeasured("a", claim, command)
    least, most = gains[min(gains)].values(), gains[max(gains)].values()
    sure = [sparsity for sparsity, found in gains.items() if all(low > 0 for _, low, _ in found.values())]
    rises = statistics.mean(g for g, _, _ in most) > statistics.mean(g for g, _, _ in least)
    refuted = all(high < 0 for _, _, high in most) or not rises
    falls = list(_falls(gains))
    verdict: Verdict = "does not hold" if refuted else "not clear"
    if max(gains) in sure and rises:
        verdict = "holds in part" if falls else _holds(cells)
    told = "; ".join(
        f"{sparsity:.0%} zeros: {', '.join(f'{g:+.1f} ({low:+.1f} to {high:+.1f})' for g, low, high in found.values())}"
        for sparsity, found in gains.items()
    )
    where = f"at {', '.join(f'{sparsity:.0%}' for sparsity in sure)} zeros" if sure else "nowhere"
    grows = f"does not grow at every step ({'; '.join(falls)})" if falls else "grows at every step"
    return Claim(
        "a",
        claim,
        verdict,
        f"One shot, points that the task's pictures gain over the control, a figure a seed ({_seeds(cells)}): {told}. "
        f"Every seed surely gains {where}; the gain {grows}. "
        "Intervals take both columns as independent, which is too wide.",
        command,
    )


def _falls(gains: Mapping[float, Mapping[int, tuple[float, float, float]]]) -> Iterator[str]:
    """Tell of every seed whose gain does not grow from one sparsity to the next."""
    for (less, here), (more, there) in itertools.pairwise(gains.items()):
        for seed in sorted(set(here) & set(there)):
            before, after = here[seed][0], there[seed][0]
            if after <= before:
                yield f"seed {seed}: {before:+.1f} at {less:.0%}, {after:+.1f} at {more:.0%}"


def views_seen(cell: Mapping[str, Any]) -> int:
    """Return how many views all steps of a cell's recovery took; those that do not say it took 32 a step."""
    return int(cell["steps"]) * int(cell.get("batch", 32))


def fewer_weights(letter: str, cells: Cells, sparsity: float, limit: float) -> Claim:
    """(b), (c): so many times fewer non-zero weights at a loss within `limit`, by gradual pruning with recovery."""
    times = round(1 / (1 - sparsity))
    size = "small" if limit <= SMALL else "moderate"
    claim = f"{times} times fewer non-zero weights at a {size} loss (at most {limit:g} points)."
    command = "python -m benchmarks.specialisation"
    mine = [c for c in cells if c["sparsity"] == sparsity and c["calibration"] == "task"]
    gradual = [c for c in mine if c["steps"]]
    longest = max((views_seen(c) for c in gradual), default=0)
    used = [c for c in gradual if views_seen(c) == longest] or mine
    if not used:
        return unmeasured(letter, claim, command)
    drops = ", ".join(map(told_drop, used))
    within = all(c["drop_high"] <= limit for c in used)
    beyond = statistics.mean(c["drop"] for c in used) > limit
    how = "one shot, without recovery"
    if gradual:
        steps = used[0]["steps"]
        how = f"{steps} steps of gradual recovery, {longest // steps} views each"
    verdict: Verdict = _holds(used) if within and gradual else "does not hold" if beyond and gradual else "not clear"
    return Claim(
        letter,
        claim,
        verdict if gradual else "not measured yet",
        f"Points lost at {sparsity:.0%} zeros, {how}, a figure a seed ({_seeds(used)}): {drops}."
        + ("" if gradual else " Gradual pruning, which the claim is about, has no cells."),
        command,
    )


def no_overfitting(cells: Cells) -> Claim:
    """(d): with few pictures our distillation does not over-fit where cross-entropy does."""
    claim = "Distillation does not over-fit where plain cross-entropy does."
    command = "python -m benchmarks.recovery"
    kinds = sorted({(c["task"], c["k"]) for c in cells})
    if not kinds:
        return unmeasured("d", claim, command)
    fewest = min(k for _, k in kinds)
    rows, wins, losses = [], 0, 0
    for task in sorted({task for task, k in kinds if k == fewest}):
        here = [c for c in cells if (c["task"], c["k"]) == (task, fewest)]
        by = {m: {c["seed"]: c for c in here if c["method"] == m} for m in ("unrecovered", "cross-entropy", "ours")}
        for seed in sorted(set.intersection(*(set(found) for found in by.values()))):
            before, plain, ours = (by[m][seed] for m in ("unrecovered", "cross-entropy", "ours"))
            wins += ours["percent"] >= before["percent"] > plain["percent"]
            losses += ours["percent"] < before["percent"]
            rows.append(
                f"{task}, seed {seed}: before {before['percent']:.1f}, cross-entropy {plain['percent']:.1f} "
                f"({plain['fit_percent']:.0f} on its own shots), ours {ours['percent']:.1f}"
            )
    if not rows:
        return unmeasured("d", claim, command)
    verdict: Verdict = _holds(cells) if wins == len(rows) else "does not hold" if not wins or losses else "not clear"
    return Claim(
        "d",
        claim,
        verdict,
        f"Percent right on unseen pictures with {fewest} a class to learn from: {'; '.join(rows)}. "
        f"In {wins} of {len(rows)} cross-entropy made the cut model worse and ours did not.",
        command,
    )


def faster(cells: Cells, aims: Mapping[str, tuple[float, float]]) -> Claim:
    """(e): measured speed-up within a point of accuracy, over dense fp32 and over the best INT8 of the dense model."""
    told = ", ".join(f"{model} {fp32:g} and {int8:g} times" for model, (fp32, int8) in aims.items())
    claim = (
        f"Much faster within {LIMIT:g} point: over dense fp32 under ONNX Runtime, and over the best INT8 of the dense "
        f"model (the aim: {told})."
    )
    command = "python -m benchmarks.front"
    rows, met = [], []
    for target, model, kind in itertools.product(sorted({c["target"] for c in cells}), aims, PROCESSORS):
        here = [c for c in cells if (c["target"], c["model"], processor(c)) == (target, model, kind)]
        if not here:
            continue
        drop, runs = statistics.mean(c["drop"] for c in here), "run" if len(here) == 1 else "runs"
        fp32 = _geometric(c["over_fp32"]["value"] for c in here)
        with_int8 = [c["over_int8"]["value"] for c in here if c["over_int8"]]
        int8 = _geometric(with_int8) if with_int8 else math.nan
        met.append(drop <= LIMIT and fp32 >= aims[model][0] and int8 >= aims[model][1])
        rows.append(
            f"\n- {target}, {model}, {kind}, {len(here)} {runs} (tasks and seeds): {fp32:.2f} times over fp32"
            f"{_spread([c['over_fp32']['value'] for c in here])}, {int8:.2f} over the best INT8{_spread(with_int8)}, "
            f"mean loss {drop:+.1f} points{_spread([c['drop'] for c in here])}"
        )
    if not rows:
        return unmeasured("e", claim, command)
    absent = [model for model in aims if all(c["model"] != model for c in cells)]
    verdict: Verdict = "does not hold" if not all(met) else "not clear" if absent else _holds(cells)
    rows += [f"\n- {model}: no run" for model in absent]
    machines = "; ".join(sorted({c.get("machine", "machine not recorded") for c in cells}))
    return Claim("e", claim, verdict, f"\n{''.join(rows)}\n\nOn {machines}.", command)


def _pairs(cells: Iterable[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Return the task's and the control's cell of every seed that has both."""
    by = {(c["seed"], c["calibration"]): c for c in cells}
    seeds = sorted({seed for seed, _ in by})
    return [(by[s, "task"], by[s, "agnostic"]) for s in seeds if (s, "task") in by and (s, "agnostic") in by]


def _gain(task: Mapping[str, Any], control: Mapping[str, Any]) -> tuple[float, float, float]:
    """Return the points gained and a 95 % interval that takes both as independent."""
    half = math.hypot(*((c["drop_high"] - c["drop_low"]) / 2 for c in (task, control)))
    gain = control["drop"] - task["drop"]
    return gain, gain - half, gain + half


def _holds(cells: Cells) -> Verdict:
    return "holds" if len({c["seed"] for c in cells}) > 1 else "holds on the one seed that was run"


def _seeds(cells: Cells) -> str:
    seeds = sorted({c["seed"] for c in cells})
    return f"seed {seeds[0]} alone" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"


def _geometric(values: Iterable[float]) -> float:
    return statistics.geometric_mean(list(values))


def _spread(values: Sequence[float]) -> str:
    """Return the range of several runs in brackets; of one run nothing, which would look like certainty."""
    if len(values) == 1:
        return ""
    return f" ({min(values):.2f} to {max(values):.2f})" if values else " (none)"
