"""Tests of `taco.device.deploy` and of the archive of pictures: all or nothing, and no name leads out of the folder."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import hashlib
import os
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from power import AFTERMATHS, Aftermath, Disk, PowerCutError

from taco.device import commands, deploy, unit, versions
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


BESIDE = ["current", "history", unit.NAME]


def listed(folder: Path) -> list[str]:
    found = sorted(str(path.relative_to(folder / "bundles")) for path in (folder / "bundles").rglob("*"))
    return [name for name in found if name not in BESIDE]


def test_a_bundle_is_put_in_place_as_a_whole_and_used(tmp_path: Path, request_: dict[str, Any]) -> None:
    home = tmp_path / "bundles"
    first = {"before": None, "current": str(home / "current"), "unit": str(home / unit.NAME)}
    assert deploy.deploy(request_, str(tmp_path)) == {"folder": str(home / "site-1"), "already": False, **first}
    assert listed(tmp_path) == ["site-1", "site-1/labels.txt", "site-1/model.onnx"]
    assert (home / "current").readlink() == Path("site-1")
    again = deploy.deploy(request_, str(tmp_path))
    assert (again["already"], again["before"]) == (True, "site-1")
    assert sorted(path.name for path in home.iterdir()) == sorted(["site-1", *BESIDE])


def test_a_damaged_bundle_is_mended_and_never_away(
    tmp_path: Path, request_: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy.deploy(request_, str(tmp_path))
    place = tmp_path / "bundles" / "site-1"
    (place / "model.onnx").write_bytes(b"damaged")
    (place / "more").touch()
    (place / "less").mkdir()
    real = os.replace

    def watched(source: str, target: str) -> None:
        assert (place / "labels.txt").is_file()
        real(source, target)

    monkeypatch.setattr(os, "replace", watched)
    assert deploy.deploy(request_, str(tmp_path))["already"] is False
    assert (place / "model.onnx").read_bytes() == b"weights"
    assert listed(tmp_path) == ["site-1", "site-1/labels.txt", "site-1/model.onnx"]


@pytest.mark.parametrize("fault", ["missing", "damaged", "full", "will not run"])
def test_a_failed_deployment_leaves_the_old_bundle_in_use(
    tmp_path: Path, request_: dict[str, Any], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy.deploy(request_, str(tmp_path))
    request_["name"] = "site-2"
    request_["files"]["labels.txt"] = entry(tmp_path, "cc.dat", b"new labels")
    if fault == "missing":
        (tmp_path / "cc.dat").unlink()
    if fault == "damaged":
        (tmp_path / "cc.dat").write_bytes(b"other")
    if fault == "full":
        monkeypatch.setattr(deploy, "_put", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))

    def check(_folder: str) -> None:
        if fault == "will not run":
            raise DeviceError("no runtime")

    with pytest.raises(DeviceError):
        deploy.deploy(request_, str(tmp_path), check)
    assert listed(tmp_path) == ["site-1", "site-1/labels.txt", "site-1/model.onnx"]
    assert (tmp_path / "bundles/current/labels.txt").read_bytes() == b"fox"


def versioned(folder: Path, request_: dict[str, Any], number: int, task: str = "site") -> str:
    """Deploy a version; returns its name."""
    name = f"{task}-{number:012x}"
    deploy.deploy({**request_, "name": name}, str(folder))
    return name


def fine(_folder: str) -> None:
    """Every bundle runs."""


def test_the_way_back_leads_to_what_was_in_use_before(tmp_path: Path, request_: dict[str, Any]) -> None:
    home = str(tmp_path / "bundles")
    with pytest.raises(DeviceError, match="no earlier bundle"):
        deploy.roll_back(str(tmp_path), fine)
    one, two, three = (versioned(tmp_path, request_, number) for number in (1, 2, 3))
    assert deploy.roll_back(str(tmp_path), fine) == {"folder": f"{home}/{two}"}
    assert deploy.roll_back(str(tmp_path), fine, three) == {"folder": f"{home}/{two}"}  # asked again: done already
    four = versioned(tmp_path, request_, 4)
    assert versions.history(home) == [one, two, four]
    assert not (tmp_path / "bundles" / three).exists()  # rolled back from, and no way leads to it
    assert deploy.roll_back(str(tmp_path), fine)["folder"] == f"{home}/{two}"
    assert deploy.roll_back(str(tmp_path), fine)["folder"] == f"{home}/{one}"
    with pytest.raises(DeviceError, match="no earlier bundle"):
        deploy.roll_back(str(tmp_path), fine)
    assert versions.current(home) == one


def test_a_bundle_that_does_not_run_is_not_gone_back_to(tmp_path: Path, request_: dict[str, Any]) -> None:
    one, two = (versioned(tmp_path, request_, number) for number in (1, 2))

    def broken(folder: str) -> None:
        raise DeviceError(f"{folder} does not run")

    with pytest.raises(DeviceError, match=f"{one} does not run"):
        deploy.roll_back(str(tmp_path), broken)
    assert versions.current(str(tmp_path / "bundles")) == two


def test_three_versions_of_a_task_stay_and_those_of_other_tasks(tmp_path: Path, request_: dict[str, Any]) -> None:
    other = versioned(tmp_path, request_, 9, "other")
    (tmp_path / "bundles" / "mine").mkdir()
    names = [versioned(tmp_path, request_, number) for number in range(5)]
    kept = {path.name for path in (tmp_path / "bundles").iterdir()}
    assert kept == {other, "mine", *names[2:], *BESIDE}
    assert deploy.roll_back(str(tmp_path), fine)["folder"].endswith(names[3])


@pytest.mark.parametrize("aftermath", AFTERMATHS, ids=str)
def test_the_power_may_go_while_versions_are_switched(tmp_path: Path, aftermath: Aftermath) -> None:
    """Whatever is left, something is in use, and the way back from it is right."""
    names = ["site-1", "site-2", "site-3"]
    for cut_at in range(1, 14):
        home = tmp_path / str(cut_at)
        home.mkdir()
        for name in names:
            (home / name).mkdir()
        disk = Disk(home)
        with disk.on():
            for name in names[:2]:
                versions.switch(str(home), name)
        with contextlib.suppress(PowerCutError), disk.on(cut_at):
            versions.switch(str(home), names[2])
        disk.restore(aftermath, cut_at)
        now = versions.current(str(home))
        assert now in names[1:]
        with disk.on():
            assert versions.roll_back(str(home), fine) == names[names.index(now) - 1]
            versions.switch(str(home), names[2])
        assert versions.current(str(home)) == names[2]


def words_of(line: str) -> list[str]:
    """Read a command line by the rules of systemd.service(5)."""
    words = re.findall(r'"((?:[^"\\]|\\.)*)"', line)
    plain = [word.replace("%%", "%").replace("$$", "$") for word in words]
    return [codecs.escape_decode(word.encode())[0].decode() for word in plain]  # type: ignore[attr-defined]


def test_the_unit_file_runs_what_it_was_asked_whatever_the_names(tmp_path: Path, request_: dict[str, Any]) -> None:
    pictures, results = 'DCIM "50 %" $HOME \\x41\n;rm', "re'sults é"
    found = deploy.deploy({**request_, "watch": {"pictures": pictures, "results": results}}, str(tmp_path))
    text = Path(found["unit"]).read_text()
    line = re.search(r"^ExecStart=(.*)$", text, re.MULTILINE)
    assert line
    current = f"{tmp_path}/bundles/current"
    wanted = [sys.executable, "-I", f"{current}/agent.pyz", "watch", current]
    assert words_of(line.group(1)) == [*wanted, f"{tmp_path}/{pictures}", f"{tmp_path}/{results}"]
    assert "SuccessExitStatus=143" in text
    deploy.deploy({**request_, "name": "site-2"}, str(tmp_path))
    assert Path(found["unit"]).read_text() == text  # a later deployment leaves the folders as they were set


@pytest.mark.parametrize("watch", [{"pictures": 3}, {"pictures": "a\0b"}, {"results": "\udcff"}])
def test_folders_that_no_unit_can_name_are_refused_and_nothing_is_switched(
    tmp_path: Path, request_: dict[str, Any], watch: dict[str, Any]
) -> None:
    with pytest.raises(RequestError):
        deploy.deploy({**request_, "watch": watch}, str(tmp_path))
    assert versions.current(str(tmp_path / "bundles")) is None


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
