"""Heads: which one is chosen, cut rows, kept checkpoints, and fitted heads against closed forms and made-up data."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from taco.device.images import Preprocessing
from taco.errors import HeadError, UnsupportedModuleError
from taco.model import Generalist, classifier_of, reparameterised
from taco.specialist.head import HeadChoice, Linear, check_classifier, cut_head, keep_head, plan_head, with_head
from taco.specialist.probe import Setting, Shots
from taco.specialist.probe import fit_head as fit

PREPROCESSING = Preprocessing((3, 32, 32), "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 0.9, "center")
ZEBRA, LION = 340, 291


def fit_head(features: torch.Tensor, labels: torch.Tensor, seed: int = 0) -> Linear:
    return fit(features, labels, seed).head


class Plain(nn.Module):
    """The least that timm's models offer: a linear classifier that can be exchanged."""

    def __init__(self, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.fc = nn.Linear(4, outputs, bias=bias)

    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int) -> None:
        self.fc = nn.Linear(4, num_classes, bias=self.fc.bias is not None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc(x)
        return out


def generalist(
    outputs: int = 1000, classes: tuple[str, ...] | None = None, subset: str | None = None, bias: bool = True
) -> Generalist:
    module = Plain(outputs, bias).eval().requires_grad_(False)
    return Generalist(module, "plain", PREPROCESSING, subset, classes, "file a.pth", "0" * 64, "unknown", False)


# --- the decision ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Plan:
    classes: tuple[str, ...]
    choice: HeadChoice
    decision: HeadChoice
    subset: str | None = "imagenet-1k"


PLANS = (
    Plan(("zebra", "lion"), "auto", "imagenet"),
    Plan(("zebra", "lion"), "imagenet", "imagenet"),
    Plan(("zebra", "lion"), "fit", "fit"),
    Plan(("zebra", "lion"), "keep", "keep"),
    Plan(("moose", "okapi"), "auto", "fit"),
    Plan(("zebra", "okapi"), "fit", "fit"),
    Plan(("zebra", "lion"), "auto", "fit", None),
    Plan(("zebra", "lion"), "keep", "keep", None),
)


@pytest.mark.parametrize("plan", PLANS, ids=lambda p: f"{'+'.join(p.classes)} {p.choice} {p.subset}")
def test_which_head_is_taken(plan: Plan) -> None:
    decision, rows = plan_head(generalist(subset=plan.subset), plan.classes, plan.choice, None)
    assert decision == plan.decision
    known = {"zebra": ZEBRA, "lion": LION}
    assert rows == {c: known[c] if decision == "imagenet" else None for c in plan.classes}
    assert tuple(rows) == plan.classes


@pytest.mark.parametrize(
    ("classes", "choice", "message"),
    [
        (("zebra", "okapi", "crane"), "auto", "2 of 3 classes have no ImageNet label: okapi, crane"),
        (("moose", "okapi"), "imagenet", "2 of 2 classes have no ImageNet label: moose, okapi"),
        (("lion", *"abcdefg"), "auto", "7 of 8 classes .*: a, b, c, d, e, ..."),
        (("lion", "Panthera leo"), "auto", "lion, Panthera leo are all mapped to row 291"),
    ],
)
def test_classes_without_a_row_say_what_to_do(classes: tuple[str, ...], choice: HeadChoice, message: str) -> None:
    with pytest.raises(HeadError, match=message) as caught:
        plan_head(generalist(subset="imagenet-1k"), classes, choice, None)
    assert "--class-map" in caught.value.todo
    assert "--head fit" in caught.value.todo
    assert caught.value.exit_code == 2


def test_a_class_map_is_used_and_refused_where_there_are_no_rows(tmp_path: Path) -> None:
    file = tmp_path / "map.json"
    file.write_text('{"a": 291, "b": "n02391049"}')
    assert plan_head(generalist(subset="imagenet-1k"), "ab", "auto", file) == ("imagenet", {"a": LION, "b": ZEBRA})
    for choice, given_map in (("auto", file), ("imagenet", None)):
        with pytest.raises(HeadError, match="does not follow ImageNet's labels"):
            plan_head(generalist(), "ab", choice, given_map)  # type: ignore[arg-type]


# --- cut and kept heads ----------------------------------------------------------------------------------------------


def test_a_cut_head_gives_the_rows_in_the_order_asked() -> None:
    model = generalist()
    head = cut_head(model, [LION, 3, ZEBRA])
    x = torch.randn(5, 4)
    assert torch.allclose(F.linear(x, head.weight, head.bias), model.module(x)[:, [LION, 3, ZEBRA]], atol=1e-6)
    assert head.description == "imagenet-rows (3 rows of the head)"


def test_a_head_without_bias_is_cut_and_put_on(tmp_path: Path) -> None:
    model = generalist(bias=False)
    cut = with_head(model.module, cut_head(model, [5, 1]))
    x = torch.randn(3, 4)
    assert torch.allclose(cut(x), model.module(x)[:, [5, 1]])


def test_keep_takes_the_rows_by_the_checkpoints_names() -> None:
    model = generalist(3, ("hare", "fox", "owl"))
    fc = classifier_of(model.module)
    head = keep_head(model, ["owl", "hare"])
    assert torch.equal(head.weight, fc.weight[[2, 0]])
    assert torch.equal(head.bias, fc.bias[[2, 0]])
    assert head.description == "keep (names from the checkpoint)"


def test_keep_without_names_takes_the_folders_in_sorted_order() -> None:
    model = generalist(3)
    head = keep_head(model, ["owl", "fox", "hare"])
    assert torch.equal(head.weight, classifier_of(model.module).weight[[2, 0, 1]])
    assert head.description == "keep (class folders in sorted order)"


@pytest.mark.parametrize("written", ["empty", "Empty", "Blank"])
def test_keep_sorts_folders_by_the_names_that_they_have(written: str) -> None:
    model, folders = generalist(4), ("badger", "cat", written, "fox")
    head = keep_head(model, ["badger", "blank", "cat", "fox"], ["badger", written, "cat", "fox"])
    rows = [sorted(folders).index(name) for name in ("badger", written, "cat", "fox")]
    assert torch.equal(head.weight, classifier_of(model.module).weight[rows])


@pytest.mark.parametrize("own", ["empty", "Blank", "blank"])
def test_keep_finds_blank_by_any_of_its_names(own: str) -> None:
    model = generalist(3, ("hare", "fox", own))
    head = keep_head(model, ["blank", "fox", "hare"], ["Empty", "fox", "hare"])
    assert torch.equal(head.weight, classifier_of(model.module).weight[[2, 1, 0]])


@dataclasses.dataclass(frozen=True)
class NotKept:
    outputs: int
    own: tuple[str, ...] | None
    classes: tuple[str, ...]
    message: str


@pytest.mark.parametrize(
    "case",
    [
        NotKept(1000, None, ("a", "b"), "the checkpoint has 1000 classes, the task has 2"),
        NotKept(2, None, ("a", "b", "c"), "the checkpoint has 2 classes, the task has 3"),
        NotKept(2, ("a", "b"), ("a", "c"), r"has 2 classes \(a, b\), the task has 2; 'c' is not among them"),
        NotKept(6, tuple("abcdef"), ("z",), r"\(a, b, c, d, e, \.\.\.\), the task has 1; 'z' is not"),
        NotKept(3, ("a", "b"), ("a", "b"), "names 2 different classes for 3 outputs"),
        NotKept(2, ("a", "b", "c"), ("a", "b"), "names 3 different classes for 2 outputs"),
        NotKept(2, ("a", "a"), ("a",), "names 1 different classes for 2 outputs"),
    ],
    ids=lambda c: c.message[:40],
)
def test_keep_refuses_what_does_not_fit(case: NotKept) -> None:
    with pytest.raises(HeadError, match=case.message):
        keep_head(generalist(case.outputs, case.own), case.classes)


@dataclasses.dataclass(frozen=True)
class Ends:
    """How a timm model ends, and the side of a picture that it reads."""

    name: str
    pixels: int = 64

    def build(self) -> nn.Module:
        return reparameterised(timm.create_model(self.name).eval()).requires_grad_(False)


ENDS = (
    *map(Ends, ("test_resnet", "test_efficientnet", "test_convnext", "test_byobnet")),
    Ends("test_vit", 160),
    Ends("deit_tiny_patch16_224", 224),
    *map(Ends, ("mobilenetv4_conv_small_035", "ghostnet_050", "mobileone_s0", "fastvit_t8", "hgnetv2_b0")),
    *map(Ends, ("repvit_m0_9", "iformer_t", "shvit_s1")),  # merging makes their heads plain layers
    Ends("efficientvit_m0", 224),
)


@pytest.mark.parametrize("ends", ENDS, ids=lambda e: e.name)
def test_with_head_changes_the_copy_only(ends: Ends) -> None:
    module = ends.build()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    fc = classifier_of(module)
    head = Linear(torch.randn(3, fc.in_features), torch.randn(3), "test")
    torch.manual_seed(0)
    specialist = with_head(module, head)
    draw = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(draw, torch.rand(1))  # the caller's random numbers are untouched
    x = torch.randn(2, 3, ends.pixels, ends.pixels)
    features = module.forward_head(module.forward_features(x), pre_logits=True)  # type: ignore[operator]
    assert torch.allclose(specialist(x), F.linear(features, head.weight, head.bias), atol=1e-4)
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert not specialist.training
    assert not any(p.requires_grad for p in specialist.parameters())
    classifier_of(specialist).weight.zero_()
    assert bool(head.weight.any())


class WithAuxiliary(Plain):
    """Ends as VOLO does: another head has a say."""

    def __init__(self) -> None:
        super().__init__(5)
        self.auxiliary = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc(x) + 0.5 * self.auxiliary(x)
        return out


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (WithAuxiliary(), "the outputs of plain are more than its classifier's"),
        (timm.create_model("test_resnet", num_classes=0), "ends in Identity"),
        (timm.create_model("efficientformerv2_s0", num_classes=5), "ends in 2 heads"),
    ],
    ids=["auxiliary", "none", "distilled"],
)
def test_a_model_that_does_not_end_in_one_layer_is_refused_early(module: nn.Module, message: str) -> None:
    with pytest.raises(UnsupportedModuleError, match=message):
        check_classifier(reading(module, (3, 64, 4)))


