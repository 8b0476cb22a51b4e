"""Compressed models on disk: what is refused when files were damaged or tampered with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from families import CUT, SMALL, build, random_orders, random_widths, units_of
from torch import nn

from taco.compress import stitch
from taco.errors import BundleError
from taco.surgery.stitched import ARCHITECTURE, TENSORS, describe, load_model, save_model


def saved(folder: Path) -> Path:
    family = SMALL[0]
    solutions = random_orders(units_of(family).units, 0)
    model = stitch(build(family), solutions, random_widths(solutions, 0.5, 0), compensate=False)
    save_model(model, describe(model, family.model, family.timm_arguments), folder)
    return folder


def change(folder: Path, **changes: Any) -> None:
    file = folder / ARCHITECTURE
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_dense_model_differs_in_nothing() -> None:
    family = SMALL[0]
    found = describe(build(family), family.model, family.timm_arguments)
    assert (found.dropped, found.shapes, found.sizes) == ((), {}, {})


def test_only_sizes_that_are_named_are_set(tmp_path: Path) -> None:
    change(saved(tmp_path), sizes={"": {"forward": 1}})
    with pytest.raises(BundleError, match="'forward' of  is not a size"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "no_such_model"}, "timm has no model named 'no_such_model'"),
        ({"shapes": {"conv_stem.weight": [1, 2, 3, 4]}}, "does not fit"),
        ({"dropped": ["blocks.9"]}, "has changed"),
        ({"extra": 1}, "cannot be read"),
        ({"schema_version": 2}, "cannot be read"),
    ],
    ids=["model", "shape", "block", "extra", "version"],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    change(saved(tmp_path), **changes)
    with pytest.raises(BundleError, match=said):
        load_model(tmp_path)


def test_missing_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be read"):
        load_model(tmp_path)
    saved(tmp_path)
    (tmp_path / TENSORS).write_bytes((tmp_path / TENSORS).read_bytes()[:-100])
    with pytest.raises(BundleError, match="cannot be read"):
        load_model(tmp_path)


def test_a_model_that_lost_a_tensor_cannot_be_described() -> None:
    family = SMALL[0]
    changed = stitch(build(family), {}, {})
    changed.get_submodule("conv_stem").weight = None  # type: ignore[assignment]
    with pytest.raises(BundleError, match=r"conv_stem\.weight is missing"):
        describe(changed, family.model, family.timm_arguments)


def test_new_biases_and_dropped_blocks_are_written_down() -> None:
    family = next(f for f in CUT if f.label == "vit")
    solutions = random_orders(units_of(family).units, 0)
    model = stitch(build(family), solutions, {"blocks.1": 0}, compensate=False)
    model.get_submodule("patch_embed.proj").bias = nn.Parameter(torch.zeros(192))
    found = describe(model, family.model, family.timm_arguments)
    assert found.dropped == ("blocks.1",)
    assert found.shapes == {}
