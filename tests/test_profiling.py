"""Profiling with a made-up device: what is timed, what a busy machine does to it, and when it stops."""

from __future__ import annotations

import copy
import dataclasses
import importlib.resources
import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import pytest
from families import SMALL, build, units_of
from tiny_latency import make_table
from typer.testing import CliRunner

from taco.cli import app
from taco.commands import profile as profile_cli
from taco.device.trt_units import SMALL_SPREAD
from taco.errors import InputError, MeasurementError
from taco.exporters import scheme
from taco.exporters.loading import load_exporter
from taco.exporters.protocol import Artifact, Compressed
from taco.latency import software
from taco.latency.asked import Asked
from taco.latency.drawing import heat_map, plot_table
from taco.latency.levels import Level, choose, dense, levels_of
from taco.latency.table import LatencyTable, cache_folder, cached_path, load_cached, save_cached
from taco.progress import PlainProgress
from taco.search import bench as bench_module
from taco.search import micrographs, profile_job, profiling
from taco.search.bench import Bench
from taco.search.profiling import Profiler
from taco.search.settling import Limits
from taco.targets.loading import Target, load_target
from taco.timing.timings import BenchResult, ModelTiming

FAMILY = SMALL[0]
#: Two units, because torch takes seconds for an export.
FOUND = dataclasses.replace(units_of(FAMILY), units=units_of(FAMILY).within_blocks[:2])
WIDE = {"COLUMNS": "200"}
Speed = Callable[[int], float]


def falling_losses(width: int) -> dict[int, float]:
    return {w: float((width - w) ** 2) for w in range(width + 1)}


def weights(path: Path) -> int:
    return sum(int(np.prod(tensor.dims)) for tensor in onnx.load(path).graph.initializer)


@dataclasses.dataclass(eq=False)
class Device:
    """Takes 1 ms for 10,000 weights; `factor` slows it down, by the number of the round."""

    factor: Speed = lambda _: 1.0
    spike: Speed = lambda _: 1.0
    runs: list[list[str]] = dataclasses.field(default_factory=list)
    repeats: list[float] = dataclasses.field(default_factory=list)
    seconds: float = 1.0
    now: float = 0.0

    def time(self, models: Mapping[str, Path], repeat_s: float = 0.0) -> BenchResult:
        first, ticks = 11 * len(self.runs), itertools.count()
        self.runs.append(list(models))
        self.repeats.append(repeat_s)
        self.now += self.seconds
        timings = {}
        for name, path in models.items():
            ms = weights(path) / 1e4
            rounds = tuple((ms * self.factor(first + r) * self.spike(next(ticks)),) * 3 for r in range(11))
            timings[name] = ModelTiming(rounds, "CPUExecutionProvider", "onnxruntime", "1", 1.0, {})
        return BenchResult(timings, 2, 11, stopped_early=False, measured_on={})

    def clock(self) -> float:
        return self.now


LIMITS = Limits(600.0, 0.18, 33)


