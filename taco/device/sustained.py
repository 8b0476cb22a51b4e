"""What a warm, short measurement hides: the first run after a pause, and the thirtieth minute of work.

A camera trap sleeps until something moves: its run is the one after idling. A camera that watches all the time gets
hot: its runs are those of the thirtieth minute.
"""

from __future__ import annotations

import math
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

from taco.device import board
from taco.device.power_sampler import EVERY_S, PowerSampler, mean_power
from taco.device.probe import telemetry

IDLE_REPEATS = 3
MINUTE_S = 60.0


def after_idle(
    idle_s: float,
    run: Callable[[], List[float]],
    sleep: Callable[[float], None] = time.sleep,
    read: Callable[[], Dict[str, float]] = board.power_w,
) -> Tuple[List[float], Dict[str, float]]:
    """Time the first run after a pause of the whole program, and read the power at rest in the pauses.

    Args:
        idle_s: Seconds of the pause; 0 measures nothing.
        run: Runs the model once; its milliseconds.
        sleep: Waits.
        read: Gives watts by the name of the rail; empty where nothing tells.

    Returns:
        Milliseconds, one a pause, and the mean readings of the board's rails while it paused; both empty without a
        pause.
    """
    samples: List[float] = []
    readings: List[Dict[str, float]] = []
    for _ in range(IDLE_REPEATS if idle_s > 0 else 0):
        readings.extend(_pause(idle_s, sleep, read))
        samples.extend(run())
    return samples, mean_power(readings)


def _pause(
    idle_s: float, sleep: Callable[[float], None], read: Callable[[], Dict[str, float]]
) -> List[Dict[str, float]]:
    """Wait, and read power on the way; never at the end, where reading would wake the machine just before the run."""
    parts = max(2, math.ceil(idle_s / EVERY_S))
    readings: List[Dict[str, float]] = []
    for _ in range(parts - 1):
        sleep(idle_s / parts)
        if all(readings):  # a board that tells nothing is asked once
            readings.append(read())
    sleep(idle_s / parts)
    return readings


def sustain(seconds: float, run: Callable[[], List[float]], look: Callable[[], Dict[str, Any]] = telemetry) -> Any:
    """Let one model work without a pause, and look at the machine once a minute.

    Args:
        seconds: How long.
        run: Runs the model some times; milliseconds of each.
        look: Reads the machine's state.

    Returns:
        One entry a minute: `minute` from 1, `seconds` it really took, `n`, `p50_ms`, `p90_ms`, `state`, and
        `package_w`, an Intel package's mean power, where it may be read, and `power_w`, the mean readings of the
        board's rails while it worked.
    """
    if seconds <= 0:
        return []
    with PowerSampler() as sampler:
        return _minutes(seconds, run, look, sampler)


def _minutes(
    seconds: float, run: Callable[[], List[float]], look: Callable[[], Dict[str, Any]], sampler: PowerSampler
) -> List[Dict[str, Any]]:
    minutes: List[Dict[str, Any]] = []
    begin = time.monotonic()
    while time.monotonic() - begin < seconds:
        start, energy = time.monotonic(), board.energy_uj()
        samples: List[float] = []
        end = min(start + MINUTE_S, begin + seconds)
        while not samples or time.monotonic() < end:
            samples.extend(run())
        took = time.monotonic() - start
        minutes.append(
            {
                "minute": len(minutes) + 1,
                "seconds": took,
                "n": len(samples),
                "p50_ms": percentile(samples, 50),
                "p90_ms": percentile(samples, 90),
                "power_w": sampler.take(),
                "state": look(),
                "package_w": watts(energy, board.energy_uj(), took),
            }
        )
    return minutes


def percentile(samples: List[float], percent: float) -> float:
    """Interpolated percentile, as numpy's default."""
    ordered = sorted(samples)
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def watts(before: Optional[int], after: Optional[int], seconds: float) -> Optional[float]:
    """Mean power between two readings of an energy counter in microjoules; None where it was not read or began anew."""
    if before is None or after is None or after < before or seconds <= 0:  # the counter starts again at 0
        return None
    return round((after - before) / 1e6 / seconds, 3)
