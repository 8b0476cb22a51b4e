"""The whole job on a tiny model and drawn pictures: what it leaves behind, resumes, refuses and never makes up."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import pytest
from conftest import draw_task

from taco import api, delivery, recovering, search
from taco.bundle import Bundle
from taco.device import wire
from taco.errors import BudgetInfeasibleError, InputError, MeasurementError, UnsupportedModuleError
from taco.report.schema import Report
from taco.timings import BenchResult, ModelTiming


def options(task: Path, out: Path, **changes: Any) -> api.ExportOptions:
    values: dict[str, Any] = {
        "task": task,
        "target": "raspberry-pi-4",
        "model": "test_efficientnet",
        "random_weights": True,
        "shots": 5,
        "recover_minutes": 0.0,
        "out": out,
    }
    if not {"speedup", "macs"} & changes.keys():
        values["macs"] = 0.6
    return api.make_options({**values, **changes})


def parameters(path: Path) -> int:
    total = 0
    for tensor in onnx.load(path).graph.initializer:
        size = 1
        for n in tensor.dims:
            size *= n
        total += size
    return total


class FakeBench:
    """Stands in for the device: time is proportional to the number of weights, or what `times` says in turn."""

    def __init__(self, overrides: list[float] | None = None) -> None:
        self.calls: list[dict[str, int]] = []
        self.overrides = overrides or []

    def __call__(self, bench: search.Bench, models: Mapping[str, Path], rounds: int | None = None) -> BenchResult:
        sizes = {name: parameters(path) for name, path in models.items()}
        self.calls.append(sizes)
        forced = self.overrides.pop(0) if self.overrides and "baseline_fp32" in models else None
        timings = {
            name: ModelTiming(
                rounds_ms=((size / 1e4,) * 3,) * 8
                if forced is None or name != "compressed"
                else ((sizes["dense"] / 1e4 / forced,) * 3,) * 8,
                provider="CPUExecutionProvider",
                runtime_name="fake",
                runtime_version="0",
                cold_ms=1.0,
                session={},
            )
            for name, size in sizes.items()
        }
        return BenchResult(timings, threads=1, rounds=8, stopped_early=False, measured_on={"machine": "fake"})


@pytest.fixture
def fake_bench(monkeypatch: pytest.MonkeyPatch) -> FakeBench:
    fake = FakeBench()
    monkeypatch.setattr(search.Bench, "time", lambda self, models, rounds=None: fake(self, models, rounds))
    return fake


@pytest.fixture(scope="module")
def pi_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_task(tmp_path_factory.mktemp("pi") / "site")


@pytest.fixture(scope="module")
def pi_run(pi_task: Path, tmp_path_factory: pytest.TempPathFactory) -> api.ExportResult:
    """One finished run for an absent Raspberry Pi; tests that change it copy it first."""
    return api.export(options(pi_task, tmp_path_factory.mktemp("pi-run") / "out"))


@pytest.fixture
def pi_copy(pi_run: api.ExportResult, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pi_run.folder, tmp_path / "out"))


def hashes(out: Path) -> dict[str, str]:
    return {name: entry.sha256 for name, entry in Bundle(out).manifest.files.items()}


def test_absent_device_measures_nothing_and_says_what_to_run(pi_run: api.ExportResult) -> None:
    report = pi_run.report
    assert report.latency_source == "none"
    assert (report.latency_ms, report.speedup, report.baseline_fp32_ms, report.measured_on) == (None,) * 4
    assert report.runtime.version is None
    assert report.runtime.provider is None
    assert "agent.pyz bench bench.json" in (report.next_step or "")
    assert "MACs, not measured" in report.chosen_by
    assert any("no raspberry-pi-4 was attached" in w for w in report.warnings)
    assert report.size.compressed.macs <= 0.6 * report.size.dense.macs
    stored = Report.model_validate_json((pi_run.folder / "report.json").read_bytes())
    assert stored == report


def test_what_the_report_tells_a_person_to_run_on_the_device_runs(pi_copy: Path) -> None:
    request = json.loads((pi_copy / "bench.json").read_text())
    request |= {"rounds": 2, "round_ms": 5, "threads": 1}
    (pi_copy / "quick.json").write_text(json.dumps(request))
    answer = subprocess.run(
        [sys.executable, "-I", "agent.pyz", "bench", "quick.json"],
        cwd=pi_copy, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert set(wire.parse(answer.stdout)["models"]) == {"dense", "compressed"}


def test_this_machine_is_measured_in_interleaved_rounds(drawn_task: Path, tmp_path: Path) -> None:
    report = api.export(options(drawn_task, tmp_path / "out", target="host-cpu", macs=0.7, threads=1)).report
    assert report.latency_source == "measured"
    assert report.latency_ms is not None
    assert report.baseline_fp32_ms is not None
    assert report.speedup_rounds is not None
    assert report.speedup == pytest.approx(sorted(report.speedup_rounds)[len(report.speedup_rounds) // 2], rel=0.2)
    assert report.runtime.provider == "CPUExecutionProvider"
    assert report.runtime.threads == 1
    assert report.measured_on is not None
    assert report.measured_on["processor"]
    assert report.next_step is None
    assert len(report.latency_ms.dense.samples) == report.latency_ms.dense.n


def test_report_numbers_agree_with_the_bundle(pi_run: api.ExportResult) -> None:
    report, bundle = pi_run.report, Bundle(pi_run.folder)
    assert report.size.compressed.bytes == bundle.model_path.stat().st_size
    assert bundle.manifest.classes == report.task.classes == ["ash", "bay", "cob"]
    assert {u.unit: u.kept for u in report.layers} == bundle.manifest.allocation
    assert all(u.kept % 8 == 0 and u.kept < u.dense for u in report.layers)
    assert (report.task.fit_images, report.task.select_images, report.task.eval_images) == (12, 3, 9)
    assert report.parity.counted > 0
    assert report.model.random_weights
    assert any("meaningless" in w for w in report.warnings)
    assert str(pi_run.folder.parent).encode() not in bundle.model_path.read_bytes()
    assert report.size.compressed.params < report.size.dense.params


def test_same_run_again_says_so_and_changes_nothing(pi_run: api.ExportResult, pi_task: Path, pi_copy: Path) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in pi_copy.iterdir()}
    again = api.export(options(pi_task, pi_copy))
    assert again.already_done
    assert again.report == pi_run.report
    assert {p.name: p.stat().st_mtime_ns for p in pi_copy.iterdir()} == before


@pytest.mark.slow
def test_changed_arguments_or_pictures_run_again(drawn_task: Path, tmp_path: Path) -> None:
    api.export(options(drawn_task, tmp_path / "out"))
    again = api.export(options(drawn_task, tmp_path / "out", macs=0.55))
    assert not again.already_done
    (drawn_task / "ash" / "00.png").unlink()
    assert not api.export(options(drawn_task, tmp_path / "out", macs=0.55)).already_done


def test_damaged_bundle_is_made_again(pi_task: Path, pi_copy: Path) -> None:
    good = hashes(pi_copy)
    (pi_copy / "model.onnx").write_bytes(b"damaged")
    assert not api.export(options(pi_task, pi_copy)).already_done
    assert hashes(pi_copy) == good


@pytest.mark.slow
def test_interrupted_run_resumes_to_the_same_bundle(
    drawn_task: Path, tmp_path: Path, fake_bench: FakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"target": "host-cpu", "speedup": 1.3, "recover_minutes": 0.1}
    monkeypatch.setattr(recovering, "steps_for", lambda *_: 12)
    api.export(options(drawn_task, tmp_path / "whole", **asked))
    trained: list[int] = []
    real = recovering.recover

    def counted(*args: Any) -> Any:
        trained.append(1)
        return real(*args)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(recovering, "recover", counted)
    with monkeypatch.context() as patch:
        patch.setattr(delivery, "judge", killed)
        with pytest.raises(KeyboardInterrupt):
            api.export(options(drawn_task, tmp_path / "cut", **asked))
    assert not (tmp_path / "cut" / "manifest.json").exists()
    measured = len(fake_bench.calls)
    api.export(options(drawn_task, tmp_path / "cut", **asked))
    assert len(trained) == 1, "the stored recovery must be used"
    assert len(fake_bench.calls) == measured, "stored measurements must be used"
    assert hashes(tmp_path / "cut") == hashes(tmp_path / "whole")


@pytest.mark.slow
def test_seed_decides_the_bundle(pi_run: api.ExportResult, pi_task: Path, tmp_path: Path) -> None:
    for seed, same in ((0, True), (1, False)):
        api.export(options(pi_task, tmp_path / str(seed), seed=seed))
        assert (hashes(tmp_path / str(seed))["model.onnx"] == hashes(pi_run.folder)["model.onnx"]) is same


def test_speedup_takes_the_widest_model_that_is_fast_enough(
    drawn_task: Path, tmp_path: Path, fake_bench: FakeBench
) -> None:
    report = api.export(options(drawn_task, tmp_path / "out", target="host-cpu", speedup=1.3)).report
    assert report.speedup is not None
    assert 1.3 <= report.speedup < 1.6
    assert report.chosen_by == "measured latency"
    assert report.speedup_asked == 1.3
    assert all("dense" in call for call in fake_bench.calls), "every trial is timed beside the dense model"


@pytest.mark.slow
def test_final_measurement_that_falls_short_takes_narrower_widths(
    drawn_task: Path, tmp_path: Path, fake_bench: FakeBench
) -> None:
    fake_bench.overrides = [1.2]
    report = api.export(options(drawn_task, tmp_path / "out", target="host-cpu", speedup=1.3)).report
    finals = [call for call in fake_bench.calls if "baseline_fp32" in call]
    assert len(finals) == 2
    assert finals[1]["compressed"] < finals[0]["compressed"]
    assert report.speedup is not None
    assert report.speedup >= 1.3


@pytest.mark.slow
def test_out_of_reach_speedup_says_what_can_be_reached(drawn_task: Path, tmp_path: Path, fake_bench: FakeBench) -> None:
    with pytest.raises(BudgetInfeasibleError, match=r"is \d+\.\d\d times as fast") as caught:
        api.export(options(drawn_task, tmp_path / "out", target="host-cpu", speedup=50.0))
    assert caught.value.exit_code == 3
    assert "--speedup" in caught.value.todo
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_budget_that_the_dense_model_meets_keeps_it(drawn_task: Path, tmp_path: Path, fake_bench: FakeBench) -> None:
    report = api.export(options(drawn_task, tmp_path / "out", target="host-cpu", speedup=1.0)).report
    assert report.width_ratio == 1.0
    assert report.size.compressed == report.size.dense
    assert any("already is inside the budget" in w for w in report.warnings)


def test_no_cut_exports_the_dense_specialist(drawn_task: Path, tmp_path: Path) -> None:
    report = api.export(options(drawn_task, tmp_path / "out", macs=1.0)).report
    assert report.width_ratio == 1.0
    assert report.accuracy.drop_points == 0
    assert report.recovery is None


def test_latency_budget_without_a_device_is_refused(drawn_task: Path, tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="needs a measurement on the jetson-orin") as caught:
        api.export(options(drawn_task, tmp_path / "out", target="jetson-orin", speedup=2.0))
    assert caught.value.exit_code == 5


def test_jetson_bundle_is_labelled_as_not_run_on_hardware(drawn_task: Path, tmp_path: Path) -> None:
    report = api.export(options(drawn_task, tmp_path / "out", target="jetson-orin", macs=0.8)).report
    assert "trtexec --onnx=model.onnx" in (report.next_step or "")
    assert any("not been run on hardware" in w for w in report.warnings)
    assert report.runtime.precision == "fp16"


def test_true_few_shot_marks_its_accuracy(tmp_path: Path) -> None:
    task = draw_task(tmp_path / "few", count=4)
    report = api.export(options(task, tmp_path / "out", shots=16)).report
    assert report.task.eval_images == 0
    assert report.accuracy.evaluated_on == "select"
    assert any("select pictures" in w for w in report.warnings)


def test_evaluation_folder_is_used(drawn_task: Path, tmp_path: Path) -> None:
    other = draw_task(tmp_path / "other", count=3, seed=9)
    report = api.export(options(drawn_task, tmp_path / "out", evaluation=other)).report
    assert report.task.eval_images == 9


def test_foreign_folder_and_folder_inside_the_pictures_are_refused(drawn_task: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not made by taco-export"):
        api.export(options(drawn_task, foreign))
    assert [p.name for p in foreign.iterdir()] == ["thesis.txt"]
    with pytest.raises(InputError, match="inside the pictures"):
        api.export(options(drawn_task, drawn_task / "ash" / "out"))


def test_model_without_units_is_refused_unless_nothing_is_cut(drawn_task: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModuleError, match="no inner widths"):
        api.export(options(drawn_task, tmp_path / "a", model="test_efficientnet_gn"))
    report = api.export(options(drawn_task, tmp_path / "b", model="test_efficientnet_gn", macs=1.0)).report
    assert report.layers == []


def test_report_is_redrawn_from_json_alone(pi_run: api.ExportResult, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes((pi_run.folder / "report.json").read_bytes())
    assert api.redraw_report(tmp_path).html.read_bytes() == (pi_run.folder / "report.html").read_bytes()
