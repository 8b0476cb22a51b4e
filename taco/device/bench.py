"""Compare models on this machine: one process a model, alternating rounds, raw samples kept.

A shared or hot machine changes speed by tens of percent for seconds at a time. So every round visits every model, the
order rotates from round to round, and the host compares models only within a round. Each model has its own process
because the spinning threads of two sessions in one process disturb each other, and is paused outside its turns because
they go on spinning for milliseconds after the last run: left alone they doubled the time of the model that came next.
With fewer threads than cores all of them stay on the same cores, so that what slows one slows the others.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from dataclasses import replace
from typing import Any, Dict, List

from taco.device import board
from taco.device.child import WorkerProcess, worker_argv
from taco.device.intervals import relative_width
from taco.device.probe import probe
from taco.device.processors import chosen_for, physical_cores
from taco.device.request import LEAST_ITERATIONS, BenchRequest, read_request
from taco.device.sustained import after_idle, sustain, watts

WARMUP_RUNS = 2
MOST_ITERATIONS = 2000
SWEEP_ROUNDS = 7

Samples = Dict[str, List[List[float]]]


def bench(request: Any, folder: str = ".") -> Dict[str, Any]:
    """Time models against each other.

    Args:
        request: See `taco.device.request.BenchRequest` for its keys.
        folder: Relative model paths start here.

    Returns:
        Plain JSON values: per model the samples of every round in milliseconds, the provider and options really used,
        the first run; the machine before the rounds and right after them; rounds done and whether `max_seconds` ended
        it early; the first runs after a pause and the power while paused, the minutes of sustained work and the rounds
        with other numbers of threads, where asked.

    Raises:
        RequestError: The request is wrong.
        DeviceError: A model cannot be opened or run, or a worker failed; names the model.
    """
    asked = read_request(request, folder)
    threads = asked.threads or physical_cores()
    before = probe()
    measured = _measure(asked, threads)
    return {
        **measured,
        "threads": threads,
        "sweep": [_swept(asked, count) for count in asked.sweep],
        "probe_before": before,
    }


def _measure(asked: BenchRequest, threads: int) -> Dict[str, Any]:
    with contextlib.ExitStack() as stack:
        workers: Dict[str, WorkerProcess] = {}
        opened: Dict[str, Dict[str, Any]] = {}
        for name in asked.models:  # one after the other, so that each is alone at its cold run
            workers[name] = _start(name, stack)
            opened[name] = _ask(workers[name], _open_command(asked, name, threads))
        samples = _rounds(asked, workers)
        after = probe()
        focus = asked.focus or list(workers)[-1]
        energy, asleep = board.energy_uj(), time.monotonic()
        idle, rest_w = after_idle(asked.idle_s, lambda: _time(workers[focus], 1, warmup=0))
        package_w = watts(energy, board.energy_uj(), time.monotonic() - asleep) if idle else None
        minutes = sustain(asked.sustained_s, lambda: _time(workers[focus], LEAST_ITERATIONS, warmup=0))
    rounds = min(len(rounds_ms) for rounds_ms in samples.values())
    return {
        "models": {name: {**opened[name], "rounds_ms": samples[name]} for name in asked.models},
        "rounds": rounds,
        "stopped_early": rounds < asked.rounds,
        "probe_after": after,
        "focus": focus,
        "idle_ms": idle,
        "rest_w": rest_w,
        "rest_package_w": package_w,
        "sustained": minutes,
    }


def _swept(asked: BenchRequest, threads: int) -> Dict[str, Any]:
    """Rounds of every model with another number of threads."""
    short = replace(asked, rounds=min(asked.rounds, SWEEP_ROUNDS), idle_s=0.0, sustained_s=0.0)
    models = _measure(short, threads)["models"]
    return {"threads": threads, "rounds_ms": {name: model["rounds_ms"] for name, model in models.items()}}


def round_order(names: List[str], index: int) -> List[str]:
    """Order of the models in one round: rotated, so that no model always runs behind the same one.

    Args:
        names: The models.
        index: Number of the round, from 0.
    """
    shift = index % len(names)
    return names[shift:] + names[:shift]


def iterations_for(round_ms: float, run_ms: float, least: int = LEAST_ITERATIONS) -> int:
    """Runs that fill a round.

    Args:
        round_ms: Time of the round.
        run_ms: Time of one run.
        least: At least so many.

    Returns:
        Between `least` and 2000.
    """
    return int(max(least, min(MOST_ITERATIONS, round(round_ms / run_ms))))


def _start(name: str, stack: contextlib.ExitStack) -> WorkerProcess:
    worker = WorkerProcess(name, worker_argv())
    stack.callback(worker.kill)
    return worker


def _open_command(asked: BenchRequest, name: str, threads: int) -> Dict[str, Any]:
    return {
        "cmd": "open",
        "model": asked.models[name],
        "threads": threads,
        "provider": asked.provider_of(name),
        "seed": asked.seed,
        "cpus": chosen_for(threads),
    }


def _ask(worker: WorkerProcess, command: Dict[str, Any]) -> Dict[str, Any]:
    """Ask one worker while all others are paused."""
    worker.resume()
    answer = worker.ask(command)
    worker.pause()
    return answer


def _time(worker: WorkerProcess, iterations: int, warmup: int = WARMUP_RUNS) -> List[float]:
    """Times of one model in milliseconds."""
    answer = _ask(worker, {"cmd": "time", "iterations": iterations, "warmup": min(warmup, iterations)})
    return [sample / 1e6 for sample in answer["samples_ns"]]


def _enough(asked: BenchRequest, samples: Samples, took_s: float) -> bool:
    """Say whether the time of every model over the first one's is known as well as asked, or the time is up."""
    first, *others = samples.values()
    if not asked.steady or all(relative_width(other, first) <= asked.steady for other in others):
        return True
    done = len(samples[next(iter(samples))]) // asked.rounds
    return asked.steady_s is not None and took_s * (done + 1) / done > asked.steady_s


def _rounds(asked: BenchRequest, workers: Dict[str, WorkerProcess]) -> Samples:
    pilot = {name: statistics.median(_time(worker, LEAST_ITERATIONS)) for name, worker in workers.items()}
    least = asked.least_iterations
    iterations = {name: iterations_for(asked.round_ms, run_ms, least) for name, run_ms in pilot.items()}
    samples: Samples = {name: [] for name in workers}
    start = time.monotonic()
    longest = 0.0
    for index in range(max(asked.rounds, asked.most_rounds)):
        began = time.monotonic()
        if index and index % asked.rounds == 0 and _enough(asked, samples, began - start):
            break
        if index > 0 and began - start + longest > asked.max_seconds:
            break
        for name in round_order(list(workers), index):
            samples[name].append(_time(workers[name], iterations[name]))
        longest = max(longest, time.monotonic() - began)
    return samples
