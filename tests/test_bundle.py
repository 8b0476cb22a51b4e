"""Bundles: complete or refused, whatever lies in the folder."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from taco import bundle as bundle_module
from taco.bundle import MANIFEST, Bundle, check_file, entry_of, labels_file, publish, read_manifest, withdraw
from taco.errors import BundleError, TacoError

PREPROCESSING: dict[str, Any] = {
    "input_size": [3, 32, 32],
    "interpolation": "bicubic",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "crop_pct": 0.9,
    "crop_mode": "center",
}
CLASSES = ["fox", "hare"]


def facts(classes: list[str]) -> dict[str, Any]:
    source = {"weights_source": "file a.pth", "weights_sha256": "0" * 64, "licence": "unknown", "random_weights": False}
    return {
        "taco_version": "0.1.0",
        "created": "2025-01-01T00:00:00+00:00",
        "task": "site",
        "classes": classes,
        "model": {"name": "test_resnet", "head": "keep", **source},
        "target": "host-cpu",
        "runtime": "ort",
        "precision": "fp32",
        "allocation": {"blocks.0": 8},
        "seed": 0,
    }


def contents(classes: list[str]) -> dict[str, Path | bytes]:
    preprocessing = json.dumps(PREPROCESSING).encode()
    return {"model.onnx": b"onnx", "labels.txt": labels_file(classes), "preprocessing.json": preprocessing}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "bundle"
    made.mkdir()
    publish(made, contents(CLASSES), facts(CLASSES))
    return made


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest."""
    raw = json.loads((folder / MANIFEST).read_text())
    change(raw)
    (folder / MANIFEST).write_text(json.dumps(raw))


def forge(folder: Path, name: str, content: bytes) -> None:
    """Change a file and the manifest's hash with it."""
    (folder / name).write_bytes(content)
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    edit(folder, lambda raw: raw["files"].update({name: entry}))


# --- what is published can be opened ---------------------------------------------------------------------------------


def test_what_was_published_is_what_is_opened(folder: Path) -> None:
    opened = Bundle(folder)
    assert opened.manifest.classes == CLASSES
    assert opened.manifest.allocation == {"blocks.0": 8}
    assert opened.model_path.read_bytes() == b"onnx"
    assert opened.preprocessing.input_size == (3, 32, 32)
    assert set(opened.manifest.files) == {"model.onnx", "labels.txt", "preprocessing.json"}


def test_class_names_with_unusual_separators_survive(tmp_path: Path) -> None:
    classes = ["a\x0bb", "c\u2028d", "é fox", " spaced "]
    publish(tmp_path, contents(classes), facts(classes))
    assert Bundle(tmp_path).manifest.classes == classes


def test_finished_files_are_copied(tmp_path: Path) -> None:
    model = tmp_path / "scratch.onnx"
    model.write_bytes(b"large")
    target = tmp_path / "bundle"
    target.mkdir()
    manifest = publish(target, contents(CLASSES) | {"model.onnx": model}, facts(CLASSES))
    assert model.read_bytes() == b"large", "the stored step must survive"
    assert manifest.files["model.onnx"] == entry_of(target / "model.onnx")
    assert manifest.files["model.onnx"].bytes == 5


def test_opening_needs_no_torch() -> None:
    program = "import sys, taco.bundle; sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# --- publishing is all or nothing ------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for the process's end."""


def test_publishing_that_is_killed_half_way_leaves_no_manifest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dying(path: Path) -> None:
        raise Killed

    monkeypatch.setattr(bundle_module, "entry_of", dying)  # called after the files were replaced
    with pytest.raises(Killed):
        publish(folder, contents(["new", "names"]), facts(["new", "names"]))
    with pytest.raises(BundleError, match=r"is not a bundle: no readable manifest\.json"):
        Bundle(folder)


def test_files_of_an_earlier_bundle_go_and_those_of_others_stay(folder: Path) -> None:
    publish(folder, contents(CLASSES) | {"model.pixels.onnx": b"pixels", "kit.json": b"kit"}, facts(CLASSES))
    (folder / "report.json").write_bytes(b"not in the manifest")
    (folder / "kit.json").write_bytes(b"changed by a person")
    publish(folder, contents(["new", "names"]), facts(["new", "names"]))
    assert sorted(p.name for p in folder.iterdir() if p.name not in contents(CLASSES)) == [
        "kit.json",
        MANIFEST,
        "report.json",
    ]
    assert Bundle(folder).manifest.classes == ["new", "names"]


