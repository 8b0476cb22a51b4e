"""Stitching over timm families: the smaller model is the dense one without those channels, and its sizes are real."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from families import CUT, SMALL, Family, build, group_of, pictures, slicing, units_of, wrong_sizes
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from timm.models._efficientnet_blocks import InvertedResidual
from timm.models.resnet import BasicBlock
from torch import nn

from taco.calibrate import calibrate
from taco.compress import UnitSolution, solve_units, stitch
from taco.errors import InputError, SolverError
from taco.exporters.ort import EXPORTER
from taco.exporters.protocol import Compressed, RunOptions
from taco.model import state_sha256
from taco.moments import Moments
from taco.targets.loading import load_target
from taco.units import Unit, find_units


def random_widths(solutions: Mapping[str, UnitSolution], ratio: float, seed: int) -> dict[str, int]:
    """Different widths around `ratio`, at least 1."""
    generator = torch.Generator().manual_seed(seed)
    spread = 0.8 + 0.4 * torch.rand(len(solutions), generator=generator)
    pairs = zip(solutions.values(), spread.tolist(), strict=True)
    return {s.unit.name: max(1, min(s.unit.width, round(ratio * f * s.unit.width))) for s, f in pairs}


def channels_last(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear)


@contextlib.contextmanager
def masked(model: nn.Module, solutions: Mapping[str, UnitSolution], widths: Mapping[str, int]) -> Iterator[nn.Module]:
    """The dense model with the removed channels zeroed: at the consumer, and where squeeze-and-excitation reads."""
    handles = []
    for name, width in widths.items():
        unit = solutions[name].unit
        keep = torch.zeros(unit.width)
        keep[solutions[name].order.keep(width)] = 1
        squeezes = {m.module.rpartition(".")[0] for m in unit.members if m.role == "in"}
        for target in (unit.consumer, *squeezes):
            handles.append(model.get_submodule(target).register_forward_pre_hook(zeroing(keep)))
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()


def zeroing(keep: torch.Tensor) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], torch.Tensor]:
    def hook(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        x = inputs[0]
        return x * keep if channels_last(layer) else x * keep[:, None, None]

    return hook


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("family", CUT, ids=str)
@given(ratio=st.floats(0.1, 0.95), seed=st.integers(0, 10_000))
@settings(max_examples=3, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])  # shrinking: minutes
def test_without_compensation_it_is_the_dense_model_with_those_channels_masked(
    family: Family, ratio: float, seed: int
) -> None:
    model, x = build(family), pictures(family, seed=seed)
    solutions = slicing(model, units_of(family).units, seed)
    widths = random_widths(solutions, ratio, seed)
    before = state_sha256(model)
    smaller = stitch(model, solutions, widths)
    assert state_sha256(model) == before
    with torch.no_grad(), masked(model, solutions, widths):
        expected = model(x)
    with torch.no_grad():
        assert difference(smaller(x), expected) < 1e-4
        assert difference(expected, model(x)) > 1e-3  # the mask did something
    assert list(wrong_sizes(smaller)) == []
    assert {u.name: u.width for u in find_units(smaller).units} == widths


def solved(model: nn.Module, batches: list[torch.Tensor]) -> dict[str, UnitSolution]:
    units = find_units(model).units
    moments = calibrate(model, [unit.consumer for unit in units], batches)
    return solve_units(model, units, moments)


@pytest.mark.parametrize("family", SMALL, ids=str)
def test_two_cuts_one_after_the_other_run_and_learn(family: Family) -> None:
    x = pictures(family, 4)
    model = build(family)
    for ratio in (0.7, 0.5):
        solutions = solved(model, [x])
        widths = random_widths(solutions, ratio, 3)
        model = stitch(model, solutions, widths)
        assert list(wrong_sizes(model)) == []
        assert {u.name: u.width for u in find_units(model).units} == widths
    model.requires_grad_(True)
    model(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.slow
@pytest.mark.parametrize("family", [f for f in CUT if f not in SMALL], ids=str)
@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.9])
def test_two_cuts_of_every_family(family: Family, ratio: float) -> None:
    x = pictures(family, 4)
    model = build(family)
    for _ in range(2):
        solutions = solved(model, [x[:2], x[2:]])
        model = stitch(model, solutions, random_widths(solutions, ratio, 1))
    assert list(wrong_sizes(model)) == []
    model.requires_grad_(True)(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def check_export(family: Family, folder: Path) -> None:
    model = build(family)
    solutions = solved(model, [pictures(family, 4)])
    smaller = stitch(model, solutions, random_widths(solutions, 0.5, 2))
    x = pictures(family, 1, seed=9)
    size = (3, family.pixels, family.pixels)
    artifact = EXPORTER.export(Compressed(smaller, size), load_target("host-cpu"), folder / "model.onnx")
    got = EXPORTER.open(artifact.path, RunOptions(threads=1)).run(x.numpy())
    with torch.no_grad():
        expected = smaller(x).numpy()
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("family", SMALL[:2], ids=str)
def test_the_smaller_model_exports_and_runs_the_same(family: Family, tmp_path: Path) -> None:
    check_export(family, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", CUT[2:], ids=str)
def test_every_family_exports_and_runs_the_same(family: Family, tmp_path: Path) -> None:
    check_export(family, tmp_path)


class Chain(nn.Module):
    """One block whose inner channels are copies, sums and constants of the first few."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


