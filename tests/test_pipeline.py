"""The whole job on a tiny model and drawn pictures: what it leaves behind, resumes, refuses and never makes up."""

from __future__ import annotations

import builtins
import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import onnx
import pytest
from conftest import draw_task
from onnx import numpy_helper
from PIL import Image
from tiny_run import options, steps_of, train_by_no_clock
from torch import nn

from taco import api
from taco.bundle import Bundle
from taco.device import wire
from taco.device.images import UnreadableImage, read_rgb
from taco.errors import BudgetInfeasibleError, GateError, InputError, MeasurementError, UnsupportedModuleError
from taco.material import Material
from taco.metrics.gates import Gate
from taco.pictures import bank
from taco.pictures.listing import Skipped
from taco.progress import SilentProgress
from taco.recovery.unlabelled import Unlabelled
from taco.report.schema import Report
from taco.rundir import RunDir, content_key
from taco.search import bench as bench_module
from taco.search.bench import VALUE_RUNS, Bench
from taco.steps import delivery, groundwork, recovering
from taco.steps.converting import Converter
from taco.steps.groundwork import Groundwork
from taco.steps.keys import Keys
from taco.timing.timings import BenchResult, ModelTiming


def on_host(task: Path, out: Path, **changes: Any) -> api.ExportOptions:
    """For this machine, with one thread."""
    return options(task, out, target="host-cpu", threads=1, **changes)


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

    def __call__(self, bench: Bench, models: Mapping[str, Path], rounds: int | None = None) -> BenchResult:
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
    return installed(FakeBench(), monkeypatch)


def weights_only(converter: Converter, module: nn.Module, path: Path) -> None:
    """Stands in for the export of a trial, of which `FakeBench` asks nothing but the number of weights."""
    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    tensors = [numpy_helper.from_array(layer.weight.detach().numpy()) for layer in layers]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "trial", [], [], tensors)), path)


def installed(fake: FakeBench, patch: pytest.MonkeyPatch) -> FakeBench:
    patch.setattr(Bench, "time", lambda self, models, rounds=None: fake(self, models, rounds))
    patch.setattr(Converter, "trial", weights_only)
    return fake


@pytest.fixture
def pi_copy(pi_run: api.ExportResult, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pi_run.folder, tmp_path / "out"))


@dataclasses.dataclass(frozen=True)
class Searched:
    """A finished run for this machine that was asked for a speed-up, and what was timed for it."""

    result: api.ExportResult
    calls: list[dict[str, int]]

    def begin(self, out: Path) -> Path:
        """Make a folder that holds the steps of this run, and its search, but not its last measurement."""
        steps_of(self.result, out)
        (out / ".taco" / "measured").mkdir()
        for file in (self.result.folder / ".taco" / "measured").glob("widths-*"):
            shutil.copy(file, out / ".taco" / "measured")
        return out


@pytest.fixture(scope="module")
def host_run(pi_site: Path, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    fake = FakeBench()
    with pytest.MonkeyPatch.context() as patch:
        installed(fake, patch)
        out = tmp_path_factory.mktemp("host-run") / "out"
        return Searched(api.export(on_host(pi_site, out, speedup=1.3)), fake.calls)


@pytest.fixture(scope="module")
def without_units(pi_site: Path, tmp_path_factory: pytest.TempPathFactory) -> api.ExportResult:
    """A model in which nothing can be cut and nothing was, judged on a folder of its own."""
    folder = tmp_path_factory.mktemp("without-units")
    other = draw_task(folder / "other", count=3, seed=9)
    return api.export(options(pi_site, folder / "out", model="test_efficientnet_gn", macs=1.0, evaluation=other))


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


def test_this_machine_is_measured_in_interleaved_rounds(pi_site: Path, host_run: Searched, tmp_path: Path) -> None:
    report = api.export(on_host(pi_site, steps_of(host_run.result, tmp_path / "out"), macs=0.7)).report
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


def test_same_run_again_says_so_and_changes_nothing(pi_run: api.ExportResult, pi_site: Path, pi_copy: Path) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in pi_copy.iterdir()}
    again = api.export(options(pi_site, pi_copy))
    assert again.already_done
    assert again.report == pi_run.report
    assert {p.name: p.stat().st_mtime_ns for p in pi_copy.iterdir()} == before