def test_a_bundle_that_is_withdrawn_leaves_none_of_its_files(folder: Path) -> None:
    (folder / "report.json").write_bytes(b"not in the manifest")
    withdraw(folder)
    assert [p.name for p in folder.iterdir()] == ["report.json"]
    withdraw(folder)  # nothing to do


def test_what_a_damaged_manifest_lists_stays(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b"{")
    withdraw(folder)
    assert sorted(p.name for p in folder.iterdir()) == sorted(contents(CLASSES))


def test_a_kill_at_any_moment_of_publishing_leaves_a_whole_bundle_or_none(tmp_path: Path) -> None:
    """Every renaming and removing is such a moment, the last try is not killed."""
    old, new = contents(CLASSES) | {"model.pixels.onnx": b"pixels"}, contents(["new", "names"])
    for moment in range(1, 100):
        folder, left = tmp_path / str(moment), iter(range(moment))
        folder.mkdir()
        publish(folder, old, facts(CLASSES))
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
            for name in ("unlink", "replace"):
                patch.setattr(Path, name, dying(getattr(Path, name), left))
            publish(folder, new, facts(["new", "names"]))
            break
        if (folder / MANIFEST).exists():
            manifest = Bundle(folder).manifest
            assert manifest.files.keys() == (old if manifest.classes == CLASSES else new).keys()
            for name in manifest.files:
                check_file(folder, name, manifest)
    assert moment > len(new) + 2
    assert not (folder / "model.pixels.onnx").exists()


def dying(real: Callable[..., Any], left: Iterator[int]) -> Callable[..., Any]:
    """Stop, as a killed process does, when none is left; it does not come back to life for what follows."""

    def step(*arguments: Any, **how: Any) -> Any:
        if next(left, None) is None:
            raise Killed
        return real(*arguments, **how)

    return step


