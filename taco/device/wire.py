"""What the agent prints: anything, then a marker line, then one line of JSON. Errors travel the same way.

The marker lets the host find the answer behind login banners, warnings and whatever a runtime prints. The host reads
answers with the same `parse`, so that both ends share one definition.
"""

from __future__ import annotations

import json
from typing import Any, Dict, List, TextIO

MARKER = "-----TACO-JSON-v1-----"
EXIT_REQUEST = 2
EXIT_DEVICE = 5


class DeviceError(Exception):
    """Something is missing or went wrong on the device.

    Args:
        what: What is wrong and where, one sentence without a final full stop.
        todo: What the person can do about it; empty when there is nothing to add.
    """

    exit_code = EXIT_DEVICE

    def __init__(self, what: str, todo: str = "") -> None:
        super().__init__(what, todo)
        self.what = what
        self.todo = todo

    def __str__(self) -> str:
        return f"{self.what}. {self.todo}" if self.todo else self.what

    def payload(self) -> Dict[str, Any]:
        """The error as it travels: `{"error": {"what": ..., "todo": ...}}`."""
        return {"error": {"what": self.what, "todo": self.todo}}


class RequestError(DeviceError):
    """The request itself is wrong."""

    exit_code = EXIT_REQUEST


class WireError(ValueError):
    """A text holds no answer of the agent."""


def emit(payload: Dict[str, Any], stream: TextIO) -> None:
    """Write one answer.

    Args:
        payload: What to send; plain JSON values, no NaN.
        stream: Where to; usually stdout.

    Raises:
        ValueError: The payload holds a NaN or an infinity.
    """
    line = json.dumps(payload, allow_nan=False, sort_keys=True)
    # The leading newline: noise before us need not have ended its own line.
    stream.write(f"\n{MARKER}\n{line}\n")
    stream.flush()


def parse(text: str) -> Dict[str, Any]:
    """Find the last readable answer in what the agent printed.

    Args:
        text: Everything that came on stdout.

    Returns:
        The answer.

    Raises:
        WireError: There is no marker line followed by a JSON object.
    """
    lines = [line.rstrip("\r") for line in text.split("\n")]
    for index in reversed(_marker_lines(lines)):
        try:
            payload = json.loads(lines[index + 1])
        except (IndexError, ValueError):
            continue
        if isinstance(payload, dict):
            return payload
    raise WireError(f"no answer of the agent in its output, which ends in {text[-300:]!r}")


def _marker_lines(lines: List[str]) -> List[int]:
    return [index for index, line in enumerate(lines) if line.strip() == MARKER]
