"""Time a bundle on a device, by the protocol of its target."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from taco.address import Address
from taco.bundle import Bundle, check_file
from taco.errors import InputError
from taco.measure import MeasureOptions, in_words
from taco.ondevice import Device, attached, leased
from taco.stability import steady
from taco.targets.loading import load_target
from taco.timings import BenchResult, ModelTiming

_PROFILE_S = 600.0
_BESIDE = {"dense": "dense.onnx", "baseline_fp32": "dense.fp32.onnx"}


@dataclass(frozen=True, slots=True)
class BenchAsked:
    """What is measured beside warm runs.

    Attributes:
        threads: Threads of the model; None is the target's own choice.
        idle_s: Pause before a first run; 0 is none.
        sustained_s: Work without a pause; 0 is none.
        sweep: Other numbers of threads.
        operators: Whether the runtime's own profiler times every operator, in a run of its own.
    """

    threads: int | None = None
    idle_s: float = 0.0
    sustained_s: float = 0.0
    sweep: tuple[int, ...] = ()
    operators: bool = False


def bench_bundle(bundle: Bundle, address: Address, asked: BenchAsked) -> dict[str, Any]:
    """Measure a bundle, beside its dense model where that is at hand.

    Returns:
        JSON values. Of an emulated device no time at all, only how it is emulated and that the models ran.

    Raises:
        InputError: Operators are asked of a runtime whose profiler we do not read.
        MeasurementError: The device is missing or busy, or something is missing on it.
    """
    manifest = bundle.manifest
    if asked.operators and manifest.runtime != "ort":
        raise InputError("operators are timed with ONNX Runtime only", "Leave --operators out")
    target = load_target(manifest.target)
    models = {"compressed": bundle.model_path, **_beside(bundle)}
    with attached(address) as device, leased(device):
        device.check_runtime(target.runtime)
        options = MeasureOptions(
            threads=asked.threads or target.threads,
            rounds=target.benchmark.rounds,
            round_ms=target.benchmark.round_ms,
            max_seconds=target.benchmark.max_seconds,
            provider=bundle.provider,
            idle_s=asked.idle_s,
            sustained_s=asked.sustained_s,
            sweep=asked.sweep,
            focus="compressed",
        )
        if device.emulated:
            quick = MeasureOptions(rounds=1, round_ms=1, provider=bundle.provider, threads=1)
            ran = device.measure(models, quick)
            return {
                "device": address.text,
                "emulated": device.emulated,
                "ran": {name: f"{m.runtime_name} {m.runtime_version}, {m.provider}" for name, m in ran.models.items()},
            }
        result = steady(lambda: device.measure(models, options))
        operators = _operators(device, bundle, options.threads) if asked.operators else []
    return {"device": address.text, "emulated": None, **_told(result), "operators": operators}


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


def _told(result: BenchResult) -> dict[str, Any]:
    speedup = result.speedup("dense", "compressed") if "dense" in result.models else None
    return {
        "measured_on": dict(result.measured_on),
        "threads": result.threads,
        "models": {name: _model(timing) for name, timing in result.models.items()},
        "speedup": None if speedup is None else asdict(speedup),
        "idle_ms": list(result.idle_ms),
        "sweep": [{"threads": p.threads, "p50": _medians(p.rounds_ms)} for p in result.sweep],
        "sustained": [{**asdict(minute), "conditions": conditions(minute.state)} for minute in result.sustained],
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
