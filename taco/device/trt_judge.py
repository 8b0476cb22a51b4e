"""What a host asks of engines that it had built and timed here: the logits of pictures, and the time of their layers.

The engines are found under the keys that they were timed under, so that the bytes that are judged are those bytes.
"""

from __future__ import annotations

import functools
import os
import tempfile
from typing import Any, Callable, Dict, Tuple

import numpy as np

from taco.device.trt_answers import Asked, Runner
from taco.device.trt_engines import engine_facts, working
from taco.device.trt_kit import Model, read_models
from taco.device.trt_machine import Surroundings, set_up
from taco.device.wire import RequestError

Say = Callable[[str], None]


def judge(request: Any, folder: str, here: Surroundings, say: Say) -> Dict[str, Any]:
    """Let engines name pictures.

    Args:
        request: `models` by name as in `trt_sweep`, `pictures` (a file of uint8 (n, height, width, 3) in numpy's form),
            `input`, `output`, `classes` (how many), `owners`, `units`, `profile_s`.
        folder: Relative paths start here; engines lie in `engines` in it.
        here: Where things are.
        say: Told what is being done.

    Returns:
        Plain JSON values: logits and layers by model, engines, versions, the machine.

    Raises:
        RequestError: The request is wrong.
        DeviceError: An engine cannot be built or run.
    """
    models, asked, pixels = _read(request, folder)
    machine = set_up(here, say)
    builder = machine.builder(folder)
    logits, layers, engines = {}, {}, {}
    with tempfile.TemporaryDirectory(prefix="taco-judge-") as scratch:
        runner = Runner(machine, asked, scratch, say)
        for name, model in models.items():
            graph = model.graph(machine.recipe)
            build = functools.partial(builder.engine, name, graph, model.precision, model.sparse, say)
            engine = working(build, runner.nothing, say)
            logits[name] = runner.logits(name, engine, pixels).tolist()
            layers[name] = runner.layers(name, engine)
            engines[name] = engine_facts(engine, model.precision, [])
    return {
        **machine.facts(),
        "logits": logits,
        "layers": layers,
        "engines": engines,
        "jetson_linux": machine.checked["probe"]["jetson_linux"],
    }


def _read(request: Any, folder: str) -> Tuple[Dict[str, Model], Asked, Any]:
    """Return models, what they read and give, and the pictures."""
    try:
        models = read_models(request["models"])
        given = request["input"]
        asked = Asked(
            input_name=str(given["name"]),
            output_name=str(request["output"]),
            shape=tuple(map(int, given["shape"])),
            mean=tuple(map(float, given["mean"])),
            std=tuple(map(float, given["std"])),
            classes=int(request["classes"]),
            owners={str(name): dict(nodes) for name, nodes in request["owners"].items()},
            units={str(module): list(map(str, names)) for module, names in request["units"].items()},
            profile_s=float(request["profile_s"]),
        )
        pixels = np.load(os.path.join(folder, str(request["pictures"])), mmap_mode="r", allow_pickle=False)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RequestError(f"the request is wrong: {type(error).__name__}: {error}") from error
    except OSError as error:
        raise RequestError(f"the pictures cannot be read: {error}", "Run the command again.") from error
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (*asked.shape[2:], 3):
        raise RequestError(f"the pictures are {pixels.dtype} {pixels.shape}, not uint8 (n, {asked.shape[2:]}, 3)")
    return models, asked, pixels
