"""What a report warns of about a measurement: rounds that do not count, an early end, and a machine that was busy."""

from __future__ import annotations

from taco.timing.timings import BenchResult

#: An interval of the median ratio wider than this share of it is called unstable.
_STABLE_SPREAD = 0.1
#: Of the rounds that count; more that do not are told.
_MOST_ASIDE = 0.1


def measurement_warnings(bench: BenchResult | None) -> list[str]:
    """Return what a reader must know about the last measurement; nothing where none was made.

    Args:
        bench: Of `dense` and `compressed`, among others.
    """
    if bench is None:
        return []
    found = []
    if bench.set_aside > _MOST_ASIDE * bench.rounds:
        found.append(_aside(bench))
    if bench.stopped_early:
        found.append("the measurement was stopped at its time limit, before all rounds")
    ratio = bench.speedup("dense", "compressed")
    if ratio.high - ratio.low > _STABLE_SPREAD * ratio.value:
        found.append(
            f"the machine was busy while it was measured: the speed-up lies between {ratio.low:.2f} and "
            f"{ratio.high:.2f} ({ratio.coverage:.0%} interval); stop other programs and run again into a new folder"
        )
    return found


def _aside(bench: BenchResult) -> str:
    """Tell of rounds set aside, and what may steady them: virtual CPUs that share a core slow only several threads."""
    words = (
        f"{bench.set_aside} of {bench.set_aside + bench.rounds} rounds of the last measurement do not count: something "
        "slowed this machine in them"
    )
    if bench.threads == 1:
        return words
    return f"{words}; on a virtual machine, whose CPUs may share a core at times, --threads 1 is steadier"
