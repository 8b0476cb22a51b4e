"""The whole job on a Jetson: build engines, time them in rounds, judge on pictures those that pay, profile layers."""

from __future__ import annotations

import functools
import tempfile
from typing import Any, Callable, Dict

import numpy as np

from taco.device.probe import probe
from taco.device.statistics import paired
from taco.device.trt_answers import Asked, Runner
from taco.device.trt_choice import Chosen, choose
from taco.device.trt_engines import Engine, engine_facts, in_order, working
from taco.device.trt_kit import Kit
from taco.device.trt_machine import Machine, Surroundings, set_up
from taco.device.trt_rounds import Protocol, time_rounds

#: Points that an engine may surely lose against the file that it was built from.
MOST_POINTS = 1.0
#: The role whose engine must answer as its file does. What the dense one loses in its precision is shown, not gated.
GATED = "compressed"
SCHEMA_VERSION = 1

Say = Callable[[str], None]


def run_kit(kit: Kit, here: Surroundings, say: Say) -> Dict[str, Any]:
    """Do the job.

    Args:
        kit: From `read_kit`.
        here: Where things are.
        say: Told what is being done.

    Returns:
        Plain JSON values: versions, engines, which of them are used, accuracy, samples by round, layers.

    Raises:
        DeviceError: Something is missing or failed; says what and what to do.
    """
    machine = set_up(here, say)
    with tempfile.TemporaryDirectory(prefix="taco-jetson-") as scratch:
        return _Job(kit, machine, scratch, say).run(here.root)


class _Job:
    def __init__(self, kit: Kit, machine: Machine, scratch: str, say: Say) -> None:
        self.kit, self.scratch, self.say, self.machine = kit, scratch, say, machine
        self.builder = machine.builder(kit.folder)
        self.runner = Runner(machine, _asked(kit), scratch, say)
        self.answers: Dict[str, Any] = {}

    def run(self, root: str) -> Dict[str, Any]:
        engines = {name: self._engine(name) for name in in_order(list(self.kit.models))}
        protocol = Protocol(self.kit.rounds, self.kit.round_s, self.kit.max_s)
        paths = {name: engine.path for name, engine in engines.items()}
        timed = time_rounds(self.machine.trtexec, paths, protocol, self.scratch, self.say)
        chosen, gates = self._judged(choose(timed.rounds_ms, self.kit.instead), engines)
        return {
            "schema": SCHEMA_VERSION,
            **self.machine.facts(),
            "engines": {
                name: engine_facts(engine, self.kit.models[name].precision, timed.unstable[name])
                for name, engine in engines.items()
            },
            "used": chosen.names,
            "given_up": chosen.given_up,
            "gain": chosen.gain,
            "answers": {name: found.tolist() for name, found in self.answers.items()},
            "gates": gates,
            "rounds_ms": timed.rounds_ms,
            "layers": {name: self.runner.layers(name, engines[name]) for name in chosen.names.values()},
            "probe_before": self.machine.checked["probe"],
            "probe_after": probe(root),
        }

    def _engine(self, name: str) -> Engine:
        """Return an engine that deserialises."""
        model = self.kit.models[name]
        graph = model.graph(self.machine.recipe)
        build = functools.partial(self.builder.engine, name, graph, model.precision, model.sparse, self.say)
        return working(build, self.runner.nothing, self.say)

    def _judged(self, chosen: Chosen, engines: Dict[str, Engine]) -> Any:
        """Judge what is used; INT8 that loses answers here is given up too. Returns what is used, and the gates."""
        gates = self._gates(chosen, engines)
        if chosen.given_up is None and self.kit.instead and any(gate["passed"] is False for gate in gates):
            why = f"the INT8 engine loses answers on this device: {gates[0]['measured']}"
            chosen = chosen._replace(names=dict(self.kit.instead), given_up=why)
            gates = self._gates(chosen, engines)
        if chosen.given_up is not None:
            self.say(f"INT8 is not used: {chosen.given_up}")
        self._answer(chosen.names["dense"], engines)
        return chosen, gates

    def _gates(self, chosen: Chosen, engines: Dict[str, Engine]) -> Any:
        name = chosen.names[GATED]
        self._answer(name, engines)
        return [self._gate(name)] if len(self.kit.shown.labels) else []

    def _answer(self, name: str, engines: Dict[str, Engine]) -> None:
        if name not in self.answers:
            logits = self.runner.logits(name, engines[name], self.kit.shown.pixels)
            self.answers[name] = logits.argmax(1).astype(np.int64)

    def _gate(self, name: str) -> Dict[str, Any]:
        """Compare an engine's answers with those that its model gave on the computer that made the folder."""
        shown, answers = self.kit.shown, self.answers[name]
        drop = paired(shown.labels, shown.host[name], answers, shown.balanced)
        same = int((shown.host[name] == answers).sum())
        return {
            "name": f"engine of {name} against its file",
            "passed": drop.lower_one_sided <= MOST_POINTS,
            "measured": f"{drop.points:.2f} points lost on {len(answers)} pictures, surely more than "
            f"{drop.lower_one_sided:.2f}; {same} of {len(answers)} answers are the same",
            "limit": f"{MOST_POINTS:g} point",
        }


def _asked(kit: Kit) -> Asked:
    height, width = kit.shown.pixels.shape[1:3]
    return Asked(
        input_name=kit.input_name,
        output_name=kit.output_name,
        shape=(1, 3, height, width),
        mean=kit.mean,
        std=kit.std,
        classes=len(kit.classes),
        owners=kit.owners,
        units=kit.units,
        profile_s=kit.round_s,
    )
