"""The micro-engines that a copied folder holds: every unit of a model at every width, for this device's latency table.

A profile of a whole network cannot tell what a unit costs (LESSONS 53), so that each width of each block is an engine
of its own, timed in turns with the dense model. What is timed is written at once: a second run goes on from there.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from typing import Any, Callable, Dict, Mapping, NamedTuple

from taco.device.intervals import relative_width
from taco.device.trt_engines import Builder, Engine, sha256_of, write_json
from taco.device.trt_kit import Model, read_models
from taco.device.trt_machine import Machine, Surroundings, set_up
from taco.device.trt_rounds import Protocol, Timed, time_rounds
from taco.device.trt_sweep import answer_of, built, paths_of
from taco.device.wire import DeviceError, RequestError

#: Folder in the copied one, what it says of itself, and where the answers go.
UNITS = "units"
LIST = "units.json"
ANSWERS = "answers"
#: Name of the dense model in every sweep.
DENSE = "dense"
SCHEMA_VERSION = 1
#: A share: an interval should not be wider; else it is timed again, so often at most. The host does so too.
SMALL_SPREAD = 0.05
REPEATS = 3
#: Where so many sweeps fail one after the other and none succeeds, it is not the blocks: the rest would fail as well.
GIVE_UP = 4
_SAME = ("tensorrt", "hardware", "power_mode")
_AGAIN = "Copy the whole folder again, or make it again with `taco profile --into`."

Say = Callable[[str], None]


class Units(NamedTuple):
    """What is to be timed: `sweeps` by name, each of models that take turns, `dense` among them."""

    folder: str
    sweeps: Dict[str, Dict[str, Model]]
    protocol: Protocol


def holds_units(folder: str) -> bool:
    """Say whether a folder holds micro-models."""
    return os.path.isfile(os.path.join(folder, UNITS, LIST))


def read_units(folder: str) -> Units:
    """Read what a folder's `units/units.json` asks for, and check its files.

    Raises:
        RequestError: Something is missing, damaged or out of range; names it.
    """
    own = os.path.join(folder, UNITS)
    path = os.path.join(own, LIST)
    try:
        with open(path, encoding="utf-8") as stream:
            asked = json.load(stream)
        if asked["schema"] != SCHEMA_VERSION:
            raise ValueError(f"schema {asked['schema']!r} instead of {SCHEMA_VERSION}")
        sweeps = {str(name): read_models(models) for name, models in asked["sweeps"].items()}
        files = {str(name): str(digest) for name, digest in asked["files"].items()}
        units = Units(own, sweeps, Protocol.read(asked))
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}", _AGAIN) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RequestError(f"{path} does not say what it must: {type(error).__name__}: {error}", _AGAIN) from error
    if not units.protocol.takes_time:
        raise RequestError(f"{path} asks for no time at all", _AGAIN)
    if not sweeps or any(DENSE not in models or len(models) < 2 for models in sweeps.values()):
        raise RequestError(f"{path} must time something against {DENSE!r} in every sweep", _AGAIN)
    if any(os.path.basename(name) != name for name in (*sweeps, *files)):
        raise RequestError(f"{path} names files outside of its folder", _AGAIN)
    for file in {
        file for models in sweeps.values() for model in models.values() for file in (model.weak, model.strong)
    }:
        if sha256_of(os.path.join(own, file)) != files.get(file):
            raise RequestError(f"{UNITS}/{file} is not the file that was exported (its hash differs)", _AGAIN)
    return units


def time_units(folder: str, here: Surroundings, say: Say) -> Dict[str, Any]:
    """Time every micro-engine that was not timed on this device before.

    An engine that cannot be built is told and left out: its unit has no cells in the table.

    Args:
        folder: The copied folder.
        here: Where things are.
        say: Told what is being done.

    Returns:
        Plain JSON values: `timed`, `known` (sweeps of earlier runs) and `failed` (sweep -> why).

    Raises:
        DeviceError: The folder is damaged, TensorRT is missing, not even the dense model can be built, or all of the
            first blocks fail.
    """
    units = read_units(folder)
    os.makedirs(os.path.join(units.folder, ANSWERS), exist_ok=True)
    return _Timing(units, set_up(here, say), here.root, say).run()


class _Timing:
    def __init__(self, units: Units, machine: Machine, root: str, say: Say) -> None:
        self.units, self.machine, self.root, self.say = units, machine, root, say
        self.builder: Builder = machine.builder(units.folder)

    def run(self) -> Dict[str, Any]:
        sweeps = self.units.sweeps
        left = [name for name in sweeps if not self._known(name)]
        failed: Dict[str, str] = {}
        if left:
            # What every sweep needs is built first: without it all would fail, one after the other.
            dense = {DENSE: sweeps[left[0]][DENSE]}
            built(dense, self.machine, self.builder, self.say)
        for number, name in enumerate(left, 1):
            self.say(f"blocks by themselves: {number} of {len(left)}")
            began = time.monotonic()
            try:
                answer = self._timed(sweeps[name])
            except DeviceError as error:
                self.say(f"left out: {error}")
                failed[name] = error.what
                if len(failed) == number == GIVE_UP:
                    raise
                answer = {**self.machine.facts(), "failed": error.what, "probe_before": self.machine.checked["probe"]}
            write_json(self._path(name), {**answer, "seconds": round(time.monotonic() - began, 1)})
        return {"timed": len(left) - len(failed), "known": len(sweeps) - len(left), "failed": failed}

    def _path(self, name: str) -> str:
        return os.path.join(self.units.folder, ANSWERS, f"{name}.json")

    def _known(self, name: str) -> bool:
        """Say whether an earlier run timed a sweep on this device, in its present state."""
        try:
            with open(self._path(name), encoding="utf-8") as stream:
                answer = json.load(stream)
            facts, board = self.machine.facts(), self.machine.checked["probe"]["board"]
            same = all(answer[key] == facts[key] for key in _SAME) and answer["probe_before"]["board"] == board
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return same and "failed" not in answer

    def _timed(self, models: Mapping[str, Model]) -> Dict[str, Any]:
        """Build engines and time them until every interval is small, or it has been repeated often enough."""
        engines = built(models, self.machine, self.builder, self.say)
        protocol, timed = self.units.protocol, Timed({name: [] for name in models}, {name: [] for name in models})
        try:
            with tempfile.TemporaryDirectory(prefix="taco-units-") as scratch:
                for _ in range(REPEATS):
                    more = time_rounds(self.machine.trtexec, paths_of(engines), protocol, scratch, self.say)
                    for name in models:
                        timed.rounds_ms[name].extend(more.rounds_ms[name])
                        timed.unstable[name].extend(more.unstable[name])
                    if _spread(timed) <= SMALL_SPREAD:
                        break
            return answer_of(models, engines, timed, protocol, self.machine, self.root)
        finally:
            self._forget({name: engine for name, engine in engines.items() if name != DENSE})

    def _forget(self, engines: Mapping[str, Engine]) -> None:
        """Remove engines that nobody asks for again: a folder is carried back."""
        for engine in engines.values():
            for path in (engine.path, f"{engine.path}.json"):
                with contextlib.suppress(OSError):
                    os.unlink(path)


def _spread(timed: Timed) -> float:
    """Return the widest interval of a time over the dense model's, as a share of its median."""
    dense = timed.rounds_ms[DENSE]
    return max(relative_width(rounds, dense) for name, rounds in timed.rounds_ms.items() if name != DENSE)
