"""The parts of the page that camera-trap people ask for: how pictures were divided, day and night, sure answers."""

from __future__ import annotations

from taco.report import detail, wording
from taco.report.accuracy_schema import LightAccuracy
from taco.report.page import Block, Card, Note, Section, Table, Tone
from taco.report.parts import Proportion
from taco.report.schema import Report, TaskSection

_ARROW = "\N{RIGHTWARDS ARROW}"
_CHOSEN_ON = "shots that chose this limit (slightly optimistic)"
_LIGHTS = {"day": "daylight (colour)", "infrared": "infrared (grey)"}
_DIVIDED = {
    "location": Note(
        "No place (location) has pictures both among the shots and in the evaluation: the accuracies hold for places "
        "that the model has never seen.",
        Tone.GOOD,
    ),
    "sequence": Note(
        "No burst (sequence) has pictures both among the shots and in the evaluation, but a place may have: at a new "
        "place expect the model to be right less often than this page says.",
        Tone.WARN,
    ),
    "image": Note(
        "Pictures were divided one by one: a place or a burst may have pictures both among the shots and in the "
        "evaluation. On other pictures expect the model to be right less often than this page says.",
        Tone.WARN,
    ),
}


def blank_cards(report: Report) -> tuple[Card, ...]:
    """The key figures of empty frames and lost animals; nothing where no class is one of empty frames."""
    name = report.accuracy.blank_class
    return () if name is None else (_recognised_card(report, name), *_lost_cards(report, name))


def split_section(report: Report) -> Section:
    """What may not straddle the split, and how many pictures served what."""
    task = report.task
    rows = (
        ("labelled pictures a class asked for (shots)", str(task.shots)),
        ("shots to fit with", wording.amount(task.fit_images)),
        ("shots to make choices with", wording.amount(task.select_images)),
        ("evaluation: for this report only", wording.amount(task.eval_images)),
        ("held back: a shot's place, burst or copy is in them", wording.amount(task.held_back)),
        ("copies or near copies of another picture", wording.amount(task.duplicates)),
        ("what the model looks at", _looked_at(task)),
        *_frames(task),
    )
    return Section(
        "split",
        "How the pictures were divided",
        "The model learns from a few pictures (shots) and is judged on others; the more alike the two are, the better "
        "it looks, and the less that says about new pictures.",
        (*_split_notes(task), Table((), rows, numeric=False)),
    )


def light_sections(report: Report) -> tuple[Section, ...]:
    """Accuracy by day and by infrared light; nothing where the light is not known."""
    lights = report.accuracy.by_light
    if not lights:
        return ()
    rows = tuple(
        (_LIGHTS[name], *map(wording.proportion, (light.dense, light.exported)), wording.pictures(light.exported.n))
        for name, light in sorted(lights.items())
    )
    caption = "In brackets: 95 % interval. Every picture counts alike."
    if any(light.exported.n < wording.FEW_PICTURES for light in lights.values()):
        caption += f" Few: fewer than {wording.FEW_PICTURES} pictures are {wording.TOO_FEW}."
    tone = Tone.BAD if report.model.random_weights else Tone.PLAIN
    columns = ("light", "dense, right", "exported, right", "pictures")
    table = Table(columns, rows, wording.marked(caption, report), tone=tone)
    return (
        Section(
            "light",
            "By day and by infrared light",
            "By night camera traps take grey pictures by infrared light: a model may be good by day and poor at night.",
            (*_light_notes(report), table),
        ),
    )


def abstention_section(report: Report) -> Section:
    """How right the sure answers are, and how many answers are sure."""
    abstention = report.accuracy.abstention
    rows = [_sure_row("the shots that chose the limit", abstention.select_sure, abstention.select_right)]
    if abstention.eval_sure is not None:
        rows.append(_sure_row("evaluation", abstention.eval_sure, abstention.eval_right))
    caption = "In brackets: 95 % interval. The shots that chose the limit make it look slightly too good."
    tone = Tone.BAD if report.model.random_weights else Tone.PLAIN
    columns = ("pictures", "sure", "of the sure, right", "pictures, sure")
    table = Table(columns, tuple(rows), wording.marked(caption, report), tone=tone)
    return Section(
        "sure",
        "Sure and unsure answers",
        "The model says how probable its answer is; an unsure answer is marked, so that a person can look at that "
        "picture.",
        (_sure_note(report), table, *detail.coverage_blocks(report)),
    )


def _recognised_card(report: Report, name: str) -> Card:
    label = f"Empty frames recognised, dense {_ARROW} exported"
    dense, exported = (
        model.per_class.get(name) if model else None for model in (report.accuracy.dense, report.accuracy.exported)
    )
    if dense is None or exported is None:
        return Card(label, wording.NOT_MEASURED, f"no picture of the class {name} was left for it", Tone.WARN)
    ends = f"{wording.interval(dense.low, dense.high)} {_ARROW} {wording.interval(exported.low, exported.high)}"
    detail = f"class {name}, {wording.counted(exported.n, 'picture')}; 95 % intervals: {ends}"
    few = exported.n < wording.FEW_PICTURES
    value = f"{wording.percent(dense.percent)} {_ARROW} {wording.percent(exported.percent)}"
    if few:
        detail = f"{wording.TOO_FEW}: {detail}"
    return Card(label, value, wording.marked(detail, report), _blank_tone(report, few))


