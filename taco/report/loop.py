"""The part of the page that tells how the device decided the widths: rounds, and every unit's time and loss."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from taco.report import wording
from taco.report.loop_figures import block_times, round_marks
from taco.report.page import Block, Folded, Note, Picture, Section, Table, Tone
from taco.report.schema import LossCurrency, ProfileSection, Report

_CURRENCIES = {
    "shares": "as the share of their readers' output that is lost",
    "logarithms": "as the logarithm of the share of their readers' output that is left",
    "probes": "as the change of the answers when that unit alone is cut",
}


def loop_sections(report: Report) -> tuple[Section, ...]:
    """Rounds of the latency loop, what was chosen, and the profile behind it; nothing without the loop."""
    if report.profile is None or report.budget_ms is None:
        return ()
    if report.estimate is not None:
        text = (
            "No device was at hand. A latency table from elsewhere says what each block takes at several widths; the "
            f"widths with the least loss whose estimate lies within {report.budget_ms:.3f} ms were chosen. Nothing "
            "here was measured for this model."
        )
        blocks = (*_profile(report.profile), *_currency(report.currency), *_allocation(report))
        return (Section("loop", "How an estimate decided the widths", text, blocks),)
    return (
        Section(
            "loop",
            "How the device decided the widths",
            "Each block was timed at several widths on the device; the widths with the least loss within the budget "
            "were chosen, and the whole model was measured and the prediction corrected until it fitted.",
            (
                *_rounds(report, report.budget_ms),
                *_profile(report.profile),
                *_currency(report.currency),
                *_allocation(report),
            ),
        ),
    )


def _rounds(report: Report, budget_ms: float) -> Iterator[Block]:
    if report.rounds:
        caption = "Each round of the loop: a ring is what was predicted, a dot what the whole model then took."
        yield Picture(partial(round_marks, report), caption)
    rows = tuple(
        (
            str(number),
            f"{r.predicted_ms:.3f}",
            f"{r.measured_ms:.3f}",
            wording.percent(100 * r.measured_ms / budget_ms),
        )
        for number, r in enumerate(report.rounds, start=1)
    )
    columns = ("round", "predicted, ms", "measured, ms", "of the budget")
    yield Table(columns, rows, f"The budget is {budget_ms:.3f} ms a picture.")


def _profile(profile: ProfileSection) -> Iterator[Block]:
    yield Note(
        f"{wording.counted(profile.cells, 'cell')} of the latency table were timed on {profile.device} in "
        f"{wording.duration(profile.seconds)}. Of the dense model's time, "
        f"{wording.percent(profile.unattributed_percent)} lies in no timed block."
    )
    if profile.skipped:
        named = "; ".join(f"{unit}: {reason}" for unit, reason in profile.skipped.items())
        yield Note(f"Not timed, and so left dense: {named}.", Tone.WARN)
    if profile.unpaid:
        named = "; ".join(f"{unit}: {', '.join(map(str, widths))}" for unit, widths in profile.unpaid.items())
        yield Note(f"Widths that buy no time on this device, because a wider one takes no longer; not used: {named}.")
    if profile.zeros:
        told = "; ".join(
            f"{gain.pattern} on this device: {gain.percent:+.1f} % ({gain.low:+.1f} to {gain.high:+.1f}), not used"
            for gain in profile.zeros
        )
        yield Note(f"Time saved by zeros in the weights, measured with the dense model. {told}.")


def _currency(found: LossCurrency | None) -> Iterator[Block]:
    if found is not None:
        told = ", ".join(f"{name} {value:.2f}" for name, value in found.correlations.items())
        yield Note(
            f"What units lose is counted {_CURRENCIES[found.currency]}. Of the ways to count, this one ranked "
            f"{found.models} models with all units cut best (rank correlation with how far answers change: {told})."
        )


def _allocation(report: Report) -> Iterator[Block]:
    if not report.allocation:
        return
    caption = "The block around each unit, in the order of the network; the dark part is what was chosen."
    yield Picture(partial(block_times, report), caption)
    rows = tuple(
        (f"{number}. {u.unit}", u.level, f"{u.dense_ms:.3f}", f"{u.latency_ms:.3f}", f"{u.loss:.3g}", u.source)
        for number, u in enumerate(report.allocation, start=1)
    )
    caption = "Times are those of the block that holds the unit, all else in it dense; losses add up over units."
    table = Table(("unit", "level", "dense, ms", "ms", "loss", "time is"), rows, caption)
    yield Folded(f"Table of {wording.counted(len(rows), 'unit')}", table)
