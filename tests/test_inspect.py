"""`taco inspect` and docs/families.md: what is said of a model is what is found in it."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import ROOT
from families import SMALL, build, units_of
from typer.testing import CliRunner

from taco import families
from taco.cli import app
from taco.errors import InputError
from taco.surgery.anatomy import PlanOptions, Sizes, draw, take_apart
from taco.surgery.size import peak_activation_bytes

QUICK = ("MobileNetV3", "EfficientNet with group norm")


def test_a_plan_is_really_cut_and_counted() -> None:
    family = SMALL[2]
    found = take_apart(build(family), "vit", family.input_size, PlanOptions(0.5, 16))
    assert set(found.planned) == {u.name for u in units_of(family).within_blocks}
    gone = sum(
        u.parameters * (u.width - found.planned[u.name]) for u in units_of(family).within_blocks if u.kind == "mlp"
    )
    heads = units_of(family).of("heads")
    gone += sum(u.parameters * (u.width - found.planned[u.name]) for u in heads)
    assert found.planned_sizes is not None
    assert found.sizes.params - found.planned_sizes.params == gone
    assert found.planned_sizes.macs < found.sizes.macs
    assert found.planned_sizes.peak_activation_bytes <= found.sizes.peak_activation_bytes


def test_a_plan_that_leaves_blocks_out_counts_without_them() -> None:
    family = SMALL[3]
    block = units_of(family).of("block")[2]
    found = take_apart(build(family), "convnext", family.input_size, PlanOptions(drop=(block.name,)))
    assert found.planned_sizes is not None
    assert found.sizes.params - found.planned_sizes.params == block.parameters
    assert found.sizes.macs - found.planned_sizes.macs == block.macs
    zeros = {name for name, width in found.planned.items() if width == 0}
    assert block.name in zeros
    assert all(name.startswith(block.name) for name in zeros)
    assert len(zeros) > 1
    assert f"  left out: {block.name}" in draw(found)
    with pytest.raises(InputError, match=r"--drop nonsense: no block .*There are: stages"):
        take_apart(build(family), "convnext", family.input_size, PlanOptions(drop=("nonsense",)))


def test_without_a_plan_nothing_is_planned() -> None:
    family = SMALL[0]
    found = take_apart(build(family), "small", family.input_size)
    assert found.planned == {}
    assert found.planned_sizes is None
    assert found.sizes == Sizes.of(build(family), family.input_size)


def test_the_drawing_has_a_bar_for_every_width_and_dots_for_what_goes() -> None:
    family = SMALL[0]
    lines = draw(take_apart(build(family), "small", family.input_size, PlanOptions(0.5, 1)))
    assert len(lines) == sum(u.kind != "block" for u in units_of(family).units)
    cut = [line for line in lines if "·" in line]
    assert len(cut) == len(units_of(family).within_blocks)
    assert all(" of " in line for line in cut)


def test_inspect_prints_drawing_table_and_reasons() -> None:
    result = CliRunner().invoke(app, ["inspect", "test_efficientnet_gn", "--size", "64"])
    assert result.exit_code == 0, result.output
    assert "parameters" in result.output
    assert "squeeze" in result.output
    assert "GroupNormAct" in result.output


def test_inspect_as_json_with_a_plan() -> None:
    result = CliRunner().invoke(app, ["inspect", "test_efficientnet", "--json", "--plan", "0.5", "--multiple", "4"])
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    inner = [unit for unit in shown["units"] if unit["kind"] == "inner"]
    assert inner
    assert all(unit["planned"] % 4 == 0 and unit["planned"] < unit["width"] for unit in inner)
    assert shown["planned_sizes"]["params"] < shown["sizes"]["params"]
    assert shown["input_size"] == [3, 160, 160]


def test_inspect_plans_without_a_block() -> None:
    result = CliRunner().invoke(app, ["inspect", "test_resnet", "--size", "64", "--drop", "layer*"])
    assert result.exit_code == 0, result.output
    assert "left out: layer" in result.output
    assert "planned:" in result.output


def test_an_unknown_model_is_refused() -> None:
    result = CliRunner().invoke(app, ["inspect", "resnet5000"])
    assert result.exit_code != 0


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param(shown, marks=() if shown.family in QUICK else pytest.mark.slow, id=shown.model)
        for shown in families.FAMILIES
    ],
)
def test_the_families_page_is_current(shown: families.Shown) -> None:
    text = (ROOT / "docs" / "families.md").read_text()
    assert families.section(shown) in text, "run `make families`"


def test_the_families_page_has_all_families_and_no_others() -> None:
    text = (ROOT / "docs" / "families.md").read_text()
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        f"## {shown.family} (`{shown.model}`)" for shown in families.FAMILIES
    ]
    assert text.startswith(families.INTRODUCTION.format(cut="heads, inner, mlp", more="head width"))


def test_peak_memory_by_hand() -> None:
    pixels = 4 * 32 * 32
    chain = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.Conv2d(16, 8, 1), torch.nn.Conv2d(8, 2, 1)
    )
    # the picture stays; the second layer reads 16 and writes 8 channels
    assert peak_activation_bytes(chain, (3, 32, 32)) == (3 + 16 + 8) * pixels
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 1024, 1))
    assert peak_activation_bytes(flat, (3, 32, 32)) == 3 * pixels + 4  # flattening copies nothing
