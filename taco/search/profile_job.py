"""Profile a model for a target, or take the table that is there already."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

from taco.attached.ondevice import Device
from taco.device.trt_units import REPEATS, SMALL_SPREAD
from taco.errors import MeasurementError
from taco.exporters.loading import load_exporter
from taco.latency.table import LatencyTable, cache_folder, cached_path, load_cached, save_cached
from taco.model import load_generalist
from taco.progress import Progress
from taco.search.bench import Bench, State
from taco.search.profiling import Enough, Profiler
from taco.search.settling import Limits
from taco.targets.loading import BenchmarkProtocol, Target
from taco.units import find_units

#: Rounds of 11 give the median a 98.8 % interval that leaves out one round at either end.
_ROUNDS, _ROUND_MS = 11, 10.0
#: Every round of an engine is a process that loads it first (judgement: 1-3 s): 7 give 98.4 %, the whole range.
ENGINE_ROUNDS, ENGINE_ROUND_MS = 7, 100.0
#: No unit is begun after that; building engines takes most of it (judgement: 10-30 s each, 100 to 200 of them).
_LIMIT_S, _ENGINES_LIMIT_S = 600.0, 4 * 3600.0
#: One pass over all units takes a tenth to a fifth of the limit (ResNet-50 on two cores), one over engines most of it.
_REPEAT_SHARE = 0.18
#: A profile alone does not wait as long for a quiet machine as a job does that ends with a result.
_WAITS = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Profile:
    """A table and where it lies.

    Attributes:
        table: The table.
        path: Its file in the cache.
        already_there: Whether nothing was timed now.
    """

    table: LatencyTable
    path: Path
    already_there: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where to time.

    Attributes:
        target: What is aimed at.
        threads: Of the timed models; None is the target's own choice.
        device: What is attached; None is this machine.
    """

    target: Target
    threads: int | None = None
    device: Device | None = None


def cells_bench(bench: Bench) -> Bench:
    """Return a bench with the short rounds that a cell needs, as many as make the cells of a unit sure."""
    rounds, round_ms = _rounds_of(bench.target)
    target = dataclasses.replace(
        bench.target, benchmark=BenchmarkProtocol(rounds, round_ms, bench.target.benchmark.max_seconds)
    )
    return dataclasses.replace(
        bench, target=target, steady=SMALL_SPREAD, most_rounds=limits_of(target).most_rounds, least_iterations=1
    )


def _rounds_of(target: Target) -> tuple[int, float]:
    return (ENGINE_ROUNDS, ENGINE_ROUND_MS) if target.runtime == "trt" else (_ROUNDS, _ROUND_MS)


def limits_of(target: Target, max_seconds: float | None = None) -> Limits:
    """Return how long profiling for a target may take; its own time limit where nobody says one, seconds."""
    engines = target.runtime == "trt"
    rounds, _ = _rounds_of(target)
    own = _ENGINES_LIMIT_S if engines else _LIMIT_S
    return Limits(max_seconds or own, 1.0 if engines else _REPEAT_SHARE, REPEATS * rounds)


def profile_or_load(
    profiler: Profiler,
    folder: Path,
    progress: Progress,
    dense: Path | None = None,
    *,
    again: bool = False,
    enough: Enough | None = None,
) -> Profile:
    """Return the table of a profiler's key from the cache, or make it; one that lacks something is gone on with.

    Args:
        profiler: What to time.
        folder: For files that need not survive.
        progress: Told about every unit.
        dense: The exported dense model, where there is one.
        again: Time everything even if there is a table.
        enough: See `Profiler.profile`; a table that ended early by it is not kept in the cache.

    Raises:
        MeasurementError: Nothing can be timed here, or a measurement failed.
    """
    cache, key = cache_folder(), profiler.key()
    table = None if again else load_cached(cache, key)
    if table is not None and not profiler.lacks(table):
        return Profile(table, cached_path(cache, key), already_there=True)
    table = profiler.profile(folder, progress, dense, table, enough)
    if enough is not None and not table.unfinished and profiler.lacks(table):
        return Profile(table, cached_path(cache, key), already_there=False)
    if table.stopped_early:
        progress.say("the time limit or a busy machine left some intervals wide; `taco profile --again` repeats it")
    return Profile(table, save_cached(cache, table), already_there=False)


def profile_model(
    model: str, place: Place, max_seconds: float | None, progress: Progress, *, again: bool = False
) -> Profile:
    """Profile a timm model; its weights do not matter.

    Args:
        model: timm's name.
        place: Where to time.
        max_seconds: No unit is begun after that; None is `limits_of` the target.
        progress: Told about every unit.
        again: Time everything even if there is a table.

    Raises:
        InputError: There is no such model.
        MeasurementError: Nothing can be timed there, or a measurement failed.
    """
    target, device = place.target, place.device
    if device is not None:
        device.check_runtime(target.runtime)
        if device.emulated:
            raise MeasurementError(
                f"{device.name} is emulated ({device.emulated}): its times mean nothing and enter no table",
                "Profile a real device",
            )
    with tempfile.TemporaryDirectory(prefix="taco-profile-") as scratch:
        profiler = profiler_of(model, place, Path(scratch) / "device", max_seconds)
        return profile_or_load(profiler, Path(scratch) / "models", progress, again=again)


def profiler_of(model: str, place: Place, scratch: Path, max_seconds: float | None = None) -> Profiler:
    """Return what times a timm model, or writes its micro-models; its weights do not matter.

    Args:
        model: timm's name.
        place: Where to time.
        scratch: For files that need not survive.
        max_seconds: No unit is begun after that; None is `limits_of` the target.

    Raises:
        InputError: There is no such model.
    """
    target, device = place.target, place.device
    bench = Bench(target, place.threads, scratch, device, state=State(waits=_WAITS))
    generalist = load_generalist(model, random_weights=True)
    input_size = generalist.preprocessing.input_size
    return Profiler(
        model=generalist.module,
        found=find_units(generalist.module, input_size),
        input_size=input_size,
        name=model,
        target=target,
        threads=place.threads,
        exporter=load_exporter(target.runtime),
        timer=cells_bench(bench).until_steady,
        limits=limits_of(target, max_seconds),
        whole_timer=bench.as_usual,
        machine=None if device is None else device.machine(target.runtime),
    )
