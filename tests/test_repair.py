"""The teacher and BatchNorm on a small task of real files: a change is kept only where select pictures agree."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from taco.device.images import Preprocessing
from taco.material import Material
from taco.model import state_sha256
from taco.pictures.bank import BankOptions, PictureBank
from taco.pictures.listing import LabelledPicture
from taco.pictures.split import SplitOptions, split
from taco.recovery import repair
from taco.recovery.distillation import objective
from taco.recovery.trainer import RecoveryOptions
from taco.recovery.views import Pixels
from taco.surgery.batchnorm import reestimate
from taco.task import list_pictures

SIZE = Preprocessing((3, 32, 32), "bicubic", (0.5, 0.5, 0.5), (0.3, 0.3, 0.3), 0.9, "center")


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    folder = tmp_path_factory.mktemp("task")
    random = np.random.default_rng(0)
    for label in ("hare", "deer"):
        (folder / label).mkdir()
        for i in range(8):
            pixels = random.integers(0, 256, (5, 6, 3), np.uint8).repeat(9, 0).repeat(9, 1)
            Image.fromarray(pixels).save(folder / label / f"{i}.png")
    listing = list_pictures(folder)
    bank = PictureBank.read([p.view for p in listing.pictures], SIZE, BankOptions(jobs=1))
    return Material(split(listing, bank.facts, SplitOptions(shots=8), bank.skipped), bank)


def untrained() -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model("test_efficientnet", num_classes=2)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def specialist(material: Material) -> nn.Module:
    """Its statistics are those of the fit pictures."""
    return reestimate(untrained(), material.batches(material.task.fit))


@pytest.fixture(scope="module")
def teacher(specialist: nn.Module, material: Material) -> repair.Teacher:
    return repair.make_teacher(specialist, material)


def test_the_teacher_sees_select_pictures_and_their_mirror_images(
    teacher: repair.Teacher, material: Material, specialist: nn.Module
) -> None:
    half = len(material.task.select)
    assert len(teacher.select.pixels) == 2 * half
    expected = material.bank.pixels([p.view for p in material.task.select])
    np.testing.assert_array_equal(teacher.select.pixels[:half], expected)
    np.testing.assert_array_equal(teacher.select.pixels[half:], expected[:, :, ::-1])
    assert teacher.module is not specialist
    assert state_sha256(teacher.module) == state_sha256(specialist)


@pytest.mark.parametrize(("room", "each"), [(4, (2, 2)), (3, (1, 2)), (2, (1, 1)), (1, (0, 1))])
def test_the_teachers_answers_are_bounded_and_every_class_that_fits_is_there(
    teacher: repair.Teacher,
    material: Material,
    specialist: nn.Module,
    monkeypatch: pytest.MonkeyPatch,
    room: int,
    each: tuple[int, int],
) -> None:
    """There is room for so many select pictures, as they are and mirrored."""
    pictures = material.task.fit[:3] + material.task.select + material.task.fit[-2:]
    crowded = Material(dataclasses.replace(material.task, select=pictures), material.bank)
    most = 2 * room * teacher.select.size_bytes // len(teacher.select)
    monkeypatch.setattr(repair, "BANK_BYTES", most + 1)
    found = repair.make_teacher(specialist, crowded).select
    assert 0 < found.size_bytes <= most
    assert tuple(sorted(np.bincount(found.labels, minlength=2) // 2)) == each
    places = [
        next(i for i, p in enumerate(crowded.task.select) if _is(p, row, material)) for row in found.pixels[:room]
    ]
    assert places == sorted(places), "their order stays"
    np.testing.assert_array_equal(found.pixels[room:], found.pixels[:room, :, ::-1])
    assert list(found.labels) == 2 * [pictures[place].label_index for place in places]


def _is(picture: LabelledPicture, pixels: Pixels, material: Material) -> bool:
    return np.array_equal(material.bank.pixels([picture.view])[0], pixels)


def test_renormalise_keeps_the_renewed_statistics_where_they_help(
    teacher: repair.Teacher, material: Material, specialist: nn.Module
) -> None:
    shifted = copy.deepcopy(specialist)
    for module in shifted.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.add_(3.0)  # type: ignore[union-attr]
    before = state_sha256(shifted)
    better = repair.renormalise(shifted, teacher, material)
    assert objective(better, teacher.select) < objective(shifted, teacher.select)
    assert state_sha256(shifted) == before


def test_renormalise_keeps_the_old_statistics_where_new_ones_hurt(material: Material) -> None:
    model = untrained()
    own = repair.make_teacher(model, material)  # agrees with itself perfectly
    renewed = reestimate(model, material.batches(material.task.fit))
    assert objective(renewed, own.select) > objective(model, own.select)
    assert repair.renormalise(model, own, material) is model


def test_renormalise_leaves_a_model_without_batchnorm(material: Material, teacher: repair.Teacher) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.LayerNorm(4))
    assert repair.renormalise(model, teacher, material) is model


def test_minutes_become_steps(teacher: repair.Teacher, specialist: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, RecoveryOptions]] = []
    monkeypatch.setattr(repair, "plan_steps", lambda _s, _b, seconds, how: asked.append((seconds, how)) or 7)
    how = RecoveryOptions(seed=3)
    assert repair.steps_for(specialist, teacher.select, 2.5, how) == 7
    assert asked == [(150.0, how)]