def test_a_plain_classifier_passes_even_where_weights_are_damaged() -> None:
    module = Plain(5)
    check_classifier(reading(module, (3, 64, 4)))
    nn.init.constant_(module.fc.bias, float("nan"))
    check_classifier(reading(module, (3, 64, 4)))


def reading(module: nn.Module, size: tuple[int, int, int]) -> Generalist:
    own = generalist()
    return dataclasses.replace(own, module=module.eval(), preprocessing=PREPROCESSING._replace(input_size=size))


# --- fitted heads ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Blobs:
    """Made-up features: one centre a class and noise around it."""

    counts: tuple[int, ...] = (10, 10, 10)
    d: int = 20
    noise: float = 0.1
    seed: int = 0

    def draw(self, seed: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        centres = torch.randn(len(self.counts), self.d, generator=torch.Generator().manual_seed(self.seed))
        generator = torch.Generator().manual_seed(self.seed + 1 if seed is None else seed)
        labels = torch.repeat_interleave(torch.arange(len(self.counts)), torch.tensor(self.counts))
        return centres[labels] + self.noise * torch.randn(len(labels), self.d, generator=generator), labels


def logits(head: Linear, features: torch.Tensor) -> torch.Tensor:
    return F.linear(features, head.weight, head.bias)


def accuracy(head: Linear, features: torch.Tensor, labels: torch.Tensor) -> float:
    return 100 * float((logits(head, features).argmax(1) == labels).double().mean())


def described(head: Linear) -> tuple[str, float, int, int, float]:
    pattern = r"fit-(\w+) \(strength (\S+) and temperature by (\d)-fold cross-validation on (\d+) shots: (\S+) %\)"
    found = re.fullmatch(pattern, head.description)
    assert found is not None
    kind, strength, folds, shots, percent = found.groups()
    return kind, float(strength), int(folds), int(shots), float(percent)


SEPARABLE = (
    Blobs(),
    Blobs((10, 10)),
    Blobs((2, 2)),
    Blobs((2, 2, 2, 2), d=500),
    Blobs((60, 60), d=2),
    Blobs((40, 2, 5)),
    Blobs((3, 3, 3), d=1280, noise=0.5),
)


@pytest.mark.parametrize("blobs", SEPARABLE, ids=str)
def test_classes_that_can_be_separated_are(blobs: Blobs) -> None:
    head = fit_head(*blobs.draw())
    assert accuracy(head, *blobs.draw(seed=99)) > 95
    assert head.weight.shape == (len(blobs.counts), blobs.d)
    assert head.weight.dtype == head.bias.dtype == torch.float32
    assert not head.weight.requires_grad


@pytest.mark.parametrize("counts", [(10, 10, 10), (2, 2), (4, 30)], ids=str)
def test_the_description_is_true(counts: tuple[int, ...]) -> None:
    _, _, folds, shots, percent = described(fit_head(*Blobs(counts).draw()))
    assert (folds, shots, percent) == (min(5, *counts), sum(counts), 100.0)


def test_the_accuracy_told_is_that_of_pictures_not_seen() -> None:
    # 60 pictures in 500 dimensions with drawn labels: any head fits them perfectly, none knows an unseen one
    features = torch.randn(60, 500, generator=torch.Generator().manual_seed(3))
    labels = torch.arange(60) % 3
    head = fit_head(features, labels)
    assert described(head)[4] < 60
    assert described(head)[4] == pytest.approx(100 / 3, abs=22)


def test_noise_is_regularised_more_than_a_fine_signal() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 2
    loud = 10 * torch.randn(120, 30, generator=generator)
    fine = loud.clone()
    fine[:, 0] = (labels * 2 - 1) + 0.05 * torch.randn(120, generator=generator)  # small, exact, under loud directions
    kind, strength, *_, percent = described(fit_head(fine, labels))
    assert percent == 100
    assert strength <= 0.01
    noisy = 2.0 * torch.randn(120, 200, generator=generator)
    noisy[:, :20] += 0.4 * (labels * 2 - 1)[:, None]
    assert described(fit_head(noisy, labels))[1] > strength
    assert kind in ("ridge", "logistic")


def test_a_rare_class_is_not_drowned() -> None:
    # one picture in forty: calling everything common would be right 97.6 % of the time, but balanced accuracy is 50 %
    blobs = Blobs((200, 5), d=30, noise=0.6)
    head = fit_head(*blobs.draw())
    features, labels = blobs.draw(seed=5)
    recall = [(logits(head, features).argmax(1) == labels)[labels == c].double().mean() for c in (0, 1)]
    assert min(map(float, recall)) >= 0.8


def test_features_that_never_change_do_no_harm() -> None:
    features, labels = Blobs().draw()
    with_constant = torch.cat([features, torch.full((len(features), 3), 7.0), torch.zeros(len(features), 2)], 1)
    head, plain = fit_head(with_constant, labels), fit_head(features, labels)
    assert torch.allclose(logits(head, with_constant), logits(plain, features), atol=1e-3)
    assert float(head.weight[:, 20:].abs().max()) < 1e-6


@pytest.mark.parametrize("shift", [0.0, 50.0])
def test_ridge_is_the_closed_form_with_an_intercept(shift: float) -> None:
    features, labels = Blobs((7, 5, 9), d=6, noise=2.0).draw()
    X = features.double() + shift
    weight, bias = Shots.of(X, labels, 3).solve(Setting("ridge", 0.3))
    Y = F.one_hot(labels, 3).double()
    Xc = X - X.mean(0)
    penalty = 0.3 * Xc.square().sum(1).mean()
    closed = torch.linalg.solve(Xc.T @ Xc + penalty * torch.eye(6), Xc.T @ (Y - Y.mean(0))).T
    assert torch.allclose(weight, closed, atol=1e-10)
    assert torch.allclose(bias, Y.mean(0) - closed @ X.mean(0), atol=1e-8)


@pytest.mark.parametrize("d", [3, 60])
def test_logistic_is_where_its_gradient_vanishes(d: int) -> None:
    features, labels = Blobs((7, 5, 9), d=d, noise=2.0).draw()
    X = features.double()
    weight, bias = (v.requires_grad_() for v in Shots.of(X, labels, 3).solve(Setting("logistic", 1.0)))
    penalty = (X - X.mean(0)).square().sum(1).mean() / len(X)
    loss = F.cross_entropy(X @ weight.T + bias, labels) + 0.5 * penalty * weight.square().sum()
    gradients = torch.autograd.grad(loss, (weight, bias))
    assert all(float(g.abs().max()) < 1e-3 for g in gradients)


@pytest.mark.parametrize(("scale", "shift"), [(1e-3, 0.0), (1e3, 0.0), (1.0, 100.0), (0.1, -20.0)])
def test_scale_and_shift_of_the_features_do_not_matter(scale: float, shift: float) -> None:
    features, labels = Blobs((6, 6), d=8, noise=1.0).draw()
    moved = scale * features.double() + shift
    head, other = fit_head(features, labels), fit_head(moved, labels)
    assert described(head) == described(other)


def test_temperature_makes_probabilities_of_the_logits() -> None:
    blobs = Blobs((100, 100), d=10, noise=2.5)
    head = fit_head(*blobs.draw())
    features, labels = blobs.draw(seed=77)
    found = F.cross_entropy(logits(head, features), labels)
    scaled = {t: float(F.cross_entropy(t * logits(head, features), labels)) for t in (0.25, 4.0)}
    assert float(found) < min(scaled.values())
    assert float(found) < 0.69  # less than a coin


def test_the_same_seed_gives_the_same_head_whatever_the_threads() -> None:
    features, labels = Blobs((8, 8), noise=3.0).draw()
    first = fit_head(features, labels, seed=1)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        again = fit_head(features, labels, seed=1)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(first.weight, again.weight)
    assert first.description == again.description
    assert torch.get_num_threads() == before


def test_inputs_are_not_modified() -> None:
    features, labels = Blobs().draw()
    copies = features.clone(), labels.clone()
    fit_head(features, labels)
    assert torch.equal(features, copies[0])
    assert torch.equal(labels, copies[1])


@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 2, 2], [1, 1, 1, 1]], ids=str)
def test_too_few_pictures_or_classes(labels: list[int]) -> None:
    with pytest.raises(HeadError, match=r"a head cannot be fitted on 4 pictures of \d classes, the rarest with"):
        fit_head(torch.randn(4, 3), torch.tensor(labels))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, 3.0])
def test_features_that_tell_nothing(value: float) -> None:
    features = torch.full((6, 4), value)
    with pytest.raises(HeadError, match=r"not finite, or the same for every picture.*Check the weights"):
        fit_head(features, torch.arange(6) % 2)


def test_a_fold_whose_pictures_are_all_alike_is_survived() -> None:
    features = torch.ones(4, 3)
    features[3] = 2.0
    head = fit_head(features, torch.tensor([0, 0, 1, 1]))
    assert bool(head.weight.isfinite().all())
    assert bool(head.bias.isfinite().all())
