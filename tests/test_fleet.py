"""Several devices at once: the real agent in folders of this machine, one of them out of reach."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_bundle
from make_report import make_report
from typer.testing import CliRunner

from taco import cli
from taco.address import Address, parse_address
from taco.attached import ondevice
from taco.attached.fleet import Failed, at_once, check_distinct, reach
from taco.attached.processes import Command, run_program
from taco.bundle import Bundle
from taco.errors import InputError, LinkError, MeasurementError
from taco.field import bench_job, benching
from taco.report.read import read_report
from taco.report.units import spread_sentence
from taco.report.write import write_report
from taco.targets.loading import BenchmarkProtocol, Target, load_target
from taco.transport import LocalTransport, Transport

PYTHON = f"?python={sys.executable}"
URLS = [f"ssh://trap1{PYTHON}", f"ssh://trap2{PYTHON}", f"ssh://gone{PYTHON}"]


@contextlib.contextmanager
def folders(root: Path, address: Address) -> Iterator[Transport]:
    """A folder of this machine for every host but one, which nobody reaches."""
    if address.host == "gone":
        raise LinkError("gone cannot be reached: no route to host", "Switch it on")
    yield LocalTransport(root / str(address.host))


def quick(name: str) -> Target:
    return dataclasses.replace(load_target(name), benchmark=BenchmarkProtocol(6, 1.0, 20.0), threads=1)


@pytest.fixture
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ondevice, "transport_to", lambda address: folders(tmp_path, address))
    monkeypatch.setattr(benching, "load_target", quick)
    monkeypatch.setattr(benching, "steady", lambda take: take())  # a busy machine measures twice


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    made = tiny_bundle.make_bundle(tmp_path / "bundle")
    write_report(make_report(), made.path)
    return made


@pytest.mark.usefixtures("devices")
def test_two_units_are_measured_and_the_third_is_named(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["bench", str(bundle.path), *(word for url in URLS for word in ("--device", url))]
    more = ["--idle", "0.01", "--sustained", "0.2s", "--frames-per-day", "2000", "--active-w", "7", "--rest-w", "2"]
    monkeypatch.setattr(sys, "argv", ["taco", *words, *more, "--report"])
    done = CliRunner().invoke(cli.app, [*words, *more, "--report", "--json"])
    assert isinstance(done.exception, MeasurementError)
    assert "ssh://gone" in done.exception.what
    found = json.loads(done.stdout)
    assert [unit["device"] for unit in found["units"]] == URLS
    assert all(unit["models"]["compressed"]["p50"] > 0 for unit in found["units"][:2])
    assert "no route to host" in found["units"][2]["problem"]
    assert set(found["spread"]["p50_ms"]) == set(URLS[:2])
    assert found["duty"]["wh_per_day"] > 48

    report = read_report(bundle.path)
    assert report.units is not None
    ran, other, lost = report.units.units
    assert ran.measured_on
    assert other.measured_on
    assert len(ran.idle_ms) == 3
    assert ran.sustained[0].seconds
    assert (lost.problem, lost.models) == (found["units"][2]["problem"], {})
    assert report.units.command[:2] == ["taco", "bench"]
    assert report.units.promised_ms == pytest.approx(3.1)
    assert "gone?" not in spread_sentence(report.units)
    assert "gone could not be measured" in spread_sentence(report.units)
    page = (bundle.path / "report.html").read_text()
    for said in ("Your devices", "trap1", "no route to host", "energy", "given by you"):
        assert said in page, said


@pytest.mark.usefixtures("devices")
def test_one_device_answers_as_before_and_needs_no_report(tmp_path: Path) -> None:
    made = tiny_bundle.make_bundle(tmp_path / "bundle")
    done = CliRunner().invoke(cli.app, ["bench", str(made.path), "--device", URLS[0], "--idle", "0", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["models"]["compressed"]["p50"] > 0
    refused = CliRunner().invoke(cli.app, ["bench", str(made.path), "--device", URLS[0], "--report"])
    assert isinstance(refused.exception, InputError)


@pytest.mark.usefixtures("devices")
def test_where_none_can_be_measured_the_reasons_are_said(bundle: Bundle) -> None:
    addresses = tuple(map(parse_address, (URLS[2], f"ssh://gone/~/b{PYTHON}")))
    job = bench_job.BenchJob(bundle, addresses, benching.BenchAsked(), None, ("taco",))
    with pytest.raises(MeasurementError, match=r"no device could be measured: .*no route to host"):
        bench_job.run_bench(job, into_report=False)


@pytest.mark.usefixtures("devices")
def test_devices_are_reached_at_once_and_left_again() -> None:
    with contextlib.ExitStack() as stack:
        found, missing = reach([parse_address(url) for url in URLS], stack)
        assert list(found) == URLS[:2]
        assert missing == {URLS[2]: Failed("gone cannot be reached: no route to host", "Switch it on")}
    with contextlib.ExitStack() as stack, pytest.raises(LinkError, match="no route"):
        reach([parse_address(URLS[2])], stack)
    gone = [parse_address(URLS[2]), parse_address(f"ssh://gone/~/b{PYTHON}")]
    with contextlib.ExitStack() as stack, pytest.raises(MeasurementError, match="none of the 2 devices"):
        reach(gone, stack)


def test_one_device_is_not_two() -> None:
    check_distinct([parse_address("ssh://a"), parse_address("ssh://a/~/other"), parse_address("ssh://b")])
    with pytest.raises(InputError, match="given twice"):
        check_distinct([parse_address("ssh://a"), parse_address("ssh://a?emulated")])
    with pytest.raises(InputError, match="given twice"):
        check_distinct([parse_address("local"), parse_address("local?emulated")])


def test_jobs_really_run_at_the_same_time() -> None:
    meeting = threading.Barrier(3, timeout=10)
    found = at_once(dict.fromkeys("abc", meeting.wait))
    assert sorted(v for v in found.values() if isinstance(v, int)) == [0, 1, 2]


def test_a_fault_of_ours_ends_the_programs_of_the_others(tmp_path: Path) -> None:
    marks = []

    def sleeps() -> None:
        try:
            run_program(Command(["sleep", "60"], 60))
        finally:
            marks.append(run_program(Command(["echo", "tidy"], 5)).stdout)

    def breaks() -> None:
        time.sleep(0.3)
        raise InputError("broken")

    began = time.monotonic()
    with pytest.raises(InputError, match="broken"):
        at_once({"a": sleeps, "b": breaks})
    assert time.monotonic() - began < 20
    assert marks == [b"tidy\n"]


@pytest.mark.parametrize(
    "values", [(None, 100.0, None, None), (None, None, 1.0, None), (-1.0, None, None, None), (10.0, 0.0, None, None)]
)
def test_a_day_that_cannot_be_is_refused(values: tuple[Any, ...]) -> None:
    with pytest.raises(InputError):
        bench_job.check_day(*values)
