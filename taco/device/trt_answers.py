"""What engines answer to pictures, and where their time goes: every picture is a process of trtexec of its own."""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

import numpy as np

from taco.device.normalise import normalised
from taco.device.trt_arguments import infer_arguments, profile_arguments
from taco.device.trt_engines import Engine
from taco.device.trt_layers import attribute
from taco.device.trt_machine import Machine
from taco.device.trt_read import read_layers, read_output, read_profile
from taco.device.wire import DeviceError

Say = Callable[[str], None]


class Asked(NamedTuple):
    """What must be known of the models to run them.

    `shape` is (1, channels, height, width); `owners` maps a model to its ONNX nodes' modules, `units` a module to the
    units that decide its width; layers are timed for `profile_s` seconds.
    """

    input_name: str
    output_name: str
    shape: Tuple[int, ...]
    mean: Tuple[float, ...]
    std: Tuple[float, ...]
    classes: int
    owners: Dict[str, Dict[str, str]]
    units: Dict[str, List[str]]
    profile_s: float


class Runner:
    """Runs engines.

    Args:
        machine: What runs them.
        asked: What the models read and give.
        scratch: Folder for what trtexec reads and writes.
        say: Told what is being done.
    """

    def __init__(self, machine: Machine, asked: Asked, scratch: str, say: Say) -> None:
        self._machine, self._asked, self._scratch, self._say = machine, asked, scratch, say

    def infer(self, engine: Engine, pixels: Any) -> List[float]:
        """Run one picture, uint8 (1, height, width, 3); returns its logits.

        Raises:
            DeviceError: The engine cannot be loaded or run, or its output is not what it must be.
        """
        asked = self._asked
        normalised(pixels, asked.mean, asked.std).tofile(os.path.join(self._scratch, "input.bin"))
        output = os.path.join(self._scratch, "output.json")
        if os.path.exists(output):
            os.unlink(output)
        arguments = infer_arguments(self._machine.recipe, engine.path, asked.input_name, "input.bin", "output.json")
        self._machine.trtexec.run(arguments, f"running {os.path.basename(engine.path)}", self._scratch)
        logits = read_output(output, asked.output_name)
        if len(logits) != asked.classes:
            raise DeviceError(f"the engine gives {len(logits)} logits for {asked.classes} classes")
        return logits

    def nothing(self, engine: Engine) -> None:
        """Run an empty picture: an engine that cannot be loaded is told before it is used."""
        self.infer(engine, np.zeros((1, *self._asked.shape[2:], 3), np.uint8))

    def logits(self, name: str, engine: Engine, pixels: Any) -> Any:
        """Run pictures, uint8 (n, height, width, 3); returns (n, classes) float64."""
        self._say(f"judging {name} on {len(pixels)} pictures")
        found = [self.infer(engine, pixels[index : index + 1]) for index in range(len(pixels))]
        return np.asarray(found, np.float64).reshape(len(pixels), self._asked.classes)

    def layers(self, name: str, engine: Engine) -> Dict[str, Any]:
        """Time the layers of an engine; plain JSON values, see `taco.report.device_schema.LayerProfile`."""
        self._say(f"timing the layers of {name}")
        profile, layers = (os.path.join(self._scratch, f"{kind}.json") for kind in ("profile", "layers"))
        for path in (profile, layers):
            if os.path.exists(path):
                os.unlink(path)
        arguments = profile_arguments(engine.path, profile, layers, self._asked.profile_s)
        self._machine.trtexec.run(arguments, f"profiling {name}", self._scratch)
        times, known = read_profile(profile), read_layers(layers)
        found = attribute(times, known, self._asked.owners.get(name, {}))
        sparse = sum(layer.sparse for layer in known.values())
        return {**found.to_json(self._asked.units), "engine_layers": len(times), "sparse_kernels": sparse}
