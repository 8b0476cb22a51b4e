"""The part of the page that tells how `--max-drop` found the model: what was tried, and what each candidate lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from taco.report import wording
from taco.report.accuracy_schema import AccuracySection
from taco.report.page import Block, Note, Section, Table
from taco.report.schema import Report
from taco.report.search_schema import NEVER, DropFigures, DropSearchSection, DropTrial, OtherSize, TakenOver

#: What a candidate did that not all of the shots judged.
_SEEMED = "seemed to"


def max_drop_sections(report: Report) -> tuple[Section, ...]:
    """Candidates with what they lost on shots that they had not seen; nothing without `--max-drop`."""
    found = report.max_drop
    if found is None:
        return ()
    meaning = (
        f"The fastest model was looked for that loses at most {wording.points(found.asked_points)} on shots that it "
        "has not seen"
    )
    if report.accuracy.evaluated_on == "evaluation":
        meaning += "; the pictures that judge the result had no say"
    return (Section("max-drop", "As fast as the accuracy allows", f"{meaning}.", tuple(_blocks(report, found))),)


def exceeds(found: DropSearchSection, accuracy: AccuracySection) -> str:
    """Say that the unseen pictures show a larger loss than was asked; empty where they do not."""
    drop, ends = accuracy.drop_points, accuracy.drop_ci95
    if drop is None or drop <= found.asked_points or accuracy.evaluated_on != "evaluation":
        return ""
    more = wording.more(None if ends is None else ends[0], found.asked_points)
    return (
        f"on the evaluation pictures the model loses {wording.points(drop)}, {more} than --max-drop "
        f"{found.asked_points:g}: {wording.counted(found.judging_images, 'shot')} could not tell. More "
        "--shots make the search surer"
    )


def _blocks(report: Report, found: DropSearchSection) -> Iterator[Block]:
    limit, judging = found.asked_points, found.judging_images
    compared = any(trial.beyond is not None for trial in found.trials)
    rows = [
        (_candidate(trial), *_cells(trial), *[_beyond(trial)] * compared, _held(trial, limit, judging))
        for trial in found.trials
    ]
    exported = "yes" if found.shipped.points <= limit else "no"
    rows.append(("the exported file", *_cells(found.shipped), *["-"] * compared, exported))
    looks = ", each as it is" if found.looks == 1 else f", each looked at {found.looks} times, a little differently"
    caption = (
        f"Points on {wording.counted(found.judging_images, 'shot')}{looks}, with the 95 % interval over the pictures. "
        f"{_judging(found)} A fitted head has seen them all: their answers are those of heads that have not. "
        "Candidates were recovered with a part of the time; what the exported file loses is that of its candidate "
        "and what conversion took from its answers."
    )
    columns = ("candidate", "lost", "interval", *["beyond the uncut one"] * compared, "held")
    if compared:
        caption += (
            " Where a model for smaller pictures held with nothing cut, others are compared with it: models for "
            "pictures of one size differ on few shots, so what cuts do shows sooner. They may lose beyond it what it "
            "leaves of the limit; what it seems to gain does not count."
        )
    if any(_unasked(trial, judging) and _loses(trial, limit) for trial in found.trials):
        caption += " A candidate that surely loses more than was asked is not made for the shots that are left."
    if any(row[-1] == _SEEMED for row in rows):
        caption += (
            " One that seemed to hold by a part of the shots is not made for the others where a smaller one held."
        )
    yield Table(columns, tuple(rows), wording.marked(caption, report))
    if (taken := found.taken_over) is not None:
        how = ", made in one pass over its units," if taken.one_pass else ""
        yield Note(
            f"The widths are those that a run for {taken.target} took, of the same pictures and limit. By the table of "
            f"this device{how} they take {wording.milliseconds(taken.ms)}, and the fastest widths that are expected to "
            f"lose no more take {wording.milliseconds(taken.best_ms)}: nothing else was tried.{_gains(taken)}"
        )
    if found.sizes:
        yield Note(_other_sizes(found.sizes))
    if found.full_recoveries > 1:
        yield Note(
            f"{found.full_recoveries} models were recovered fully: the earlier ones lost more, or were no faster than "
            "the dense one, once they were exported."
        )


def _other_sizes(sizes: Sequence[OtherSize]) -> str:
    """Say why the others were not taken."""
    told = ", ".join(f"{one.pictures} {_longer(one.behind)}" for one in sizes)
    guessed = [one.pictures for one in sizes if not one.profiled]
    single = len(guessed) == 1
    how = (
        f" {' and '.join(guessed)} {'was' if single else 'were'} not profiled: {'its' if single else 'their'} units' "
        "times are taken to change with the size as the dense model's do."
    )
    return (
        "For as little change of the answers before recovery, models that read pictures of another size take longer or "
        f"as long: {told}.{how if guessed else ''}"
    )


def _gains(taken: TakenOver) -> str:
    """Say why the size of pictures is taken, too, where several competed."""
    slower = [f"{one.pictures} {_longer(one.behind)}" for one in taken.sizes if one.behind is not None]
    told = [f"{one.here:.3g} times at {one.pictures} ({one.there:.3g} there)" for one in taken.sizes if one.here != 1]
    if not slower or not told:
        return ""
    return (
        " So is their size of pictures. What a size loses is the same here; what it gains was measured for the dense "
        f"model: {', '.join(told)}. For as little change of the answers, other sizes took longer there "
        f"({', '.join(slower)}), and none gains so much more here that it would be faster by more than is left "
        "(--take-over). Widths were not timed at the other sizes."
    )


def _longer(times: float) -> str:
    return "changes them more at any time or lost too much uncut" if times >= NEVER else f"{times:.2f} times"


def _held(trial: DropTrial, limit: float, judging: int) -> str:
    if _loses(trial, limit):
        return "no"
    return _SEEMED if _unasked(trial, judging) else "yes"


def _loses(trial: DropTrial, limit: float) -> bool:
    if trial.beyond is None or trial.room is None:
        return trial.points > limit
    return trial.beyond > trial.room


def _beyond(trial: DropTrial) -> str:
    return "-" if trial.beyond is None or trial.room is None else f"{trial.beyond:+.2f} of {trial.room:.2f}"


def _unasked(trial: DropTrial, judging: int) -> bool:
    """Whether some of the shots had no say."""
    return (trial.judging_images or judging) < judging


def _judging(found: DropSearchSection) -> str:
    if found.sides == 1:
        return "They were held out for choices."
    return f"A candidate is made {found.sides} times, each time without those shots that then judged it."


def _candidate(trial: DropTrial) -> str:
    at = f" at {trial.pictures} pixels" if trial.pictures else ""
    cut = "nothing cut" if trial.kept_percent == 100 else f"{wording.percent(trial.kept_percent)} of the widths"
    judged = f", judged by {wording.counted(trial.judging_images, 'shot')}" if trial.judging_images else ""
    return f"{cut}{at}, {wording.counted(trial.steps, 'step')}{judged}"


def _cells(figures: DropFigures) -> tuple[str, ...]:
    return (
        f"{figures.points:+.2f}",
        f"{figures.low:+.1f} to {figures.high:+.1f}",
    )
