"""Tests of attached devices: doctor, deploy, bench, answers and leases through a real OpenSSH server on loopback."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import tiny_run
from agent_here import Here
from conftest import draw_task
from sshd import Server, serving
from tiny_bundle import make_bundle
from typer.testing import CliRunner

from taco import api, cli
from taco.address import parse_address
from taco.attached import ondevice
from taco.attached.agent_calls import AgentCaller
from taco.attached.ondevice import Device, Watch, attach, attached, examine, leased, unlock
from taco.bundle import Bundle
from taco.commands import devices as devices_cli
from taco.device import lease
from taco.errors import InputError, MeasurementError
from taco.field import benching, device_judge
from taco.latency.table import TIME_LIMIT, device_words, read_table
from taco.pictures.listing import Box, LabelledPicture
from taco.search import budget, profile_job
from taco.steps import delivery
from taco.targets.loading import BenchmarkProtocol, Target, load_target

URL = f"ssh://trap?python={sys.executable}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("sshd")) as made:
        yield made


@pytest.fixture(autouse=True)
def our_ssh(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{server.root}/bin:/usr/bin:/bin")


def command_line(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "taco.cli", *words], capture_output=True, text=True, timeout=300, check=False
    )


def test_doctor_tells_what_is_there_and_prints_nothing_but_json(server: Server) -> None:
    done = command_line("devices", "doctor", "--device", URL, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["reachable"] is True
    assert found["python"] == "{}.{}.{}".format(*sys.version_info[:3])
    assert "onnxruntime" in found["runtimes"]
    assert found["missing"] == []
    assert found["emulated"] is None
    assert {"os", "machine", "disk_free_mib", "memory_total_mib", "telemetry"} <= found.keys()


def program(server: Server, name: str, text: str) -> str:
    """The address of the device with an interpreter of our own making."""
    made = server.root / "bin" / name
    made.write_text(f"#!/bin/sh\n{text}\n")
    made.chmod(0o755)
    return f"ssh://trap?python={made}"


def test_doctor_names_what_is_missing_and_the_command(server: Server) -> None:
    bare = program(server, "bare-python", f'exec {sys.executable} -S "$@"')  # without any package
    found = examine(bare)
    assert found["runtimes"] == {}
    lacks = {lack["what"]: lack["command"] for lack in found["missing"]}
    assert set(lacks) >= {"numpy", "pillow", "onnxruntime"}
    assert "pip install onnxruntime" in lacks["onnxruntime"]
    assert "venv" in lacks["onnxruntime"]
    with attached(parse_address(bare)) as device:
        for runtime, package in (("ort", "onnxruntime"), ("ov", "openvino")):
            refused = pytest.raises(MeasurementError, match=rf"trap lacks numpy, pillow, {package} for ")
            with refused as caught:
                device.check_runtime(runtime)
            assert f" -m pip install numpy pillow {package}. " in caught.value.todo, "one command"


def test_what_runs_models_is_named_by_the_target_whatever_else_runs_them(tmp_path: Path) -> None:
    device = attach(parse_address("local"), Here(tmp_path))
    device = dataclasses.replace(device, probe={**device.probe, "runtimes": {"onnxruntime": {"version": "1"}}})
    device.check_runtime("ort")
    with pytest.raises(MeasurementError, match="this machine lacks openvino for ") as caught:
        device.check_runtime("ov")
    assert f"{device.probe['pip']} openvino. " in caught.value.todo


def test_a_device_without_python_is_reachable_and_told_apart(server: Server) -> None:
    for address in ("ssh://trap?python=/no/python3", program(server, "python3.7", "exit 1")):
        found = examine(address)
        assert (found["reachable"], found["python"], found["runtimes"]) == (True, None, {})
        assert found["machine"]
        assert found["missing"][0]["what"] == "Python 3.8 or newer"
        assert "apt install" in found["missing"][0]["command"]


def test_python_is_not_blamed_for_what_else_is_wrong(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise MeasurementError("the disk of trap is full", "Free some space there")

    monkeypatch.setattr(AgentCaller, "ask", refused)
    lack = {"what": "an answer of our agent", "why": "the disk of trap is full", "command": "Free some space there"}
    assert examine(URL)["missing"] == [lack]


def test_an_unreachable_device_exits_with_5_and_pure_json(server: Server) -> None:
    done = command_line("devices", "doctor", "--device", "ssh://nobody.invalid", "--json")
    assert done.returncode == 5
    assert json.loads(done.stdout)["reachable"] is False
    assert "Error" in done.stderr


def test_the_environment_in_the_work_folder_is_found_first(server: Server) -> None:
    place = server.home / "w1"
    place.mkdir()
    (place / "venv").symlink_to(sys.prefix)
    with attached(parse_address("ssh://trap/~/w1")) as device:
        assert device.agent.python == "./venv/bin/python"
        assert "onnxruntime" in device.probe["runtimes"]


def test_a_wrong_clock_is_told(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time
    monkeypatch.setattr(ondevice.time, "time", lambda: real() + 86400)
    found = examine(URL)
    assert found["clock_off_s"] == pytest.approx(-86400, abs=60)
    assert [re.sub(r"\b86[34]\d\d\b", "86400", lack["why"]) for lack in found["missing"]] == [
        "its clock is 86400 s behind"
    ]


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    with attached(parse_address(f"ssh://trap/~/d{abs(hash(request.node.name))}?python={sys.executable}")) as made:
        yield made


def test_one_run_at_a_time_has_a_device(server: Server, device: Device) -> None:
    with attached(device.address) as other:
        with leased(device):
            refused = pytest.raises(MeasurementError, match=r"@.*process \d+ has this device since \d+ s")
            with refused as caught, leased(other):
                pass
            assert "taco devices unlock" in caught.value.todo
        with leased(other):
            pass
        with leased(device):
            assert "process" in (unlock(other) or "")
            assert unlock(other) is None


def test_a_lease_of_a_dead_run_ends_by_itself_and_with_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease.take(str(tmp_path), "a", "anna")
    with pytest.raises(lease.BusyError, match="anna has this device"):
        lease.take(str(tmp_path), "b", "ben")
    with monkeypatch.context() as patch:
        patch.setattr(lease, "_boot", lambda: "another start")
        lease.take(str(tmp_path), "b", "ben")
    lease.release(str(tmp_path), None)
    lease.take(str(tmp_path), "a", "anna")
    now = time.monotonic()
    monkeypatch.setattr(lease.time, "monotonic", lambda: now + lease.FREE_AFTER_S + 1)
    lease.take(str(tmp_path), "b", "ben")
    monkeypatch.setattr(lease.time, "time", lambda: 0.0)
    with pytest.raises(lease.BusyError, match="ben"):
        lease.take(str(tmp_path), "a", "anna")


def test_a_command_that_is_running_holds_the_device_whatever_the_lease_says(tmp_path: Path) -> None:
    with lease.holding(str(tmp_path), "a", "anna"):
        lease.release(str(tmp_path), None)
        with pytest.raises(lease.BusyError, match="a command of it is running"):
            lease.take(str(tmp_path), "b", "ben")


def test_a_person_frees_a_device_that_a_dead_run_holds(server: Server, device: Device) -> None:
    device.agent.extra = ("--lease", "dead", "--owner", "somebody")
    device.agent.ask(["take"])
    done = CliRunner().invoke(devices_cli.app, ["unlock", "--device", device.address.text])
    assert (done.exit_code, done.stdout) == (0, "freed; somebody had it\n")
    with attached(device.address) as other, leased(other):
        pass


def test_doctor_tells_a_person_what_is_there(server: Server) -> None:
    done = CliRunner().invoke(devices_cli.app, ["doctor", "--device", URL])
    assert done.exit_code == 0
    assert "Nothing is missing." in done.stdout
    assert "onnxruntime" in done.stdout


HOLDER = """
import sys, time
from taco.device.lease import holding
with holding(sys.argv[1], "a", "anna"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_run_that_asks_again_ends_its_own_lost_command_and_no_other(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE) as lost:
        assert lost.stdout is not None
        assert lost.stdout.readline() == b"held\n"
        with pytest.raises(lease.BusyError, match="anna has this device"):
            lease.take(str(tmp_path), "b", "ben")
        assert lost.poll() is None
        with lease.holding(str(tmp_path), "a", "anna"):
            assert lost.wait(5) == -9


def test_another_device_than_the_target_is_refused_or_told(site: Path, tmp_path: Path, run: api.ExportResult) -> None:
    with pytest.raises(InputError, match="host-cpu is this machine, and --device is another"):
        api.export(options(site, tmp_path / "out", URL, target="host-cpu"))
    assert any("holds for no raspberry-pi-4" in warning for warning in run.report.warnings)


def options(task: Path, out: Path, url: str, **changes: Any) -> api.ExportOptions:
    return tiny_run.options(task, out, **{"macs": 0.6, "threads": 1, "device": url, **changes})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = draw_task(tmp_path_factory.mktemp("pictures") / "site")
    (folder / "ash" / "00.png").rename(folder / "ash" / "it's $(touch x);\n-rf \u202e.png")
    return folder


def quick(name: str) -> Target:
    """A target whose protocol takes a second."""
    return dataclasses.replace(load_target(name), benchmark=BenchmarkProtocol(6, 2.0, 20.0), threads=1)


@pytest.fixture(scope="module")
def run(server: Server, site: Path, tmp_path_factory: pytest.TempPathFactory) -> api.ExportResult:
    """One export with the loopback device attached."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{server.root}/bin:/usr/bin:/bin")
        patch.setattr(delivery, "IDLE_S", 0.05)
        patch.setattr(budget, "load_target", quick)
        return api.export(options(site, tmp_path_factory.mktemp("run") / "out", URL))


def test_an_export_measures_judges_and_deploys_on_the_device(server: Server, run: api.ExportResult) -> None:
    report = run.report
    found = report.device
    assert found is not None
    assert report.latency_source == "measured"
    assert report.measured_on is not None
    assert report.speedup is not None
    assert (found.images, found.judged_images, found.same_answers) == (9, 9, 9)
    assert found.here == found.there
    assert found.provider == "CPUExecutionProvider"
    assert set(found.per_class) == {"ash", "bay", "cob"}
    assert len(found.idle_ms) == 3
    assert {"dense", "compressed"} <= found.cold_ms.keys()
    assert any(gate.name == "answers on the device" and gate.passed for gate in report.gates)
    there = Path(found.deployed_to or "")
    assert there.parent == server.home / "taco-export" / "bundles"
    assert (there / "model.onnx").read_bytes() == (run.folder / "model.onnx").read_bytes()
    assert "predict" in (report.next_step or "")
    names = {path.name for path in there.parent.iterdir()}
    bundles = {name for name in names if re.fullmatch("site-[0-9a-f]{12}", name)}
    assert all((there.parent / name / "manifest.json").is_file() for name in bundles)
    assert names - bundles == {"current", "history", "taco-watch.service"}, "and other tests' whole bundles"
    assert there.name in bundles
    assert (there.parent / "current").resolve() == there
    left = {path.name.partition("-")[0] for path in (server.home / "taco-export").iterdir()}
    assert left == {"bundles", "agent", lease._LOCK.partition("-")[0]}
    page = (run.folder / "report.html").read_text()
    assert "On the device" in page


def test_the_deployed_bundle_names_pictures_there_by_itself(server: Server, run: api.ExportResult, site: Path) -> None:
    there = Path(run.report.device.deployed_to or "") if run.report.device else Path()
    done = subprocess.run(
        [sys.executable, "-I", str(there / "agent.pyz"), "predict", str(there), str(site), "/gone.png"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert len(lines) == 25
    assert all(line.split("\t")[0] in ("ash", "bay", "cob") for line in lines[:-1])
    assert lines[-1].startswith("(unreadable: there is no such file)")
    from taco.predict import predict

    ours = {str(p.path): p.label for p in predict(Bundle(run.folder), sorted(site.rglob("*.png")), threads=1)}
    theirs = {
        path: label
        for label, _, shown in (line.split("\t") for line in lines[:-1])
        for path in [ast.literal_eval(shown)]
    }
    assert theirs == ours


@pytest.mark.parametrize("budget", [{"speedup": 1.2}, {"latency_ms": 3.0, "allocation": "latency"}], ids=str)
def test_no_budget_of_time_is_taken_for_an_emulated_device(site: Path, tmp_path: Path, budget: dict[str, Any]) -> None:
    with pytest.raises(MeasurementError, match="none that can be timed is attached"):
        api.export(options(site, tmp_path / "fast", URL + "&emulated", macs=None, **budget))


def test_no_latency_table_is_made_of_an_emulated_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TACO_CACHE", str(tmp_path))
    asked = ["profile", "--target", "raspberry-pi-4", "--model", "test_efficientnet", "--device", URL + "&emulated"]
    refused = CliRunner().invoke(cli.app, asked)
    assert isinstance(refused.exception, MeasurementError)
    assert "its times mean nothing and enter no table" in refused.exception.what
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_emulated_device_gives_answers_and_no_times(
    server: Server, site: Path, tmp_path: Path, run: api.ExportResult
) -> None:
    assert run.report.latency_source == "measured"
    report = api.export(options(site, tmp_path / "out", URL + "&emulated", from_run=run.folder)).report
    assert report.device is not None
    assert report.device.emulated
    assert report.device.same_answers == 9
    assert (report.latency_ms, report.speedup, report.latency_source, report.measured_on) == (None, None, "none", None)
    assert report.device.cold_ms == {}
    assert any("holds no result of a raspberry-pi-4" in warning for warning in report.warnings)


@pytest.mark.slow
def test_a_fleet_is_measured_at_once_and_the_lost_unit_named(
    server: Server, site: Path, tmp_path: Path, run: api.ExportResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "IDLE_S", 0.05)
    monkeypatch.setattr(budget, "load_target", quick)
    second, lost = f"ssh://trap/~/second?python={sys.executable}", "ssh://nobody.invalid"
    report = api.export(options(site, tmp_path / "out", (lost, URL, second), from_run=run.folder)).report
    assert report.device is not None
    assert report.units is not None
    units = {unit.address: unit for unit in report.units.units}
    assert list(units) == [URL, second, lost]
    assert (units[URL].leads, units[second].leads) == (True, False)
    for address in (URL, second):
        assert units[address].measured
        assert units[address].answers is not None
        assert units[address].answers.same == 9
        assert Path(units[address].deployed_to or "").joinpath("model.onnx").is_file()
    assert units[second].deployed_to == str(
        server.home / "second" / "bundles" / Path(units[URL].deployed_to or "").name
    )
    assert "nobody.invalid" in (units[lost].problem or "")
    assert any(warning.startswith(f"{lost} took no part") for warning in report.warnings)
    with attached(parse_address(second)) as device, leased(device):
        pass


@pytest.mark.slow
def test_deploy_and_bench_of_a_finished_bundle(
    server: Server, run: api.ExportResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = CliRunner().invoke(cli.app, ["deploy", str(run.folder), "--device", URL])
    assert done.exit_code == 0, done.output
    assert Path(done.stdout.strip()).is_dir()
    assert "predict" in done.stderr
    again = CliRunner().invoke(cli.app, ["deploy", str(run.folder), "--device", URL])
    assert again.stdout == done.stdout
    assert "It takes the place of" not in again.stderr
    monkeypatch.setattr(benching, "load_target", quick)
    sustained_s, sweep = devices_cli.seconds_of("0.2s"), devices_cli.counts_of("1")
    asked = benching.BenchAsked(threads=1, sustained_s=sustained_s, sweep=sweep, operators=True)
    found = json.loads(json.dumps(benching.bench_bundle(Bundle(run.folder), parse_address(URL), asked)))
    assert found["models"]["compressed"]["p50"] > 0
    assert [point["threads"] for point in found["sweep"]] == [1]
    assert found["sustained"][0]["n"] >= 1
    assert "temperatures" in found["sustained"][0]["conditions"]
    assert any("Conv" in node["op"] for node in found["operators"])
    assert [node["ms"] for node in found["operators"]] == sorted((n["ms"] for n in found["operators"]), reverse=True)


def test_a_damaged_or_missing_file_deploys_nothing(server: Server, device: Device, run: api.ExportResult) -> None:
    folder = server.home / device.address.folder
    first = device.deploy(Bundle(run.folder)).folder
    shutil.rmtree(first)
    model = next(path for path in folder.glob("*.onnx"))
    real = device.agent.ask_json

    def damaged(command: str, request: Any, timeout_s: float) -> Any:
        model.write_bytes(b"damaged")
        return real(command, request, timeout_s)

    device.agent.ask_json = damaged  # type: ignore[method-assign]
    with pytest.raises(MeasurementError, match="is damaged on the device"):
        device.deploy(Bundle(run.folder))
    assert not Path(first).exists()


def test_a_bundle_takes_the_place_of_another_and_gives_it_back(server: Server, device: Device, tmp_path: Path) -> None:
    one, two = (make_bundle(tmp_path / name, sure_from=sure) for name, sure in (("a", 0.5), ("b", 0.6)))
    first, second = device.deploy(one), device.deploy(two, Watch("/media/my card", "results"))
    assert (first.before, second.before) == (None, Path(first.folder).name)
    assert '"/media/my card"' in Path(second.unit).read_text()
    assert Path(first.current).resolve() == Path(second.folder)
    back = CliRunner().invoke(cli.app, ["deploy", "--rollback", "--device", device.address.text])
    assert (back.exit_code, back.stdout) == (0, f"{first.folder}\n")
    assert Path(first.current).resolve() == Path(first.folder)
    with pytest.raises(MeasurementError, match="no earlier bundle"):
        device.roll_back()
    for wrong in ([], [str(one.path), "--rollback"]):
        asked = CliRunner().invoke(cli.app, ["deploy", *wrong, "--device", URL])
        assert isinstance(asked.exception, InputError)


def test_a_full_disk_deploys_nothing(server: Server, run: api.ExportResult, small_disk: Any) -> None:
    disk = small_disk("size=1400k")
    refused = pytest.raises(MeasurementError, match=r"disk of trap is full|cannot be put into")
    with attached(parse_address(f"ssh://trap{disk}/w?python={sys.executable}")) as device, refused as caught:
        device.deploy(Bundle(run.folder))
    assert caught.value.exit_code == 5
    bundles = disk / "w" / "bundles"
    assert not bundles.is_dir() or list(bundles.iterdir()) == []


@pytest.mark.parametrize("words", ["deploy", "bench", "devices doctor", "devices unlock", "profile"])
def test_help_is_shown_and_fits(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = CliRunner().invoke(cli.app, [*words.split(), "-h"])
    assert shown.exit_code == 0, shown.output
    assert "--device" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80


@pytest.mark.parametrize("text", ["", "m", "-1", "0", "30 minutes", "25h", "1e3", "nan"])
def test_a_sustained_time_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--sustained"):
        devices_cli.seconds_of(text)


def test_durations_and_threads_are_read() -> None:
    assert [devices_cli.seconds_of(text) for text in ("90", "90s", "30m", "0.5h")] == [90, 90, 1800, 1800]
    assert devices_cli.counts_of("1, 2,4") == (1, 2, 4)
    assert devices_cli.counts_of(None) == ()
    with pytest.raises(InputError, match="--sweep"):
        devices_cli.counts_of("1,two")


class Naming:
    """A device, and its agent, that names every picture the first class."""

    name = "trap"

    def __init__(self) -> None:
        self.agent, self.packed, self.asked = self, list[str](), list[Mapping[str, Any]]()

    def send(self, files: Sequence[Path], suffix: str) -> dict[Path, str]:
        if suffix == ".zip":
            self.packed = zipfile.ZipFile(files[0]).namelist()
        return dict.fromkeys(files, f"sent{suffix}")

    def ask(self, words: Sequence[str]) -> dict[str, str]:
        return {"folder": "sent"}

    def classify(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self.asked = request["pictures"]
        runtime = {"name": "onnxruntime", "version": "1"}
        return {"logits": [[1, 0, 0]] * len(self.asked), "provider": "CPU", "runtime": runtime, "failures": {}}


def named(pictures: Sequence[LabelledPicture], device: Naming, scratch: Path) -> device_judge.OnDevice:
    """Let a device name the pictures that are chosen for it."""

    def some(**facts: object) -> Any:
        return SimpleNamespace(**facts)

    material = some(judged=pictures, bank=some(preprocessing=some(to_dict=dict)), task=some(classes=("a", "b", "c")))
    asking = device_judge.Asking(cast("Any", device), some(provider="CPU", threads=1), None, scratch)
    numbers = device_judge.chosen(pictures)
    answer = asking.ask(some(path=Path("model.onnx")), material, numbers)
    labels = np.array([picture.label_index for picture in pictures])
    return device_judge.OnDevice.of(answer, some(labels=labels, exported=labels), material, numbers)


def files(folder: Path, number: int) -> list[Path]:
    made = [folder / f"{n}.jpg" for n in range(number)]
    for path in made:
        path.write_bytes(b"." * 100)
    return made


def test_fewer_pictures_go_to_the_device_where_all_are_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_judge, "MOST_BYTES", 300)
    device = Naming()
    pictures = [LabelledPicture(path, n // 3) for n, path in enumerate(files(tmp_path, 9))]
    found = named(pictures, device, tmp_path)
    assert (found.labels.tolist(), found.judged, len(device.asked)) == ([0, 1, 2], 9, 3)
    monkeypatch.setattr(device_judge, "MOST_BYTES", 99)
    with pytest.raises(MeasurementError, match=r"every picture is too large to send to the device: .*0\.jpg"):
        device_judge.chosen(pictures)


def test_a_file_with_several_boxes_travels_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_judge, "MOST_BYTES", 300)
    device = Naming()
    boxes = (Box(0.0, 0.0, 0.5, 0.5), Box(0.5, 0.5, 0.5, 0.5))
    pictures = [LabelledPicture(path, n, box) for n, path in enumerate(files(tmp_path, 3)) for box in boxes]
    assert len(named(pictures, device, tmp_path).labels) == 6
    assert device.packed == ["0000.img", "0001.img", "0002.img"]
    assert [(asked["file"], asked["box"]) for asked in device.asked[:3]] == [
        ("sent/0000.img", [0.0, 0.0, 0.5, 0.5]),
        ("sent/0000.img", [0.5, 0.5, 0.5, 0.5]),
        ("sent/0001.img", [0.0, 0.0, 0.5, 0.5]),
    ]


@pytest.mark.parametrize(
    ("text", "host", "user", "port", "folder"),
    [
        ("ssh://trap1", "trap1", None, None, "taco-export"),
        ("ssh://pi@trap1", "trap1", "pi", None, "taco-export"),
        ("ssh://pi@Trap.Lab:2222/~/work", "Trap.Lab", "pi", 2222, "work"),
        ("ssh://trap1/data/taco/", "trap1", None, None, "/data/taco"),
        ("ssh://[fe80::1%25eth0]:22", "fe80::1%25eth0", None, 22, "taco-export"),
        ("local", None, None, None, "taco-export"),
    ],
)
def test_addresses_pass_on_only_what_they_say(
    text: str, host: str | None, user: str | None, port: int | None, folder: str
) -> None:
    found = parse_address(text)
    assert (found.host, found.user, found.port, found.folder) == (host, user, port, folder)


@pytest.mark.parametrize(
    "text",
    [
        *("trap1", "http://trap1", "ssh://", "ssh://-oProxyCommand=x", "ssh://a b", "ssh://-l@trap", "ssh://x:99999"),
        *("ssh://pi:secret@trap", "ssh://trap?colour=red", "ssh://trap?python=", "ssh://trap/a%0Ab", "ssh://trap/~/"),
        *("ssh://$(id)", "ssh://trap;id", "ssh://pi;id@trap", ""),
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--device"):
        parse_address(text)


@pytest.mark.slow
def test_a_latency_table_is_measured_there(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TACO_CACHE", str(tmp_path))
    monkeypatch.setattr(profile_job, "REPEATS", 1)  # how steady this machine is is not asked
    asked = ["profile", "--target", "raspberry-pi-4", "--model", "test_efficientnet", "--threads", "1", "-q"]
    done = CliRunner().invoke(cli.app, [*asked, "--device", URL, "--max-seconds", "15"])
    assert done.exit_code == 0, done.output
    table = read_table(Path(done.stdout.strip()))
    assert {cell.source for unit in table.units.values() for cell in unit.cells} == {"measured"}
    assert set(table.skipped.values()) <= {TIME_LIMIT}, "the units that were begun in that time were measured"
    with attached(parse_address(URL)) as device:
        assert table.key.device == device_words(device.probe)
    assert table.key.threads == 1