def test_publishing_that_fails_for_want_of_room_leaves_the_old_bundle(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, staged = bundle_module._stage, []

    def full(content: Path | bytes, temporary: Path) -> None:
        if len(staged) == 2:
            raise OSError(28, "No space left on device")
        staged.append(temporary)
        real(content, temporary)

    monkeypatch.setattr(bundle_module, "_stage", full)
    with pytest.raises(TacoError, match="No space left on device"):
        publish(folder, contents(["new", "names"]), facts(["new", "names"]))
    assert Bundle(folder).manifest.classes == CLASSES
    assert not list(folder.glob(".*.tmp"))


def test_publishing_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(TacoError, match="cannot be written"):
        publish(tmp_path / "absent", contents(CLASSES), facts(CLASSES))
    with pytest.raises(TacoError, match="cannot be written: No such file"):
        publish(tmp_path, {"model.onnx": tmp_path / "never-exported"}, facts(CLASSES))
    assert not (tmp_path / MANIFEST).exists()


# --- damaged bundles -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.onnx", "labels.txt", "preprocessing.json"])
def test_a_changed_or_missing_file_is_named(folder: Path, name: str) -> None:
    original = (folder / name).read_bytes()
    (folder / name).write_bytes(bytes([original[0] ^ 1]) + original[1:])  # same size
    with pytest.raises(BundleError, match=rf"{name} is not the file that was exported"):
        Bundle(folder)
    (folder / name).write_bytes(original[:-1])
    with pytest.raises(BundleError, match=rf"{name} is not the file that was exported"):
        Bundle(folder)
    (folder / name).unlink()
    with pytest.raises(BundleError, match=rf"{name} cannot be read: No such file"):
        Bundle(folder)
    edit(folder, lambda raw: raw["files"].pop(name))
    with pytest.raises(BundleError, match=f"does not list {name}"):
        Bundle(folder)


@dataclasses.dataclass(frozen=True)
class Bad:
    content: bytes
    message: str


MANIFESTS = (
    Bad(b"", "is not JSON"),
    Bad(b"{'a': 1}", "is not JSON"),
    Bad(b"\xff\xfe\x00", "is not JSON"),
    Bad(b"[" * 200_000, "is not JSON"),
    Bad(b'{"seed": 1' + b"0" * 5000 + b"}", "is not JSON"),
    Bad(b"[]", "the file: Input should be"),
    Bad(b"null", "the file: Input should be"),
    Bad(b"{}", "Field required"),
    Bad(b'{"schema_version": 2}', "has schema version 2, this program reads up to 1"),
    Bad(b'{"schema_version": 0}', "schema_version: Input should be 1"),
    Bad(b'{"schema_version": "2"}', "schema_version: Input should be 1"),
)


@pytest.mark.parametrize("bad", MANIFESTS, ids=lambda b: repr(b.content[:22]))
def test_a_damaged_manifest_is_a_clear_error(folder: Path, bad: Bad) -> None:
    (folder / MANIFEST).write_bytes(bad.content)
    with pytest.raises(BundleError, match=bad.message) as caught:
        read_manifest(folder)
    assert caught.value.exit_code == 2
    assert str(folder) in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_newer_version_is_recognised_whatever_else_it_holds(folder: Path) -> None:
    edit(folder, lambda raw: raw.update(schema_version=3, invented=True))
    with pytest.raises(BundleError, match=r"schema version 3.*Use the version of taco-export that wrote it"):
        Bundle(folder)


@dataclasses.dataclass(frozen=True)
class Edit:
    field: str
    value: object


@pytest.mark.parametrize(
    "wrong",
    [
        Edit("classes", []),
        Edit("classes", "fox"),
        Edit("seed", "zero"),
        Edit("output", "probabilities"),
        Edit("invented", 1),
        Edit("allocation", {"a": 1.5}),
        Edit("files", {"a": {"sha256": "short", "bytes": 1}}),
        Edit("files", {"a": {"sha256": "0" * 64, "bytes": -1}}),
    ],
    ids=lambda e: f"{e.field}={e.value}",
)
def test_a_wrong_field_is_named(folder: Path, wrong: Edit) -> None:
    edit(folder, lambda raw: raw.update({wrong.field: wrong.value}))
    with pytest.raises(BundleError, match=rf"manifest\.json: {wrong.field}"):
        Bundle(folder)


@pytest.mark.parametrize(
    "name", ["../outside", "a/../../outside", "/etc/passwd", "..", "", "a\\b", "a\0b", "new\nline", "\ud800"], ids=repr
)
def test_a_file_name_that_leaves_the_bundle_is_refused(folder: Path, name: str) -> None:
    (folder.parent / "outside").write_bytes(b"secret")
    edit(folder, lambda raw: raw["files"].update({name: entry_of(folder.parent / "outside").model_dump()}))
    with pytest.raises(BundleError, match=r"manifest\.json"):
        read_manifest(folder)


def test_a_model_file_outside_the_bundle_is_refused(folder: Path) -> None:
    (folder.parent / "outside.onnx").write_bytes(b"onnx")
    edit(folder, lambda raw: raw.update(model_file="../outside.onnx"))
    with pytest.raises(BundleError, match=r"does not list \.\./outside\.onnx"):
        Bundle(folder)


def test_a_folder_in_place_of_a_file(folder: Path) -> None:
    manifest = read_manifest(folder)
    size = manifest.files["model.onnx"].bytes
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").mkdir()
    with pytest.raises(BundleError, match=r"model\.onnx"):
        check_file(folder, "model.onnx", manifest)
    assert size == 4


def test_labels_that_contradict_the_manifest(folder: Path) -> None:
    forge(folder, "labels.txt", labels_file(["hare", "fox"]))
    with pytest.raises(BundleError, match="name different classes"):
        Bundle(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        json.dumps(PREPROCESSING | {"std": [0, 1, 1]}).encode(),
        json.dumps(PREPROCESSING | {"input_size": [float("inf"), 3, 3]}).encode(),
        json.dumps(PREPROCESSING | {"input_size": None}).encode(),
        json.dumps(PREPROCESSING | {"interpolation": "guess"}).encode(),
    ],
    ids=lambda c: repr(c[:30] + c[-20:]),
)
def test_preprocessing_that_cannot_be_used(folder: Path, content: bytes) -> None:
    forge(folder, "preprocessing.json", content)
    with pytest.raises(BundleError, match=r"preprocessing\.json cannot be used"):
        Bundle(folder)


def test_no_folder_at_all(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="Give the --out folder of a run"):
        Bundle(tmp_path / "absent")
    with pytest.raises(BundleError, match="is not a bundle"):
        Bundle(tmp_path)


def test_a_manifest_of_absurd_size_is_not_read(folder: Path) -> None:
    with (folder / MANIFEST).open("ab") as file:
        file.truncate(17 * 1024**2)
    with pytest.raises(BundleError, match="too large"):
        Bundle(folder)
