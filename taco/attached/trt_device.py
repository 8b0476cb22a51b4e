"""TensorRT on an attached device: engines are built there, of the files that it gets, and timed in alternating rounds.

No torch here. The times are those of the GPU from first kernel to last (docs/adr/0014).
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from taco.attached.agent_calls import AgentCaller
from taco.device.trt_engines import engine_file
from taco.device.trt_preflight import NOT_HARDWARE
from taco.errors import MeasurementError
from taco.timing.measure import MeasureOptions, machine_words, understood
from taco.timing.timings import BenchResult, ModelTiming

#: `provider` of the targets and of what was timed.
PROVIDER = "TensorRT"
TIME_IS = "GPU, from first kernel to last; copying the picture to the GPU is not in it"
_SHORT_S = 120.0
#: judgement: a build that takes longer has failed, and so has a run of an engine that is ready.
_BUILD_S, _RUN_S = 1800.0, 60.0
#: Hashing engines of gigabytes on a slow card.
_HASH_S = 600.0
_Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclasses.dataclass(frozen=True, slots=True)
class TensorRt:
    """TensorRT on one device.

    Attributes:
        agent: What is asked there.
        options: For every command, such as where trtexec is.
        facts: What it said: version, typing of its networks, hardware, power mode, memory, warnings.
    """

    agent: AgentCaller
    options: tuple[str, ...]
    facts: Mapping[str, Any]

    @classmethod
    def found(cls, agent: AgentCaller, trtexec: str | None) -> TensorRt:
        """Ask which TensorRT there is.

        Raises:
            MeasurementError: There is none, it is too old, or there is no memory to build with.
        """
        options = () if trtexec is None else ("--trtexec", trtexec)
        return cls(agent, options, agent.ask(["tensorrt", *options], _SHORT_S))

    @property
    def version(self) -> str:
        """As in 10.3.0."""
        return str(self.facts["tensorrt"])

    @property
    def hardware(self) -> str | None:
        """The NVIDIA machine; None where nothing shows one, and its times are those of a stand-in."""
        found = self.facts["hardware"]
        return None if found is None else str(found)

    def key(self) -> dict[str, str]:
        """What a time depends on beside the model and the device."""
        return {
            "tensorrt": self.version,
            "hardware": self.hardware or NOT_HARDWARE,
            "power_mode": str(self.facts["power_mode"]),
        }

    def machine(self, probe: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the device says of itself, with what decides how fast its engines are."""
        return engine_machine(probe, self.key())

    def measure(self, models: Mapping[str, Path], options: MeasureOptions) -> BenchResult:
        """Build an engine of every model and time them against each other.

        Args:
            models: Name -> ONNX file, exported for TensorRT.
            options: How to measure; pauses, numbers of threads and sustained work cannot be asked for.

        Raises:
            MeasurementError: An engine cannot be built or timed; or something was asked that trtexec cannot do.
        """
        if options.idle_s or options.sweep or options.sustained_s:
            raise MeasurementError(
                "TensorRT's engines are timed warm only: no pauses, numbers of threads or sustained work",
                "Leave those options out: --idle 0, no --sweep, no --sustained",
            )
        request = {
            "models": self.sent(models),
            "rounds": options.rounds,
            "round_s": options.round_ms / 1000,
            "max_s": options.max_seconds,
        }
        limit_s = options.max_seconds + _BUILD_S * len(models)
        answer = understood(SweepAnswer, self.agent.ask_json("sweep", request, limit_s, self.options))
        if set(answer.rounds_ms) != set(models) or {len(r) for r in answer.rounds_ms.values()} != {answer.rounds}:
            raise MeasurementError(f"the device timed {sorted(answer.rounds_ms)} instead of {sorted(models)}")
        return sweep_result(answer)

    def judge(self, models: Mapping[str, Path], request: Mapping[str, Any]) -> dict[str, Any]:
        """Let the engines of models name pictures, and time their layers.

        Args:
            models: Name -> ONNX file, as they were timed.
            request: See `taco.device.trt_judge.judge`, without models.

        Raises:
            MeasurementError: An engine cannot be built or run.
        """
        pictures = int(request["n"])
        asked = {**{key: value for key, value in request.items() if key != "n"}, "models": self.sent(models)}
        limit_s = (_BUILD_S + _RUN_S * (pictures + 2)) * len(models)
        return self.agent.ask_json("judge", asked, limit_s, self.options)

    def has(self, engines: Mapping[str, Mapping[str, Any]]) -> bool:
        """Say whether engines still lie there, byte for byte: they go when a run gives the device back.

        Args:
            engines: Name of a model -> what is known of its engine, `key` and `engine_sha256` among it.
        """
        wanted = {engine_file(name, facts["key"]): facts["engine_sha256"] for name, facts in engines.items()}
        return bool(self.agent.ask(["hash", *wanted], _HASH_S)["files"] == wanted)

    def sent(self, models: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
        """Send models in the edition that this TensorRT builds; returns how a request names them."""
        from taco.exporters.editions import edition_for

        with tempfile.TemporaryDirectory(prefix="taco-editions-") as folder:
            strong = bool(self.facts["strongly_typed"])
            found = {name: edition_for(path, Path(folder), strong=strong) for name, path in models.items()}
            places = self.agent.send([edition.path for edition in found.values()], ".onnx")
        return {
            name: {
                "weak": places[edition.path],
                "strong": places[edition.path],
                "precision": edition.precision,
                "sparse": edition.sparse,
            }
            for name, edition in found.items()
        }


class SweepAnswer(BaseModel):
    """What the agent's `sweep` answers: samples by model and round in milliseconds, engines, versions, the machine."""

    rounds_ms: dict[str, list[Annotated[list[_Milliseconds], Field(min_length=1)]]]
    rounds: int = Field(ge=1)
    stopped_early: bool
    engines: dict[str, dict[str, Any]]
    tensorrt: str
    hardware: str | None
    power_mode: str
    probe_before: dict[str, Any]
    probe_after: dict[str, Any]

    def key(self) -> dict[str, str]:
        """What a time depends on beside the model and the device."""
        return {
            "tensorrt": self.tensorrt,
            "hardware": self.hardware or NOT_HARDWARE,
            "power_mode": self.power_mode,
        }


def engine_machine(probe: Mapping[str, Any], key: Mapping[str, str]) -> dict[str, Any]:
    """Return what a device says of itself, with what decides how fast its engines are: TensorRT, hardware, power mode.

    Args:
        probe: From `taco.device.probe`.
        key: From `TensorRt.key` or `SweepAnswer.key`.
    """
    runtimes = {**probe["runtimes"], "tensorrt": {"version": key["tensorrt"]}}
    return {**probe, **key, "runtimes": runtimes}


def sweep_result(answer: SweepAnswer) -> BenchResult:
    """Return times as every other measurement gives them."""
    return BenchResult(
        models={
            name: ModelTiming(
                rounds_ms=tuple(map(tuple, rounds)),
                provider=PROVIDER,
                runtime_name=PROVIDER,
                runtime_version=answer.tensorrt,
                cold_ms=None,
                session=answer.engines[name],
            )
            for name, rounds in answer.rounds_ms.items()
        },
        threads=1,
        rounds=answer.rounds,
        stopped_early=answer.stopped_early,
        measured_on={
            "hardware": answer.hardware or NOT_HARDWARE,
            "power mode": answer.power_mode,
            "time is that of": TIME_IS,
            **machine_words(answer.probe_before, answer.probe_after),
        },
        emulated=answer.probe_before.get("emulated"),
    )
