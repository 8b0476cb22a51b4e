"""Energy of one picture and days on a battery, from readings of power. Every assumption is said beside the figure.

No device is touched here. Power is in watts, energy in joules or watt-hours, time in seconds or milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from taco.errors import InputError

#: Where a whole board's power is read, the best source first, and what such a reading leaves out. `pmic rails` is the
#: sum of a Pi 5's rails, which `taco.device.board.power_w` has added up.
_RAILS = (
    ("VDD_IN", "the module's input (rail VDD_IN); the carrier board, camera and radio are not in it"),
    ("POM_5V_IN", "the module's input (rail POM_5V_IN); the carrier board, camera and radio are not in it"),
    ("pmic rails", "the rails of the Pi's power chip; its own losses, USB, camera and radio are not in it"),
)
PACKAGE = "the processor's own counter (package); memory, disk, camera and radio are not in it"
METER = "given by you (--active-w, --rest-w)"
_DAY_S = 86400.0
_SECONDS_AN_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Power:
    """A reading of power.

    Attributes:
        watts: The reading.
        source: Where it was read, and what it leaves out.
    """

    watts: float
    source: str


@dataclass(frozen=True, slots=True)
class Duty:
    """What a device in the field does all day.

    Attributes:
        frames_per_day: Pictures that the model looks at.
        battery_wh: Usable energy of the battery, watt-hours; None where only the need of a day is asked.
        rest_w: Power between pictures as a person measured it, watts; None takes the device's own reading.
        active_w: Power at work as a person measured it, watts; None takes the device's own reading.
    """

    frames_per_day: float
    battery_wh: float | None = None
    rest_w: float | None = None
    active_w: float | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long a battery lasts.

    Attributes:
        joules_per_frame: Energy of one picture above rest, joules.
        wh_per_day: Energy of a day, watt-hours.
        model_percent: Share of the day's energy that the model causes.
        days: Days on the battery; None without one.
        assumptions: What was assumed, each one sentence.
    """

    joules_per_frame: float
    wh_per_day: float
    model_percent: float
    days: float | None
    assumptions: tuple[str, ...]


def whole_power(rails: Mapping[str, float]) -> Power | None:
    """Return the power of the whole board out of the readings of its rails.

    Args:
        rails: Name -> watts, as `taco.device.board.power_w` tells.

    Returns:
        None where no reading is known to hold nearly everything: parts of other boards are never added up to a whole.
    """
    return next((Power(rails[name], source) for name, source in _RAILS if name in rails), None)


def joules_per_picture(watts: float, seconds: float, pictures: int) -> float:
    """Return the energy of one picture while the model works without a pause, rest included: P t / n.

    Args:
        watts: Mean power over that time.
        seconds: How long.
        pictures: How many were done.

    Raises:
        InputError: No picture was done.
    """
    if pictures < 1:
        raise InputError("no picture was done, so none has an energy", "Let it work longer")
    return watts * seconds / pictures


def check_duty(duty: Duty) -> None:
    """Refuse a duty cycle that cannot be.

    Raises:
        InputError: A figure is none, negative, or a battery without energy.
    """
    rules = (
        ("frames-per-day", 0 <= duty.frames_per_day < math.inf, duty.frames_per_day, "a number of pictures from 0"),
        ("battery-wh", _positive(duty.battery_wh), duty.battery_wh, "watt-hours above 0"),
        ("rest-w", duty.rest_w is None or 0 <= duty.rest_w < math.inf, duty.rest_w, "watts from 0"),
        ("active-w", _positive(duty.active_w), duty.active_w, "watts above 0"),
    )
    for flag, holds, value, expected in rules:
        if not holds:
            raise InputError(f"--{flag} {value}: {expected}", "See `taco bench --help`")


def _positive(value: float | None) -> bool:
    return value is None or 0 < value < math.inf


def estimate(duty: Duty, picture_ms: float, rest: Power, active: Power) -> Estimate:
    """Estimate a day's energy: rest all day, and the extra power at work for as long as the pictures take.

    E_day = P_rest 24 h + N t (P_active - P_rest).

    Args:
        duty: What it does all day.
        picture_ms: Time of one picture; the one after idling suits a device that waits between pictures.
        rest: Power between pictures.
        active: Power at work.

    Raises:
        InputError: The day is too short for so many pictures.
    """
    busy_s = duty.frames_per_day * picture_ms / 1000
    if busy_s > _DAY_S:
        most = math.floor(_DAY_S * 1000 / picture_ms)
        raise InputError(
            f"--frames-per-day {duty.frames_per_day:g}: at {picture_ms:.3g} ms a picture a day holds {most}",
            "Ask for fewer pictures a day",
        )
    extra_w = max(0.0, active.watts - rest.watts)
    model_wh = busy_s * extra_w / _SECONDS_AN_HOUR
    day_wh = rest.watts * 24 + model_wh
    return Estimate(
        joules_per_frame=extra_w * picture_ms / 1000,
        wh_per_day=day_wh,
        model_percent=100 * model_wh / day_wh if day_wh else 0.0,
        days=duty.battery_wh / day_wh if duty.battery_wh is not None and day_wh else None,
        assumptions=_assumptions(duty, picture_ms, rest, active),
    )


def _assumptions(duty: Duty, picture_ms: float, rest: Power, active: Power) -> tuple[str, ...]:
    found = [
        f"{duty.frames_per_day:g} pictures a day, each {picture_ms:.3g} ms of work of the model alone: reading, "
        "cutting and storing pictures is not counted",
        f"{active.watts:.3g} W at work: {active.source}",
        f"{rest.watts:.3g} W between pictures: {rest.source}; a board that sleeps between pictures needs less",
        "nothing else runs: no camera, flash, radio or screen is counted unless the readings hold it",
    ]
    if active.watts <= rest.watts:
        found.append("the power at work was not above that at rest, so the model itself counts as free")
    if duty.battery_wh is not None:
        found.append(
            f"the battery gives all of its {duty.battery_wh:g} Wh: cold, age and the converter take a part of that"
        )
    return tuple(found)
