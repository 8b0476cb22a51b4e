"""Weights to zero on a tiny model: the plan of stages, what is left, masks that hold, resuming, refusals."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import onnx
import pytest
import tiny_run
from conftest import draw_task
from onnx import numpy_helper

from taco import api
from taco.bundle import Bundle
from taco.errors import InputError
from taco.levels import Level
from taco.sparse.packing import unpack_model
from taco.steps import recovering
from taco.steps.sparsify import levels_around, sparsities


@pytest.mark.parametrize(
    ("asked", "stages"),
    [(0.3, 1), (0.5, 1), (0.75, 2), (0.9, 3), (0.95, 4), (0.99, 7)],
)
def test_what_remains_shrinks_by_one_factor_near_a_half(asked: float, stages: int) -> None:
    plan = sparsities(asked)
    assert len(plan) == stages
    assert plan[-1] == asked
    left = [1.0, *(1 - s for s in plan)]
    factors = [after / before for before, after in itertools.pairwise(left)]
    assert factors == pytest.approx([factors[0]] * stages)


def test_levels_lie_on_both_sides_of_the_stage_and_never_keep_everything() -> None:
    levels = levels_around(0.9, "unstructured")
    assert Level("unstructured", 0.9) in levels
    assert min(float(level.value or 0) for level in levels) < 0.9 < max(float(level.value or 0) for level in levels)
    assert all(0 < float(level.value or 0) < 1 for level in levels_around(0.5, "4-block"))
    assert levels_around(0.5, "2:4") == (Level("nm", "2:4"),)


def options(task: Path, out: Path, **changes: Any) -> api.ExportOptions:
    sparse = {"sparsity": 0.8, "solver": "magnitude_refit", "damping": 0.01, "recover_minutes": 0.1}
    return tiny_run.options(task, out, **{**sparse, "executor": "local:1", **changes})


def model_of(folder: Path) -> str:
    return Bundle(folder).manifest.files["model.onnx"].sha256


@pytest.fixture(scope="module")
def run(pi_site: Path, pi_run: api.ExportResult, tmp_path_factory: pytest.TempPathFactory) -> api.ExportResult:
    """One finished run: 80 % in two stages, with a short recovery; tests leave it as it is."""
    with pytest.MonkeyPatch.context() as patch:
        tiny_run.train_by_no_clock(patch)
        return api.export(options(pi_site, tmp_path_factory.mktemp("run") / "out", from_run=pi_run.folder))


def test_the_asked_share_is_zero_in_the_exported_file_and_the_packed_one_unpacks_to_it(run: api.ExportResult) -> None:
    out, report = run.folder, run.report
    found = report.sparsity
    assert found is not None
    assert found.percent >= 80 - 0.01
    assert [round(stage.percent, 2) for stage in found.stages] == [55.28, 80.0]
    assert [stage.steps for stage in found.stages] == [6, 6]
    assert {layer.name for layer in found.layers}.isdisjoint({"conv_stem", "classifier"})
    assert report.size.compressed.macs == report.size.dense.macs
    assert report.size.compressed.nonzero < report.size.dense.nonzero
    assert unpack_model(out / "model.sparse.safetensors") == (out / "model.onnx").read_bytes()
    assert found.packed_bytes == Bundle(out).manifest.files["model.sparse.safetensors"].bytes
    assert found.packed_bytes < report.size.dense.bytes
    zeros = sum(int((numpy_helper.to_array(t) == 0).sum()) for t in onnx.load(out / "model.onnx").graph.initializer)
    assert zeros >= found.weights - found.nonzero
    assert not list((out / ".taco" / "databases").glob("*")), "a finished stage leaves no database"


@pytest.mark.slow
def test_a_run_that_was_killed_between_stages_ends_with_the_same_model(
    pi_site: Path, run: api.ExportResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_run.train_by_no_clock(monkeypatch)
    real, calls = recovering.recover, []

    def second_dies(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(recovering, "recover", second_dies)
    with pytest.raises(KeyboardInterrupt):
        api.export(options(pi_site, tmp_path / "cut"))
    api.export(options(pi_site, tmp_path / "cut"))
    assert len(calls) == 3, "the first stage's recovery is not done again"
    assert model_of(run.folder) == model_of(tmp_path / "cut")


@pytest.mark.slow
def test_globs_choose_layers(pi_site: Path, run: api.ExportResult, tmp_path: Path) -> None:
    asked = {"recover_minutes": 0.0, "include": ("blocks.2.*",), "exclude": ("*.conv_dw",), "sparsity": 0.5}
    found = api.export(options(pi_site, tmp_path / "out", from_run=run.folder, **asked)).report.sparsity
    assert found is not None
    names = {layer.name for layer in found.layers}
    assert names
    assert all(name.startswith("blocks.2.") and not name.endswith("conv_dw") for name in names)
    with pytest.raises(InputError, match="matches no Linear or Conv2d"):
        api.export(options(pi_site, tmp_path / "b", from_run=run.folder, include=("bloks.*",)))


def test_two_of_four(pi_site: Path, run: api.ExportResult, tmp_path: Path) -> None:
    asked = {"recover_minutes": 0.0, "sparsity": None, "pattern": "2:4", "sequential": True}
    found = api.export(options(pi_site, tmp_path / "out", from_run=run.folder, **asked)).report.sparsity
    assert found is not None
    assert found.pattern == "2:4"
    assert found.percent == pytest.approx(50.0, abs=1.0)
    assert {layer.level for layer in found.layers} == {"nm:2:4"}
    assert found.dense, "depthwise layers have one input channel"
    assert len(found.stages) == 1


@pytest.mark.slow
def test_agnostic_calibration_gives_another_model_from_as_many_other_pictures(
    pi_site: Path, run: api.ExportResult, tmp_path: Path
) -> None:
    other = draw_task(tmp_path / "other", ("x",), count=30, seed=5)
    plain = {"recover_minutes": 0.0, "from_run": run.folder}
    api.export(options(pi_site, tmp_path / "a", **plain))
    asked = {**plain, "calibration": "agnostic", "agnostic_images": other}
    api.export(options(pi_site, tmp_path / "b", **asked))
    assert model_of(tmp_path / "a") != model_of(tmp_path / "b")
    few = draw_task(tmp_path / "few", ("x",), count=3, seed=6)
    with pytest.raises(InputError, match="holds 3 pictures that are not the task's own"):
        api.export(options(pi_site, tmp_path / "c", **{**asked, "agnostic_images": few}))
