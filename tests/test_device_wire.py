"""Tests of `taco.device.wire`."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taco.device.wire import MARKER, DeviceError, RequestError, WireError, emit, parse

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def emitted(payload):
    stream = io.StringIO()
    emit(payload, stream)
    return stream.getvalue()


@given(st.dictionaries(st.text(), JSON), st.text(), st.text())
def test_any_answer_survives_any_noise_around_it(payload, before, after):
    assert parse(before + emitted(payload) + after) == payload


def test_noise_that_did_not_end_its_line_does_not_hide_the_marker():
    assert parse("Last login: today" + emitted({"a": 1})) == {"a": 1}


def test_terminal_line_ends_are_understood():
    assert parse(emitted({"a": 1}).replace("\n", "\r\n")) == {"a": 1}


def test_the_last_answer_wins():
    assert parse(emitted({"a": 1}) + emitted({"a": 2})) == {"a": 2}


def test_a_marker_echoed_after_the_answer_is_ignored():
    assert parse(emitted({"a": 1}) + f"{MARKER}\nnot json\n{MARKER}") == {"a": 1}


@pytest.mark.parametrize(
    "text",
    ["", "hello", MARKER, f"{MARKER}\n", f"{MARKER}\n[1]\n", f'{MARKER}\n{{"a": ', f"x{MARKER}\n{{}}\n"],
    ids=["empty", "noise", "marker", "marker-line", "not-an-object", "cut", "marker-inside-a-line"],
)
def test_a_text_without_an_answer_is_refused_with_its_end(text):
    with pytest.raises(WireError, match="no answer of the agent") as caught:
        parse(text)
    assert repr(text) in str(caught.value)


def test_an_answer_is_one_ascii_line_after_the_marker():
    lines = emitted({"name": "ü\n\u2028\udcff"}).strip().split("\n")
    assert lines[0] == MARKER
    assert len(lines) == 2
    assert lines[1].isascii()
    assert json.loads(lines[1]) == {"name": "ü\n\u2028\udcff"}


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_json_lacks_are_refused(number):
    with pytest.raises(ValueError, match="JSON"):
        emitted({"ms": number})


def test_errors_carry_their_text_and_exit_code():
    error = DeviceError("the camera is gone", "Plug it in.")
    assert error.payload() == {"error": {"what": "the camera is gone", "todo": "Plug it in."}}
    assert str(error) == "the camera is gone. Plug it in."
    assert str(DeviceError("gone")) == "gone"
    assert (error.exit_code, RequestError("x").exit_code) == (5, 2)
