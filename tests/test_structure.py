"""Whole models made smaller, over families, ratios and two cuts in a row.

Before compensation a stitched model is the dense one with units masked (tests/masking.py computes that on its own);
it learns, exports, and comes back from disk bit by bit.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from families import CUT, SMALL, Family, build, pictures, random_orders, random_widths, units_of, white, wrong_sizes
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from masking import difference, masked
from torch import nn

from taco.compress import UnitSolution, stitch
from taco.exporters.ort import EXPORTER
from taco.exporters.protocol import Compressed, RunOptions
from taco.model import state_sha256
from taco.surgery.stitched import describe, load_model, save_model
from taco.targets.loading import load_target
from taco.units import find_units

#: Without shrinking: that would take minutes.
PHASES = [Phase.explicit, Phase.reuse, Phase.generate]
EXACT = 1e-8
#: timm builds the same modules for it, of the same shapes, as for "vit".
BUILT_ALIKE = ("deit",)
#: By the default run, or by a family that exports the same operations.
EXPORTED_ELSEWHERE = (*BUILT_ALIKE, "test_vit", "vit", "resnet with blur", "regnet, depthwise")


def cut_twice(family: Family, ratio: float, seed: int) -> nn.Module:
    """Cut all units at random, twice, and compare each time with the masked model.

    In double precision, so that rounding cannot hide a small mistake.
    """
    model, x = copy.deepcopy(build(family)).double(), pictures(family, seed=seed).double()
    for step in range(2):
        solutions = random_orders(find_units(model.float(), family.input_size).units, seed + step)
        widths = random_widths(solutions, ratio, seed + step)
        model = model.double()
        before = state_sha256(model)
        smaller = stitch(model, solutions, widths, compensate=False)
        assert state_sha256(model) == before
        with torch.no_grad():
            with masked(model, solutions, widths):
                expected = model(x)
            assert difference(smaller(x), expected) <= EXACT, (step, widths)
        assert list(wrong_sizes(smaller)) == []
        model = smaller
    return model.float()


@pytest.mark.parametrize("family", SMALL, ids=str)
@given(ratio=st.floats(0.1, 0.95), seed=st.integers(0, 10_000))
@settings(max_examples=2, deadline=None, phases=PHASES)
def test_a_small_model_is_the_dense_one_masked(family: Family, ratio: float, seed: int) -> None:
    cut_twice(family, ratio, seed)


@pytest.mark.slow
@pytest.mark.parametrize("family", [f for f in CUT if f.label not in BUILT_ALIKE], ids=str)
@given(ratio=st.floats(0.1, 0.95), seed=st.integers(0, 10_000))
@settings(max_examples=4, deadline=None, phases=PHASES)
def test_every_family_is_the_dense_one_masked_and_learns(family: Family, ratio: float, seed: int) -> None:
    model = cut_twice(family, ratio, seed).requires_grad_(True)
    model(pictures(family)).square().mean().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def check_export_and_disk(family: Family, folder: Path) -> None:
    """Cut with biases from compensation, then cut everything; export, save, read back."""
    model = build(family)
    solutions = with_white_inputs(model, random_orders(units_of(family).within_blocks, 1))
    model = stitch(model, solutions, random_widths(solutions, 0.75, 2))
    solutions = random_orders(find_units(model, family.input_size).units, 1)
    model = stitch(model, solutions, random_widths(solutions, 0.6, 2), compensate=False)
    one = pictures(family, 1, seed=9)
    artifact = EXPORTER.export(Compressed(model, family.input_size), load_target("host-cpu"), folder / "model.onnx")
    got = EXPORTER.open(artifact.path, RunOptions(threads=1)).run(one.numpy())
    with torch.no_grad():
        expected = model(one)
    assert np.abs(got - expected.numpy()).max() <= 1e-3 * np.abs(expected.numpy()).max()
    check_disk(family, model, folder)
    with torch.no_grad():
        assert torch.equal(load_model(folder)(one), expected)


def with_white_inputs(model: nn.Module, solutions: dict[str, UnitSolution]) -> dict[str, UnitSolution]:
    """Moments that cost nothing to take: white inputs around a mean, which biases absorb."""
    found = {}
    for name, solution in solutions.items():
        cols = {layer: model.get_submodule(layer).weight[0].numel() for layer in solution.unit.calibrated}  # type: ignore[operator,union-attr]
        moments = {layer: white(count) for layer, count in cols.items()}
        moments |= {norm: white(solution.unit.width) for norm in solution.unit.responses}
        found[name] = dataclasses.replace(solution, moments=moments)
    return found


def check_disk(family: Family, model: nn.Module, folder: Path) -> None:
    save_model(model, describe(model, family.model, family.timm_arguments), folder)
    again = load_model(folder)
    assert state_sha256(again) == state_sha256(model)
    assert [type(m) for m in again.modules()] == [type(m) for m in model.modules()]
    assert {n: tuple(b.shape) for n, b in again.named_buffers()} == {
        n: tuple(b.shape) for n, b in model.named_buffers()
    }


@pytest.mark.parametrize("family", SMALL[2:3], ids=str)
def test_a_small_model_exports_and_comes_back_from_disk(family: Family, tmp_path: Path) -> None:
    check_export_and_disk(family, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", [f for f in CUT if f.label not in EXPORTED_ELSEWHERE], ids=str)
def test_every_family_exports_and_comes_back_from_disk(family: Family, tmp_path: Path) -> None:
    check_export_and_disk(family, tmp_path)


def test_masking_changes_something() -> None:
    for family in SMALL:
        solutions = random_orders(units_of(family).units, 0)
        widths = random_widths(solutions, 0.5, 0)
        x = pictures(family)
        with torch.no_grad():
            dense = build(family)(x)
            for kind in {s.unit.kind for s in solutions.values()}:
                some = {n: w for n, w in widths.items() if solutions[n].unit.kind == kind}
                with masked(build(family), solutions, some):
                    assert difference(build(family)(x), dense) > 1e-3 or kind == "block", kind
