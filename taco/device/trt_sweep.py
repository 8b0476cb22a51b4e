"""Many small engines timed against each other: what a unit of a network costs at each width, for a latency table.

A profile of a whole network cannot tell, because transformers collapse into a few layers (LESSONS 53): each width of
each block is an engine of its own.
"""

from __future__ import annotations

import tempfile
from typing import Any, Callable, Dict, Mapping, Tuple

from taco.device.probe import probe
from taco.device.trt_kit import PRECISIONS, Model
from taco.device.trt_machine import Surroundings, set_up
from taco.device.trt_rounds import Protocol, time_rounds
from taco.device.wire import RequestError

EXAMPLE = (
    'An example: {"models": {"blocks.1@32": {"weak": "a.onnx", "strong": "a.onnx", "precision": "fp16"}}, '
    '"rounds": 11, "round_s": 0.3, "max_s": 600}'
)

Say = Callable[[str], None]


def sweep(request: Any, folder: str, here: Surroundings, say: Say) -> Dict[str, Any]:
    """Build and time every model of a request.

    Args:
        request: `models` by name, `rounds`, `round_s`, `max_s`; see `EXAMPLE`.
        folder: Relative paths start here; engines go to `engines` in it.
        here: Where things are.
        say: Told what is being done.

    Returns:
        Plain JSON values: samples by model and round in milliseconds, engines, versions, the machine before and after.

    Raises:
        RequestError: The request is wrong.
        DeviceError: An engine cannot be built or timed.
    """
    models, protocol = _read(request)
    machine = set_up(folder, here, say)
    engines = {}
    for name, model in models.items():
        graph = model.strong if machine.recipe.strong else model.weak
        engines[name] = machine.builder.engine(_file_name(name), graph, model.precision, False, say)
    with tempfile.TemporaryDirectory(prefix="taco-sweep-") as scratch:
        paths = {name: engine.path for name, engine in engines.items()}
        timed = time_rounds(machine.trtexec, paths, protocol, scratch, say)
    return {
        **machine.facts(),
        "rounds_ms": timed.rounds_ms,
        "unstable_percent": timed.unstable,
        "engines": {name: engine.facts for name, engine in engines.items()},
        "probe_before": machine.checked["probe"],
        "probe_after": probe(here.root),
    }


def _read(request: Any) -> Tuple[Dict[str, Model], Protocol]:
    try:
        given: Mapping[str, Any] = request["models"]
        models = {str(name): Model(str(m["weak"]), str(m["strong"]), str(m["precision"])) for name, m in given.items()}
        protocol = Protocol(int(request["rounds"]), float(request["round_s"]), float(request["max_s"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RequestError(f"the request is wrong: {type(error).__name__}: {error}", EXAMPLE) from error
    if not models or protocol.rounds < 1 or protocol.round_s <= 0 or protocol.max_s <= 0:
        raise RequestError("the request must name models, and times above 0", EXAMPLE)
    if any(model.precision not in PRECISIONS for model in models.values()):
        raise RequestError(f"a precision is none of {', '.join(PRECISIONS)}", EXAMPLE)
    return models, protocol


def _file_name(name: str) -> str:
    """A model's name as a part of a file's; the key tells models apart whose names become alike."""
    return "".join(c if c.isalnum() or c in "._@-" else "_" for c in name)
