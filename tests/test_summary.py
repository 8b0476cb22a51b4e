"""From answers to the report's figures."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from taco.summaries.accuracy_section import model_accuracy


def finished(*classes: str) -> Any:
    """A run that has judged eight pictures."""
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    return SimpleNamespace(
        judgement=SimpleNamespace(labels=labels), material=SimpleNamespace(task=SimpleNamespace(classes=classes))
    )


def test_animals_called_blank_are_counted_where_a_class_is_blank() -> None:
    answers = np.array([0, 1, 1, 1, 0, 1, 0, 2])
    lost = model_accuracy(finished("ash", "blank", "fox"), answers).animals_called_blank
    assert lost is not None
    assert (lost.count, lost.n, lost.percent) == (3, 6, pytest.approx(50))
    assert lost.low < 50 < lost.high
    assert model_accuracy(finished("ash", "bay", "fox"), answers).animals_called_blank is None


def test_recalls_and_top1_are_those_of_the_answers() -> None:
    score = model_accuracy(finished("ash", "blank", "fox"), np.array([0, 0, 0, 1, 1, 2, 2, 2]))
    assert score.top1.percent == 100
    assert {name: p and p.n for name, p in score.per_class.items()} == {"ash": 3, "blank": 2, "fox": 3}
    assert score.animals_called_blank is not None
    assert score.animals_called_blank.count == 0
