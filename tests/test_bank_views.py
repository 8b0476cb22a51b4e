"""How many views of what, within a bound, and that a drawn bank repeats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from taco.device.images import Preprocessing
from taco.errors import TaskError, UnreadableImageError
from taco.pictures.listing import View
from taco.recovery import bank_views
from taco.recovery.bank_views import DrawOptions, Source, draw_bank, plan_views, views_of_each
from taco.recovery.teacher_bank import UNLABELLED, Layout, TeacherBank

SIZE = Preprocessing((3, 32, 32), "bicubic", (0.5, 0.5, 0.5), (0.3, 0.3, 0.3), 0.9, "center")


@pytest.mark.parametrize(
    ("minutes", "views"), [(0.1, (400, 80)), (2.0, (800, 160)), (60.0, (1600, 320))], ids=["short", "middle", "long"]
)
def test_views_follow_from_minutes_and_pictures(minutes: float, views: tuple[int, int]) -> None:
    assert plan_views(100, 20, minutes, view_bytes=1) == views


@pytest.mark.parametrize(
    ("labelled", "unlabelled", "views"),
    [(100, 0, (300, 0)), (100, 5000, (150, 150)), (10, 5000, (40, 260)), (100, 10, (260, 40)), (0, 10, (0, 40))],
)
def test_a_bank_never_exceeds_its_bound_and_frames_take_at_most_half(
    labelled: int, unlabelled: int, views: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank_views, "BANK_BYTES", 3000)
    assert plan_views(labelled, unlabelled, 0.1, view_bytes=10) == views


def test_views_are_spread_evenly_and_the_rest_is_drawn() -> None:
    counts = views_of_each(10, 23, seed=1)
    assert sorted(counts) == [2] * 7 + [3] * 3
    assert (views_of_each(10, 23, seed=2) != counts).any()
    assert sum(views_of_each(10, 4, seed=0)) == 4
    assert len(views_of_each(0, 0, seed=0)) == 0


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> list[View]:
    folder = tmp_path_factory.mktemp("views")
    for i in range(5):
        Image.new("RGB", (50, 40), (40 * i, 10, 200)).save(folder / f"{i}.png")
    return [View(folder / f"{i}.png") for i in range(5)]


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model("test_efficientnet", num_classes=2)
    return model.eval().requires_grad_(False)


def drawn(teacher: nn.Module, views: list[View], seed: int = 5, file: Path | None = None) -> TeacherBank:
    sources = (Source(views[:3], [0, 1, 1], 8), Source(views[3:], [UNLABELLED] * 2, 1))
    return draw_bank(
        teacher, Layout.of(teacher, SIZE.input_size, []), SIZE, sources, DrawOptions(seed, file), lambda _n: None
    )


def test_labelled_views_and_frames_are_in_one_bank(teacher: nn.Module, views: list[View]) -> None:
    bank = drawn(teacher, views)
    assert len(bank) == 9
    assert list(bank.labels[:8]).count(0) in (2, 3)
    assert bank.labels[8] == UNLABELLED
    reds = bank.pixels[:, 0, 0, 0]
    assert set(reds[bank.labels == 0]) == {0}
    assert set(reds[bank.labels == 1]) == {40, 80}
    assert reds[8] in (120, 160)


def test_a_bank_repeats_with_its_seed(teacher: nn.Module, views: list[View], tmp_path: Path) -> None:
    one, two, other = drawn(teacher, views), drawn(teacher, views, file=tmp_path / "bank"), drawn(teacher, views, 6)
    np.testing.assert_array_equal(one.pixels, two.pixels)
    np.testing.assert_array_equal(one.logits, two.logits)
    assert (one.labels != other.labels).any() or (one.pixels != other.pixels).any()


def test_nothing_to_draw_from_is_said(teacher: nn.Module) -> None:
    with pytest.raises(TaskError, match="no picture to ask the teacher about"):
        draw_bank(teacher, Layout.of(teacher, SIZE.input_size, []), SIZE, [Source([], [], 0)], DrawOptions(0))


def test_a_picture_that_is_gone_is_named(teacher: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match=r"gone\.png was readable when the run began"):
        drawn(teacher, [View(tmp_path / "gone.png")] * 5)
