"""Measure models on a device through a transport: send the agent and what it needs, run it, read its answer."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from taco.attached.agent_calls import AgentCaller
from taco.device.request import LEAST_ITERATIONS
from taco.device.sustained import IDLE_REPEATS
from taco.errors import MeasurementError
from taco.timing.timings import BenchResult, Minute, ModelTiming, SweepPoint
from taco.transport import Transport

OPENING_S = 300.0
UNKNOWN = "unknown"
Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]

_Kind = TypeVar("_Kind", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class MeasureOptions:
    """How to measure.

    Attributes:
        threads: Threads a model; None is every physical core of the device.
        rounds: Interleaved rounds.
        round_ms: Time that each model gets in a round, milliseconds.
        max_seconds: Rounds stop early rather than take longer than this.
        provider: ONNX Runtime execution provider or OpenVINO device; another one is never used in its place.
        seed: Seed of the input noise.
        python: The device's interpreter; this process's own suits the local transport.
        providers: Model -> its own provider, where models of several runtimes are compared.
        idle_s: Pause before the first run after idling, seconds; 0 measures none.
        sweep: Other numbers of threads to measure.
        sustained_s: How long one model works without a pause, seconds; 0 measures none.
        focus: The model that works so, and is run after idling; None is the last one.
        steady: Rounds go on, `rounds` more at a time, until the interval of every model's time over the first one's is
            at most this share of it wide; 0 asks for no more.
        most_rounds: Then they end all the same.
        steady_s: Nor do they go on where they would take longer than this, seconds; None is no limit.
        least_iterations: Runs of a model in a round at least, however long one takes.
    """

    threads: int | None = None
    rounds: int = 25
    round_ms: float = 40.0
    max_seconds: float = 60.0
    provider: str = "CPUExecutionProvider"
    seed: int = 0
    python: str = field(default_factory=lambda: sys.executable)
    providers: Mapping[str, str] = field(default_factory=dict)
    idle_s: float = 0.0
    sweep: tuple[int, ...] = ()
    sustained_s: float = 0.0
    focus: str | None = None
    steady: float = 0.0
    most_rounds: int = 1
    steady_s: float | None = None
    least_iterations: int = LEAST_ITERATIONS

    def limit_s(self, models: int) -> float:
        """Seconds after which a measurement of so many models has failed."""
        idle, sweep = IDLE_REPEATS * self.idle_s, len(self.sweep) * (self.max_seconds + OPENING_S)
        return self.max_seconds + OPENING_S * (1 + models) + idle + sweep + 1.5 * self.sustained_s


def measure(transport: Transport, models: Mapping[str, Path], options: MeasureOptions) -> BenchResult:
    """Time models against each other on a device.

    Everything travels under names made of its content: a model that is already there is not sent again, and two
    measurements never disturb each other's files.

    Args:
        transport: The way to the device.
        models: Name -> ONNX file; the first is timed first in the first round.
        options: How to measure.

    Returns:
        Times of every model, all from the same rounds.

    Raises:
        InputError: A model cannot be read.
        MeasurementError: Something is missing or failed on the device, or its answer cannot be understood.
    """
    agent = AgentCaller(transport, options.python)
    return measure_with(agent, models, options)


def measure_with(agent: AgentCaller, models: Mapping[str, Path], options: MeasureOptions) -> BenchResult:
    """Time models through an agent; else as `measure`."""
    names = agent.send(models.values(), ".onnx")
    request = _request({name: names[path] for name, path in models.items()}, options)
    command = "bench-alone" if agent.extra else "bench"
    answer = understood(_Answer, agent.ask_json(command, request, options.limit_s(len(models))))
    _check_models(answer, models)
    return _result(answer)


class _RuntimeAnswer(BaseModel):
    name: str
    version: str


class _ModelAnswer(BaseModel):
    rounds_ms: list[Annotated[list[Milliseconds], Field(min_length=1)]] = Field(min_length=1)
    provider: str
    runtime: _RuntimeAnswer
    session: dict[str, Any]
    cold_ms: Milliseconds


class _Answer(BaseModel):
    models: dict[str, _ModelAnswer]
    threads: int
    rounds: int
    stopped_early: bool
    probe_before: dict[str, Any]
    probe_after: dict[str, Any]
    focus: str = ""
    idle_ms: list[Milliseconds] = []
    rest_w: dict[str, float] = {}
    rest_package_w: float | None = None
    sweep: list[SweepPoint] = []
    sustained: list[Minute] = []


def _request(names: Mapping[str, str], options: MeasureOptions) -> dict[str, Any]:
    request: dict[str, Any] = {
        "models": dict(names),
        "threads": options.threads,
        "rounds": options.rounds,
        "round_ms": options.round_ms,
        "max_seconds": options.max_seconds,
        "provider": options.provider,
        "providers": dict(options.providers),
        "seed": options.seed,
    }
    if options.idle_s:
        request["idle_s"] = options.idle_s
    if options.sweep:
        request["sweep"] = list(options.sweep)
    if options.sustained_s:
        request["sustained_s"] = options.sustained_s
    if options.focus is not None:
        request["focus"] = options.focus
    if options.steady:
        request |= {"steady": options.steady, "most_rounds": options.most_rounds}
        if options.steady_s is not None:
            request["steady_s"] = options.steady_s
    if options.least_iterations != LEAST_ITERATIONS:
        request["least_iterations"] = options.least_iterations
    return request


def understood(kind: type[_Kind], answer: Mapping[str, Any]) -> _Kind:
    """Return an agent's answer as a record.

    Raises:
        MeasurementError: It is none; says what is wrong.
    """
    try:
        return kind.model_validate(answer)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise MeasurementError(f"the device agent's answer is not understood: {place}: {first['msg']}") from error


def _check_models(answer: _Answer, models: Mapping[str, Path]) -> None:
    if set(answer.models) != set(models):
        raise MeasurementError(f"the device agent measured {sorted(answer.models)} instead of {sorted(models)}")
    if {len(model.rounds_ms) for model in answer.models.values()} != {answer.rounds}:
        raise MeasurementError("the device agent measured unequal numbers of rounds")


def _result(answer: _Answer) -> BenchResult:
    return BenchResult(
        models={name: _timing(model) for name, model in answer.models.items()},
        threads=answer.threads,
        rounds=answer.rounds,
        stopped_early=answer.stopped_early,
        measured_on=machine_words(answer.probe_before, answer.probe_after),
        focus=answer.focus,
        idle_ms=tuple(answer.idle_ms),
        sweep=tuple(answer.sweep),
        sustained=tuple(answer.sustained),
        emulated=answer.probe_before.get("emulated"),
        rest_w=answer.rest_w,
        rest_package_w=answer.rest_package_w,
    )


def _timing(model: _ModelAnswer) -> ModelTiming:
    return ModelTiming(
        rounds_ms=tuple(map(tuple, model.rounds_ms)),
        provider=model.provider,
        runtime_name=model.runtime.name,
        runtime_version=model.runtime.version,
        cold_ms=model.cold_ms,
        session=model.session,
    )


def machine_words(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, str]:
    """The machine as a person reads it; "unknown" where the device does not say."""
    fixed = {
        "machine": _word(before, "machine"),
        "board": _word(before, "board"),
        "processor": _word(before, "processor"),
        "cores": _word(before, "cores_physical"),
        "os": _word(before, "os"),
        "kernel": _word(before, "kernel"),
        "python": _word(before, "python"),
        "memory": _word(before, "memory_total_mib", " MiB"),
        "instructions": " ".join(map(str, before.get("isa") or ())) or UNKNOWN,
    }
    moments = (("before", before.get("telemetry") or {}), ("after", after.get("telemetry") or {}))
    return fixed | {f"{key} {when}": text for when, state in moments for key, text in in_words(state).items()}


def in_words(telemetry: Mapping[str, Any]) -> dict[str, str]:
    """Say how the machine was doing: what `taco.device.probe.telemetry` told, "unknown" where it does not."""
    temperatures = telemetry.get("temperatures_c") or {}
    throttled, power = telemetry.get("throttled") or {}, telemetry.get("power_w") or {}
    return {
        "governor": _word(telemetry, "governor"),
        "clocks": _range(telemetry.get("clocks_mhz"), " MHz"),
        "temperatures": ", ".join(f"{zone} {value} °C" for zone, value in temperatures.items()) or UNKNOWN,
        "load": " ".join(map(str, telemetry.get("load_average") or ())) or UNKNOWN,
        "throttling": ", ".join(f"{name} {value}" for name, value in throttled.items()) or UNKNOWN,
        "power mode": _word(telemetry, "power_mode"),
        "power": ", ".join(f"{rail} {value} W" for rail, value in power.items()) or UNKNOWN,
    }


def _word(values: Mapping[str, Any], key: str, unit: str = "") -> str:
    value = values.get(key)
    return UNKNOWN if value in (None, "", UNKNOWN) else f"{value}{unit}"


def _range(values: Sequence[float] | None, unit: str) -> str:
    if not values:
        return UNKNOWN
    low, high = min(values), max(values)
    return f"{low:g}{unit}" if low == high else f"{low:g}-{high:g}{unit}"
