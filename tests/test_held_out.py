"""Choices on the select pictures: answers of heads that have not seen them, over several looks at each."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import timm
import torch
from tiny_run import options
from torch import nn

from taco import api
from taco.exporters.protocol import Artifact, Compressed, Reference
from taco.material import Material, divide
from taco.model import Generalist
from taco.options import ExportOptions
from taco.pictures.bank import BankOptions, PictureBank
from taco.pictures.listing import LabelledPicture, View
from taco.progress import SilentProgress
from taco.recovery import looks as module
from taco.recovery.bank_views import BANK_BYTES
from taco.recovery.looks import Looks, looks_each
from taco.recovery.unlabelled import Unlabelled
from taco.rundir import RunDir
from taco.search.drop_search import SHORT
from taco.specialist import probe
from taco.specialist.head import Linear, Without
from taco.specialist.held_out import HeldOut
from taco.specialist.probe import fit_head
from taco.specialist.specialise import make_head, penultimate, predict_logits
from taco.steps.crossfit import places_of
from taco.steps.groundwork import Groundwork
from taco.steps.keys import Keys
from taco.steps.stored import Store
from taco.targets.loading import Target

CLASSES, WIDTH, FIT, SELECT = 3, 400, 24, 9


class Features(nn.Module):
    """A model whose features are its inputs, as timm's models give them."""

    def __init__(self, keep: int = WIDTH) -> None:
        super().__init__()
        self.keep = keep

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def forward_head(self, x: torch.Tensor, *, pre_logits: bool) -> torch.Tensor:
        assert pre_logits
        return x[:, : self.keep]