def make_profiler(device: Device, limits: Limits = LIMITS, **changes: object) -> Profiler:
    profiler = Profiler(
        model=build(FAMILY),
        found=FOUND,
        input_size=FAMILY.input_size,
        name=FAMILY.model,
        target=load_target("host-cpu"),
        threads=2,
        exporter=load_exporter("ort"),
        timer=device.time,
        limits=limits,
        clock=device.clock,
    )
    return dataclasses.replace(profiler, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def exports() -> Iterator[None]:
    """Every graph of torch is made once: these tests are about time."""
    real, kept = micrographs.export_proto, dict[str, onnx.ModelProto]()

    def once(model: Compressed, opset: int) -> onnx.ModelProto:
        key = str([tuple(p.shape) for p in model.module.parameters()]) + str((model.input_size, opset))
        if key not in kept:
            kept[key] = real(model, opset)
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(micrographs, "export_proto", once)
        patch.setattr(micrographs, "export_protos", lambda models, opset: [once(model, opset) for model in models])
        yield


def test_times_are_those_of_the_device(exports: None, tmp_path: Path) -> None:
    device = Device()
    table = make_profiler(device).profile(tmp_path, PlainProgress())
    assert set(table.units) == {u.name for u in FOUND.units}
    assert len(device.runs) == 4
    assert all("dense" in run for run in device.runs), "every run has the dense model as its measure"
    assert table.dense_ms == pytest.approx(weights(tmp_path / "dense.onnx") / 1e4)
    name, unit = next(iter(table.units.items()))
    assert [c.width for c in unit.cells] == [64, 48, 32, 16]
    for cell in unit.cells:
        assert cell.p50_ms == pytest.approx(weights(tmp_path / unit.signature / f"{cell.width}.onnx") / 1e4)
        assert (cell.n, cell.source, cell.spread) == (33, "measured", pytest.approx(0))
    steps = [a.p50_ms - b.p50_ms for a, b in itertools.pairwise(unit.cells)]
    assert steps == pytest.approx([steps[0]] * 3), "weights go in equal steps"
    assert not table.stopped_early
    assert table.skipped == {}
    assert [(gain.pattern, gain.percent) for gain in table.zeros] == [("2:4", 0), ("80 %", 0)], "as many weights"
    for number, whole in enumerate(table.wholes):
        assert whole.p50_ms == pytest.approx(weights(tmp_path / f"whole-{number}.onnx") / 1e4)
        assert whole.widths.keys() == table.units.keys()
        assert (whole.n, whole.spread) == (33, pytest.approx(0))
    times = [table.dense_ms, *(whole.p50_ms for whole in table.wholes)]
    assert len(times) == 4
    assert times == sorted(times, reverse=True)
    assert [whole.widths[name] for whole in table.wholes] == [32, 16, 16], "0.6, 0.35 and 0.15 of 64: the nearest timed"


def test_a_machine_that_halves_its_speed_between_and_within_runs_changes_nothing(exports: None, tmp_path: Path) -> None:
    calm = make_profiler(Device()).profile(tmp_path / "a", PlainProgress())
    busy = make_profiler(Device(factor=lambda r: 2.0 if 5 <= r % 22 < 16 else 1.0)).profile(
        tmp_path / "b", PlainProgress()
    )
    for name, unit in calm.units.items():
        times = [c.p50_ms / calm.dense_ms for c in unit.cells]
        assert [c.p50_ms / busy.dense_ms for c in busy.units[name].cells] == pytest.approx(times)


def test_bursts_widen_intervals_and_the_levels_do_not_follow_them(exports: None, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    hits = rng.random(4000) < 0.4
    calm = make_profiler(Device()).profile(tmp_path / "a", PlainProgress())
    device = Device(spike=lambda tick: 3.0 if hits[tick + len(device.runs)] else 1.0)
    busy = make_profiler(device).profile(tmp_path / "b", PlainProgress())
    spreads = [c.spread for u in busy.units.values() for c in u.cells]
    assert max(spreads) > SMALL_SPREAD
    assert len(device.runs) > 2, "wide intervals are measured again"
    options: list[dict[str, list[Level]]] = []
    for table in (calm, busy):
        losses = {name: falling_losses(unit.cells[0].width) for name, unit in table.units.items()}
        options.append({name: levels_of(unit, losses[name], 16) for name, unit in table.units.items()})
    for name in calm.units:
        offered = {level.width: level.ms for level in options[0][name]}
        for level in options[1][name]:
            assert level.ms / busy.dense_ms == pytest.approx(offered[level.width] / calm.dense_ms, rel=0.15)
    for share in (0.8, 0.6, 0.5):
        quiet, disturbed = (choose(o, share * dense(o).table_ms) for o in options)
        assert quiet.widths == disturbed.widths, "the choice does not follow the bursts"


def test_units_share_the_time_for_repeats_and_none_spends_that_of_others(exports: None, tmp_path: Path) -> None:
    quick, slow = Device(seconds=1.0), Device(seconds=40.0, spike=lambda tick: 1.0 + tick % 3)
    limits = Limits(240.0, 0.5, 33)
    make_profiler(quick, limits).profile(tmp_path / "a", PlainProgress())
    assert quick.repeats[:3] == [30, 59, 60], "half of it for two units; the second has what the first left; the zeros"
    table = make_profiler(slow, limits).profile(tmp_path / "b", PlainProgress())
    assert slow.repeats[:2] == [30, 20], "one pass took more than the share: what is left is the second's"
    assert slow.runs[2] in slow.runs[:2], "one of them comes again in what is left then"
    assert len([run for run in slow.runs if "64" in run]) == 3
    assert (table.stopped_early, table.unfinished) == (True, False)


def test_the_time_limit_leaves_units_out_and_says_so(exports: None, tmp_path: Path) -> None:
    device = Device(seconds=10.0)
    table = make_profiler(device, dataclasses.replace(LIMITS, max_seconds=5.0)).profile(tmp_path, PlainProgress())
    assert len(device.runs) == 1
    assert table.stopped_early
    assert len(table.units) == 1
    assert set(table.skipped.values()) == {"the time limit came first"}
    assert len(table.skipped) == 1


def test_what_a_time_limit_left_out_is_timed_by_the_next_run(
    exports: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TACO_CACHE", str(tmp_path / "cache"))
    whole = make_profiler(Device()).profile(tmp_path / "whole", PlainProgress())
    device = Device(seconds=10.0)
    short_limits = dataclasses.replace(LIMITS, max_seconds=5.0)
    short = profile_job.profile_or_load(make_profiler(device, short_limits), tmp_path / "a", PlainProgress())
    assert short.table.unfinished
    slower = Device(factor=lambda _: 2.0)
    more = profile_job.profile_or_load(make_profiler(slower), tmp_path / "b", PlainProgress())
    assert (len(device.runs), len(slower.runs)) == (1, 3), "what is there is not timed again"
    assert not more.already_there
    assert (more.table.unfinished, more.table.skipped) == (False, {})
    assert list(more.table.units) == list(whole.units)
    for name, unit in whole.units.items():
        assert [c.p50_ms for c in more.table.units[name].cells] == pytest.approx([c.p50_ms for c in unit.cells])
    assert profile_job.profile_or_load(make_profiler(slower), tmp_path / "c", PlainProgress()).already_there


def test_whole_models_lack_blocks_that_hold_timed_units(exports: None, tmp_path: Path) -> None:
    family = SMALL[2]
    model, found = build(family), units_of(family)
    profiler = make_profiler(Device(), model=model, found=found, input_size=family.input_size, name=family.model)
    blocks = [unit.name for unit in found.of("block")]
    assert len(blocks) > 1
    files, plans = profiler.graphs.wholes(tmp_path), profiler.whole_widths
    gone = {name: [n for n, width in plan.items() if not width] for name, plan in plans.items()}
    assert [left for left in gone.values() if left] == [blocks[::2], blocks[::2], blocks]
    for name, plan in plans.items():
        assert not [n for n in plan if any(n.startswith(f"{block}.") for block in gone[name])], "nor are their units"
    without = next(name for name, left in gone.items() if left)
    assert all(width in (0, profiler.widths[n][0]) for n, width in plans[without].items() if width), "dense beside them"
    lost = sum(p.numel() for block in gone[without] for p in model.get_submodule(block).parameters())
    dense = weights(profiler.graphs.dense(tmp_path, PlainProgress()))
    assert dense - weights(files[without]) == pytest.approx(lost, rel=0.01)


def test_a_table_of_an_earlier_version_gets_the_whole_models_it_lacks(
    exports: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TACO_CACHE", str(tmp_path / "cache"))
    made = make_profiler(Device()).profile(tmp_path / "first", PlainProgress())
    save_cached(tmp_path / "cache" / "latency", made.model_copy(update={"wholes": (), "stopped_early": True}))
    device, longer = Device(), Device()
    more = profile_job.profile_or_load(
        make_profiler(device, whole_timer=longer.time), tmp_path / "more", PlainProgress()
    )
    assert (len(device.runs), len(longer.runs)) == (0, 1), "by its own protocol, and nothing else again"
    assert more.table.wholes == made.wholes
    assert more.table.units == made.units
    assert more.table.stopped_early, "its intervals are as wide as they were"


def test_the_key_holds_what_times_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    key = make_profiler(Device()).key()
    assert key == make_profiler(Device()).key()
    model = copy.deepcopy(build(FAMILY))
    model.reset_classifier(3)  # type: ignore[operator]
    assert make_profiler(Device(), model=model).key() == key, "the head is never cut: one table serves every task"
    other = dataclasses.replace(load_target("host-cpu"), channel_multiple=8)
    assert make_profiler(Device(), target=other).key().architecture != key.architecture
    machine = profiling.probe()
    machine["runtimes"]["onnxruntime"]["version"] = "9.9"
    monkeypatch.setattr(profiling, "probe", lambda: machine)
    assert make_profiler(Device()).key().runtime_version == "9.9"
    assert make_profiler(Device()).key().digest != key.digest


def patched(package: str, number: str) -> Callable[[str], str]:
    """Give `importlib.metadata.version` as it is after an update of one package."""
    real = metadata.version
    return lambda name: number if name == package else real(name)


@pytest.mark.parametrize("package", ["torch", "timm", "torch-pruning"])
def test_a_table_does_not_survive_an_update_of_what_wrote_its_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setenv("TACO_CACHE", str(tmp_path))
    target, machine = dataclasses.asdict(load_target("host-cpu")), profiling.probe()
    key, asked = make_profiler(Device()).key(), Asked.of("a", target, 2, machine)
    asked.remember(save_cached(cache_folder(), make_table().model_copy(update={"key": key})))
    assert load_cached(cache_folder(), key) is not None
    assert asked.table() is not None
    monkeypatch.setattr(metadata, "version", patched(package, "99.0"))
    assert load_cached(cache_folder(), make_profiler(Device()).key()) is None
    assert Asked.of("a", target, 2, machine).table() is None


def test_a_changed_exporter_writes_other_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = software.software_digest()
    shutil.copytree(Path(scheme.__file__).parent, tmp_path / "exporters", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(importlib.resources, "files", lambda _: tmp_path / "exporters")
    assert software.software_digest() == before
    (tmp_path / "exporters" / "graph.py").write_text("OPSET = 99")
    assert software.software_digest() != before


def test_times_of_this_machine_count_on_no_other_and_under_no_other_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(target: str = "host-cpu", *runtimes: str) -> dict[str, object]:
        return Bench(load_target(target), 2, tmp_path).key(runtimes)

    here, elsewhere, both = key(), key("raspberry-pi-4"), key("host-cpu", "ov")
    assert here == key()
    machine = bench_module.computer()
    for change in ({"processor": "Intel N100"}, {"cores_physical": 64}, {"isa": ["avx2"]}):
        with monkeypatch.context() as patch:
            patch.setattr(bench_module, "computer", lambda change=change: {**machine, **change})
            assert key() != here
            assert key("raspberry-pi-4") == elsewhere, "nothing of it is timed here"
    monkeypatch.setattr(metadata, "version", patched("openvino", "99.0"))
    assert key() == here, "another runtime than the target's"
    assert key("host-cpu", "ov") != both
    monkeypatch.setattr(metadata, "version", patched("onnxruntime", "99.0"))
    assert key() != here


def test_a_device_elsewhere_cannot_be_profiled_here() -> None:
    with pytest.raises(MeasurementError, match="raspberry-pi-4 cannot be timed here: this machine is not"):
        make_profiler(Device(), target=load_target("raspberry-pi-4")).key()


def test_a_model_without_units_says_why(exports: None, tmp_path: Path) -> None:
    found = dataclasses.replace(FOUND, units=())
    with pytest.raises(MeasurementError, match="no unit can be timed by itself: it has none"):
        make_profiler(Device(), found=found).profile(tmp_path, PlainProgress())


class Eight:
    """Stands in for INT8: notes what it is given."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def export(self, model: Compressed, target: Target, out: Path) -> Artifact:
        assert model.calibration is not None
        self.seen += [picture.shape for picture in model.calibration.fit()]
        return micrographs.write_proto(onnx.load(model.fp32), out)

    def check(self, target: Target) -> list[str]:
        return []


def test_int8_is_made_by_the_targets_exporter_with_noise_of_the_blocks_shape(exports: None, tmp_path: Path) -> None:
    exporter = Eight()
    profiler = make_profiler(Device(), target=load_target("host-cpu-int8"), exporter=exporter)
    table = profiler.profile(tmp_path, PlainProgress())
    assert table.key.precision == "int8"
    shapes = {(1, *holder.reads) for holder in profiler.holders.values()}  # type: ignore[union-attr]
    assert set(exporter.seen) == {*shapes, (1, *FAMILY.input_size)}


def test_the_table_is_taken_from_the_cache(exports: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TACO_CACHE", str(tmp_path / "cache"))
    device = Device()
    first = profile_job.profile_or_load(make_profiler(device), tmp_path / "a", PlainProgress())
    again = profile_job.profile_or_load(make_profiler(device), tmp_path / "b", PlainProgress())
    assert (first.already_there, again.already_there, len(device.runs)) == (False, True, 4)
    assert again.table == first.table
    assert profile_job.profile_or_load(make_profiler(device), tmp_path / "c", PlainProgress(), again=True).table.units
    assert len(device.runs) == 8


def test_a_profile_ends_after_one_pass_where_that_is_enough_and_only_a_whole_one_is_kept(
    exports: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TACO_CACHE", str(tmp_path / "cache"))
    unsteady = Device(factor=lambda r: 1.0 + 0.2 * (r % 2))
    asked: list[LatencyTable] = []

    def begun(name: str, verdict: bool) -> LatencyTable:
        def enough(table: LatencyTable) -> bool:
            asked.append(table)
            return verdict

        profiler = make_profiler(unsteady)
        dense = profiler.graphs.dense(tmp_path, PlainProgress())
        return profile_job.profile_or_load(profiler, tmp_path / name, PlainProgress(), dense, enough=enough).table

    first = begun("a", True)
    assert (first, len(unsteady.runs)) == (asked[0], 2), "each different unit once; no whole model, no zeros"
    assert (first.stopped_early, first.wholes, first.zeros, first.unfinished) == (True, (), (), False)
    assert not (tmp_path / "cache").exists()
    whole = begun("b", False)
    assert whole.wholes
    assert whole.zeros
    usual = make_profiler(Device()).profile(tmp_path / "usual", PlainProgress())
    assert (list(whole.units), len(whole.wholes)) == (list(usual.units), len(usual.wholes))
    count = len(unsteady.runs)
    assert begun("c", True) == whole, "a whole one that is there needs no question"
    assert (len(asked), len(unsteady.runs)) == (2, count)


# --- the command line ------------------------------------------------------------------------------------------------


def test_profile_prints_the_table_and_finds_it_again(
    exports: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TACO_CACHE", str(tmp_path))
    device = Device()
    monkeypatch.setattr(profile_job, "find_units", lambda *_: FOUND)
    monkeypatch.setattr(Bench, "time", lambda self, models, rounds=None: device.time(models))
    run = CliRunner().invoke(app, ["profile", "--target", "host-cpu", "--model", "test_efficientnet"], env=WIDE)
    assert run.exit_code == 0, run.output
    assert "blocks.1.0.conv_pwl" in run.output
    again = CliRunner().invoke(app, ["profile", "--target", "host-cpu", "--model", "test_efficientnet", "-q"])
    assert again.exit_code == 0
    assert len(device.runs) == 4
    shown = CliRunner().invoke(app, ["profile", "show", again.stdout.strip(), "--json"])
    assert LatencyTable.model_validate_json(shown.stdout).units
    assert CliRunner().invoke(app, ["profile", "show", "--json"]).stdout == shown.stdout


def test_show_marks_a_table_from_elsewhere(tmp_path: Path) -> None:
    path = save_cached(tmp_path, make_table())
    assert path == cached_path(tmp_path, make_table().key)
    result = CliRunner().invoke(app, ["profile", "show", str(path), "--plot", str(tmp_path / "p.png")], env=WIDE)
    assert result.exit_code == 0, result.output
    assert "estimated" in result.output
    assert "measured on another machine (N100)" in result.output
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_table_show_says_how_to_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TACO_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="Make one with `taco profile`"):
        profile_cli.show(None, None, json_output=False)


def test_the_heat_map_holds_the_cells() -> None:
    table = make_table(a={64: 4.0, 32: 3.0, 16: 1.0})
    values = heat_map(table)
    assert values[0, [15, 7, 3, 5]] == pytest.approx([4.0, 3.0, 1.0, 2.0])
    assert np.isnan(values[0, :3]).all()


def test_a_picture_has_to_be_a_png(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is no PNG"):
        plot_table(make_table(), tmp_path / "p.svg")
    with pytest.raises(InputError, match="no unit to draw"):
        plot_table(make_table().model_copy(update={"units": {}}), tmp_path / "p.png")
