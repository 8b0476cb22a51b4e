"""Calls to the agent on a device: send it and what it needs, ask it, and turn its errors into ours.

Everything travels under names made of its content: what is already there is not sent again, and two calls never
disturb each other's files. Every command of the agent may be repeated, so a link that breaks costs one more attempt.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taco.attached.agent_pack import agent_bytes
from taco.device import wire
from taco.errors import InputError, LinkError, MeasurementError
from taco.files import sha256_of
from taco.transport import Completed, Transport

logger = logging.getLogger(__name__)

SHORT_COMMAND_S = 120.0


@dataclass(eq=False)
class AgentCaller:
    """The agent on one device.

    Attributes:
        transport: The way to it.
        python: The device's interpreter.
        extra: Words behind every command, such as those that name our run.
    """

    transport: Transport
    python: str
    extra: Sequence[str] = ()
    _place: str | None = field(default=None, init=False)

    def ask(self, words: Sequence[str], timeout_s: float = SHORT_COMMAND_S) -> dict[str, Any]:
        """Run a command of the agent.

        Args:
            words: Command and arguments.
            timeout_s: Seconds it may take.

        Returns:
            Its answer.

        Raises:
            MeasurementError: Something is missing or failed on the device, or its answer cannot be understood.
        """
        if self._place is None:
            self._place = self.put_bytes(agent_bytes(), "agent-{}.pyz")
        command, *arguments = words
        argv = [self.python, "-I", self._place, command, *self.extra, *arguments]
        try:
            completed = self.transport.run(argv, timeout_s)
        except LinkError as error:
            logger.warning("%s; asking again", error.what)
            completed = self.transport.run(argv, timeout_s)
        return _answer(completed)

    def ask_json(
        self, command: str, request: Mapping[str, Any], timeout_s: float, options: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Run a command that takes a JSON request, with options of its own; else as `ask`."""
        place = self.put_bytes(json.dumps(request, allow_nan=False).encode(), "request-{}.json")
        return self.ask([command, *options, place], timeout_s)

    def send(self, files: Iterable[Path], suffix: str) -> dict[Path, str]:
        """Send the files that the device does not have yet.

        Args:
            files: Of this machine.
            suffix: Of their names there, which are their hashes.

        Returns:
            File -> its name on the device.

        Raises:
            InputError: A file cannot be read.
            MeasurementError: The device does not take one.
        """
        digests = {path: _sha256(path) for path in files}
        names = {path: f"{digest}{suffix}" for path, digest in digests.items()}
        there = self.ask(["hash", *sorted(set(names.values()))]).get("files")
        known = dict(there) if isinstance(there, dict) else {}
        for path, name in names.items():
            if known.get(name) != digests[path]:
                logger.debug("sending %s as %s", path, name)
                self.transport.put(path, name)
                known[name] = digests[path]
        return names

    def put_bytes(self, content: bytes, template: str) -> str:
        """Send bytes under a name made of their hash; returns that name."""
        destination = template.format(hashlib.sha256(content).hexdigest()[:16])
        with tempfile.TemporaryDirectory(prefix="taco-") as folder:
            source = Path(folder) / destination
            source.write_bytes(content)
            self.transport.put(source, destination)
        return destination


def _sha256(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise InputError(f"the model {path} cannot be read: {error.strerror}") from error


def _answer(completed: Completed) -> dict[str, Any]:
    try:
        answer = wire.parse(completed.stdout)
    except wire.WireError as error:
        raise _no_answer(completed) from error
    if "error" in answer:
        raise _fault(answer["error"])
    if completed.returncode != 0:
        raise _no_answer(completed)
    return answer


def _fault(error: Any) -> MeasurementError:
    if isinstance(error, dict):
        return MeasurementError(str(error.get("what", error)), str(error.get("todo", "")))
    return MeasurementError(f"the device agent failed: {error}")


def _no_answer(completed: Completed) -> MeasurementError:
    words = (completed.stderr.strip() or completed.stdout.strip())[-500:] or "nothing"
    return MeasurementError(
        f"the device agent ended with exit code {completed.returncode} and gave no answer; it said: {words}",
        "Check that the device has Python 3.8 or newer with numpy and the runtime.",
    )
