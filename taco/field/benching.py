"""Time a bundle on one device, or on several at once, by the protocol of its target."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from taco.address import Address
from taco.attached.fleet import Failed, at_once, check_distinct
from taco.attached.ondevice import Device, attached, leased
from taco.bundle import Bundle, check_file
from taco.errors import InputError, MeasurementError
from taco.metrics.energy import PACKAGE, Power, joules_per_picture, whole_power
from taco.targets.loading import load_target
from taco.timing.measure import MeasureOptions, in_words
from taco.timing.spread import spread
from taco.timing.stability import steady
from taco.timing.timings import BenchResult, Minute, ModelTiming

IDLE_S = 10.0
_PROFILE_S = 600.0
_BESIDE = {"dense": "dense.onnx", "baseline_fp32": "dense.fp32.onnx"}


@dataclass(frozen=True, slots=True)
class BenchAsked:
    """What is measured beside warm runs.

    Attributes:
        threads: Threads of the model; None is the target's own choice.
        idle_s: Pause before a first run; 0 is none; None is 10, and none with TensorRT.
        sustained_s: Work without a pause; 0 is none.
        sweep: Other numbers of threads.
        operators: Whether the runtime's own profiler times every operator, in a run of its own.
    """

    threads: int | None = None
    idle_s: float | None = 0.0
    sustained_s: float = 0.0
    sweep: tuple[int, ...] = ()
    operators: bool = False


def bench_devices(
    bundle: Bundle, addresses: Sequence[Address], asked: BenchAsked, advance: Callable[[int], None] = lambda _n: None
) -> dict[str, Any]:
    """Measure a bundle on several devices at once; one that cannot be measured does not stop the others.

    Args:
        bundle: What is timed.
        addresses: Where the devices are.
        asked: What is measured.
        advance: Called with 1 for every device that is done.

    Returns:
        JSON values: `units`, one entry a device as `bench_bundle` gives it, or with a `problem`; `spread` over the real
        devices that were measured, null for fewer than two.

    Raises:
        InputError: A device was given twice.
        MeasurementError: None could be measured.
    """
    check_distinct(addresses)

    def job(address: Address) -> Callable[[], dict[str, Any]]:
        return lambda: bench_bundle(bundle, address, asked)

    found = at_once({address.text: job(address) for address in addresses}, advance)
    problems = {text: outcome for text, outcome in found.items() if isinstance(outcome, Failed)}
    if len(problems) == len(found):
        told = "; ".join(f"{text}: {failed.what}" for text, failed in problems.items())
        raise MeasurementError(f"no device could be measured: {told}", next(iter(problems.values())).todo)
    units = [
        {"device": text, "problem": str(outcome)} if isinstance(outcome, Failed) else outcome
        for text, outcome in found.items()
    ]
    return {"units": units, "spread": spread_of(units)}


def spread_of(units: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Compare the compressed model's times on several devices, entries as `bench_devices` gives them."""
    rounds = {
        unit["device"]: [statistics.median(samples) for samples in unit["models"]["compressed"]["rounds_ms"]]
        for unit in units
        if unit.get("models")
    }
    found = spread(rounds)
    return None if found is None else asdict(found)


def bench_bundle(bundle: Bundle, address: Address, asked: BenchAsked) -> dict[str, Any]:
    """Measure a bundle, beside its dense model where that is at hand.

    Returns:
        JSON values. Of an emulated device no time at all, only how it is emulated and that the models ran.

    Raises:
        InputError: Operators are asked of a runtime whose profiler we do not read, or work without a pause of engines.
        MeasurementError: The device is missing or busy, or something is missing on it.
    """
    manifest = bundle.manifest
    if asked.operators and manifest.runtime != "ort":
        raise InputError("operators are timed with ONNX Runtime only", "Leave --operators out")
    if asked.sustained_s and manifest.runtime == "trt":
        raise InputError("TensorRT's engines are timed warm only, never without a pause", "Leave --sustained out")
    target = load_target(manifest.target)
    models = {"compressed": bundle.model_path, **_beside(bundle)}
    with attached(address) as device, leased(device):
        device.check_runtime(target.runtime)
        provider = target.provider if target.runtime == "trt" else bundle.provider
        options = MeasureOptions(
            threads=asked.threads or target.threads,
            rounds=target.benchmark.rounds,
            round_ms=target.benchmark.round_ms,
            max_seconds=target.benchmark.max_seconds,
            provider=provider,
            idle_s=asked.idle_s if asked.idle_s is not None else 0.0 if target.runtime == "trt" else IDLE_S,
            sustained_s=asked.sustained_s,
            sweep=asked.sweep,
            focus="compressed",
        )
        if device.emulated:
            quick = MeasureOptions(rounds=1, round_ms=1, provider=provider, threads=1)
            ran = device.measure(models, quick)
            return {
                "device": address.text,
                "emulated": device.emulated,
                "board": device.board,
                "ran": {name: f"{m.runtime_name} {m.runtime_version}, {m.provider}" for name, m in ran.models.items()},
            }
        result = measured(device, models, options)
        board = device.board
        operators = _operators(device, bundle, options.threads) if asked.operators else []
    return {"device": address.text, "emulated": None, "board": board, **told(result), "operators": operators}


