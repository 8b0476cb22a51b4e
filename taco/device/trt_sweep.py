"""Engines timed against each other: whole models, or a unit at each of its widths for a latency table.

A profile of a whole network cannot tell what a unit costs, because transformers collapse into a few layers (LESSONS
53): each width of each block is an engine of its own.
"""

from __future__ import annotations

import tempfile
from typing import Any, Callable, Dict, Mapping, Tuple

from taco.device.probe import probe
from taco.device.trt_arguments import load_arguments
from taco.device.trt_engines import Builder, Engine, engine_facts, working
from taco.device.trt_kit import Model, read_models
from taco.device.trt_machine import Machine, Surroundings, set_up
from taco.device.trt_rounds import Protocol, Timed, time_rounds
from taco.device.wire import RequestError

EXAMPLE = (
    'An example: {"models": {"blocks.1@32": {"weak": "a.onnx", "strong": "a.onnx", "precision": "fp16"}}, '
    '"rounds": 11, "round_s": 0.3, "max_s": 600}; "sparse": true in a model lets 2:4 kernels be considered.'
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
    machine = set_up(here, say)
    engines = built(models, machine, machine.builder(folder), say)
    with tempfile.TemporaryDirectory(prefix="taco-sweep-") as scratch:
        timed = time_rounds(machine.trtexec, paths_of(engines), protocol, scratch, say)
    return answer_of(models, engines, timed, protocol, machine, here.root)


def built(models: Mapping[str, Model], machine: Machine, builder: Builder, say: Say) -> Dict[str, Engine]:
    """Return an engine of every model, built now or before, that can be loaded.

    Raises:
        DeviceError: One cannot be built.
    """
    return {name: _engine(name, model, machine, builder, say) for name, model in models.items()}


def paths_of(engines: Mapping[str, Engine]) -> Dict[str, str]:
    """Return where engines lie."""
    return {name: engine.path for name, engine in engines.items()}


def answer_of(
    models: Mapping[str, Model],
    engines: Mapping[str, Engine],
    timed: Timed,
    protocol: Protocol,
    machine: Machine,
    root: str,
) -> Dict[str, Any]:
    """Return what was timed as `sweep` answers it."""
    rounds = min(map(len, timed.rounds_ms.values()))
    return {
        **machine.facts(),
        "rounds_ms": timed.rounds_ms,
        "rounds": rounds,
        "stopped_early": rounds < protocol.rounds,
        "engines": {
            name: engine_facts(engine, models[name].precision, timed.unstable[name]) for name, engine in engines.items()
        },
        "probe_before": machine.checked["probe"],
        "probe_after": probe(root),
    }


def _engine(name: str, model: Model, machine: Machine, builder: Builder, say: Say) -> Engine:
    """Return an engine that can be loaded; timing loads those that are built now."""

    def build() -> Engine:
        return builder.engine(name, model.graph(machine.recipe), model.precision, model.sparse, say)

    def load(engine: Engine) -> None:
        if engine.facts["from_earlier_run"]:
            machine.trtexec.run(load_arguments(engine.path), f"loading {name}", builder.engines)

    return working(build, load, say)


def _read(request: Any) -> Tuple[Dict[str, Model], Protocol]:
    try:
        models = read_models(request["models"])
        protocol = Protocol.read(request)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RequestError(f"the request is wrong: {type(error).__name__}: {error}", EXAMPLE) from error
    if not models or not protocol.takes_time:
        raise RequestError("the request must name models, and times above 0", EXAMPLE)
    return models, protocol
