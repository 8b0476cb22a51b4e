"""Tests of what a report says of an attached device."""

from __future__ import annotations

from typing import Any

import pytest
from make_report import make_report, make_unmeasured
from pydantic import ValidationError

from taco.report.build import build_page
from taco.report.device_schema import DeviceSection, SustainedMinute
from taco.report.html import render_html
from taco.report.markdown import render_markdown
from taco.report.parts import Proportion
from taco.report.verdict import verdict

RIGHT = Proportion(percent=95.0, low=90.0, high=98.0, n=100)


def section(**changes: Any) -> DeviceSection:
    fields: dict[str, Any] = {
        "address": "ssh://trap1",
        "board": "Raspberry Pi 5 Model B",
        "os": "Debian",
        "python": "3.11.2",
        "runtime": "onnxruntime 1.32.0",
        "provider": "CPUExecutionProvider",
        "emulated": None,
        "deployed_to": "/home/pi/taco-export/bundles/x",
        "images": 100,
        "judged_images": 320,
        "same_answers": 99,
        "here": RIGHT,
        "there": RIGHT,
        "per_class": {"fox": (RIGHT, RIGHT), "hare": None},
        "unreadable": ["the file is cut short"],
        "cold_ms": {"compressed": 51.25},
        "idle_ms": [77.5],
        "sustained": [SustainedMinute(minute=30, n=9, p50=123.4, p90=150.0, package_w=None, conditions="cpu 84 C")],
        "unstable": ["power mode went from 15W to MAXN"],
        "repeated": True,
    }
    return DeviceSection.model_validate({**fields, **changes})


def test_a_measured_device_is_named_by_what_it_says_it_is() -> None:
    report = make_report(target="raspberry-pi-5", local=False, device=section())
    assert "on the attached device (Raspberry Pi 5 Model B)" in verdict(report).text.replace("On", "on")
    for text in (render_html(report), render_markdown(report)):
        for words in ("51.2", "77.5", "123", "cpu 84 C", "99 answers are the same", "power mode went from 15W to MAXN"):
            assert words in text, words
        assert "the file is cut short" in text


QEMU = "qemu-aarch64-static runs this program"
NO_TIMES: dict[str, Any] = {"cold_ms": {}, "idle_ms": [], "sustained": [], "unstable": [], "repeated": False}


def test_an_emulated_device_is_no_result_of_the_board() -> None:
    report = make_unmeasured(device=section(emulated=QEMU, **NO_TIMES), target="raspberry-pi-5")
    for text in (render_html(report), render_markdown(report)):
        assert "EMULATED" in text
        assert "nothing here is a result of a raspberry-pi-5" in text
    assert "Not measured" in verdict(report).text


@pytest.mark.parametrize("times", [{}, {**NO_TIMES, "idle_ms": [1.0]}, {**NO_TIMES, "cold_ms": {"dense": 1.0}}])
def test_a_report_with_times_of_an_emulated_device_cannot_be_made(times: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="emulated"):
        make_unmeasured(device=section(emulated=QEMU, **times))


def test_a_latency_beside_an_emulated_device_cannot_be_reported() -> None:
    with pytest.raises(ValidationError, match="emulated"):
        make_report(device=section(emulated=QEMU, **NO_TIMES))


def test_no_device_no_section() -> None:
    assert all(part.anchor != "device" for part in build_page(make_report()).sections)
