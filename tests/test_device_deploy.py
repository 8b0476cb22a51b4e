"""Tests of `taco.device.deploy` and of the archive of pictures: all or nothing, and no name leads out of the folder."""

from __future__ import annotations

import argparse
import hashlib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from taco.device import commands, deploy
from taco.device.wire import DeviceError, RequestError


def entry(folder: Path, name: str, content: bytes) -> dict[str, str]:
    (folder / name).write_bytes(content)
    return {"from": name, "sha256": hashlib.sha256(content).hexdigest()}


@pytest.fixture
def request_(tmp_path: Path) -> dict[str, Any]:
    return {
        "name": "site-1",
        "files": {
            "model.onnx": entry(tmp_path, "aa.onnx", b"weights"),
            "labels.txt": entry(tmp_path, "bb.dat", b"fox"),
        },
    }


def listed(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder / "bundles")) for path in (folder / "bundles").rglob("*"))


def test_a_bundle_is_put_in_place_as_a_whole(tmp_path: Path, request_: dict[str, Any]) -> None:
    found = deploy.deploy(request_, str(tmp_path))
    assert found == {"folder": str(tmp_path / "bundles" / "site-1"), "already": False}
    assert listed(tmp_path) == ["site-1", "site-1/labels.txt", "site-1/model.onnx"]
    assert deploy.deploy(request_, str(tmp_path))["already"] is True


def test_an_older_or_damaged_bundle_of_the_name_is_replaced(tmp_path: Path, request_: dict[str, Any]) -> None:
    deploy.deploy(request_, str(tmp_path))
    place = tmp_path / "bundles" / "site-1"
    (place / "model.onnx").write_bytes(b"damaged")
    (place / "more").touch()
    assert deploy.deploy(request_, str(tmp_path))["already"] is False
    assert (place / "model.onnx").read_bytes() == b"weights"
    assert listed(tmp_path) == ["site-1", "site-1/labels.txt", "site-1/model.onnx"]


@pytest.mark.parametrize("fault", ["missing", "damaged", "killed"])
def test_a_failed_deployment_leaves_the_old_bundle(
    tmp_path: Path, request_: dict[str, Any], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy.deploy(request_, str(tmp_path))
    request_["files"]["labels.txt"] = entry(tmp_path, "cc.dat", b"new labels")
    if fault == "missing":
        (tmp_path / "cc.dat").unlink()
    if fault == "damaged":
        (tmp_path / "cc.dat").write_bytes(b"other")
    if fault == "killed":
        monkeypatch.setattr(deploy, "_swap", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(DeviceError):
        deploy.deploy(request_, str(tmp_path))
    assert listed(tmp_path) == ["site-1", "site-1/labels.txt", "site-1/model.onnx"]
    assert (tmp_path / "bundles/site-1/labels.txt").read_bytes() == b"fox"


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/b", "", ".hidden", "-rf", "a b", "new\nline", 3, None])
def test_names_that_could_lead_out_are_refused(tmp_path: Path, request_: dict[str, Any], name: Any) -> None:
    for changed in (
        {**request_, "name": name},
        {**request_, "files": {**request_["files"], name: request_["files"]["labels.txt"]}},
        {**request_, "files": {"m": {"from": name, "sha256": "0"}}},
    ):
        with pytest.raises(RequestError):
            deploy.deploy(changed, str(tmp_path))
    assert not (tmp_path / "bundles").exists()


def archive(path: Path, *names: str) -> argparse.Namespace:
    with zipfile.ZipFile(path, "w") as opened:
        for name in names:
            opened.writestr(name, b"picture")
    return argparse.Namespace(archive=str(path))


def test_pictures_are_unpacked_once_and_as_a_whole(tmp_path: Path) -> None:
    asked = archive(tmp_path / "p.zip", "0000.img", "0001.img")
    assert commands.unpack_archive(asked) == {"folder": str(tmp_path / "p")}
    inode = (tmp_path / "p").stat().st_ino
    commands.unpack_archive(asked)
    assert (tmp_path / "p").stat().st_ino == inode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p", "p.zip"]


@pytest.mark.parametrize("name", ["../0.img", "/0.img", "a/0.img", "x.img", "0.img/"])
def test_an_archive_of_other_things_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError):
        commands.unpack_archive(archive(tmp_path / "p.zip", "0000.img", name))
    assert [path.name for path in tmp_path.iterdir()] == ["p.zip"]


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "p.zip").write_bytes(b"rubbish")
    with pytest.raises(DeviceError, match="cannot be unpacked"):
        commands.unpack_archive(argparse.Namespace(archive=str(tmp_path / "p.zip")))
    assert [path.name for path in tmp_path.iterdir()] == ["p.zip"]


def test_what_was_sent_for_a_run_goes_and_nothing_else(tmp_path: Path, request_: dict[str, Any]) -> None:
    deploy.deploy(request_, str(tmp_path))
    digest, short = "a" * 64, "b" * 16
    sent = [f"{digest}.onnx", f"{digest}.zip", f"request-{short}.json", f"agent-{short}.pyz", f".taco-{'c' * 32}.part"]
    kept = ["agent-0123456789abcdef.pyz", "notes.txt", "model.onnx", "aa.onnx", "bb.dat", "bundles", "A" * 64]
    for name in [*sent, *kept[:3], kept[-1]]:
        (tmp_path / name).touch()
    (tmp_path / digest).mkdir()
    (tmp_path / digest / "0000.img").touch()
    assert deploy.sweep(str(tmp_path), f"somewhere/{kept[0]}") == sorted([*sent, digest])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
    assert (tmp_path / "bundles/site-1/model.onnx").read_bytes() == b"weights"
