"""The head of a cut model: fitted anew on the features that are left where cross-validation gains, else as it was."""

from __future__ import annotations

import copy
import dataclasses
import functools
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import draw_task
from make_report import make_report
from tiny_recovery import make_material, make_specialist
from torch import nn

from taco import api
from taco.material import Material
from taco.model import classifier_of
from taco.progress import SilentProgress
from taco.report.record import recovery_section
from taco.report.schema import HeadCandidate
from taco.rundir import RunDir
from taco.specialist.head import Linear, with_head
from taco.specialist.held_out import HeldOut
from taco.specialist.probe import fit_head
from taco.specialist.specialise import penultimate, predict_logits
from taco.steps import rehead
from taco.steps.rehead import Heads
from taco.steps.stored import Store


@dataclasses.dataclass(frozen=True)
class Case:
    """A specialist with a fitted head."""

    head: Linear
    dense: nn.Module
    labels: torch.Tensor


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return make_material(draw_task(tmp_path_factory.mktemp("rehead") / "site", count=12))


@pytest.fixture(scope="module")
def case(material: Material) -> Case:
    generalist = make_specialist()
    labels = torch.tensor([picture.label_index for picture in material.shots])
    head = fit_head(penultimate(generalist, material.batches(material.shots)), labels).head
    return Case(head, with_head(generalist, head), labels)


def heads(case: Case, material: Material, folder: Path, own: Linear | None = None) -> Heads:
    store = Store(RunDir(folder))
    return Heads(
        own=own or case.head,
        dense=case.dense,
        shots=material.shots,
        groups=torch.arange(len(material.shots)),
        batches=material.batches,
        seed=0,
        depends_on={"test": 1},
        store=store,
        progress=SilentProgress(),
    )


def shuffled(dense: nn.Module) -> nn.Module:
    """The same features in another order: nothing is lost but what the old head knows of them."""
    changed = copy.deepcopy(dense)
    layer = changed.conv_head
    order = torch.randperm(layer.weight.shape[0], generator=torch.Generator().manual_seed(3))
    for part in (layer, changed.bn2):
        for tensor in part.state_dict().values():
            if tensor.ndim:
                tensor.copy_(tensor[order].clone())
    return changed


def test_a_head_that_no_longer_fits_is_fitted_anew(case: Case, material: Material, tmp_path: Path) -> None:
    cut = shuffled(case.dense)
    before = copy.deepcopy(cut.state_dict())
    one = heads(case, material, tmp_path)
    with one.store.rundir.locked():
        changed, head = one.best(cut)
        again, same = one.best(cut)
    assert head is not None
    assert same is not None
    old, new = head.candidates
    assert (old.chosen, new.chosen) == (False, True)
    assert new.percent > old.percent
    assert all(torch.equal(value, before[name]) for name, value in cut.state_dict().items()), "not modified"
    assert torch.equal(classifier_of(changed).weight, head.weight)
    assert torch.equal(classifier_of(again).weight, head.weight), "what was stored is taken"
    own = predict_logits(case.dense, material.batches(material.shots))
    assert (predict_logits(changed, material.batches(material.shots)).argmax(1) == own.argmax(1)).mean() > 0.9
    assert len(head.without) == len(case.head.without), "choices need heads that have not seen the select pictures"


@pytest.mark.parametrize(("more", "chosen"), [(0, False), (1, False), (100, True)])
def test_a_gain_within_its_standard_error_is_none(
    case: Case, material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: int, chosen: bool
) -> None:
    cut, labels = shuffled(case.dense), case.labels
    one = heads(case, material, tmp_path)
    held_out = HeldOut(case.head, torch.arange(len(labels)), case.dense)
    batches = functools.partial(material.batches, material.shots)
    old = torch.from_numpy(held_out.correct(predict_logits(cut, batches()), cut, batches))
    wrong = (old.argmax(1) != labels).nonzero().flatten()
    assert len(wrong) > 1
    new = old.clone()
    for shot in wrong[:more]:
        new[shot, labels[shot]] = old.max() + 1

    def fit(*_args: object, **_named: object) -> SimpleNamespace:
        return SimpleNamespace(held_out=new, head=case.head)

    monkeypatch.setattr(rehead, "fit_head", fit)
    with one.store.rundir.locked():
        _, head = one.best(cut)
    assert head is not None
    before, after = head.candidates
    assert (before.chosen, after.chosen) == (not chosen, chosen)
    assert (after.percent > before.percent) == (more > 0), "both figures are told whatever is chosen"


def test_features_that_are_as_they_were_keep_their_head(case: Case, material: Material, tmp_path: Path) -> None:
    one = heads(case, material, tmp_path)
    with one.store.rundir.locked():
        kept, head = one.best(case.dense)
    assert kept is case.dense
    assert head is not None
    assert head.candidates[0].chosen
    assert torch.equal(head.weight, case.head.weight)


def test_rows_of_the_generalist_are_not_replaced(case: Case, material: Material, tmp_path: Path) -> None:
    rows = Linear(case.head.weight, case.head.bias, "imagenet-rows")
    assert heads(case, material, tmp_path, rows).best(case.dense) == (case.dense, None)


def test_both_are_told(pi_run: api.ExportResult) -> None:
    assert [one.chosen for one in pi_run.report.cut_heads].count(True) == 1
    compared = [
        HeadCandidate(name="the dense model's head", percent=79.2, chosen=False),
        HeadCandidate(name="a new one on the compressed model's features", percent=85.1, chosen=True),
    ]
    text = str(recovery_section(make_report(cut_heads=compared)))
    assert "The small model ends in a new one on the compressed model's features" in text
    assert "the dense model's head 79.2" in text
