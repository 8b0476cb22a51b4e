"""The part of the page that tells how widths were decided unit by unit: rounds, and every unit's time and loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from taco.report import wording
from taco.report.loop_figures import block_times, round_marks
from taco.report.page import Block, Folded, Note, Picture, Section, Table, Tone
from taco.report.schema import BlocksSection, HeldLimit, LossCurrency, ProfileSection, Report
from taco.report.search_schema import LevelSearch, TakenOver

_CURRENCIES = {
    "shares": "as the share of their readers' output that is lost",
    "logarithms": "as the logarithm of the share of their readers' output that is left",
    "probes": "as the change of the answers when that unit alone is cut",
}


def loop_sections(report: Report) -> tuple[Section, ...]:
    """How units were decided, by a clock, a table or MACs, and the profile behind it; nothing with one ratio."""
    if report.profile is None:
        return () if report.currency is None else (_macs_section(report),)
    if report.estimate is not None and report.budget_ms is not None:
        return (_estimate_section(report, report.profile, report.budget_ms),)
    meaning = (
        "Each block was timed at several widths on the device; the widths with the least loss within the budget were "
        "chosen, and the whole model was measured and the prediction corrected until it fitted."
    )
    if report.budget_ms is None:
        meaning = (
            "Each block was timed at several widths on the device; for every time that the whole model might take, the "
            "widths with the least loss were chosen, and how accurate they are decided which time it is."
        )
        if report.max_drop is not None and (taken := report.max_drop.taken_over) is not None:
            meaning = (
                "Each block was timed at several widths on the device. By these times the fastest widths that should "
                f"lose as little are {_faster(taken)} than those that a run for {taken.target} took, so these were "
                "taken."
            )
    return (
        Section(
            "loop",
            "How the device decided the widths",
            meaning,
            (
                *(() if report.budget_ms is None else _rounds(report, report.budget_ms)),
                *_compared(report.spread, "are as fast by the table"),
                *_profile(report.profile),
                *_currency(report.currency),
                *_left_out(report.blocks),
                *_limits(report.limits),
                *_search(report.level_search),
                *_allocation(report),
            ),
        ),
    )


def _faster(taken: TakenOver) -> str:
    percent = 100 * (taken.ms / taken.best_ms - 1)
    return "less than 1\u00a0% faster" if percent < 1 else f"{percent:.0f}\u00a0% faster"


def _estimate_section(report: Report, profile: ProfileSection, budget_ms: float) -> Section:
    return Section(
        "loop",
        "How an estimate decided the widths",
        "No device was at hand. A latency table from elsewhere says what each block takes at several widths; the "
        f"levels with the least loss whose estimate lies within {budget_ms:.3f} ms were chosen. Nothing was measured "
        "for this model.",
        (
            *_profile(profile),
            *_currency(report.currency),
            *_left_out(report.blocks),
            *_limits(report.limits),
            *_search(report.level_search),
            *_allocation(report),
        ),
    )


def _macs_section(report: Report) -> Section:
    return Section(
        "loop",
        "How the widths were chosen",
        "Every unit was cut alone at several widths and the change of the answers was looked at; the widths with the "
        "least loss within the number of multiply-accumulates were chosen. No clock took part.",
        (
            *_compared(report.spread, "keep as many multiply-accumulates"),
            *_currency(report.currency),
            *_left_out(report.blocks),
            *_limits(report.limits),
        ),
    )


def _compared(harms: Mapping[str, float], alike: str) -> Iterator[Block]:
    if len(harms) > 1:
        told = "; ".join(f"{name} {harm:.3g}" for name, harm in harms.items())
        yield Note(
            f"Choices that {alike} were compared on the select pictures, and the one with the least change of the "
            f"answers was taken (nats, before recovery: {told})."
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
    apart = profile.unattributed_percent
    blocks = f"Of the dense model's time, {wording.percent(apart)} lies in no timed block."
    if apart < 0:
        blocks = (
            f"Blocks timed one by one take {wording.percent(-apart)} more than the whole dense model, because each run "
            "of a block has a cost of its own; the prediction corrects that."
        )
    yield Note(
        f"{wording.counted(profile.cells, 'cell')} of the latency table were timed on {profile.device} in "
        f"{wording.duration(profile.seconds)}. {blocks}"
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
            f"What units lose is counted {_CURRENCIES[found.currency]}. How well each way to count ranked "
            f"{found.models} models with all units cut (rank correlation with how far answers change): {told}; another "
            "than probes is taken where it is surely ahead."
        )


def _limits(limits: Sequence[HeldLimit]) -> Iterator[Block]:
    if limits:
        told = ", ".join(f"{held.flag} {held.asked:.4g}: {held.used:.4g}" for held in limits)
        yield Note(f"Limits that held beside the budget, and what the model uses: {told}.")


def _left_out(found: BlocksSection | None) -> Iterator[Block]:
    if found is None:
        return
    alone = "; ".join(f"{name} {harm:.3g}" for name, harm in found.offered.items())
    could = (
        f"{wording.counted(len(found.offered), 'residual block')} could be left out; change of the answers when one "
        f"alone is, in nats: {alone}."
    )
    harms = [
        f"{name} {harm:.3g}"
        for name, harm in (("with blocks left out", found.harm_with), ("by widths alone", found.harm_without))
        if harm is not None
    ]
    compared = f" Change of the answers of the whole choice, before recovery: {', '.join(harms)}." if harms else ""
    yield Note(f"Left out: {', '.join(found.taken) or 'no block'}. {could}{compared}")


def _search(found: LevelSearch | None) -> Iterator[Block]:
    if found is None:
        return
    name = {"spdy": "SPDY", "evopress": "EvoPress"}[found.method]
    before = "not finite" if found.divergence_dp is None else f"{found.divergence_dp:.4g}"
    yield Note(
        f"{name} judged {wording.counted(found.evaluations, 'whole model')} of the same time by the table, beyond the "
        "sum of losses: before recovery the answers on the pictures for choices now lie "
        f"{found.divergence:.4g} nats from the dense model's; with the least sum of losses they lay {before}."
    )


def _allocation(report: Report) -> Iterator[Block]:
    if not report.allocation:
        return
    caption = (
        "The block around each unit, all else in it dense, in the order of the network; the dark part is what was "
        "chosen."
    )
    if any(unit.level == "drop" for unit in report.allocation):
        caption += " Blocks that were left out stand below once more, each as one unit."
    yield Picture(partial(block_times, report), caption)
    rows = tuple(
        (f"{number}. {u.unit}", u.level, f"{u.dense_ms:.3f}", f"{u.latency_ms:.3f}", f"{u.loss:.3g}", u.source)
        for number, u in enumerate(report.allocation, start=1)
    )
    caption = "Times are those of the block that holds the unit, all else in it dense; losses add up over units."
    table = Table(("unit", "level", "dense, ms", "ms", "loss", "time is"), rows, caption)
    yield Folded(f"Table of {wording.counted(len(rows), 'unit')}", table)