def dependent_basic() -> tuple[nn.Module, int]:
    """24 channels: 8 and their positive multiples (the ReLU keeps them so), then constants, which padding makes one."""
    block = BasicBlock(6, 24, downsample=nn.Conv2d(6, 24, 1))
    with torch.no_grad():
        block.bn1.running_mean.zero_()
        block.bn1.running_var.fill_(1)
        for i in range(8, 24):
            block.conv1.weight[i] = (0.5 + 0.1 * i) * block.conv1.weight[i % 8]
        block.conv1.weight[20:] = 0
        block.bn1.bias[20:] = torch.tensor([1.0, 2.0, 0.5, -1.0])
    return Chain(block).eval(), 9


def dependent_inverted() -> tuple[nn.Module, int]:
    """Copies through the depthwise convolution too."""
    block = InvertedResidual(6, 8, exp_ratio=4)
    width = block.conv_pw.out_channels
    with torch.no_grad():
        for i in range(6, width):
            block.conv_pw.weight[i] = 2.0 * block.conv_pw.weight[i % 6]
            block.conv_dw.weight[i] = block.conv_dw.weight[i % 6]
    return Chain(block).eval(), 6


@pytest.mark.parametrize("make", [dependent_basic, dependent_inverted], ids=["basic", "inverted"])
def test_cutting_dependent_channels_is_lossless(make: Callable[[], tuple[nn.Module, int]]) -> None:
    torch.manual_seed(4)
    model, independent = make()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    x = torch.randn(8, 6, 12, 12)
    unit = find_units(model).units[0]
    moments = calibrate(model, [unit.consumer], [x])
    solutions = solve_units(model, [unit], moments, damping=1e-5)
    narrow, fewer = (
        stitch(model, solutions, {unit.name: width}, damping=1e-5) for width in (independent, independent - 1)
    )
    fresh = torch.randn(2, 6, 12, 12)
    with torch.no_grad():
        assert difference(narrow(x), model(x)) < 1e-4
        assert difference(narrow(fresh), model(fresh)) < 1e-4
        assert difference(fewer(fresh), model(fresh)) > 1e-2  # fewer than the independent ones must cost


def test_compensation_beats_slicing_on_held_out_pictures() -> None:
    family = SMALL[0]
    model = build(family)
    x, fresh = pictures(family, 16), pictures(family, 8, seed=77)
    solutions = solved(model, [x])
    widths = {name: s.unit.width // 2 for name, s in solutions.items()}
    plain = {
        name: dataclasses.replace(s, order=solutions[name].order)
        for name, s in slicing(model, units_of(family).units, 0).items()
    }
    with torch.no_grad():
        dense = model(fresh)
        refitted, sliced = stitch(model, solutions, widths)(fresh), stitch(model, plain, widths)(fresh)
    assert difference(refitted, dense) < 0.7 * difference(sliced, dense)


def test_the_bias_absorbs_the_mean_of_what_is_removed() -> None:
    torch.manual_seed(0)
    model = Chain(BasicBlock(4, 8, downsample=nn.Conv2d(4, 8, 1))).eval().requires_grad_(False)
    x = torch.rand(4, 4, 10, 10)
    unit = find_units(model).units[0]
    moments = calibrate(model, [unit.consumer], [x])
    smaller = stitch(model, solve_units(model, [unit], moments), {unit.name: 2})
    dense, small = (outputs_of(m, unit.consumer, x) for m in (model, smaller))
    assert model.block.conv2.bias is None
    assert smaller.block.conv2.bias is not None
    torch.testing.assert_close(small.mean((0, 2, 3)), dense.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)


def outputs_of(model: nn.Module, layer: str, x: torch.Tensor) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _m, _i, output: seen.append(output))
    with torch.no_grad():
        model(x)
    handle.remove()
    return seen[0].clone()


