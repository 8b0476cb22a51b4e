"""The control's pictures: none of the task's own, as many as asked, the same for one seed."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
from conftest import draw_task

from taco.device.images import Preprocessing
from taco.errors import TaskError
from taco.steps.agnostic import Agnostic, agnostic_batches

SIZE = Preprocessing((3, 32, 32), "bicubic", (0.5, 0.5, 0.5), (0.3, 0.3, 0.3), 0.9, "center")


def test_the_tasks_own_pictures_and_their_copies_are_not_drawn(tmp_path: Path) -> None:
    pool = draw_task(tmp_path / "pool", ("a", "b"), count=6)
    own = sorted((pool / "a").iterdir())[:4]
    copy = pool / "b" / "copy.png"
    shutil.copyfile(own[0], copy)
    drawn = Agnostic(pool, 5, 0).draw(own)
    assert not set(drawn) & {*own, copy}
    assert len(drawn) == 8


def test_a_seed_repeats_and_another_differs(tmp_path: Path) -> None:
    pool = draw_task(tmp_path / "pool", ("a", "b"), count=6)
    assert Agnostic(pool, 5, 0).draw() == Agnostic(pool, 5, 0).draw()
    assert Agnostic(pool, 5, 0).draw() != Agnostic(pool, 5, 1).draw()


def test_too_few_are_refused(tmp_path: Path) -> None:
    pool = draw_task(tmp_path / "pool", ("a",), count=3)
    with pytest.raises(TaskError, match=r"holds 3 pictures that are not the task's own, and 4 are needed"):
        Agnostic(pool, 4, 0).draw()


def test_links_to_nowhere_are_left_out_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pool = draw_task(tmp_path / "pool", ("a",), count=4)
    (pool / "a" / "gone.jpg").symlink_to("nowhere")
    (pool / "a" / "itself.jpg").symlink_to("itself.jpg")
    with caplog.at_level(logging.WARNING, "taco"):
        drawn = Agnostic(pool, 4, 0).draw()
    assert len(drawn) == 4
    assert "2 agnostic pictures cannot be read and are left out: " in caplog.text
    assert "gone.jpg: No such file or directory" in caplog.text


def test_unreadable_ones_are_replaced_and_batches_repeat(tmp_path: Path) -> None:
    pool = draw_task(tmp_path / "pool", ("a",), count=6)
    drawn = Agnostic(pool, 4, 0).draw()
    drawn[0].write_bytes(b"no picture")
    batches = agnostic_batches(drawn, 4, SIZE)
    first, again = list(batches()), list(batches())
    assert sum(map(len, first)) == 4
    assert first[0].equal(again[0])
    for path in drawn[:4]:
        path.write_bytes(b"no picture")
    with pytest.raises(TaskError, match="only 2 of the 4 agnostic pictures can be read"):
        agnostic_batches(drawn, 4, SIZE)
