"""The teacher and BatchNorm on a small task of real files: a change is kept only where select pictures agree."""

from __future__ import annotations

import copy

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
from taco.pictures.split import SplitOptions, split
from taco.recovery import repair
from taco.recovery.distillation import objective
from taco.recovery.trainer import RecoveryOptions
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