def test_the_order_of_widths_does_not_matter_where_two_units_share_a_layer() -> None:
    family = next(f for f in CUT if f.label == "resnet26d")
    model, x = build(family), pictures(family)
    solutions = solved(model, [x])
    widths = random_widths(solutions, 0.5, 0)
    one, two = stitch(model, solutions, widths), stitch(model, solutions, dict(reversed(widths.items())))
    with torch.no_grad():
        assert difference(one(x), two(x)) < 1e-4


def test_dense_and_missing_widths_change_nothing() -> None:
    family = SMALL[0]
    model = build(family)
    solutions = slicing(model, units_of(family).units, 0)
    name, first = next(iter(solutions.items()))
    same = stitch(model, solutions, {name: first.unit.width})
    assert state_sha256(same) == state_sha256(model)
    assert same is not model
    with torch.no_grad():
        next(same.parameters()).add_(1)
    assert state_sha256(same) != state_sha256(model)


def test_the_result_shares_no_tensor_with_the_dense_model() -> None:
    family = SMALL[1]
    model = build(family)
    before = state_sha256(model)
    solutions = slicing(model, units_of(family).units, 0)
    smaller = stitch(model, solutions, random_widths(solutions, 0.5, 0))
    with torch.no_grad():
        for tensor in smaller.state_dict().values():
            tensor.zero_()
    assert state_sha256(model) == before


def test_frozen_stays_frozen_and_dtype_stays() -> None:
    family = SMALL[0]
    model = build(family)
    solutions = slicing(model, units_of(family).units, 0)
    smaller = stitch(model, solutions, random_widths(solutions, 0.5, 0))
    assert not any(p.requires_grad for p in smaller.parameters())
    assert {p.dtype for p in smaller.parameters()} == {torch.float32}
    assert all(p.is_contiguous() for p in smaller.parameters())
    assert not smaller.training


@pytest.mark.parametrize("width", [0, -1, 10_000])
def test_an_impossible_width_is_refused(width: int) -> None:
    family = SMALL[0]
    solutions = slicing(build(family), units_of(family).units, 0)
    name = next(iter(solutions))
    with pytest.raises(InputError, match=f"{name} cannot keep {width} of"):
        stitch(build(family), solutions, {name: width})


def test_an_unknown_unit_is_refused_with_the_known_ones() -> None:
    family = SMALL[0]
    solutions = slicing(build(family), units_of(family).units, 0)
    with pytest.raises(InputError, match=r"'nonsense' is not a unit.*Units are: blocks"):
        stitch(build(family), solutions, {"nonsense": 8})


def broken(unit: Unit, cols: int) -> Moments:
    second = torch.full((1, cols, cols), float("nan"), dtype=torch.float64)
    return Moments(second, torch.zeros(1, cols, dtype=torch.float64), 1)


def test_a_numerical_failure_names_the_layer_in_both_steps() -> None:
    family = SMALL[0]
    model = build(family)
    solutions = slicing(model, units_of(family).units, 0)
    unit = units_of(family).units[0]
    bad = broken(unit, unit.width * group_of(model, unit))
    with pytest.raises(SolverError, match=f"^{unit.name}: .*Raise the damping to 0.1"):
        solve_units(model, [unit], {unit.consumer: bad})
    solutions[unit.name] = dataclasses.replace(solutions[unit.name], moments=bad)
    with pytest.raises(SolverError, match=f"^{unit.name}: .*Raise the damping to 0.1"):
        stitch(model, solutions, {unit.name: 4})


def test_progress_is_told_of_every_unit() -> None:
    family = SMALL[0]
    model, done = build(family), []
    units = units_of(family).units
    moments = calibrate(model, [unit.consumer for unit in units], [pictures(family)])
    solve_units(model, units, moments, progress=done.append)
    assert done == [1] * len(units)
