"""Stitching: the smaller model is the best one on the kept channels, its sizes are real, and refusals say why."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from families import CUT, SMALL, Family, build, pictures, random_orders, random_widths, solved, units_of, wrong_sizes
from masking import difference
from timm.models._efficientnet_blocks import InvertedResidual
from timm.models.resnet import BasicBlock
from torch import nn

from taco.calibrate import calibrate
from taco.compress import UnitSolution, droppable, solve_units, stitch
from taco.errors import InputError, SolverError
from taco.model import state_sha256
from taco.moments.sums import Moments
from taco.surgery.removal import Removal
from taco.units import find_units


def family(label: str) -> Family:
    return next(f for f in CUT if f.label == label)


@pytest.mark.parametrize("family", SMALL, ids=str)
def test_two_compensated_cuts_run_and_learn(family: Family) -> None:
    x = pictures(family, 4)
    model = build(family)
    for ratio in (0.7, 0.5):
        solutions = solved(model, find_units(model, family.input_size).within_blocks, [x])
        widths = random_widths(solutions, ratio, 3)
        model = stitch(model, solutions, widths)
        assert list(wrong_sizes(model)) == []
        assert {u.name: u.width for u in find_units(model, family.input_size).within_blocks} == widths
    model.requires_grad_(True)
    model(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", ["heads", "head width", "mlp", "stream"])
def test_compensation_helps_every_kind_in_a_transformer(kind: str) -> None:
    chosen = family("vit")
    model, x, fresh = build(chosen), pictures(chosen, 24), pictures(chosen, 8, seed=77)
    solutions = solved(model, units_of(chosen).of(kind), [x])  # type: ignore[arg-type]
    widths = {name: s.unit.width - s.unit.width // 3 for name, s in solutions.items()}
    with torch.no_grad():
        dense = model(fresh)
        refitted, cut = (stitch(model, solutions, widths, compensate=c)(fresh) for c in (True, False))
    assert difference(refitted, dense) < difference(cut, dense)


@pytest.mark.parametrize(
    "label", ["mobilenetv3", *(pytest.param(label, marks=pytest.mark.slow) for label in ("convnextv2", "regnet"))]
)
def test_compensation_helps_where_several_layers_read(label: str) -> None:
    chosen = family(label)
    model, x, fresh = build(chosen), pictures(chosen, 16), pictures(chosen, 8, seed=77)
    solutions = solved(model, units_of(chosen).within_blocks, [x])
    widths = {name: s.unit.width // s.unit.multiple // 2 * s.unit.multiple for name, s in solutions.items()}
    widths = {name: width for name, width in widths.items() if width}
    with torch.no_grad():
        dense = model(fresh)
        refitted, cut = (stitch(model, solutions, widths, compensate=c)(fresh) for c in (True, False))
    assert difference(refitted, dense) < 0.8 * difference(cut, dense)


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
    unit = find_units(model, x.shape[1:]).of("inner", "stem")[0]
    moments = calibrate(model, unit.calibrated, [x])
    solutions = solve_units(model, [unit], moments, damping=1e-5)
    narrow, fewer = (
        stitch(model, solutions, {unit.name: width}, damping=1e-5) for width in (independent, independent - 1)
    )
    fresh = torch.randn(2, 6, 12, 12)
    with torch.no_grad():
        assert difference(narrow(x), model(x)) < 1e-4
        assert difference(narrow(fresh), model(fresh)) < 1e-4
        assert difference(fewer(fresh), model(fresh)) > 1e-2  # fewer than the independent ones must cost


def test_the_bias_absorbs_the_mean_of_what_is_removed() -> None:
    torch.manual_seed(0)
    model = Chain(BasicBlock(4, 8, downsample=nn.Conv2d(4, 8, 1))).eval().requires_grad_(False)
    x = torch.rand(4, 4, 10, 10)
    unit = find_units(model, x.shape[1:]).of("inner", "stem")[0]
    moments = calibrate(model, unit.calibrated, [x])
    smaller = stitch(model, solve_units(model, [unit], moments), {unit.name: 2})
    dense, small = (outputs_of(m, unit.consumers[-1].module, x) for m in (model, smaller))
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
    chosen = family("resnet26d")
    model, x = build(chosen), pictures(chosen)
    solutions = solved(model, units_of(chosen).of("inner", "stream"), [x])
    widths = random_widths(solutions, 0.5, 0)
    one, two = stitch(model, solutions, widths), stitch(model, solutions, dict(reversed(widths.items())))
    with torch.no_grad():
        assert difference(one(x), two(x)) < 1e-4


def test_dense_and_missing_widths_change_nothing() -> None:
    family = SMALL[0]
    model = build(family)
    solutions = random_orders(units_of(family).within_blocks, 0)
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
    solutions = random_orders(units_of(family).within_blocks, 0)
    smaller = stitch(model, solutions, random_widths(solutions, 0.5, 0), compensate=False)
    with torch.no_grad():
        for tensor in smaller.state_dict().values():
            tensor.zero_()
    assert state_sha256(model) == before


def test_frozen_stays_frozen_and_dtype_stays() -> None:
    family = SMALL[0]
    model = build(family)
    solutions = random_orders(units_of(family).within_blocks, 0)
    smaller = stitch(model, solutions, random_widths(solutions, 0.5, 0), compensate=False)
    assert not any(p.requires_grad for p in smaller.parameters())
    assert {p.dtype for p in smaller.parameters()} == {torch.float32}
    assert all(p.is_contiguous() for p in smaller.parameters())
    assert not smaller.training


@pytest.mark.parametrize("width", [0, -1, 10_000])
def test_an_impossible_width_is_refused(width: int) -> None:
    family = SMALL[0]
    solutions = random_orders(units_of(family).within_blocks, 0)
    name = next(iter(solutions))
    with pytest.raises(InputError, match=f"{name} cannot keep {width} of"):
        stitch(build(family), solutions, {name: width})


def test_an_unknown_unit_is_refused_with_the_known_ones() -> None:
    family = SMALL[0]
    solutions = random_orders(units_of(family).within_blocks, 0)
    with pytest.raises(InputError, match=r"'nonsense' is not a unit.*Units are: blocks"):
        stitch(build(family), solutions, {"nonsense": 8})


def broken(cols: int) -> Moments:
    second = torch.full((1, cols, cols), float("nan"), dtype=torch.float64)
    return Moments(second, torch.zeros(1, cols, dtype=torch.float64), 1)


def test_a_numerical_failure_names_the_layer_in_both_steps() -> None:
    model, unit = build(SMALL[1]), units_of(SMALL[1]).within_blocks[0]
    layer = model.get_submodule(unit.name)
    bad = {unit.name: broken(layer.weight[0].numel())}  # type: ignore[operator,union-attr]
    with pytest.raises(SolverError, match=f"^{unit.name}: .*Raise the damping to 0.1"):
        solve_units(model, [unit], bad)
    solution = dataclasses.replace(random_orders([unit], 0)[unit.name], moments=bad)
    with pytest.raises(SolverError, match=f"^{unit.name}: .*Raise the damping to 0.1"):
        stitch(model, {unit.name: solution}, {unit.name: 4})


def test_progress_is_told_of_every_unit() -> None:
    family = SMALL[0]
    model, done = build(family), []
    units = units_of(family).within_blocks
    moments = calibrate(model, [layer for unit in units for layer in unit.calibrated], [pictures(family)])
    solve_units(model, units, moments, progress=done.append)
    assert done == [1] * len(units)


def test_widths_that_a_grouped_convolution_cannot_have_are_refused() -> None:
    chosen = family("regnet")
    (name, solution), *_ = random_orders(units_of(chosen).within_blocks, 0).items()
    with pytest.raises(InputError, match=r"cannot keep 12 of 24 channels.*a multiple of 8"):
        stitch(build(chosen), {name: solution}, {name: 12})


def test_a_dropped_block_is_gone_with_all_that_is_in_it() -> None:
    chosen = family("vit")
    model, found = build(chosen), units_of(chosen)
    solutions = random_orders(found.units, 0)
    inside = {name: s.unit.width - s.unit.width // 4 for name, s in solutions.items() if name.startswith("blocks.1.")}
    smaller = stitch(model, solutions, {"blocks.1": 0, **inside}, compensate=False)
    assert isinstance(smaller.get_submodule("blocks.1"), nn.Identity)
    x = pictures(chosen)
    with torch.no_grad():
        reference = stitch(model, {"blocks.1": droppable(found.of("block")[1])}, {"blocks.1": 0})
        assert torch.equal(smaller(x), reference(x))


def test_a_dependent_key_dimension_costs_nothing() -> None:
    """One dimension of the keys is a multiple of another: queries make up for it exactly."""
    chosen = family("vit")
    model, x = build(chosen), pictures(chosen, 16)
    changed = stitch(model, {}, {})
    qkv = changed.get_submodule("blocks.0.attn.qkv")
    with torch.no_grad():
        for tensor in (qkv.weight, qkv.bias):  # keys and values of every head: dimension 0 is twice dimension 1
            rows = tensor.view(3, 3, 64, -1)  # type: ignore[operator,union-attr]
            rows[1:, :, 0] = 2 * rows[1:, :, 1]
    unit = units_of(chosen).of("head width")[0]
    solutions = solve_units(changed, [unit], calibrate(changed, unit.calibrated, [x]), damping=1e-6)
    first = solutions[unit.name].order.removed[:, 0]
    assert set(first.tolist()) <= {0, 1}
    smaller, cut = (stitch(changed, solutions, {unit.name: 63}, damping=1e-6, compensate=c) for c in (True, False))
    with torch.no_grad():
        assert difference(smaller(x), changed(x)) < 1e-4
        assert difference(cut(x), changed(x)) > 1e-3


def test_losses_are_shares_that_grow_to_everything() -> None:
    for chosen in (SMALL[0], family("vit")):
        units = [u for u in units_of(chosen).units if u.kind not in ("block", "stem", "stream")]
        for solution in solved(build(chosen), units, [pictures(chosen, 8)]).values():
            loss, count = solution.order.loss, len(solution.unit.consumers)
            assert loss[0] == 0
            assert len(loss) == solution.unit.width + 1
            assert (loss.diff() >= -1e-9).all()
            parts = count + (solution.unit.kind == "head width")
            assert float(loss[-1]) == pytest.approx(parts, rel=0.05), solution.unit.name


def test_a_removal_keeps_what_leaves_last() -> None:
    order = Removal(torch.tensor([[2, 3, 0, 1], [0, 1, 2, 3]]), torch.zeros(5), 2)
    assert order.keep(2).tolist() == [[0, 1], [2, 3]]
    with pytest.raises(InputError, match="1 of 4 channels"):
        order.keep(1)


def test_solutions_know_their_moments() -> None:
    chosen = family("mobilenetv3")
    unit = units_of(chosen).within_blocks[2]
    (solution,) = solved(build(chosen), [unit], [pictures(chosen)]).values()
    assert isinstance(solution, UnitSolution)
    assert set(solution.moments) == {m.module for m in unit.consumers}
