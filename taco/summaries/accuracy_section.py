"""What a finished run's report says of accuracy."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import numpy.typing as npt

from taco.formats.names import BLANK
from taco.metrics.abstain import Abstain, choose_threshold
from taco.metrics.accuracy import Proportion, Score, called, paired_drop, wilson
from taco.metrics.quality import compare_paired, quality
from taco.pictures.identity import picture_id
from taco.pipeline import Finished
from taco.report import accuracy_schema, parts


def accuracy_section(done: Finished) -> accuracy_schema.AccuracySection:
    """Say how right every stage is on the judged pictures."""
    task, judged = done.material.task, done.judgement
    dense = Score.from_predictions(judged.labels, judged.dense, task.classes)
    drop = paired_drop(judged.labels, judged.dense, judged.exported, dense.balanced)
    before = Score.from_predictions(judged.labels, judged.stitched, task.classes)
    on: Literal["evaluation", "select"] = "evaluation" if task.evaluation else "select"
    return accuracy_schema.AccuracySection(
        evaluated_on=on,
        balanced=dense.balanced,
        dense=model_accuracy(done, judged.dense),
        compressed=model_accuracy(done, judged.compressed),
        exported=model_accuracy(done, judged.exported),
        drop_points=drop.points,
        drop_ci95=(drop.low, drop.high),
        by_light=_by_light(done),
        blank_class=blank_class(done),
        abstention=_abstention(done),
        before_recovery_top1=before.top1.percent if done.cut.recovered else None,
        detail=_detail(done),
        answers=_answers(done),
        paired=_paired(done),
    )


def _answers(done: Finished) -> accuracy_schema.Answers | None:
    pictures, judged = done.material.judged, done.judgement
    ids = [name for p in pictures if (name := picture_id(p.path, p.view.box)) is not None]
    if len(ids) < len(pictures):
        return None
    return accuracy_schema.Answers(ids=ids, truth=judged.labels.tolist(), said=judged.exported.tolist())


def _paired(done: Finished) -> accuracy_schema.Paired:
    judged = done.judgement
    found = compare_paired(judged.labels, judged.dense, judged.exported)
    return accuracy_schema.Paired(**dataclasses.asdict(found))


def _detail(done: Finished) -> accuracy_schema.Detail:
    found = quality(done.judgement.exported_shares, done.judgement.labels, done.material.task.classes)
    return accuracy_schema.Detail.model_validate(dataclasses.asdict(found))


def blank_class(done: Finished) -> str | None:
    """Return the class of empty frames, if there is one."""
    return BLANK if BLANK in done.material.task.classes else None


def _by_light(done: Finished) -> dict[Literal["day", "infrared"], accuracy_schema.LightAccuracy]:
    judged, bank = done.judgement, done.material.bank
    infrared = np.array([bank.facts[p.view].infrared for p in done.material.judged])
    kinds: tuple[tuple[Literal["day", "infrared"], npt.NDArray[np.bool_]], ...]
    kinds = (("day", ~infrared), ("infrared", infrared))
    return {
        light: accuracy_schema.LightAccuracy(
            dense=proportion(wilson(int((judged.dense == judged.labels)[here].sum()), int(here.sum()))),
            exported=proportion(wilson(int((judged.exported == judged.labels)[here].sum()), int(here.sum()))),
        )
        for light, here in kinds
        if here.any()
    }


def abstention(done: Finished) -> Abstain:
    """Return from which probability an answer is sure, chosen on the select pictures."""
    judged = done.judgement
    return choose_threshold(judged.select_shares, judged.select_labels, done.plan.options.sure)


def _abstention(done: Finished) -> accuracy_schema.Abstention:
    chosen = abstention(done)
    judged = chosen.on(done.judgement.exported_shares, done.judgement.labels)
    unseen = bool(done.material.task.evaluation)
    return accuracy_schema.Abstention(
        threshold=chosen.threshold,
        asked_percent=chosen.asked_percent,
        select_sure=proportion(chosen.sure),
        select_right=_maybe(chosen.right),
        eval_sure=proportion(judged.sure) if unseen else None,
        eval_right=_maybe(judged.right) if unseen else None,
    )


def _maybe(p: Proportion | None) -> parts.Proportion | None:
    return None if p is None else proportion(p)


def model_accuracy(done: Finished, answers: npt.NDArray[np.int64]) -> accuracy_schema.ModelAccuracy:
    """Score one model's answers on the judged pictures, (n,) int64."""
    labels, classes = done.judgement.labels, done.material.task.classes
    score = Score.from_predictions(labels, answers, classes)
    per_class = {name: proportion(p) if p else None for name, p in score.per_class.items()}
    lost = called(labels, answers, classes.index(BLANK)) if BLANK in classes else None
    return accuracy_schema.ModelAccuracy(
        top1=proportion(score.top1),
        per_class=per_class,
        animals_called_blank=None
        if lost is None
        else accuracy_schema.Lost(count=lost[0], **dataclasses.asdict(lost[1])),
    )


def proportion(p: Proportion) -> parts.Proportion:
    """Return a proportion as a report holds it."""
    return parts.Proportion(percent=p.percent, low=p.low, high=p.high, n=p.n)
