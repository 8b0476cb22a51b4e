"""Shots in parts that are held out in turn: every shot once, what has one role together, classes spread evenly."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import options

from taco import api
from taco.material import Material, divide
from taco.pictures import folds
from taco.pictures.bank import BankOptions, PictureBank
from taco.pictures.folds import fold_shots
from taco.specialist.folds import stratified_folds


@pytest.fixture(scope="module")
def material(pi_site: Path, tmp_path_factory: pytest.TempPathFactory) -> Material:
    asked = options(pi_site, tmp_path_factory.mktemp("folds") / "out", macs=0.5)
    plan = api.make_plan(asked)
    file = tmp_path_factory.mktemp("folds") / "bank.pixels"
    bank = PictureBank.read(plan.listings.views, plan.generalist.preprocessing, BankOptions(file))
    return divide(plan.listings, bank, asked)


def labels(material: Material) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array([shot.label_index for shot in material.shots])


def test_every_shot_is_held_out_once_and_classes_are_spread_evenly(material: Material) -> None:
    parts = fold_shots(material.task, material.bank.facts, 3, 0)
    assert len(parts) == 3
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(material.shots)))
    counts = [np.bincount(labels(material)[part], minlength=len(material.task.classes)) for part in parts]
    assert np.ptp(counts, axis=0).max() <= 1
    again = fold_shots(material.task, material.bank.facts, 3, 0)
    assert all(np.array_equal(one, other) for one, other in zip(parts, again, strict=True))


@pytest.mark.parametrize("most", [2, 3, 5])
def test_what_has_one_role_stays_together(material: Material, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Bursts of two and three, across classes."""
    count = len(material.shots)
    groups = np.arange(count) // 3
    groups[: count // 2] = np.arange(count // 2) // 2 + 1000
    monkeypatch.setattr(folds, "groups_at", lambda *_: groups)
    parts = fold_shots(material.task, material.bank.facts, most, 1)
    assert len(parts) == most
    for group in np.unique(groups):
        assert sum(bool((groups[part] == group).any()) for part in parts) == 1
    assert max(map(len, parts)) - min(map(len, parts)) <= 4


def test_shots_of_one_place_cannot_be_divided(material: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folds, "groups_at", lambda *_: np.zeros(len(material.shots), np.int64))
    assert len(fold_shots(material.task, material.bank.facts, 3, 0)) == 1


def test_groups_are_told_of_the_shots_at_the_level_of_the_division(
    material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def groups(level: str, pictures: object, *_: object) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        asked.extend([level, pictures])
        return np.arange(len(material.shots))

    monkeypatch.setattr(folds, "groups_at", groups)
    fold_shots(dataclasses.replace(material.task, split_by="sequence"), material.bank.facts, 3, 0)
    assert asked == ["sequence", material.shots]


def test_what_has_one_role_is_in_one_fold_and_classes_are_spread_evenly() -> None:
    """Sixteen frames of four bursts a class, as a camera takes them."""
    own, groups = torch.arange(48) // 16, torch.arange(48) // 4
    found = stratified_folds(own, 0, groups=groups)
    assert sorted(torch.cat(found).tolist()) == list(range(48))
    assert not [group for group in groups.unique() if sum(bool((groups[f] == group).any()) for f in found) != 1]
    assert min(map(len, found)) > 0
    assert max(int(own[fold].bincount(minlength=3).max()) for fold in found) == 4


def test_pictures_that_stand_for_themselves_are_divided_as_without_groups() -> None:
    own = torch.tensor([0] * 7 + [1] * 16 + [2] * 5)
    plain, alone = stratified_folds(own, 3), stratified_folds(own, 3, groups=torch.arange(len(own)).flip(0))
    assert [len(fold) for fold in plain] == [len(fold) for fold in alone]
    assert all(torch.equal(own[one], own[other]) for one, other in zip(plain, alone, strict=True))


def test_no_fold_holds_all_of_a_class_or_nothing() -> None:
    """One class is of one burst, one of two."""
    own = torch.tensor([0] * 8 + [1] * 8)
    groups = torch.tensor([0] * 8 + [1] * 7 + [2])
    found = stratified_folds(own, 0, groups=groups)
    for fold in found:
        assert 0 < len(fold) < len(own)
        assert (own[fold].bincount(minlength=2) < 8).all()
    assert sum(bool((own[fold] == 0).any()) for fold in found) == 5, "it is divided all the same"
    assert sum(bool((groups[fold] == 1).any()) for fold in found) == 1
