"""The part of the page that tells how the device decided the widths: rounds, and every unit's time and loss."""

from __future__ import annotations

from taco.report import wording
from taco.report.page import Block, Folded, Note, Section, Table, Tone
from taco.report.schema import Report


def loop_sections(report: Report) -> tuple[Section, ...]:
    """Rounds of the latency loop, what was chosen, and the profile behind it; nothing without the loop."""
    profile, budget_ms = report.profile, report.budget_ms
    if profile is None or budget_ms is None:
        return ()
    blocks: list[Block] = [
        Table(
            ("round", "predicted, ms", "measured, ms", "of the budget"),
            tuple(
                (
                    str(number),
                    f"{r.predicted_ms:.3f}",
                    f"{r.measured_ms:.3f}",
                    wording.percent(100 * r.measured_ms / budget_ms),
                )
                for number, r in enumerate(report.rounds, start=1)
            ),
            f"The budget is {budget_ms:.3f} ms a picture.",
        ),
        Note(
            f"{wording.counted(profile.cells, 'cell')} of the latency table were timed on {profile.device} in "
            f"{wording.duration(profile.seconds)}. Of the dense model's time, "
            f"{wording.percent(profile.unattributed_percent)} lies in no timed block."
        ),
    ]
    if profile.skipped:
        named = "; ".join(f"{unit}: {reason}" for unit, reason in profile.skipped.items())
        blocks.append(Note(f"Not timed, and so left dense: {named}.", Tone.WARN))
    rows = tuple((u.unit, u.level, f"{u.latency_ms:.3f}", f"{u.loss:.3g}", u.source) for u in report.allocation)
    caption = "The time is that of the block that holds the unit; the loss adds up over units."
    table = Table(("unit", "level", "ms", "loss", "time is"), rows, caption)
    blocks.append(Folded(f"Table of {wording.counted(len(rows), 'unit')}", table))
    return (
        Section(
            "loop",
            "How the device decided the widths",
            "Each block was timed at several widths on the device; the widths with the least loss within the budget "
            "were chosen, and the whole model was measured and the prediction corrected until it fitted.",
            tuple(blocks),
        ),
    )
