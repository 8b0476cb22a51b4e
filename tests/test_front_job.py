"""A whole front on a tiny model and a made-up device: everything is timed together, judged, stored, and picked from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from test_pipeline import FakeBench
from tiny_run import options, steps_of

from taco import api
from taco.errors import InputError, MeasurementError
from taco.front import job, rivals
from taco.front.page import read_front
from taco.search.bench import Bench
from taco.timing.timings import BenchResult

HOW = api.FrontOptions(speedups=(1.2, 1.4), beside=("test_resnet",), limit=5.0)


def made_up_tool(fp32: Path, pictures: Any, out: Path) -> None:
    """Stands in for a runtime's tool: it looks at the pictures and changes nothing."""
    assert sum(1 for _ in pictures) > 0
    out.write_bytes(fp32.read_bytes())


TOOL = rivals.Rival("ort-int8", "a made-up tool", "ort", "CPUExecutionProvider", made_up_tool)


whole = pytest.mark.slow  # all of it together is one run of about a minute


@pytest.fixture(scope="module")
def bench() -> FakeBench:
    return FakeBench()


@pytest.fixture(scope="module")
def made(
    pi_site: Path, pi_run: api.ExportResult, bench: FakeBench, tmp_path_factory: pytest.TempPathFactory
) -> api.FrontResult:
    with pytest.MonkeyPatch.context() as patch:

        def time(self: Bench, models: Mapping[str, Path], rounds: int | None = None) -> BenchResult:
            return bench(self, models, rounds)

        def together(self: Bench, models: Mapping[str, Path], providers: Mapping[str, str]) -> BenchResult:
            assert set(providers) == set(models)
            return bench(self, models)

        patch.setattr(Bench, "time", time)
        patch.setattr(Bench, "together", together)
        patch.setattr(job, "rivals", lambda: ([TOOL], ["a tool is missing"]))
        patch.setenv("TACO_CACHE", str(tmp_path_factory.mktemp("cache")))
        out = steps_of(pi_run, tmp_path_factory.mktemp("front") / "out")
        asked = options(pi_site, out, target="host-cpu", threads=1, allocation="latency", max_drop=1.0)
        first = api.front(asked, HOW, command=["taco", "front"])
        timed = len(bench.calls)
        again = api.front(asked, HOW, command=["taco", "front"], pick="ours-1.2x")
        assert len(bench.calls) == timed + 1, "the second time only the picked bundle is timed"
        assert again.front.points == first.front.points
        return again


@whole
def test_every_way_is_there_once_and_all_files_were_timed_together(made: api.FrontResult, bench: FakeBench) -> None:
    points = {point.name: point for point in made.front.points}
    assert {point.kind for point in points.values()} >= {"ours", "uniform", "macs", "dense", "runtime-int8", "beside"}
    assert {"ours-1.2x", "dense", "ort-int8", "test_resnet-dense", "test_resnet-ort-int8"} <= set(points)
    together = next(call for call in bench.calls if "test_resnet-dense" in call)
    files = {name: together[name] / 1e4 for name in together}
    assert {name: points[name].p50_ms for name in files} == pytest.approx(files)
    assert points["ort-int8"].p50_ms == points["dense"].p50_ms, "equal files are timed once"
    assert points["ours-1.2x"].speedup.value == pytest.approx(points["dense"].p50_ms / points["ours-1.2x"].p50_ms)


@whole
def test_cut_models_are_smaller_and_the_dense_one_loses_nothing(made: api.FrontResult) -> None:
    points = {point.name: point for point in made.front.points}
    dense = points["dense"]
    assert (dense.drop_points, dense.select.points, dense.widths) == (0.0, pytest.approx(0, abs=1e-3), None)
    for point in points.values():
        if point.kind in ("ours", "uniform", "macs"):
            assert point.widths is not None
            assert point.macs is not None
            assert dense.macs is not None
            assert point.macs < dense.macs
            assert point.p50_ms < dense.p50_ms


@whole
def test_it_is_written_with_its_warnings_and_a_recommendation(made: api.FrontResult) -> None:
    assert read_front(made.page.parent) == made.front
    assert "a tool is missing" in made.front.warnings
    assert made.front.recommended is not None
    assert made.front.limit_points == 5.0


@whole
def test_the_picked_point_is_a_whole_bundle_with_its_widths(made: api.FrontResult) -> None:
    point = next(p for p in made.front.points if p.name == "ours-1.2x")
    assert made.export is not None
    assert made.export.folder == made.page.parent / "ours-1.2x"
    assert {layer.unit: layer.kept for layer in made.export.report.layers} == point.widths
    assert all(gate.passed is not False for gate in api.verify(made.export.folder))


def test_a_front_without_a_clock_is_refused(pi_site: Path, pi_run: api.ExportResult, tmp_path: Path) -> None:
    out = steps_of(pi_run, tmp_path / "out")
    with pytest.raises(MeasurementError, match="a front shows measured times"):
        api.front(options(pi_site, out, macs=0.5))


def test_speeds_that_are_none_are_refused() -> None:
    with pytest.raises(InputError, match="each must be above 1"):
        api.FrontOptions(speedups=(0.5,)).check()


@whole
def test_sizes_of_pictures_compete_and_any_may_be_picked(pi_site: Path, tmp_path: Path) -> None:
    """By the real clock: the made-up device takes no note of pixels."""
    asked = options(
        pi_site, tmp_path / "out", target="host-cpu", threads=1, allocation="latency", max_drop=60.0, input_size="auto"
    )
    made = api.front(asked, api.FrontOptions((1.2, 2.0), (), 60.0), pick="dense-128x128")
    points = {point.name: point for point in made.front.points}
    own, smaller = "160x160", {"128x128"}
    assert {p.pictures for p in points.values() if p.kind == "resized"} == smaller
    assert {p.pictures for p in points.values() if p.kind in ("dense", "uniform", "macs", "runtime-int8")} == {own}
    ours = [p for p in points.values() if p.kind == "ours"]
    assert ours
    assert {p.pictures for p in ours} <= {own, *smaller}
    assert {p.name.removesuffix(f"-{p.pictures}") for p in ours} <= {"ours-1.2x", "ours-2x"}
    assert own in {p.pictures for p in ours}, "ours is beside one ratio and MACs, at their size"
    assert points["dense-128x128"].macs is not None
    assert points["dense"].macs is not None
    assert points["dense-128x128"].macs < points["dense"].macs
    assert made.export is not None
    size = made.export.report.size
    assert (size.dense.pictures, size.compressed.pictures) == (own, "128x128")
