"""The folder of one run: whose it is, one process at a time, and the results of finished steps.

`DIR/.taco/` holds a lock, what was asked (`run.json`) and `steps/NAME-KEY.json|.safetensors`. A step's key is a hash of
everything that its result depends on, so a changed argument redoes exactly what it touches.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from taco.errors import InputError
from taco.files import write_atomically

log = logging.getLogger(__name__)

_KEY_LENGTH = 16


class RunDir:
    """An output folder that is ours.

    Args:
        path: The folder; created when it does not exist.

    Raises:
        InputError: It exists, is not empty and was not made by taco-export; or it cannot be created.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.private = path / ".taco"
        self._steps = self.private / "steps"
        try:
            self._claim()
        except OSError as error:
            raise InputError(f"--out {path} cannot be used: {error.strerror}", "Choose another --out") from error

    def _claim(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--out {self.path} is a file", "Give a folder that is new or empty")
        if self.path.is_dir() and any(self.path.iterdir()) and not self.private.is_dir():
            raise InputError(
                f"--out {self.path} exists and was not made by taco-export", "Give a folder that is new or empty"
            )
        self._steps.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; a second process is refused.

        Raises:
            InputError: Another process holds it, or the folder cannot be written to or locked.
        """
        with contextlib.ExitStack() as stack:
            try:
                lock = stack.enter_context((self.private / "lock").open("w"))
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f"another taco-export is working in {self.path}", "Wait for it, or choose another --out"
                ) from error
            except OSError as error:
                raise InputError(
                    f"--out {self.path} cannot be locked: {error.strerror}", "Choose another --out"
                ) from error
            yield

    def asked(self) -> Any:
        """Return what the run in this folder was asked for; None when there is none."""
        return _read_json(self.private / "run.json")

    def remember_asked(self, asked: Mapping[str, Any]) -> None:
        """Note what this run was asked for."""
        write_atomically(self.private / "run.json", _dump(asked))

    def json_step(self, name: str, depends_on: Any, compute: Callable[[], Any]) -> Any:
        """Return the stored result of a step, or compute and store it.

        Args:
            name: The step.
            depends_on: Everything the result depends on, as JSON values.
            compute: Gives JSON values; tuples come back as lists and keys as strings, the first time as well.
        """
        path = self.step_file(name, depends_on, ".json")
        stored, wanted = _read_json(path), json.loads(_dump(depends_on))
        if isinstance(stored, dict) and "result" in stored and stored.get("depends_on") == wanted:
            log.info("%s: taken from the earlier run", name)
            return stored["result"]
        result = json.loads(json.dumps(compute()))
        write_atomically(path, _dump({"depends_on": depends_on, "result": result}))
        return result

    def step_file(self, name: str, depends_on: Any, suffix: str) -> Path:
        """Return where a step's result lies or will lie."""
        return self._steps / f"{name}-{content_key(depends_on)}{suffix}"

    def scratch(self) -> Path:
        """Return an empty folder for files that need not survive."""
        folder = self.private / "scratch"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def drop_scratch(self) -> None:
        """Remove the scratch folder."""
        shutil.rmtree(self.private / "scratch", ignore_errors=True)


def content_key(value: Any) -> str:
    """Hash JSON values, independent of the order of keys."""
    return hashlib.sha256(_dump(value)).hexdigest()[:_KEY_LENGTH]


def _dump(value: Any) -> bytes:
    return (json.dumps(value, sort_keys=True, indent=1, default=str) + "\n").encode()


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
