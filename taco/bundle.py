"""What leaves the pipeline: a folder with `manifest.json`, the model, labels, preprocessing and parity inputs.

No torch here: a bundle opens with numpy, Pillow and one runtime.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from taco.device.images import Preprocessing
from taco.errors import BundleError, TacoError
from taco.files import sha256_of, sync, temporary_for, write_atomically
from taco.wording import all_printable

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
_MANIFEST_LIMIT_BYTES = 16 * 1024**2


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class FileEntry(_Frozen):
    """One file of the bundle."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class ModelEntry(_Frozen):
    """Where the weights came from."""

    name: str
    weights_source: str
    weights_sha256: str
    licence: str
    random_weights: bool
    head: str


class Manifest(_Frozen):
    """`manifest.json`."""

    schema_version: Literal[1] = 1
    taco_version: str
    created: str = Field(description="ISO 8601, UTC")
    task: str
    classes: list[str] = Field(min_length=1)
    model: ModelEntry
    target: str
    runtime: str
    precision: str
    model_file: str = "model.onnx"
    input_name: str = "input"
    output: Literal["logits"] = "logits"
    crop_margin: float | None = Field(
        default=None, description="pictures are looked at in boxes with this margin on every side; null: whole frames"
    )
    blank_class: str | None = Field(default=None, description="the class of empty frames")
    sure_from: float | None = Field(
        default=None, ge=0, description="an answer of less probability is unsure: a person should look"
    )
    provider: str | None = Field(default=None, description="OpenVINO's device; null for other runtimes")
    forced: list[str] = Field(default=[], description="gates that failed and were overruled by --force")
    allocation: dict[str, int] = Field(description="unit -> channels kept")
    seed: int
    files: dict[str, FileEntry]

    @field_validator("files")
    @classmethod
    def _inside(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for name in files:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name or not name:
                raise ValueError(f"file name {name!r} leaves the bundle")
            if not name.isprintable():
                raise ValueError(f"file name {name!r} is not printable")
        return files


class Bundle:
    """An opened bundle; its model, labels and preprocessing are checked against the manifest's hashes.

    Attributes:
        path: The folder.
        manifest: What it says about itself.
        preprocessing: How pictures become inputs.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = read_manifest(path)
        needed = (self.manifest.model_file, "labels.txt", "preprocessing.json")
        for name in needed:
            check_file(path, name, self.manifest)
        self.preprocessing = _preprocessing(path / "preprocessing.json")
        # compared as bytes: a class name may hold a character at which splitlines() splits
        if (path / "labels.txt").read_bytes() != labels_file(self.manifest.classes):
            raise BundleError(f"{path}: labels.txt and manifest.json name different classes", "Export it again")

    @property
    def provider(self) -> str:
        """What runs the model where the bundle is opened: OpenVINO's device, or ONNX Runtime's CPU provider."""
        if self.manifest.runtime == "ov":
            return self.manifest.provider or "CPU"
        return "CPUExecutionProvider"

    @property
    def model_path(self) -> Path:
        """Where the model lies."""
        return self.path / self.manifest.model_file


def labels_file(classes: Sequence[str]) -> bytes:
    """Return the content of `labels.txt`: one class a line, in the order of the logits."""
    return "".join(f"{name}\n" for name in classes).encode()


def read_manifest(folder: Path) -> Manifest:
    """Read a bundle's manifest.

    Raises:
        BundleError: There is none, it is damaged, or a newer version wrote it.
    """
    path = folder / MANIFEST
    try:
        if path.stat().st_size > _MANIFEST_LIMIT_BYTES:
            raise BundleError(f"{path} is too large to be a manifest", "Export the bundle again")
        raw = json.loads(path.read_bytes())
    except OSError as error:
        raise BundleError(
            f"{folder} is not a bundle: no readable {MANIFEST} ({error.strerror})", "Give the --out folder of a run"
        ) from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not JSON: {error}", "Export the bundle again") from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise BundleError(
            f"{path} has schema version {version}, this program reads up to {SCHEMA_VERSION}",
            "Use the version of taco-export that wrote it, or a newer one",
        )
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise BundleError(f"{path}: {where}: {first['msg']}", "Export the bundle again") from error


def check_file(folder: Path, name: str, manifest: Manifest) -> None:
    """Compare one file with its hash.

    Raises:
        BundleError: It is not listed, missing or changed.
    """
    entry = manifest.files.get(name)
    if entry is None:
        raise BundleError(f"{folder / MANIFEST} does not list {name}", "Export the bundle again")
    path = folder / name
    try:
        damaged = path.stat().st_size != entry.bytes or sha256_of(path) != entry.sha256
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}", "Copy the whole bundle again") from error
    if damaged:
        raise BundleError(f"{path} is not the file that was exported (its hash differs)", "Copy the bundle again")


def entry_of(path: Path) -> FileEntry:
    """Describe a file that lies in the bundle."""
    return FileEntry(sha256=sha256_of(path), bytes=path.stat().st_size)


def publish(folder: Path, files: Mapping[str, Path | bytes], manifest: Mapping[str, Any]) -> Manifest:
    """Put a bundle's files in place, the manifest last: a folder without one is not a finished bundle.

    Files of an earlier bundle that this one does not have are removed (`withdraw`).

    Args:
        folder: The bundle's folder.
        files: Name -> content, or a finished file, which is copied.
        manifest: Every field of `Manifest` but `files`.

    Raises:
        TacoError: The folder cannot be written to.
    """
    staged: dict[str, Path] = {}
    try:
        # All that can fail for want of room comes before anything is replaced.
        for name, content in files.items():
            staged[name] = temporary_for(folder / name)
            _stage(content, staged[name])
        withdraw(folder, replaced=files)
        for name, temporary in staged.items():
            temporary.replace(folder / name)
        complete = Manifest(**all_printable(manifest), files={name: entry_of(folder / name) for name in files})
    except OSError as error:
        raise TacoError(
            f"{folder} cannot be written: {error.strerror}", "Free some space, or choose another --out"
        ) from error
    finally:
        for temporary in staged.values():
            temporary.unlink(missing_ok=True)
    write_atomically(folder / MANIFEST, (complete.model_dump_json(indent=2) + "\n").encode())
    return complete


def withdraw(folder: Path, replaced: Collection[str] = ()) -> None:
    """Take the bundle in a folder away: first its manifest, then the files that it lists and nobody has changed.

    Args:
        folder: The bundle's folder; where it holds none that can be read, nothing is known to be a bundle's file.
        replaced: Files that stay for now, because the next bundle replaces them.

    Raises:
        OSError: The folder cannot be written to.
    """
    ours = [folder / name for name in _unchanged(folder) if name not in replaced]
    (folder / MANIFEST).unlink(missing_ok=True)  # from here on there is no bundle, whatever happens
    for path in ours:
        path.unlink(missing_ok=True)


def _unchanged(folder: Path) -> Iterator[str]:
    with contextlib.suppress(BundleError):
        manifest = read_manifest(folder)
        for name in manifest.files:
            with contextlib.suppress(BundleError):
                check_file(folder, name, manifest)
                yield name


def _stage(content: Path | bytes, temporary: Path) -> None:
    if isinstance(content, bytes):
        temporary.write_bytes(content)
    else:
        shutil.copyfile(content, temporary)
    sync(temporary)


def _preprocessing(path: Path) -> Preprocessing:
    try:
        return Preprocessing.from_dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise BundleError(f"{path} cannot be used: {error}", "Export the bundle again") from error