def _lost_cards(report: Report, name: str) -> tuple[Card, ...]:
    """How many animals are called blank; nothing where that was not counted."""
    dense, exported = (
        model.animals_called_blank if model else None for model in (report.accuracy.dense, report.accuracy.exported)
    )
    if dense is None or exported is None:
        return ()
    value = f"{wording.amount(dense.count)} {_ARROW} {wording.amount(exported.count)} of {wording.amount(exported.n)}"
    ends = f"{wording.interval(dense.low, dense.high)} {_ARROW} {wording.interval(exported.low, exported.high)}"
    shares = f"{wording.percent(dense.percent)} {_ARROW} {wording.percent(exported.percent)}"
    detail = f"pictures of other classes called {name}: {shares}; 95 % intervals: {ends}"
    few = exported.n < wording.FEW_PICTURES
    if few:
        detail = f"{wording.TOO_FEW}: {detail}"
    elif exported.low > dense.high:
        detail = f"more than before: {detail}"
    tone = _blank_tone(report, few or exported.low > dense.high)
    return (
        Card(f"Animals lost as empty frames, dense {_ARROW} exported", value, wording.marked(detail, report), tone),
    )


def _blank_tone(report: Report, doubtful: bool) -> Tone:
    if report.model.random_weights:
        return Tone.BAD
    return Tone.WARN if doubtful or report.accuracy.evaluated_on != "evaluation" else Tone.PLAIN


def _looked_at(task: TaskSection) -> str:
    return "crops: the boxes around the animals" if task.cropped else "whole frames"


def _frames(task: TaskSection) -> tuple[tuple[str, str], ...]:
    """Frames without labels; nothing where none were given."""
    if not task.unlabelled_images and not task.unlabelled_copies:
        return ()
    return (
        ("frames without labels that recovery learnt from too", wording.amount(task.unlabelled_images)),
        ("frames left out: copies of pictures that judge, or of one another", wording.amount(task.unlabelled_copies)),
    )


def _split_notes(task: TaskSection) -> tuple[Note, ...]:
    if not task.eval_images:
        text = "No pictures were left for an evaluation, so nothing here tells how the model does elsewhere."
        return (Note(text, Tone.WARN),)
    if not task.unlabelled_images:
        return (_DIVIDED[task.split_by],)
    learnt = Note(
        f"Recovery also learnt from {wording.counted(task.unlabelled_images, 'frame')} without labels, and nobody told "
        "their places: they may show those of the evaluation. At a place that none of them shows expect the model to "
        "be right less often than this page says.",
        Tone.WARN,
    )
    return (learnt,) if task.split_by == "location" else (_DIVIDED[task.split_by], learnt)


def _light_notes(report: Report) -> tuple[Block, ...]:
    """That one kind of light is missing, or that it makes a proven difference."""
    lights = report.accuracy.by_light
    if len(lights) == 1:
        ((name, light),) = lights.items()
        other = _LIGHTS["day" if name == "infrared" else "infrared"]
        pictures = wording.counted(light.exported.n, "picture")
        text = f"Only {_LIGHTS[name]} pictures were judged ({pictures}): nothing is known about {other} pictures."
        return (Note(text),)
    worse = _worse(lights["day"], lights["infrared"])
    return (Note(wording.marked(worse, report), Tone.WARN),) if worse else ()


def _worse(day: LightAccuracy, night: LightAccuracy) -> str:
    """Words for two intervals of the exported model that do not touch; empty when they do."""
    if night.exported.high < day.exported.low:
        return "The small model is right less often by infrared light than by day."
    if day.exported.high < night.exported.low:
        return "The small model is right less often by day than by infrared light."
    return ""


def _sure_note(report: Report) -> Note:
    abstention = report.accuracy.abstention
    judged, sure, right = "evaluation pictures", abstention.eval_sure, abstention.eval_right
    if sure is None:
        judged, sure, right = _CHOSEN_ON, abstention.select_sure, abstention.select_right
    limit = f"Answers below {wording.percent(100 * abstention.threshold)} are marked unsure"
    if abstention.threshold > 1:
        asked = wording.percent(abstention.asked_percent)
        text = f"Every answer is marked unsure: no limit made {asked} of the sure answers right on the shots."
        return Note(text, Tone.WARN)
    if right is None:
        return Note(f"{limit}, and none of the {wording.amount(sure.n)} {judged} is sure.", Tone.WARN)
    text = (
        f"{limit}: of the sure ones {_with_interval(right)} were right, and {wording.percent(sure.percent)} of the "
        f"{judged} are sure. Asked for: {wording.percent(abstention.asked_percent)} right."
    )
    return Note(wording.marked(text, report), Tone.WARN if right.percent < abstention.asked_percent else Tone.PLAIN)


def _with_interval(value: Proportion) -> str:
    return f"{wording.percent(value.percent)} (95 % interval: {wording.interval(value.low, value.high)})"


def _sure_row(label: str, sure: Proportion, right: Proportion | None) -> tuple[str, ...]:
    answered = "none is sure" if right is None else wording.proportion(right)
    counted = f"{0 if right is None else right.n} of {sure.n}"
    return (label, wording.proportion(sure), answered, counted)
