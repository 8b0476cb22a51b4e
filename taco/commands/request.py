"""What is asked of an export: flags, over a `taco.toml`, over an earlier run (`--from`), over the defaults."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from taco.commands.config import CONFIG_NAME, DEFAULT_TARGET, Config, default_out, fields, read_config
from taco.errors import InputError
from taco.rundir import stored_request
from taco.targets.loading import load_target

EXAMPLE = "for example: taco-export photos/ --target host-cpu --speedup 1.5 --out runs/trap1"

#: Flags that cannot be had together (`taco.options` refuses them).
_BUDGETS = ("speedup", "latency_ms", "macs", "max_drop", "widths")
_LIMITS = ("max_bytes", "max_macs", "max_memory")
_EXCLUSIVE = (
    *itertools.combinations(_BUDGETS, 2),
    *itertools.product(("sparsity", "pattern"), _BUDGETS),
    *itertools.product(_LIMITS, ("sparsity", "pattern", "max_drop", "widths")),
    ("weights", "random_weights"),
    ("boxes", "crop"),
    *(("input_size", other) for other in ("latency_table", "sparsity", "pattern")),
)


@dataclass(frozen=True, slots=True)
class Request:
    """The effective options, not yet validated.

    Attributes:
        values: Field of `ExportOptions` -> value, for `make_options`; `task` may be missing.
        config: The settings file that was used; None without.
        notes: What a person should be told.
    """

    values: Mapping[str, object]
    config: Path | None
    notes: tuple[str, ...]

    def check_task(self) -> None:
        """Refuse a request that names no pictures.

        Raises:
            InputError: There is no task; the message gives an example.
        """
        if "task" in self.values:
            return
        if self.config is not None:
            raise InputError(f"{self.config} names no pictures", 'Add a line such as task = "photos/", or give TASK')
        raise InputError(f"no pictures were given, and there is no {CONFIG_NAME} here", EXAMPLE)


def make_request(given: Mapping[str, object], config: Path | None = None, *, takes_widths: bool = True) -> Request:
    """Lay the flags over a settings file, over the request of the run that `--from` names, over the defaults.

    Args:
        given: Field of `ExportOptions` -> value of the flags that were typed, no defaults.
        config: `--config`; None looks in TASK, beside it, or here, and with `--from` nowhere.
        takes_widths: Whether `widths` are used; a front has none.

    Raises:
        InputError: A settings file or the earlier run cannot be used.
    """
    file, notes = _find(given, config)
    written = {} if file is None else dict(file.values)
    run = given.get("from_run", written.get("from_run"))
    stored = {} if run is None else _stored(Path(str(run)))
    asked = _lay((written, given))
    values = _lay((stored, asked))
    values.setdefault("target", DEFAULT_TARGET)
    if takes_widths and values.get("widths") is not None and (kept := Path(str(values["widths"]))).is_dir():
        notes.append(_take_widths(kept, values, asked))
    for field in ("speedup", "latency_ms"):
        if note := _unmeasurable(field, values, asked, stored):
            del values[field]
            notes.append(note)
    values.setdefault("out", default_out(str(values["target"])))
    return Request(values, None if file is None else file.path, tuple(notes))


def _take_widths(bundle: Path, values: dict[str, object], asked: Mapping[str, object]) -> str:
    """Take the widths of a finished run, and the size of pictures that its model reads unless another one is asked for.

    Returns:
        What a person should be told.

    Raises:
        BundleError: The folder holds no bundle, or a damaged one.
    """
    from taco.bundle import MANIFEST, Bundle  # opens pictures: not needed at every start
    from taco.sparse.packing import PACKED_NAME

    opened = Bundle(bundle)
    height, width = opened.preprocessing.input_size[1:]
    values["widths"] = bundle / MANIFEST
    if "input_size" not in asked:
        values["input_size"] = min(height, width)
    for field in {"search", "search_evaluations"} - set(asked):
        values.pop(field, None)  # of the search that found them
    told = f", for pictures of {height}x{width} pixels as there" if values["input_size"] == min(height, width) else ""
    zeros = (
        ". Its zeros (--sparsity) are no widths: this model has none" if PACKED_NAME in opened.manifest.files else ""
    )
    return f"widths of {bundle}{told}: nothing is searched{zeros}"


def _find(given: Mapping[str, object], config: Path | None) -> tuple[Config | None, list[str]]:
    task = None if given.get("task") is None else Path(str(given["task"]))
    if task is not None and task.suffix == ".toml" and task.is_file():
        raise InputError(f"{task} is a settings file, no pictures", f"Give it as --config {task}")
    if config is None and "from_run" in given:
        return None, []
    places = [config] if config is not None else _places(task)
    path = next((place for place in places if config is not None or place.is_file()), None)
    if path is None:
        return None, []
    found = read_config(path)
    other = found.values.get("task")
    if config is None and task is not None and not _inside(path, task) and other is not None and not _same(other, task):
        return None, [f"{path} is for {other}, not for {task}: it was not used"]
    return found, [f"settings from {path}"]


def _places(task: Path | None) -> list[Path]:
    if task is None:
        return [Path(CONFIG_NAME)]
    beside = Path(os.path.abspath(task)).parent  # noqa: PTH100 (`photos/..` has a parent only without the dots)
    shown = task.parent if task.name not in ("", "..") else beside
    return [*([task / CONFIG_NAME] if task.is_dir() else []), shown / CONFIG_NAME]


def _inside(path: Path, task: Path) -> bool:
    return path == task / CONFIG_NAME


def _same(one: object, other: object) -> bool:
    return os.path.realpath(str(one)) == os.path.realpath(str(other))


def _stored(run: Path) -> dict[str, object]:
    """Return what an earlier run was asked for, but for where its result went and what it came from itself."""
    stored = stored_request(run)
    kept = [field for field in fields() if field not in ("out", "from_run")]
    return {field: stored[field] for field in kept if stored.get(field) is not None}


def _lay(layers: Iterable[Mapping[str, object]]) -> dict[str, object]:
    """Lay later layers over earlier ones; what a layer asks for removes what it excludes from the layers below."""
    values: dict[str, object] = {}
    for layer in layers:
        for one, other in _EXCLUSIVE:
            for above, below in ((one, other), (other, one)):
                if _asks(above, layer) and _asks(below, values):
                    del values[below]
        values.update(layer)
        if values.get("input_size") == "auto" and "max_drop" not in values and "input_size" not in layer:
            del values["input_size"]  # sizes compete for --max-drop alone
    return values


def _asks(field: str, layer: Mapping[str, object]) -> bool:
    """Whether a layer asks for what excludes another flag."""
    if field == "crop":
        return layer.get(field) is False
    return layer.get(field, False) is not False


def _unmeasurable(
    field: str, values: Mapping[str, object], asked: Mapping[str, object], stored: Mapping[str, object]
) -> str:
    """Say that the earlier run's budget cannot be measured for another target; empty where nothing is to say."""
    if field not in values or field in asked or values["target"] == stored.get("target"):
        return ""
    target = load_target(str(values["target"]))
    if target.local or values.get("device") is not None or values.get("latency_table") is not None:
        return ""
    return (
        f"the earlier run's --{field.replace('_', '-')} {values[field]} cannot be measured for {target.name} here: "
        f"its own --macs {target.default_macs:g} is used instead"
    )