def measured(device: Device, models: Mapping[str, Path], options: MeasureOptions) -> BenchResult:
    """Time models, again where the rounds were disturbed; then let `options.focus` work without a pause, where asked.

    That work heats the board: it comes last, is never repeated, and says nothing about the rounds.
    """
    rounds = replace(options, sustained_s=0.0)
    result = steady(lambda: device.measure(models, rounds))
    if not options.sustained_s:
        return result
    alone = {result.focus: models[result.focus]}
    work = device.measure(alone, replace(options, rounds=1, idle_s=0.0, sweep=()))
    return replace(result, sustained=work.sustained)


def _operators(device: Device, bundle: Bundle, threads: int | None) -> list[dict[str, Any]]:
    """Time every operator of the model; the profiler slows the run, so these do not add up to the latency."""
    name = device.agent.send([bundle.model_path], ".onnx")[bundle.model_path]
    words = ["profile", name, "--provider", bundle.provider, "--threads", str(threads or 0)]
    return sorted(device.agent.ask(words, _PROFILE_S)["nodes"], key=lambda node: -float(node["ms"]))


def _beside(bundle: Bundle) -> dict[str, Path]:
    found = {}
    for name, file in _BESIDE.items():
        if file in bundle.manifest.files:
            check_file(bundle.path, file, bundle.manifest)
            found[name] = bundle.path / file
    return found


def told(result: BenchResult) -> dict[str, Any]:
    """Return everything that a measurement found as JSON values."""
    rest = rest_power(result)
    speedup = result.speedup("dense", "compressed") if "dense" in result.models else None
    return {
        "measured_on": dict(result.measured_on),
        "threads": result.threads,
        "models": {name: _model(timing) for name, timing in result.models.items()},
        "speedup": None if speedup is None else asdict(speedup),
        "idle_ms": list(result.idle_ms),
        "sweep": [{"threads": p.threads, "p50": _medians(p.rounds_ms)} for p in result.sweep],
        "sustained": [told_minute(minute) for minute in result.sustained],
        "rest": None if rest is None else asdict(rest),
        "unstable": list(result.unstable),
        "repeated": result.repeated,
    }


def _model(timing: ModelTiming) -> dict[str, Any]:
    return {
        "n": timing.n,
        "min": timing.min_ms,
        "p50": timing.p50_ms,
        "p90": timing.p90_ms,
        "p99": timing.p99_ms,
        "cold": timing.cold_ms,
        "provider": timing.provider,
        "runtime": f"{timing.runtime_name} {timing.runtime_version}",
        "rounds_ms": [list(samples) for samples in timing.rounds_ms],
    }


def _medians(rounds_ms: Mapping[str, tuple[tuple[float, ...], ...]]) -> dict[str, float]:
    return {name: statistics.median(ms for round_ in rounds for ms in round_) for name, rounds in rounds_ms.items()}


def conditions(state: Mapping[str, Any]) -> str:
    """Say in one line how hot, fast and throttled the machine was."""
    words = in_words(state)
    return ", ".join(f"{name} {words[name]}" for name in ("temperatures", "clocks", "throttling", "power"))


def told_minute(minute: Minute) -> dict[str, Any]:
    """Return a minute of work as JSON values: what was read, and what follows from it."""
    power = whole_power(minute.power_w)
    if power is None and minute.package_w is not None:
        power = Power(minute.package_w, PACKAGE)
    temperatures, clocks = minute.state.get("temperatures_c") or {}, minute.state.get("clocks_mhz") or ()
    return {
        **asdict(minute),
        "conditions": conditions(minute.state),
        "temperature_c": max(map(float, temperatures.values()), default=None),
        "clock_mhz": statistics.fmean(map(float, clocks)) if clocks else None,
        "watts": None if power is None else power.watts,
        "power_source": None if power is None else power.source,
        "joules": None if power is None else joules_per_picture(power.watts, minute.seconds, minute.n),
    }


def rest_power(result: BenchResult) -> Power | None:
    """Return the power of the board in the pauses, or of an Intel package; None without pauses or what tells it."""
    board = whole_power(result.rest_w)
    if board is not None:
        return board
    return None if result.rest_package_w is None else Power(result.rest_package_w, PACKAGE)
