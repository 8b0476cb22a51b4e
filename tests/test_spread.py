"""How far devices lie apart: the slow one is named only where it surely is."""

from __future__ import annotations

import pytest

from taco.timing.spread import SLOW, differences, spread


def rounds(middle: float, width: float = 0.01) -> list[float]:
    return [middle * (1 + width * (i - 5) / 5) for i in range(11)]


def test_the_slow_device_is_named_with_its_factor() -> None:
    found = spread({"a": rounds(10), "b": rounds(10.2), "c": rounds(16)})
    assert found is not None
    assert (found.fastest, found.slowest) == ("a", "c")
    assert found.ratio == pytest.approx(1.6)
    assert found.slow == {"c": pytest.approx(16 / 10.1)}


def test_devices_of_one_kind_differ_a_little_and_none_is_slow() -> None:
    found = spread({"a": rounds(10), "b": rounds(10.9)})
    assert found is not None
    assert found.slow == {}


def test_a_noisy_device_is_not_called_slow_on_a_median_alone() -> None:
    noisy = [9.0, 9.1, 9.2, 9.3, 12.0, 12.1, 12.2, 12.3, 12.4, 12.5, 12.6]
    found = spread({"a": rounds(10), "b": noisy})
    assert found is not None
    assert found.p50_ms["b"] > SLOW * found.p50_ms["a"]
    assert found.slow == {}


def test_one_device_has_no_spread() -> None:
    assert spread({"a": rounds(10)}) is None


def test_only_what_differs_and_is_known_may_explain() -> None:
    slow = {"governor before": "powersave", "os": "Debian", "kernel": "unknown", "throttling after": "0x50005"}
    fast = {"governor before": "performance", "os": "Debian", "kernel": "6.6", "throttling after": "unknown"}
    assert differences(slow, [fast, fast]) == ["governor before powersave (others: performance)"]
    assert differences(slow, [{**fast, "throttling after": "0x0"}]) == [
        "governor before powersave (the other: performance)",
        "throttling after 0x50005 (the other: 0x0)",
    ]
