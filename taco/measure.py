"""Measure models on a device through a transport: send the agent and what it needs, run it, read its answer."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from taco.agent_pack import agent_bytes
from taco.device import wire
from taco.errors import InputError, MeasurementError
from taco.files import sha256_of
from taco.timings import BenchResult, ModelTiming
from taco.transport import Completed, Transport

logger = logging.getLogger(__name__)

SHORT_COMMAND_S = 120.0
OPENING_S = 300.0
UNKNOWN = "unknown"
Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


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
    """

    threads: int | None = None
    rounds: int = 25
    round_ms: float = 40.0
    max_seconds: float = 60.0
    provider: str = "CPUExecutionProvider"
    seed: int = 0
    python: str = field(default_factory=lambda: sys.executable)
    providers: Mapping[str, str] = field(default_factory=dict)


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
    agent = _put_bytes(transport, agent_bytes(), "agent-{}.pyz")
    command = [options.python, "-I", agent]
    names = _send_models(transport, models, command)
    request = _put_bytes(transport, _request(names, options), "request-{}.json")
    limit_s = options.max_seconds + OPENING_S * (1 + len(models))
    answer = _read_answer(_ask(transport, [*command, "bench", request], limit_s))
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


def _request(names: Mapping[str, str], options: MeasureOptions) -> bytes:
    request = {
        "models": dict(names),
        "threads": options.threads,
        "rounds": options.rounds,
        "round_ms": options.round_ms,
        "max_seconds": options.max_seconds,
        "provider": options.provider,
        "providers": dict(options.providers),
        "seed": options.seed,
    }
    return json.dumps(request).encode()


def _put_bytes(transport: Transport, content: bytes, template: str) -> str:
    """Send bytes under a name made of their hash."""
    destination = template.format(hashlib.sha256(content).hexdigest()[:16])
    with tempfile.TemporaryDirectory(prefix="taco-") as folder:
        source = Path(folder) / destination
        source.write_bytes(content)
        transport.put(source, destination)
    return destination


def _send_models(transport: Transport, models: Mapping[str, Path], command: Sequence[str]) -> dict[str, str]:
    """Send the models that the device does not have yet.

    Returns:
        Model name -> file name on the device.
    """
    digests = {name: _sha256(path) for name, path in models.items()}
    names = {name: f"{digest}.onnx" for name, digest in digests.items()}
    there = _ask(transport, [*command, "hash", *sorted(set(names.values()))], SHORT_COMMAND_S).get("files")
    known = there if isinstance(there, dict) else {}
    for name, path in models.items():
        if known.get(names[name]) != digests[name]:
            logger.debug("sending %s as %s", path, names[name])
            transport.put(path, names[name])
    return names


def _sha256(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise InputError(f"the model {path} cannot be read: {error.strerror}") from error


def _ask(transport: Transport, argv: Sequence[str], timeout_s: float) -> dict[str, Any]:
    """Run the agent and read its answer; its errors become ours."""
    completed = transport.run(argv, timeout_s)
    try:
        answer = wire.parse(completed.stdout)
    except wire.WireError as error:
        raise _no_answer(completed) from error
    if "error" in answer:
        raise _fault(answer["error"])
    if completed.returncode != 0:
        raise _no_answer(completed)
    return answer


def _fault(error: Any) -> MeasurementError:
    if isinstance(error, dict):
        return MeasurementError(str(error.get("what", error)), str(error.get("todo", "")))
    return MeasurementError(f"the device agent failed: {error}")


def _no_answer(completed: Completed) -> MeasurementError:
    words = (completed.stderr.strip() or completed.stdout.strip())[-500:] or "nothing"
    return MeasurementError(
        f"the device agent ended with exit code {completed.returncode} and gave no answer; it said: {words}",
        "Check that the device has Python 3.8 or newer with numpy and the runtime.",
    )


def _read_answer(answer: Mapping[str, Any]) -> _Answer:
    try:
        return _Answer.model_validate(answer)
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
        measured_on=_in_words(answer.probe_before, answer.probe_after),
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


def _in_words(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, str]:
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
    return fixed | {f"{key} {when}": text for when, state in moments for key, text in _state(state).items()}


def _state(telemetry: Mapping[str, Any]) -> dict[str, str]:
    temperatures = telemetry.get("temperatures_c") or {}
    throttled = telemetry.get("throttled") or {}
    return {
        "governor": _word(telemetry, "governor"),
        "clocks": _range(telemetry.get("clocks_mhz"), " MHz"),
        "temperatures": ", ".join(f"{zone} {value} °C" for zone, value in temperatures.items()) or UNKNOWN,
        "load": " ".join(map(str, telemetry.get("load_average") or ())) or UNKNOWN,
        "throttling": ", ".join(f"{name} {value}" for name, value in throttled.items()) or UNKNOWN,
    }


def _word(values: Mapping[str, Any], key: str, unit: str = "") -> str:
    value = values.get(key)
    return UNKNOWN if value in (None, "", UNKNOWN) else f"{value}{unit}"


def _range(values: Sequence[float] | None, unit: str) -> str:
    if not values:
        return UNKNOWN
    low, high = min(values), max(values)
    return f"{low:g}{unit}" if low == high else f"{low:g}-{high:g}{unit}"
