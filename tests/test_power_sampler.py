"""Power is read while the model works, not after it."""

from __future__ import annotations

import threading

import pytest

from taco.device.power_sampler import PowerSampler
from taco.field.benching import rest_power, told_minute
from taco.metrics.energy import PACKAGE
from taco.timing.timings import BenchResult, Minute


def test_the_mean_of_every_rail_since_the_last_look() -> None:
    readings = iter([{"VDD_IN": 6.0, "VDD_SOC": 1.0}, {"VDD_IN": 8.0}, {}])
    done = threading.Event()

    def read() -> dict[str, float]:
        reading = next(readings)
        if not reading:
            done.set()
        return reading

    with PowerSampler(read, every_s=0.001) as sampler:
        assert done.wait(10)
        assert sampler.take() == {"VDD_IN": 7.0, "VDD_SOC": 1.0}
        assert sampler.take() == {}


def test_a_board_that_tells_nothing_is_asked_once() -> None:
    asked = []
    with PowerSampler(lambda: asked.append(1) or {}, every_s=0.001) as sampler:
        while not asked:
            pass
        assert sampler.take() == {}
    assert asked == [1]


def minute(package_w: float | None = None, **power_w: float) -> Minute:
    state = {"temperatures_c": {"cpu": 61.5, "gpu": 70.0}, "clocks_mhz": [2400, 1200]}
    return Minute(1, 60.0, 120, 3.0, 4.0, state, package_w, power_w)


def test_a_minute_tells_its_hottest_zone_its_mean_clock_and_the_energy_of_a_picture() -> None:
    told = told_minute(minute(VDD_IN=7.0))
    assert (told["temperature_c"], told["clock_mhz"], told["watts"]) == (70.0, 1800.0, 7.0)
    assert told["joules"] == pytest.approx(7.0 * 60 / 120)
    assert "VDD_IN" in told["power_source"]
    assert told_minute(minute(package_w=4.0))["power_source"] == PACKAGE
    silent = told_minute(minute(VDD_SOC=1.0))
    assert (silent["watts"], silent["joules"]) == (None, None)


def test_power_at_rest_is_that_of_the_board_else_of_the_package() -> None:
    plain = BenchResult({}, 1, 0, False, {})
    assert rest_power(plain) is None
    package = BenchResult({}, 1, 0, False, {}, rest_w={"VDD_SOC": 1.0}, rest_package_w=2.5)
    assert rest_power(package) is not None
    assert rest_power(package).watts == 2.5  # type: ignore[union-attr]
    board = BenchResult({}, 1, 0, False, {}, rest_w={"pmic rails": 3.0}, rest_package_w=2.5)
    assert rest_power(board).watts == 3.0  # type: ignore[union-attr]
