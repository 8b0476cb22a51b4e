"""Which table answers a request to profile: known without building the model, so that a cached one is there at once.

A table's own key needs the model's units, and with them torch. What those depend on is hashed instead: the model's
name, the packages that build it, the sources that find units, what is timed for them and how it is written, the target
and the machine.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taco.errors import InputError
from taco.files import write_atomically
from taco.latency.software import software_digest
from taco.latency.table import LatencyTable, cache_folder, device_words, read_table

log = logging.getLogger(__name__)

#: Sources that decide what is timed, and at which widths.
_SOURCES = (
    *("graph/attention", "graph/blocks", "graph/coupling"),
    *("search/micromodels", "search/profiling", "model", "units"),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """One request to profile.

    Attributes:
        digest: Of everything that its table depends on.
        device: The device in words, as a table's key has it.
    """

    digest: str
    device: Mapping[str, str]

    @staticmethod
    def of(model: str, target: Mapping[str, Any], threads: int | None, machine: Mapping[str, Any]) -> Asked:
        """Identify a request.

        Args:
            model: timm's name.
            target: Its fields, as JSON values.
            threads: Of the timed models; None is the target's own choice.
            machine: What the machine said about itself (`taco.device.probe`).
        """
        words = device_words(machine)
        runtimes = {name: found.get("version") for name, found in sorted(dict(machine["runtimes"]).items())}
        facts = [model, dict(target), threads, words, runtimes, _code()]
        return Asked(hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16], words)

    @property
    def note(self) -> Path:
        """The file that names the table."""
        return cache_folder() / "asked" / f"{self.digest}.json"

    def table(self) -> tuple[LatencyTable, Path] | None:
        """Return the table that answered this request before, and its file; None where none did, or it is cut short.

        A note or a table that cannot be read counts as none: the profile says what is wrong, or makes it again.
        """
        try:
            named = json.loads(self.note.read_bytes())["table"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        path = cache_folder() / Path(str(named)).name
        try:
            table = read_table(path)
        except InputError as error:
            log.debug("%s", error.what)
            return None
        return None if table.unfinished or table.key.device != self.device else (table, path)

    def remember(self, path: Path) -> None:
        """Note which table answers this request.

        Raises:
            TacoError: It cannot be written.
        """
        self.note.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.note, (json.dumps({"table": path.name}) + "\n").encode())


def _code() -> dict[str, str]:
    """Return what of this installation decides which units a model has and how they are timed."""
    folder = Path(__file__).parents[1]
    found = {name: hashlib.sha256((folder / f"{name}.py").read_bytes()).hexdigest()[:16] for name in _SOURCES}
    return {**found, "software": software_digest()}
