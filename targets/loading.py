"""One device a TOML file, beside this module: what runs there, how it is timed, and where each figure comes from.

A new target is one file; nothing has to be registered.
"""

from __future__ import annotations

import difflib
import re
import shlex
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from taco.device.opening import OPENVINO_DEVICES
from taco.device.openvino_session import HINTS
from taco.errors import TargetError

FOLDER = Path(__file__).parent
PLACEHOLDER = "{model}"
Precision = Literal["fp32", "fp16", "bf16", "int8"]


@dataclass(frozen=True, slots=True)
class BenchmarkProtocol:
    """How a model is timed on the target.

    Attributes:
        rounds: Interleaved rounds; from 6 on the median has a 95 % interval.
        round_ms: Time that each model gets in a round, milliseconds.
        max_seconds: Rounds stop early rather than take longer than this.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    rounds: Annotated[int, Field(ge=6, strict=True)]
    round_ms: Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)]
    max_seconds: Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)]


def _several(value: object) -> object:
    """Take one name for a list of it."""
    return (value,) if isinstance(value, str) else value


@dataclass(frozen=True, slots=True)
class Target:
    """One device that can be aimed at.

    Attributes:
        name: Name of the file without `.toml`.
        description: What it is, one line.
        runtime: `ort` (ONNX Runtime), `ov` (OpenVINO) or `trt` (TensorRT).
        precision: Arithmetic of the shipped model.
        local: Whether this very machine is the device.
        provider: Execution provider that must really be used.
        channel_multiple: Kept channels are rounded to multiples of this.
        default_macs: Multiply-accumulates kept (0-1] when nothing can be measured and nothing else is asked.
        benchmark: How a model is timed.
        run_on_device: What a person does on the device when it is not attached; `{model}` is the model file.
        threads: Threads a model; None is every physical core.
        board: One of these is in the name that such a board gives itself; empty where no board is expected.
        isa: What the processor has for INT8: `x86-vnni`, `x86` (without it), `arm`; auto looks at this machine.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1)]
    description: Annotated[str, Field(min_length=1)]
    runtime: Literal["ort", "ov", "trt"]
    precision: Precision
    local: Annotated[bool, Field(strict=True)]
    provider: Annotated[str, Field(min_length=1)]
    channel_multiple: Annotated[int, Field(ge=1, strict=True)]
    default_macs: Annotated[float, Field(gt=0, le=1, strict=True)]
    benchmark: BenchmarkProtocol
    run_on_device: Annotated[str, Field(min_length=1)]
    threads: Annotated[int, Field(ge=1, strict=True)] | None = field(default=None)
    isa: Literal["auto", "x86-vnni", "x86", "arm"] = field(default="auto")
    board: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_several)] = field(default=())

    def may_be(self, board: str) -> bool:
        """Whether a board that gives itself this name is such a device, as far as the name tells."""
        return not self.board or any(part in board for part in self.board)

    def instructions(self, model: str) -> str:
        """What to do on the device.

        Args:
            model: Path of the model file; quoted for a shell where it needs it.

        Returns:
            One sentence, or a command.
        """
        return self.run_on_device.replace(PLACEHOLDER, shlex.quote(model))


def load_target(name: str) -> Target:
    """Load a target by name.

    Args:
        name: Such as `raspberry-pi-5`.

    Raises:
        TargetError: There is no such target (the nearest is suggested), or its file is wrong.
    """
    known = target_names()
    if name in known:
        return read_target(FOLDER / f"{name}.toml")
    nearest = difflib.get_close_matches(name.lower().replace("_", "-").replace(" ", "-"), known, n=1)
    suggestion = f"Did you mean {nearest[0]}? " if nearest else ""
    raise TargetError(f"there is no target {name!r}", f"{suggestion}Targets are: {', '.join(known)}.")


def list_targets() -> list[Target]:
    """Every target, by name.

    Raises:
        TargetError: A file is wrong.
    """
    return [load_target(name) for name in target_names()]


def target_names() -> list[str]:
    """Names of every target, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_target(path: Path) -> Target:
    """Read one target file.

    Args:
        path: A TOML file whose name is the target's.

    Raises:
        TargetError: It cannot be read or does not say what it must; names the file, the key and what is expected.
    """
    table = _read_toml(path)
    try:
        target = TypeAdapter(Target).validate_python(table)
    except ValidationError as error:
        raise TargetError(f"target file {path} is wrong: {_wrong_keys(error)}", "Correct the file.") from error
    _check(target, path)
    return target


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TargetError(f"target file {path} cannot be read: {error.strerror}", "Check the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TargetError(f"target file {path} is not TOML: {error}", "Correct the file.") from error


def _wrong_keys(error: ValidationError) -> str:
    """Every wrong key with what is expected there."""
    return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())


def _check(target: Target, path: Path) -> None:
    """What the types cannot say."""
    rules = (
        ("name", target.name == path.stem, f"must be the file's own name, {path.stem!r}"),
        (
            "provider",
            target.runtime != "ort" or target.provider.endswith("ExecutionProvider"),
            "must be an ONNX Runtime provider such as CPUExecutionProvider",
        ),
        (
            "provider",
            target.runtime != "ov" or target.provider in OPENVINO_DEVICES,
            f"must be an OpenVINO device: {', '.join(OPENVINO_DEVICES)}",
        ),
        (
            "precision",
            target.precision not in HINTS or target.runtime == "trt" or (target.runtime == "ov" and target.local),
            "floats of 16 bits are for TensorRT, or for OpenVINO on this very machine, which judges them",
        ),
        ("precision", target.precision != "bf16" or target.runtime == "ov", "bf16 is for OpenVINO"),
        (
            "isa",
            target.local or target.precision != "int8" or target.runtime == "trt" or target.isa != "auto",
            "must name what the device's processor has, because this machine is not that device",
        ),
        (
            "run_on_device",
            set(re.findall(r"\{.*?\}", target.run_on_device)) == {PLACEHOLDER},
            f"must hold {PLACEHOLDER} and no other placeholder",
        ),
    )
    for key, good, expected in rules:
        if not good:
            raise TargetError(f"target file {path} is wrong: {key}: {expected}", "Correct the file.")
