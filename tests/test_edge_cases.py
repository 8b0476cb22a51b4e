"""Tasks at the edges: unequal classes, two pictures, one class, five hundred classes, copies, nothing to judge on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from conftest import draw_task

from taco.device.images import Preprocessing
from taco.errors import TaskError
from taco.material import Material, divide, find_pictures
from taco.model import load_generalist
from taco.options import ExportOptions, make_options
from taco.pictures.bank import BankOptions, PictureBank
from taco.progress import PlainProgress
from taco.recovery.trainer import RecoveryOptions
from taco.rundir import RunDir
from taco.specialist.probe import balanced_accuracy, fit_head
from taco.specialist.specialise import make_head
from taco.steps.recovering import Recovery
from taco.steps.stored import Store

SIZE = Preprocessing((3, 32, 32), "bicubic", (0.5, 0.5, 0.5), (0.3, 0.3, 0.3), 1.0, "center")


def options_for(task: Path, **values: Any) -> ExportOptions:
    return make_options({"task": task, "target": "host-cpu", "out": "unused", "random_weights": True, **values})


def material_of(task: Path, **values: Any) -> Material:
    options = options_for(task, **values)
    listings = find_pictures(options)
    return divide(listings, PictureBank.read(listings.views, SIZE, BankOptions(jobs=1)), options)


def blobs(counts: list[int], d: int = 64, seed: int = 0, distance: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Gaussian blobs around centres that do not depend on the seed."""
    centres = torch.randn(len(counts), d, generator=torch.Generator().manual_seed(99)) * distance / d**0.5
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    noise = torch.randn(len(labels), d, generator=torch.Generator().manual_seed(seed)) / d**0.5
    return centres[labels] + noise, labels


def test_a_rare_class_is_recognised_beside_frequent_ones() -> None:
    head = fit_head(*blobs([30, 30, 2])).head
    features, labels = blobs([50, 50, 50], seed=1)
    answers = (features @ head.weight.T + head.bias).argmax(1)
    recalls = [float((answers[labels == c] == c).float().mean()) for c in range(3)]
    assert min(recalls) > 0.8


def test_five_hundred_classes_get_ridge_alone_and_are_right() -> None:
    features, labels = blobs([4] * 500, distance=6.0)
    found = fit_head(features, labels)
    assert [c.name.split()[0] for c in found.head.candidates] == ["ridge"]
    assert found.head.weight.shape == (500, 64)
    unseen, truth = blobs([2] * 500, seed=1, distance=6.0)
    assert balanced_accuracy(unseen @ found.head.weight.T + found.head.bias, truth) > 90


def test_a_class_with_two_pictures_gives_one_to_fit_and_one_to_select(tmp_path: Path) -> None:
    draw_task(tmp_path / "site", ("ash", "bay"), count=8)
    draw_task(tmp_path / "few", ("cob",), count=2, seed=5)
    shutil.move(tmp_path / "few" / "cob", tmp_path / "site" / "cob")
    material = material_of(tmp_path / "site", shots=4)
    rare = material.task.classes.index("cob")
    assert [sum(p.label_index == rare for p in part) for part in (material.task.fit, material.task.select)] == [1, 1]
    assert any("cob" in warning for warning in material.task.warnings)


def test_a_class_with_one_picture_is_an_error_that_names_it(tmp_path: Path) -> None:
    site = draw_task(tmp_path / "site", ("ash", "bay"), count=8)
    for picture in sorted((site / "bay").iterdir())[1:]:
        picture.unlink()
    with pytest.raises(TaskError, match="class 'bay' has 1 readable pictures, at least 2 are needed"):
        material_of(site, shots=4)


def test_a_single_class_is_an_error(tmp_path: Path) -> None:
    site = draw_task(tmp_path / "site", ("ash",), count=8)
    with pytest.raises(TaskError, match=r"gives 1 class \(ash\); at least 2 are needed"):
        material_of(site, shots=4)


def test_a_class_of_copies_of_one_picture_is_never_judged_on_them(tmp_path: Path) -> None:
    site = draw_task(tmp_path / "site", ("ash", "bay"), count=8)
    first, *others = sorted((site / "bay").iterdir())
    for other in others:
        shutil.copy(first, other)
    material = material_of(site, shots=4)
    copied = material.task.classes.index("bay")
    assert not any(p.label_index == copied for p in material.task.evaluation)
    told = " ".join(material.task.warnings)
    assert "copies" in told
    assert "no picture left for evaluation: bay" in told


def test_the_same_picture_in_two_classes_is_left_out_and_said(tmp_path: Path) -> None:
    site = draw_task(tmp_path / "site", ("ash", "bay"), count=8)
    shutil.copy(site / "ash" / "00.png", site / "bay" / "99.png")
    material = material_of(site, shots=4)
    assert {s.path.name for s in material.task.skipped} == {"00.png", "99.png"}
    assert all("one must be wrong" in s.reason for s in material.task.skipped)


def test_without_evaluation_pictures_recovery_works_and_the_head_has_not_seen_what_judges(tmp_path: Path) -> None:
    site = draw_task(tmp_path / "site", count=6)
    options = options_for(site, shots=6)
    generalist = load_generalist("test_resnet", random_weights=True)
    listings = find_pictures(options)
    bank = PictureBank.read(listings.views, generalist.preprocessing, BankOptions(jobs=1))
    material = divide(listings, bank, options)
    assert material.task.evaluation == ()
    assert material.judged == material.task.select
    assert f"on {len(material.task.fit)} shots" in make_head(generalist, material, options).description


@pytest.mark.parametrize("counts", [{"ash": 12, "bay": 2}, {"ash": 4, "bay": 4}], ids=["unequal", "equal"])
def test_recovery_of_unequal_classes_ends_no_worse(counts: dict[str, int], tmp_path: Path) -> None:
    for seed, (name, count) in enumerate(counts.items()):
        draw_task(tmp_path / name, (name,), count=count, seed=seed)
        shutil.copytree(tmp_path / name, tmp_path / "site", dirs_exist_ok=True)
    material = material_of(tmp_path / "site", shots=8)
    torch.manual_seed(0)
    specialist = timm.create_model("test_efficientnet", num_classes=2).eval().requires_grad_(False)
    student = timm.create_model("test_efficientnet", num_classes=2).eval().requires_grad_(False)
    recovery = Recovery(
        specialist=specialist,
        material=material,
        minutes=0.1,
        options=RecoveryOptions(3e-3, batch=8, checks=2),
        depends_on={"head": str(counts)},
        store=Store(RunDir(tmp_path / "out")),
        progress=PlainProgress(),
    )
    found = recovery.recover(student, {}, 4, "recover")
    assert found.loss_after <= found.loss_before
    labels = np.bincount(recovery.bank.labels, minlength=2)
    assert labels.min() > 0
