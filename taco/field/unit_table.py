"""What a copied folder timed on its device, as that device's latency table: every cell was measured there.

The table has the key that the same device would have if it were attached, so that either finds the other's.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from taco.attached.trt_device import SweepAnswer, engine_machine, sweep_result
from taco.device.trt_units import ANSWERS, DENSE, LIST, SMALL_SPREAD, UNITS
from taco.errors import InputError, MeasurementError
from taco.field.unit_list import WHOLES_SWEEP, ZEROS_SWEEP, UnitList
from taco.latency.table import LatencyTable, TableKey, UnitCells, device_words
from taco.timing.cells import cell, gains, spread, wholes
from taco.timing.measure import understood
from taco.timing.timings import BenchResult

#: Sweeps of whole models: they are no cells.
_OF_WHOLES = (ZEROS_SWEEP, WHOLES_SWEEP)
_RUN = "Run it there: python3 agent.pyz jetson (a second run goes on where it stopped), and copy the folder back"


class _Failed(BaseModel):
    """What a sweep left that could not be built or timed."""

    failed: str


class _Answer(SweepAnswer):
    seconds: Annotated[float, Field(ge=0)]


def collect_units(folder: Path) -> LatencyTable:
    """Read what came back.

    Args:
        folder: The copied one.

    Raises:
        InputError: It holds no micro-models, or its list is damaged.
        MeasurementError: It has not run to the end, its answers are not of one device in one state, or nothing could be
            timed.
    """
    asked = _listed(folder)
    answers, failed = _answers(folder, asked)
    if not answers:
        raise MeasurementError(
            f"{folder}: nothing could be timed there: {next(iter(failed.values()), 'no block')}", _RUN
        )
    device, version = _one_device(answers)
    results = {name: _result(name, answer, asked) for name, answer in answers.items()}
    samples = [ms for result in results.values() for ms in result.models[DENSE].samples_ms]
    dense_ms = float(np.median(samples))
    timed = {name: unit for name, unit in asked.units.items() if unit.signature in results}
    if not timed:
        raise MeasurementError(f"{folder}: no unit could be timed there: {next(iter(failed.values()), 'none is held')}")
    complete = WHOLES_SWEEP in results and len(timed) == len(asked.units)
    return LatencyTable(
        key=TableKey(
            device=device,
            runtime="trt",
            runtime_version=version,
            provider=asked.provider,
            precision=asked.precision,
            threads=1,
            model=asked.model,
            architecture=asked.architecture,
            software=asked.software,
        ),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seconds=sum(answer.seconds for answer in answers.values()),
        stopped_early=any(spread(result) > SMALL_SPREAD for n, result in results.items() if n not in _OF_WHOLES),
        dense_ms=dense_ms,
        dense_n=len(samples),
        units={
            name: UnitCells(
                kind=unit.kind,
                holder=unit.holder,
                signature=unit.signature,
                cells=tuple(cell(results[unit.signature], width, dense_ms) for width in unit.widths),
            )
            for name, unit in timed.items()
        },
        skipped={
            **asked.skipped,
            **{n: failed[unit.signature] for n, unit in asked.units.items() if unit.signature in failed},
        },
        zeros=gains(results[ZEROS_SWEEP]) if ZEROS_SWEEP in results else (),
        wholes=wholes(results[WHOLES_SWEEP], asked.wholes, dense_ms) if complete else (),
    )


def _listed(folder: Path) -> UnitList:
    path = folder / UNITS / LIST
    try:
        return UnitList.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"{folder} holds no micro-models ({UNITS}/{LIST}: {error.strerror})",
            "Make it with: taco profile --target jetson-orin --into FOLDER",
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(f"{path} is damaged or from another version: {place}: {first['msg']}") from error


def _answers(folder: Path, asked: UnitList) -> tuple[dict[str, _Answer], dict[str, str]]:
    """Return what was timed, and why the rest could not be."""
    answers, failed, lacking = dict[str, _Answer](), dict[str, str](), 0
    for name in asked.sweeps:
        told = _json(folder / UNITS / ANSWERS / f"{name}.json")
        if told is None:
            lacking += 1
        elif "failed" in told:
            failed[name] = understood(_Failed, told).failed
        else:
            answers[name] = understood(_Answer, told)
    if lacking:
        raise MeasurementError(f"{folder}: {lacking} of {len(asked.sweeps)} measurements have not been taken", _RUN)
    return answers, failed


def _json(path: Path) -> Mapping[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise MeasurementError(f"{path} cannot be read: {error}", "Copy the folder back again") from error
    if not isinstance(found, dict):
        raise MeasurementError(f"{path} holds no answer", "Copy the folder back again")
    return found


def _one_device(answers: Mapping[str, _Answer]) -> tuple[dict[str, str], str]:
    """Return the device in words, and its TensorRT.

    Raises:
        MeasurementError: There is more than one.
    """
    machines = [engine_machine(answer.probe_before, answer.key()) for answer in answers.values()]
    found = {tuple(sorted((device_words(m) | {"tensorrt": m["tensorrt"]}).items())) for m in machines}
    if len(found) > 1:
        first, second = (dict(words) for words in sorted(found)[:2])
        key = next(key for key in first if first[key] != second.get(key))
        raise MeasurementError(
            f"the measurements are not of one device in one state: {key} is {first[key]} and {second.get(key)}",
            "Run it again there, in the power mode that is meant; what is of another state is then taken again",
        )
    return device_words(machines[0]), str(machines[0]["tensorrt"])


def _result(name: str, answer: _Answer, asked: UnitList) -> BenchResult:
    wanted, rounds = set(asked.sweeps[name]), {len(r) for r in answer.rounds_ms.values()}
    if set(answer.rounds_ms) != wanted or rounds != {answer.rounds}:
        raise MeasurementError(f"the device timed {sorted(answer.rounds_ms)} instead of {sorted(wanted)}", _RUN)
    return sweep_result(answer)