def shots(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features that tell nothing of the classes: what a head knows of them it has learnt by heart."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(FIT + SELECT, WIDTH, generator=generator)
    return features, torch.arange(FIT + SELECT) % CLASSES


def held_out(head: Linear, fit: int = FIT) -> HeldOut:
    return HeldOut(head, torch.arange(fit, FIT + SELECT), Features())


def test_a_head_knows_its_shots_by_heart_and_held_out_answers_do_not() -> None:
    features, labels = shots()
    head, select = fit_head(features, labels).head, features[FIT:]
    own = (select @ head.weight.T + head.bias).numpy()
    found = held_out(head).correct(own, Features(), lambda: iter([select]))
    assert (own.argmax(1) == labels[FIT:].numpy()).all()
    assert (found.argmax(1) == labels[FIT:].numpy()).mean() < 0.8
    for one in head.without:
        for row in one.index[one.index >= FIT].tolist():
            answer = one.weight @ features[row] + one.bias
            assert torch.allclose(torch.from_numpy(found)[row - FIT], answer, atol=1e-3)


def test_each_head_was_fitted_without_its_part_and_all_parts_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_STRENGTHS", (1.0,))
    features, labels = shots()
    head = fit_head(features, labels, kinds=("ridge",)).head
    assert sorted(torch.cat([one.index for one in head.without]).tolist()) == list(range(len(labels)))
    moved = features.clone()
    first = head.without[0]
    moved[first.index] += 5 * torch.randn(len(first.index), WIDTH, generator=torch.Generator().manual_seed(9))
    again = fit_head(moved, labels, kinds=("ridge",)).head
    assert torch.equal(again.without[0].index, first.index)

    def direction(one: Without | Linear) -> torch.Tensor:
        return one.weight / one.weight.norm()  # the temperature is chosen on all folds

    assert torch.allclose(direction(again.without[0]), direction(first), atol=1e-6), "it has not seen what moved"
    assert not torch.allclose(direction(again), direction(head), atol=1e-2)


def test_looks_at_one_picture_have_one_head_and_what_a_runtime_answered_is_kept() -> None:
    features, labels = shots()
    head, select = fit_head(features, labels).head, features[FIT:]
    each = 4
    looks = (select[:, None] + 0.1 * torch.randn(SELECT, each, WIDTH)).flatten(0, 1)
    rounded = np.round((looks @ head.weight.T + head.bias).numpy(), 1)
    found = held_out(head).correct(rounded, Features(), lambda: iter([looks]), each)
    for one in head.without:
        for row in one.index[one.index >= FIT].tolist():
            mine = slice(each * (row - FIT), each * (row - FIT) + each)
            expected = looks[mine] @ one.weight.T + one.bias
            assert torch.allclose(torch.from_numpy(found)[mine], expected, atol=0.06)


def test_a_model_whose_head_reads_fewer_features_takes_the_dense_ones() -> None:
    features, labels = shots()
    head, select = fit_head(features, labels).head, features[FIT:]
    own = (select @ head.weight.T + head.bias).numpy()
    batches = lambda: iter([select])  # noqa: E731
    found = held_out(head).correct(own, Features(keep=7), batches)
    assert np.array_equal(found, held_out(head).correct(own, Features(), batches))


def test_a_head_that_has_not_seen_them_changes_nothing() -> None:
    features, labels = shots()
    own = np.ones((SELECT, CLASSES), np.float32)
    plain = Linear(torch.zeros(CLASSES, WIDTH), torch.zeros(CLASSES), "cut from ImageNet's")
    on_fit = fit_head(features[:FIT], labels[:FIT]).head

    def none() -> Iterator[torch.Tensor]:
        raise AssertionError("no picture needs to be looked at")

    for head in (plain, on_fit):
        assert held_out(head).correct(own, Features(), none) is own


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_a_model_is_asked_once_for_its_answers_and_for_its_features(name: str) -> None:
    """The same as correcting its logits, in one pass over the looks."""
    model = timm.create_model(name).eval()
    looks, passes = [torch.randn(4, 3, 160, 160), torch.randn(2, 3, 160, 160)], []

    def batches() -> Iterator[torch.Tensor]:
        passes.append(1)
        return iter(looks)

    classifier = model.get_classifier()
    without = tuple(
        Without(torch.tensor([place]), torch.randn_like(classifier.weight), torch.randn_like(classifier.bias))
        for place in (5, 6, 7)
    )
    head = Linear(classifier.weight.detach(), classifier.bias.detach(), "fitted", without=without)
    one = HeldOut(head, torch.tensor([5, 6, 7]), model)
    found = one.answer(model, batches, 2)
    assert len(passes) == 1
    expected = one.correct(predict_logits(model, batches()), model, batches, 2)
    np.testing.assert_allclose(found, expected, atol=1e-2)
    plain = HeldOut(Linear(head.weight, head.bias, "cut"), torch.tensor([5, 6, 7]), model)
    np.testing.assert_array_equal(plain.answer(model, batches, 2), predict_logits(model, batches()))


def test_heads_are_stored_and_read_back(tmp_path: Path) -> None:
    head = fit_head(*shots()).head
    rundir = RunDir(tmp_path / "run")
    with rundir.locked():
        for compute in (lambda: head, lambda: pytest.fail("it is stored")):
            found = Store(rundir).head({"a": 1}, compute)
    for one, other in zip(found.without, head.without, strict=True):
        for part in ("index", "weight", "bias"):
            assert torch.equal(getattr(one, part), getattr(other, part))


@pytest.fixture(scope="module")
def asked(pi_site: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportOptions:
    return options(pi_site, tmp_path_factory.mktemp("held-out") / "out", macs=0.5)


@pytest.fixture(scope="module")
def made(asked: ExportOptions, tmp_path_factory: pytest.TempPathFactory) -> tuple[Generalist, Material]:
    plan = api.make_plan(asked)
    file = tmp_path_factory.mktemp("held-out") / "bank.pixels"
    bank = PictureBank.read(plan.listings.views, plan.generalist.preprocessing, BankOptions(file))
    return plan.generalist, divide(plan.listings, bank, asked)


def test_a_fine_tuned_model_that_is_judged_on_select_pictures_has_not_seen_them(
    asked: ExportOptions, made: tuple[Generalist, Material]
) -> None:
    """Heads without a part of the shots cannot take away what tuned blocks remember."""
    generalist, material = made
    fitted = {}
    for drop in (None, 1.0):
        how = asked.model_copy(update={"head": "fit", "fine_tune": True, "max_drop": drop, "macs": None})
        fitted[drop] = make_head(generalist, material, how)
    assert f"on {len(material.shots)} shots" in fitted[None].description
    assert f"on {len(material.task.fit)} shots" in fitted[1.0].description


def test_the_first_look_is_the_picture_itself_and_the_others_are_drawn_from_the_seed(
    made: tuple[Generalist, Material], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, material = made
    monkeypatch.setattr(module, "_CHUNK", 3)
    looks = Looks(material, 0, 8)
    shown = torch.cat([*looks.batches()])
    assert looks.each == 8
    assert len(shown) == 8 * len(material.task.select)
    own = torch.cat([*material.batches(material.task.select)])
    assert torch.equal(shown[::8], own)
    assert not torch.equal(shown[1::8], own)
    assert np.array_equal(np.concatenate([*looks.singly()]), shown.numpy())
    monkeypatch.undo()
    assert torch.equal(torch.cat([*Looks(material, 0, 8).batches()]), shown), "chunks change nothing"
    assert not torch.equal(torch.cat([*Looks(material, 1, 8).batches()]), shown)


def test_many_pictures_are_looked_at_once() -> None:
    assert [looks_each(count) for count in (1, 32, 100, 128, 256, 600)] == [8, 8, 5, 4, 2, 1]


def test_what_a_head_was_fitted_on_is_part_of_its_key() -> None:
    base = {"shots": 1, "seed": 0, "split_by": "auto", "classes": None, "head": "fit", "model": "m"}
    keys = []
    for tuned, drop in ((False, None), (False, 1.0), (True, None), (True, 1.0)):
        asked = {
            "options": {**base, "fine_tune": tuned, "max_drop": drop},
            **dict.fromkeys(("pictures", "versions", "weights_sha256", "class_map_sha256")),
        }
        keys.append(Keys.of(asked, {}).head)
    assert keys[0] == keys[1]
    assert keys[2] != keys[3]


@pytest.fixture
def fitted(asked: ExportOptions, tmp_path: Path) -> Iterator[Groundwork]:
    """A dense specialist with a head that was fitted on all shots."""
    rundir = RunDir(tmp_path / "run")
    with rundir.locked():
        how = asked.model_copy(update={"head": "fit"})
        yield Groundwork(api.make_plan(how), rundir, SilentProgress(), rundir.scratch())


def unseen(ground: Groundwork, pictures: Sequence[LabelledPicture]) -> torch.Tensor:
    """Answers to some shots, each of the head that was fitted without it."""
    features = penultimate(ground.specialist.module, ground.material.batches(pictures))
    places = [ground.material.shots.index(picture) for picture in pictures]
    whose = {place: one for one in ground.head.without for place in one.index.tolist()}
    rows = [whose[place].weight @ row + whose[place].bias for place, row in zip(places, features, strict=True)]
    return torch.stack(rows)


def test_widths_and_sizes_are_chosen_by_answers_of_heads_that_have_not_seen_the_pictures(
    fitted: Groundwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taco.material.PROBED", len(fitted.material.task.select) // 2)
    module, pictures = fitted.specialist.module, fitted.material.probed
    assert len(pictures) < len(fitted.material.task.select)
    found = fitted.probe(module)
    np.testing.assert_allclose(found, unseen(fitted, pictures), atol=1e-3)
    assert np.abs(found - predict_logits(module, fitted.material.batches(pictures))).max() > 0.01
    prober = fitted.width_search(fitted.dense).prober
    np.testing.assert_array_equal(prober.answer(module), found)
    assert prober.depends_on["held_out"], "what was stored before is not taken for it"


def test_int8_is_chosen_by_them_too(fitted: Groundwork) -> None:
    asked: list[Reference] = []

    class Seen:
        def export(self, model: Compressed, target: Target, path: Path) -> Artifact:
            if model.calibration is not None and model.calibration.reference is not None:
                asked.append(model.calibration.reference)
            return fitted.delivery.exporter.export(model, dataclasses.replace(target, precision="fp32"), path)

    target = dataclasses.replace(fitted.delivery.target, precision="int8")
    converter = dataclasses.replace(fitted.delivery.converter, exporter=cast("Any", Seen()), target=target)
    module, select = fitted.specialist.module, fitted.material.task.select
    converter.pair("seen", module, {}, lambda _name: contextlib.nullcontext())
    (reference,) = asked
    own = predict_logits(module, fitted.material.batches(select))
    np.testing.assert_allclose(reference.logits, unseen(fitted, select), atol=1e-3)
    np.testing.assert_allclose(reference.corrected(own), reference.logits, atol=1e-5)


def test_no_head_has_seen_another_frame_of_the_burst(
    fitted: Groundwork, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    groups = np.arange(len(fitted.material.shots)) // 2
    monkeypatch.setattr("taco.pictures.folds.groups_at", lambda *_: groups)
    rundir = RunDir(tmp_path / "bursts")
    with rundir.locked():
        ground = Groundwork(fitted.plan, rundir, SilentProgress(), rundir.scratch())
    held = [set(one.index.tolist()) for one in ground.head.without]
    labels = [picture.label_index for picture in ground.material.shots]
    pairs = [(i, i + 1) for i in range(0, len(labels) - 1, 2) if labels[i] == labels[i + 1]]
    assert pairs
    assert all(any({*pair} <= one for one in held) for pair in pairs)
    assert ground.keys.head == fitted.keys.head
    heads = ground.cutter().heads
    assert torch.equal(heads.groups, torch.from_numpy(groups))


def test_shots_that_judge_in_turn_are_not_learnt_from_through_frames_without_labels(fitted: Groundwork) -> None:
    shown, other = View(Path("again.jpg")), View(Path("other.jpg"))
    without = places_of([fitted], [""])[0].sides
    fitted.unlabelled = Unlabelled((shown, other), shows={shown: (0,)})
    sides = places_of([fitted], [""])[0].sides
    for side in sides:
        judged = side.looks.material.task.select
        views = side.make_cutter().recovery.unlabelled.views
        assert views == ((other,) if fitted.material.shots[0] in judged else (shown, other))
    before, after = ([str(side.depends_on) for side in one] for one in (without, sides))
    assert not set(before) & set(after), "what is stored of recovery without them is not taken for it"


def test_pictures_that_blocks_were_tuned_on_do_not_judge_in_turn(fitted: Groundwork) -> None:
    assert len(places_of([fitted], [""])[0].sides) == 3
    fitted.head = dataclasses.replace(fitted.head, tuned={"blocks.0.weight": torch.zeros(1)})
    (place,) = places_of([fitted], [""])
    (side,) = place.sides
    assert side.looks.material is fitted.material


def test_banks_of_candidates_share_the_room_of_one_and_their_minutes_stand_for_all(
    asked: ExportOptions, tmp_path: Path
) -> None:
    rundir = RunDir(tmp_path / "run")
    with rundir.locked():
        plan = api.make_plan(asked.model_copy(update={"recover_minutes": 2.0}))
        ground = Groundwork(plan, rundir, SilentProgress(), rundir.scratch())
        (place,) = places_of([ground], [""])
        sides = [side.make_cutter().recovery for side in place.sides]
    assert [side.bank_bytes for side in sides] == [BANK_BYTES // 3] * 3
    assert [(side.minutes, side.whole_minutes) for side in sides] == [(SHORT * 2.0 / 3, 2.0)] * 3
    held = [side.material.task.select for side in sides]
    assert sorted(map(str, [p.view for part in held for p in part])) == sorted(
        str(p.view) for p in ground.material.shots
    )
    for side in sides:
        assert not set(side.material.task.fit) & set(side.material.task.select)
        assert len(side.material.shots) == len(ground.material.shots)
    assert len({str(side.depends_on) for side in sides}) == 3, "what is stored of one is not taken for another"
