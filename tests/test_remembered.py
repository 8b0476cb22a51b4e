"""Numbers that survive a kill."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from taco.allocation.remembered import Remembered


def test_what_was_put_in_is_there_again(tmp_path: Path) -> None:
    file = tmp_path / "unfinished" / "values.jsonl"
    first = Remembered(file)
    assert dict(first) == {}
    first["0,1"] = 0.1 + 0.2
    first["2,3"] = math.inf
    assert dict(Remembered(file)) == {"0,1": 0.1 + 0.2, "2,3": math.inf}


def test_a_last_line_that_was_cut_in_half_does_not_count_and_is_written_again(tmp_path: Path) -> None:
    file = tmp_path / "values.jsonl"
    Remembered(file)["a"] = 1.0
    file.write_text(file.read_text() + '\n["b", 2.')
    again = Remembered(file)
    assert dict(again) == {"a": 1.0}
    again["b"] = 2.5
    again["c"] = 3.0
    assert dict(Remembered(file)) == {"a": 1.0, "b": 2.5, "c": 3.0}
    with pytest.raises(TypeError):
        del again["a"]
