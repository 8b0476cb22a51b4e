"""Levels as text and as what a solver must do."""

from __future__ import annotations

import pytest
from torch import nn

from taco.errors import InputError
from taco.levels import Level
from taco.solvers.spec import Spec

LEVELS = (
    Level("dense"),
    Level("drop"),
    Level("unstructured", 0.9),
    Level("block", 0.5),
    Level("nm", "2:4"),
    Level("channels", 96),
)


@pytest.mark.parametrize("level", LEVELS, ids=str)
def test_text_and_back(level: Level) -> None:
    assert Level.parse(str(level)) == level


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dense:1",
        "unstructured",
        "unstructured:1",
        "unstructured:x",
        "nm:4:2",
        "nm:2",
        "channels:0",
        "channels:1.5",
        "odd:1",
    ],
)
def test_what_is_no_level_is_refused_with_examples(text: str) -> None:
    with pytest.raises(InputError, match=r"is no level\. Levels are written as in dense, unstructured:0\.9"):
        Level.parse(text)


def test_blocks_and_nm_of_a_convolution_run_along_its_input_channels() -> None:
    conv = nn.Conv2d(8, 4, (3, 2))
    assert Level("nm", "2:4").spec(conv) == Spec.nm(2, 4, stride=6)
    assert Level("block", 0.5).spec(conv) == Spec.block(4, 0.5, stride=6)
    assert Level("unstructured", 0.9).spec(nn.Linear(4, 4)) == Spec.unstructured(0.9)
    assert Level("dense").spec(conv) == Spec()
    for level in (Level("drop"), Level("channels", 4)):
        with pytest.raises(InputError, match="is not one of a single layer"):
            level.spec(conv)
