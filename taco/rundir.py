"""The folder of one run: whose it is, one process at a time, and the results of finished steps.

`DIR/.taco/` holds a lock, what was asked (`run.json`), `steps/NAME-KEY.*`, `measured/NAME-KEY.json`, and in `widths/`
databases of channel orders. A step's key is a hash of everything that its result depends on, so a changed argument
redoes exactly what it touches. What a clock decided lies in `measured/` alone: copied into a new folder's
`.taco/measured/`, it makes a second run end with the same bundle.
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
from taco.files import sha256_of, sweep, sync, temporary_for, write_atomically

log = logging.getLogger(__name__)

_KEY_LENGTH = 16
_REQUEST = "run.json"


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
        self._measured = self.private / "measured"
        #: Databases of the units' widths (`taco.database`), one for each set of moments.
        self.widths = self.private / "widths"
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
        self._measured.mkdir(exist_ok=True)

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
            sweep(self.path, self.private, self._steps, self._measured, self.private / "unfinished")
            yield

    def asked(self) -> Any:
        """Return what the run in this folder was asked for; None when there is none."""
        return _read_json(self.private / _REQUEST)

    def remember_asked(self, asked: Mapping[str, Any]) -> None:
        """Note what this run was asked for."""
        write_atomically(self.private / _REQUEST, _dump(asked))

    def finished(self) -> Any:
        """Return what `remember_finished` noted last; None when there is nothing."""
        return _read_json(self.private / "finished.json")

    def remember_finished(self, facts: Mapping[str, Any]) -> None:
        """Note which request the files in this folder answer."""
        write_atomically(self.private / "finished.json", _dump(facts))

    def adopt(self, run: Path) -> None:
        """Take over the finished steps of another run; those that are already here stay.

        Raises:
            InputError: `run` is not the folder of a run.
        """
        stored_request(run)
        for folder in (self._steps, self._measured):
            for source in sorted((run / ".taco" / folder.name).glob("[!.]*")):
                if not (folder / source.name).exists():
                    _link(source, folder / source.name)
        for index in sorted((run / ".taco" / self.widths.name).glob("*/index.json")):
            database = self.widths / index.parent.name
            if not database.exists():
                for source in sorted(index.parent.rglob("[!.]*.*")):
                    copied = database / source.relative_to(index.parent)
                    copied.parent.mkdir(parents=True, exist_ok=True)
                    _link(source, copied)

    def json_step(
        self,
        name: str,
        depends_on: Any,
        compute: Callable[[], Any],
        *,
        measured: bool = False,
        holds: Callable[[Any], bool] | None = None,
    ) -> Any:
        """Return the stored result of a step, or compute and store it.

        Args:
            name: The step.
            depends_on: Everything the result depends on, as JSON values.
            compute: Gives JSON values; tuples come back as lists and keys as strings, the first time as well.
            measured: A clock decides the result.
            holds: Whether what a stored result tells of is still there; else it is computed again. None: it always is.
        """
        path = self.step_file(name, depends_on, ".json")
        if measured:
            path = self._measured / path.name
        stored, wanted = _read_json(path), json.loads(_dump(depends_on))
        if isinstance(stored, dict) and "result" in stored and stored.get("depends_on") == wanted:
            if holds is None or holds(stored["result"]):
                log.info("%s: taken from the earlier run", name.replace("-", " "))
                return stored["result"]
            log.info("%s: what the earlier run left is gone; done again", name.replace("-", " "))
        result = json.loads(json.dumps(compute()))
        write_atomically(path, _dump({"depends_on": depends_on, "result": result}))
        return result

    def measured(self, name: str) -> Iterator[tuple[Any, Any]]:
        """Yield what every stored result of a step that a clock decided depends on, and the result."""
        for file in sorted(self._measured.glob(f"{name}-*.json")):
            stored = _read_json(file)
            if isinstance(stored, dict) and isinstance(stored.get("depends_on"), dict) and "result" in stored:
                yield stored["depends_on"], stored["result"]

    def file_step(self, name: str, depends_on: Any, suffix: str, compute: Callable[[Path], Any]) -> tuple[Path, Any]:
        """Return the file of a step and what is known of it, stored or computed and then stored.

        Args:
            name: The step.
            depends_on: Everything the result depends on, as JSON values.
            suffix: Of the file.
            compute: Writes the file to the path that it is given and returns JSON values.
        """
        file = self.step_file(name, depends_on, suffix)
        made: list[bool] = []

        def make() -> dict[str, Any]:
            made.append(True)
            temporary = temporary_for(file)
            try:
                facts = compute(temporary)
                sync(temporary)
                temporary.replace(file)
            finally:
                temporary.unlink(missing_ok=True)
            return {"facts": facts, "sha256": sha256_of(file)}

        record = self.json_step(name, depends_on, make)
        if not made and (not file.is_file() or sha256_of(file) != record["sha256"]):
            log.warning("%s: the stored result is damaged and is made again", name)
            self.step_file(name, depends_on, ".json").unlink()
            record = self.json_step(name, depends_on, make)
        return file, record["facts"]

    def step_file(self, name: str, depends_on: Any, suffix: str) -> Path:
        """Return where a step's result lies or will lie."""
        return self._steps / f"{name}-{content_key(depends_on)}{suffix}"

    def unfinished(self, name: str) -> Path:
        """Return where the state of a step that is under way lies; it survives a kill."""
        return self.private / "unfinished" / name

    def forget(self, step: str) -> None:
        """Remove the stored results of a step and the state of what is under way: the run is finished."""
        for file in self._steps.glob(f"{step}-*"):
            file.unlink(missing_ok=True)
        shutil.rmtree(self.private / "unfinished", ignore_errors=True)

    def scratch(self) -> Path:
        """Return an empty folder for files that need not survive."""
        folder = self.private / "scratch"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def drop_scratch(self) -> None:
        """Remove the scratch folder."""
        shutil.rmtree(self.private / "scratch", ignore_errors=True)


def stored_request(run: Path) -> dict[str, Any]:
    """Return the options of the run in a folder: field of `ExportOptions` -> JSON value, paths absolute.

    Raises:
        InputError: There is no run.
    """
    asked = _read_json(run / ".taco" / _REQUEST)
    options = asked.get("options") if isinstance(asked, dict) else None
    if not isinstance(options, dict):
        raise InputError(f"{run} holds no run of taco-export", "Give the --out folder of an earlier run")
    return options


def _link(source: Path, destination: Path) -> None:
    """Share a file that nobody changes in place; copy it where the disk cannot."""
    try:
        destination.hardlink_to(source)
    except OSError:
        temporary = temporary_for(destination)
        shutil.copyfile(source, temporary)
        temporary.replace(destination)


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