def test_another_machine_or_runtime_makes_another_run_of_a_target_on_this_machine(
    pi_site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(how: api.ExportOptions) -> str:
        return content_key(api.make_plan(how).asked)

    here, there = on_host(pi_site, tmp_path / "out", speedup=1.3), options(pi_site, tmp_path / "out")
    before = asked(here), asked(there)
    assert (asked(here), asked(there)) == before
    machine = bench_module.computer()
    monkeypatch.setattr(bench_module, "computer", lambda: {**machine, "processor": "Intel N100"})
    assert asked(here) != before[0]
    assert asked(there) == before[1], "nothing of it is measured here"
    monkeypatch.undo()
    monkeypatch.setattr(bench_module, "version_of", lambda _: "99.0")
    assert asked(here) != before[0]


@pytest.mark.slow
def test_changed_arguments_or_pictures_run_again(pi_site: Path, pi_copy: Path, tmp_path: Path) -> None:
    assert api.export(options(pi_site, pi_copy)).already_done
    again = api.export(options(pi_site, pi_copy, macs=0.55, sequential=True))
    assert not again.already_done
    assert again.report.refit is not None
    assert again.report.refit.in_order is not None
    picture = pi_site / "ash" / "00.png"
    picture.rename(tmp_path / "00.png")
    try:
        assert not api.export(options(pi_site, pi_copy, macs=0.55, sequential=True)).already_done
    finally:
        (tmp_path / "00.png").rename(picture)


def test_a_run_is_not_finished_while_a_picture_can_be_read_that_could_not(
    pi_site: Path, pi_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rundir = RunDir(pi_copy)
    noted = rundir.finished()
    assert noted["passing"] == []
    rundir.remember_finished({**noted, "passing": [str(pi_copy / "absent.png")]})
    assert api.export(options(pi_site, pi_copy)).already_done
    rundir.remember_finished({**noted, "passing": [str(pi_copy / "absent.png"), str(pi_site / "ash" / "00.png")]})
    monkeypatch.setattr(api, "run", lambda *_: pytest.fail("it runs"))
    with pytest.raises(pytest.fail.Exception, match="it runs"):
        api.export(options(pi_site, pi_copy))


def test_pictures_that_can_be_read_again_are_added_and_what_follows_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, decoded, read = draw_task(tmp_path / "site", classes=("ash", "bay"), count=3), list[Path](), read_rgb
    plan, rundir, lost = api.make_plan(options(site, tmp_path / "out", macs=1.0)), RunDir(tmp_path / "out"), [True]

    def shaky(path: Path) -> Image.Image:
        decoded.append(path)
        if lost[0] and path.parent.name == "ash" and path.name != "00.png":
            raise UnreadableImage("there is no such file", passing=True)
        return read(path)

    def opened() -> tuple[int, Keys]:
        ground, decoded[:] = Groundwork.__new__(Groundwork), []
        ground.plan, ground.options, ground.rundir, ground.progress = plan, plan.options, rundir, SilentProgress()
        ground.keys = Keys.of(plan.asked, plan.generalist.preprocessing.to_dict())
        return len(ground._read(None).bank.readable), ground.keys

    monkeypatch.setattr(bank, "read_rgb", shaky)
    monkeypatch.setattr(groundwork, "divide", lambda _listings, found, _options: Material(cast("Any", None), found))
    with rundir.locked():
        count, keys = opened()
        assert count == 4
        assert opened() == (4, keys)
        assert set(decoded) == {site / "ash" / "01.png", site / "ash" / "02.png"}, "only a look whether they are back"
        lost[0] = False
        count, whole = opened()
        assert count == 6
        assert not set(decoded) & {site / "ash" / "00.png", site / "bay" / "00.png"}, "what was read is kept"
    assert whole == Keys.of(plan.asked, plan.generalist.preprocessing.to_dict())
    assert whole.head != keys.head


@pytest.mark.slow
def test_a_picture_that_can_be_read_again_is_taken_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site, real = draw_task(tmp_path / "site", classes=("ash", "bay"), count=5), builtins.open
    how = options(site, tmp_path / "out", model="test_efficientnet_gn", macs=1.0, shots=3)

    def opened(file: Any, *more: Any, **named: Any) -> Any:
        if file == site / "ash" / "00.png":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(file, *more, **named)

    def used(run: api.ExportResult) -> int:
        task = run.report.task
        return task.fit_images + task.select_images + task.eval_images

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", opened)
        first = api.export(how)
        assert api.export(how).already_done, "nothing has changed"
    assert (used(first), first.report.task.skipped) == (
        9,
        [f"{site / 'ash' / '00.png'}: there is no permission to read it"],
    )
    second = api.export(how)
    assert (second.already_done, used(second), second.report.task.skipped) == (False, 10, [])
    assert api.export(how).already_done


def test_a_refusal_leaves_no_file_of_an_earlier_bundle(
    pi_site: Path, pi_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = set(Bundle(pi_copy).manifest.files)
    assert names > {"model.onnx", "labels.txt"}
    (pi_copy / ".taco" / "finished.json").unlink()
    monkeypatch.setattr(api, "gates_of", lambda _: [Gate("accuracy lost", False, "9 points", "1 point")])
    with pytest.raises(GateError, match="nothing was shipped"):
        api.export(options(pi_site, pi_copy))
    assert {p.name for p in pi_copy.iterdir()} == {".taco", "report.json", "report.md", "report.html"}


def test_names_that_are_not_utf_8_are_in_the_report_and_the_manifest(
    pi_site: Path, pi_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, shown, real = os.fsdecode(b"\xe9"), "\N{REPLACEMENT CHARACTER}", api.run

    def renamed(*asked: Any) -> Any:
        done = real(*asked)
        skipped = (Skipped(pi_site / f"{name}.jpg", "the file is empty"),)
        task = dataclasses.replace(done.material.task, name=name, skipped=skipped, warnings=(f"{name} = {name}",))
        return dataclasses.replace(done, material=dataclasses.replace(done.material, task=task))

    (pi_copy / "manifest.json").unlink()
    monkeypatch.setattr(api, "run", renamed)
    report = api.export(options(pi_site, pi_copy), command=["taco", name]).report
    assert report == Report.model_validate_json((pi_copy / "report.json").read_bytes())
    assert (report.task.name, report.command[-1], Bundle(pi_copy).manifest.task) == (shown, shown, shown)
    assert report.task.skipped == [f"{pi_site / shown}.jpg: the file is empty"]
    assert f"{shown} = {shown}" in report.warnings


def test_unlabelled_frames_that_cannot_be_used_are_listed(
    pi_site: Path, pi_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, line = api.run, "frames/gone.jpg: the file is not there"
    unlabelled = Unlabelled(skipped=(line,))
    monkeypatch.setattr(api, "run", lambda *asked: dataclasses.replace(real(*asked), unlabelled=unlabelled))
    (pi_copy / "manifest.json").unlink()
    report = api.export(options(pi_site, pi_copy)).report
    assert report.task.skipped == [line]
    assert "1 unlabelled frames could not be used and were left out" in report.warnings


@pytest.mark.slow
def test_pictures_and_a_task_whose_names_are_not_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xe9")
    task = draw_task(tmp_path / name, ("ash", "bay"), count=6)
    (task / "ash" / f"{name}.jpg").touch()
    shutil.copy(task / "bay" / "00.png", task / "bay" / f"{name}.png")
    report = api.export(options(task, tmp_path / "out", shots=3, macs=1.0)).report
    shown = "\N{REPLACEMENT CHARACTER}"
    assert report.task.name == shown
    assert any(f"{shown}.jpg: " in line for line in report.task.skipped)
    assert any(f"bay/{shown}.png" in line for line in report.warnings), "the copies are named"


def test_damaged_bundle_is_made_again(pi_site: Path, pi_copy: Path) -> None:
    good = hashes(pi_copy)
    (pi_copy / "model.onnx").write_bytes(b"damaged")
    assert not api.export(options(pi_site, pi_copy)).already_done
    assert hashes(pi_copy) == good


@pytest.mark.slow
def test_interrupted_run_resumes_to_the_same_bundle(
    pi_site: Path, host_run: Searched, tmp_path: Path, fake_bench: FakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"speedup": 1.3, "recover_minutes": 0.1}
    train_by_no_clock(monkeypatch)
    api.export(on_host(pi_site, host_run.begin(tmp_path / "whole"), **asked))
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
            api.export(on_host(pi_site, tmp_path / "cut", **asked))
    assert not (tmp_path / "cut" / "manifest.json").exists()
    measured = len(fake_bench.calls)
    api.export(on_host(pi_site, tmp_path / "cut", **asked))
    assert len(trained) == 1, "the stored recovery must be used"
    assert len(fake_bench.calls) == measured, "stored measurements must be used"
    assert hashes(tmp_path / "cut") == hashes(tmp_path / "whole")


def test_speedup_takes_the_widest_model_that_is_fast_enough(host_run: Searched) -> None:
    report = host_run.result.report
    assert report.speedup is not None
    assert 1.3 <= report.speedup < 1.6
    assert report.chosen_by == "measured latency"
    assert report.speedup_asked == 1.3
    assert host_run.calls
    assert all("dense" in call for call in host_run.calls), "every trial is timed beside the dense model"


@pytest.mark.slow
def test_final_measurement_that_falls_short_takes_narrower_widths(
    pi_site: Path, host_run: Searched, tmp_path: Path, fake_bench: FakeBench
) -> None:
    fake_bench.overrides = [1.2] * VALUE_RUNS
    report = api.export(on_host(pi_site, host_run.begin(tmp_path / "out"), speedup=1.3)).report
    finals = [call["compressed"] for call in fake_bench.calls if "baseline_fp32" in call]
    short, narrower = set(finals[:VALUE_RUNS]), finals[VALUE_RUNS:]
    assert len(narrower) >= VALUE_RUNS
    assert len(short) == len(set(narrower)) == 1, "each is measured several times: its value counts"
    assert narrower[0] < short.pop()
    assert report.speedup is not None
    assert report.speedup >= 1.3


@pytest.mark.slow
@pytest.mark.usefixtures("fake_bench")
def test_out_of_reach_speedup_says_what_can_be_reached(pi_site: Path, host_run: Searched, tmp_path: Path) -> None:
    with pytest.raises(BudgetInfeasibleError, match=r"is \d+\.\d\d times as fast") as caught:
        api.export(on_host(pi_site, host_run.begin(tmp_path / "out"), speedup=50.0))
    assert caught.value.exit_code == 3
    assert "--speedup" in caught.value.todo
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.usefixtures("fake_bench")
def test_budget_that_the_dense_model_meets_keeps_it(pi_site: Path, host_run: Searched, tmp_path: Path) -> None:
    report = api.export(on_host(pi_site, host_run.begin(tmp_path / "out"), speedup=1.0)).report
    assert report.width_ratio == 1.0
    assert report.size.compressed == report.size.dense
    assert any("already is inside the budget" in w for w in report.warnings)


def test_no_cut_exports_the_dense_specialist(pi_site: Path, pi_run: api.ExportResult, tmp_path: Path) -> None:
    report = api.export(options(pi_site, steps_of(pi_run, tmp_path / "out"), macs=1.0)).report
    assert report.width_ratio == 1.0
    assert report.accuracy.drop_points == 0
    assert report.recovery is None


def test_latency_budget_without_a_device_is_refused(drawn_task: Path, tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="needs a measurement on the jetson-orin") as caught:
        api.export(options(drawn_task, tmp_path / "out", target="jetson-orin", speedup=2.0))
    assert caught.value.exit_code == 5


def test_true_few_shot_marks_its_accuracy(tmp_path: Path) -> None:
    task = draw_task(tmp_path / "few", count=4)
    report = api.export(options(task, tmp_path / "out", shots=16)).report
    assert report.task.eval_images == 0
    assert report.accuracy.evaluated_on == "select"
    assert any("select pictures" in w for w in report.warnings)


def test_evaluation_folder_is_used(without_units: api.ExportResult) -> None:
    assert without_units.report.task.eval_images == 9


def test_foreign_folder_and_folder_inside_the_pictures_are_refused(drawn_task: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not made by taco-export"):
        api.export(options(drawn_task, foreign))
    assert [p.name for p in foreign.iterdir()] == ["thesis.txt"]
    with pytest.raises(InputError, match="inside the pictures"):
        api.export(options(drawn_task, drawn_task / "ash" / "out"))


def test_model_without_units_is_refused_unless_nothing_is_cut(
    pi_site: Path, without_units: api.ExportResult, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModuleError, match="no inner widths"):
        api.export(options(pi_site, tmp_path / "a", model="test_efficientnet_gn"))
    assert without_units.report.layers == []


def test_model_with_two_heads_is_refused_before_pictures_are_read(drawn_task: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModuleError, match="ends in 2 heads, not in one linear layer"):
        api.make_plan(options(drawn_task, tmp_path / "out", model="deit_tiny_distilled_patch16_224"))


def test_report_is_redrawn_from_json_alone(pi_run: api.ExportResult, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes((pi_run.folder / "report.json").read_bytes())
    assert api.redraw_report(tmp_path).html.read_bytes() == (pi_run.folder / "report.html").read_bytes()
