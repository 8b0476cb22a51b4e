"""Tests of `taco.moments.replay`: the same numbers, fewer layers run, and whole runs where nothing can be left out."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import timm
import torch
from torch import nn

from taco.moments import replay
from taco.moments.replay import Replay

SIZE = (3, 64, 64)


class Leaking(nn.Module):
    """Its end reads its beginning: no module between them is a place to begin at."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(c, 4, 3, padding=1) for c in (3, 4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        early = self.first(x)
        return self.third(self.second(early)) + early


def batches() -> list[torch.Tensor]:
    return [torch.randn(n, *SIZE, generator=torch.Generator().manual_seed(n)) for n in (3, 2)]


def layers_of(model: nn.Module) -> list[str]:
    """Names of all layers with weights, in the model's order."""
    seen: list[str] = []
    with ExitStack() as stack, torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                hook = module.register_forward_pre_hook(lambda _m, _x, name=name: seen.append(name))
                stack.callback(hook.remove)
        model(batches()[0])
    return seen


def watched(model: nn.Module, replay: Replay, layers: list[str]) -> tuple[list[torch.Tensor], int]:
    """One pass: what the layers read and the answers, and how many layers ran."""
    seen: list[torch.Tensor] = []
    ran = 0

    def count(*_: object) -> None:
        nonlocal ran
        ran += 1

    with ExitStack() as stack, torch.no_grad():
        run = stack.enter_context(replay.before(layers, batches()[0][:1]))
        for name in layers:
            hook = model.get_submodule(name).register_forward_pre_hook(lambda _m, x: seen.append(x[0].clone()))
            stack.callback(hook.remove)
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                forward = module.forward  # what a stub replaces is not counted

                def counted(*args: torch.Tensor, forward=forward) -> torch.Tensor:  # type: ignore[no-untyped-def]
                    count()
                    return forward(*args)

                module.forward = counted  # type: ignore[method-assign]
                stack.callback(module.__dict__.pop, "forward", None)
        for number, batch in enumerate(batches()):
            answer = run(number, batch)
            assert isinstance(answer, torch.Tensor)
            seen.append(answer.clone())
    return seen, ran


@pytest.fixture(params=["test_efficientnet", "test_vit", "test_resnet", "test_convnext"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = timm.create_model(request.param, num_classes=3, img_size=64) if "vit" in request.param else (
        timm.create_model(request.param, num_classes=3)
    )  # fmt: skip
    return made.eval()


def groups(layers: list[str]) -> Iterator[list[str]]:
    step = max(1, len(layers) // 5)
    return (layers[start : start + step] for start in range(0, len(layers), step))


def test_passes_give_what_whole_runs_give_while_layers_change(model: nn.Module) -> None:
    replay, ran = Replay(model), []
    for group in groups(layers_of(model)):
        expected, whole = watched(model, Replay(model, budget_bytes=0), group)
        found, own = watched(model, replay, group)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        assert own <= whole
        ran.append(own / whole)
        with torch.no_grad():
            for name in group:
                model.get_submodule(name).weight.mul_(1.1)  # type: ignore[operator, union-attr]
    assert ran[0] == 1
    assert ran[-1] < 0.6, ran  # most of the model was looked up


def test_nothing_of_a_pass_stays_in_the_model(model: nn.Module) -> None:
    before = {name: dict(module.__dict__) for name, module in model.named_modules()}
    replay = Replay(model)
    for group in list(groups(layers_of(model)))[:3]:
        watched(model, replay, group)
    for name, module in model.named_modules():
        assert "forward" not in module.__dict__
        assert not module._forward_hooks
        assert module.__dict__.keys() == before[name].keys()


def test_where_the_end_reads_the_beginning_all_is_run() -> None:
    torch.manual_seed(0)
    model = Leaking().eval()
    replay = Replay(model)
    counts = [watched(model, replay, [name])[1] for name in ("second", "third", "third")]
    # `first` may be begun after: all that follows reads nothing else; `second` may not
    assert counts == [6, 4, 4]


def test_a_model_that_answers_the_same_whatever_it_sees_is_not_begun_too_late() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Leaking(), nn.Conv2d(4, 2, 1)).eval()
    torch.nn.init.zeros_(model[1].weight)  # so the answer tells nothing of what was before
    replay = Replay(model)
    for group in (["0.second"], ["0.third"], ["1"]):
        expected, _ = watched(model, Replay(model, budget_bytes=0), group)
        found, _ = watched(model, replay, group)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_model_that_differs_later_begins_where_the_one_before_was_reached(model: nn.Module) -> None:
    layers, replay = layers_of(model), Replay(model)
    for name in (layers[len(layers) // 2], layers[-2]):
        replay.reach(name, batches())
        other = copy.deepcopy(model)
        with torch.no_grad():
            other.get_submodule(name).weight.mul_(1.5)  # type: ignore[operator, union-attr]
        expected, whole = watched(other, Replay(other, budget_bytes=0), [name])
        found, own = watched(other, replay.fork(other), [name])
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        assert own < whole
    assert not any("forward" in module.__dict__ or module._forward_pre_hooks for module in model.modules())


def test_going_back_is_a_whole_run(model: nn.Module) -> None:
    layers, replay = layers_of(model), Replay(model)
    for group in (layers[-2:-1], layers[-1:], layers[1:2]):
        expected, whole = watched(model, Replay(model, budget_bytes=0), group)
        found, own = watched(model, replay, group)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert own == whole


def test_blanks_are_zeros_again_after_something_wrote_into_them() -> None:
    blanks = replay._Blanks({"a": torch.Size([1, 2, 3]), "b": torch.Size([1, 5])})
    like = torch.ones(4, 7)
    first = blanks.give("a", like)
    assert first.shape == (4, 2, 3)
    assert first.data_ptr() == blanks.give("b", like).data_ptr(), "one memory for all"
    first.add_(3.0)
    assert not blanks.give("b", like).any()
    assert blanks.give("b", torch.ones(1, 7)).shape == (1, 5)
    blanks.give("a", like).fill_(torch.nan)
    larger = blanks.give("a", torch.ones(6, 7))
    assert larger.shape == (6, 2, 3)
    assert not larger.any()
