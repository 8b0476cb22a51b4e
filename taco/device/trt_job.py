"""The whole job on a Jetson: build the engines, judge them on pictures, time them in rounds, profile their layers."""

from __future__ import annotations

import os
import tempfile
from typing import Any, Callable, Dict, List

import numpy as np

from taco.device.normalise import normalised
from taco.device.probe import probe
from taco.device.statistics import paired
from taco.device.trt_arguments import infer_arguments, profile_arguments
from taco.device.trt_engines import Engine, in_order
from taco.device.trt_kit import Kit
from taco.device.trt_layers import attribute
from taco.device.trt_machine import Machine, Surroundings, set_up
from taco.device.trt_read import read_layers, read_output, read_profile
from taco.device.trt_rounds import Protocol, time_rounds
from taco.device.wire import DeviceError

#: Points that an engine may surely lose against the file that it was built from.
MOST_POINTS = 1.0
#: Models whose answers are counted and whose layers are timed.
JUDGED = ("dense", "compressed")
#: The model whose engine must answer as its file does. What the dense one loses in its precision is shown, not gated.
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
        Plain JSON values: versions, engines, accuracy, samples by round, layers.

    Raises:
        DeviceError: Something is missing or failed; says what and what to do.
    """
    machine = set_up(kit.folder, here, say)
    with tempfile.TemporaryDirectory(prefix="taco-jetson-") as scratch:
        return _Job(kit, machine, scratch, say).run(here.root)


class _Job:
    def __init__(self, kit: Kit, machine: Machine, scratch: str, say: Say) -> None:
        self.kit, self.scratch, self.say, self.machine = kit, scratch, say, machine
        self.trtexec, self.recipe, self.builder = machine.trtexec, machine.recipe, machine.builder

    def run(self, root: str) -> Dict[str, Any]:
        names = in_order(list(self.kit.models))
        engines = {name: self._engine(name) for name in names}
        judged = {name: self._answers(name, engines[name]) for name in JUDGED if name in engines}
        protocol = Protocol(self.kit.rounds, self.kit.round_s, self.kit.max_s)
        paths = {name: engine.path for name, engine in engines.items()}
        timed = time_rounds(self.trtexec, paths, protocol, self.scratch, self.say)
        layers = {name: self._profile(name, engines[name]) for name in JUDGED if name in engines}
        return {
            "schema": SCHEMA_VERSION,
            **self.machine.facts(),
            "engines": {
                name: self._engine_facts(name, engine, timed.unstable[name]) for name, engine in engines.items()
            },
            "answers": {name: found.tolist() for name, found in judged.items()},
            "gates": [self._gate(judged[GATED])] if GATED in judged and len(self.kit.shown.labels) else [],
            "rounds_ms": timed.rounds_ms,
            "layers": layers,
            "probe_before": self.machine.checked["probe"],
            "probe_after": probe(root),
        }

    def _engine(self, name: str) -> Engine:
        """Return an engine that deserialises; one of an earlier run that does not is built again, once."""
        engine = self._built(name)
        try:
            self._infer(engine, np.zeros(self._shape(), np.uint8))
        except DeviceError as error:
            if not engine.facts["from_earlier_run"]:
                raise
            self.say(f"the engine of {name} from an earlier run cannot be used ({error.what}): building it again")
            os.unlink(engine.path)
            engine = self._built(name)
            self._infer(engine, np.zeros(self._shape(), np.uint8))
        return engine

    def _built(self, name: str) -> Engine:
        model = self.kit.models[name]
        graph = model.strong if self.recipe.strong else model.weak
        return self.builder.engine(name, graph, model.precision, self.kit.sparse, self.say)

    def _shape(self) -> Any:
        return (1, *self.kit.shown.pixels.shape[1:])

    def _infer(self, engine: Engine, pixels: Any) -> List[float]:
        """Run one picture, uint8 (1, height, width, 3); returns its logits."""
        normalised(pixels, self.kit.mean, self.kit.std).tofile(os.path.join(self.scratch, "input.bin"))
        name, output = self.kit.input_name, os.path.join(self.scratch, "output.json")
        if os.path.exists(output):
            os.unlink(output)
        arguments = infer_arguments(self.recipe, engine.path, name, "input.bin", "output.json")
        self.trtexec.run(arguments, f"running {os.path.basename(engine.path)}", self.scratch)
        logits = read_output(output, self.kit.output_name)
        if len(logits) != len(self.kit.classes):
            raise DeviceError(f"the engine gives {len(logits)} logits for {len(self.kit.classes)} classes")
        return logits

    def _answers(self, name: str, engine: Engine) -> Any:
        pixels = self.kit.shown.pixels
        self.say(f"judging {name} on {len(pixels)} pictures")
        found = [int(np.argmax(self._infer(engine, pixels[index : index + 1]))) for index in range(len(pixels))]
        return np.asarray(found, np.int64)

    def _gate(self, answers: Any) -> Dict[str, Any]:
        """Compare the compressed engine's answers with those of the file that it was built from."""
        shown = self.kit.shown
        drop = paired(shown.labels, shown.host[GATED], answers, shown.balanced)
        same = int((shown.host[GATED] == answers).sum())
        return {
            "name": f"engine of {GATED} against its file",
            "passed": drop.lower_one_sided <= MOST_POINTS,
            "measured": f"{drop.points:.2f} points lost on {len(answers)} pictures, surely more than "
            f"{drop.lower_one_sided:.2f}; {same} of {len(answers)} answers are the same",
            "limit": f"{MOST_POINTS:g} points",
        }

    def _profile(self, name: str, engine: Engine) -> Dict[str, Any]:
        self.say(f"timing the layers of {name}")
        profile, layers = (os.path.join(self.scratch, f"{name}.{kind}.json") for kind in ("profile", "layers"))
        arguments = profile_arguments(engine.path, profile, layers, self.kit.round_s)
        self.trtexec.run(arguments, f"profiling {name}", self.scratch)
        times, known = read_profile(profile), read_layers(layers)
        found = attribute(times, known, self.kit.owners.get(name, {}))
        sparse = sum(layer.sparse for layer in known.values())
        return {**found.to_json(self.kit.units), "engine_layers": len(times), "sparse_kernels": sparse}

    def _engine_facts(self, name: str, engine: Engine, unstable: List[float]) -> Dict[str, Any]:
        facts = {key: value for key, value in engine.facts.items() if key != "log"}
        return {
            **facts,
            "precision": self.kit.models[name].precision,
            **{key: getattr(engine.log, key) for key in ("gpu", "capability", "eligible", "chosen", "skipped")},
            "unstable_percent": unstable,
        }
