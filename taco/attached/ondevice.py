"""One device, attached: what it is, whose it is for now, and what it is asked to do. No torch here."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import getpass
import hashlib
import json
import logging
import os
import secrets
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taco.address import Address, parse_address
from taco.attached.agent_calls import AgentCaller
from taco.attached.ssh import SshTransport
from taco.attached.trt_device import PROVIDER, TensorRt
from taco.bundle import MANIFEST, Bundle
from taco.device.runtimes import RUNTIMES
from taco.errors import LinkError, MeasurementError
from taco.files import sha256_of
from taco.timing.measure import MeasureOptions, measure_with
from taco.timing.timings import BenchResult
from taco.transport import LocalTransport, Transport

#: Interpreters that are looked for, in this order; the first lies in the work folder, where `doctor` proposes it.
_PYTHONS = ("./venv/bin/python", "python3", "python")
_NEW_ENOUGH = "import sys; sys.exit(sys.version_info < (3, 8))"
_LOOK = (
    'new=$1; shift; for p in "$@"; do if command -v "$p" >/dev/null 2>&1 && "$p" -I -S -c "$new" >/dev/null 2>&1; '
    'then command -v "$p"; exit 0; fi; done; exit 127'
)
_SHORT_S = 120.0
_PICTURES_S = 3600.0
#: Copying, hashing and trying a model on a slow card.
_DEPLOY_S = 600.0
#: A clock that is further off gives pictures a wrong date.
WRONG_CLOCK_S = 120.0
_DEPLOYED = ("model.onnx", "labels.txt", "preprocessing.json", "parity.safetensors", "agent.pyz", "model.pixels.onnx")
#: What the agent reads pictures with.
_PICTURES = ("numpy", "pillow")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Watch:
    """Folders on the device, absolute or below the work folder.

    Attributes:
        pictures: Where pictures arrive.
        results: Where results go.
    """

    pictures: str
    results: str


@dataclass(frozen=True, slots=True)
class Deployed:
    """Where a bundle lies on a device.

    Attributes:
        folder: Of this version.
        current: The link that leads to the version in use.
        before: Name of the version that was in use before; None where none was.
        unit: A unit file for systemd that watches a folder.
    """

    folder: str
    current: str
    before: str | None
    unit: str


class NoPythonError(MeasurementError):
    """The device answers, and has no Python that can run our agent."""


@dataclass(frozen=True, eq=False)
class Device:
    """An attached device.

    Attributes:
        address: Where it is.
        transport: The way to it.
        agent: What is asked there, under our lease.
        probe: What it said about itself when it was attached.
        clock_off_s: Its clock minus ours, seconds.
    """

    address: Address
    transport: Transport
    agent: AgentCaller
    probe: Mapping[str, Any]
    clock_off_s: float

    @property
    def name(self) -> str:
        """What it is called: the host, or this machine."""
        return self.address.host or "this machine"

    @property
    def emulated(self) -> str | None:
        """How it is emulated, so that its times mean nothing; None for a real device."""
        found = self.probe.get("emulated")
        if found:
            return str(found)
        return "declared by ?emulated in its address" if self.address.emulated else None

    @property
    def board(self) -> str:
        """What the device says it is."""
        board, processor = (str(self.probe.get(key, "unknown")) for key in ("board", "processor"))
        return processor if board == "unknown" else board

    @functools.cached_property
    def tensorrt(self) -> TensorRt:
        """Its TensorRT.

        Raises:
            MeasurementError: There is none that can be used; says why.
        """
        return TensorRt.found(self.agent, self.address.trtexec)

    def machine(self, runtime: str) -> Mapping[str, Any]:
        """What it said about itself, with what decides how fast models of a runtime are there."""
        return self.tensorrt.machine(self.probe) if runtime == "trt" else self.probe

    def key(self, runtime: str) -> dict[str, Any]:
        """What a measurement of a runtime's models on it depends on, as JSON values."""
        fixed = ("machine", "board", "processor", "cores_physical", "memory_total_mib", "os", "python")
        runtimes = {name: entry["version"] for name, entry in self.probe["runtimes"].items()}
        found = {"address": self.address.text, "runtimes": runtimes, **{key: self.probe.get(key) for key in fixed}}
        return {**found, **self.tensorrt.key()} if runtime == "trt" else found

    def check_runtime(self, runtime: str) -> None:
        """Refuse a device that cannot run a target's models.

        Args:
            runtime: ort, ov or trt.

        Raises:
            MeasurementError: Says what is missing and the command that installs it.
        """
        if runtime == "trt":
            self._check_tensorrt()
            return
        lacks = [lack["what"] for lack in self.probe["missing"] if lack["what"] in _PICTURES]
        lacks += sorted({RUNTIMES[runtime]} - set(self.probe["runtimes"]))
        if lacks:
            raise MeasurementError(
                f"{self.name} lacks {', '.join(lacks)} for {self.probe['executable']}",
                f"Install it there, in the folder {self.address.folder}: {self.probe['pip']} {' '.join(lacks)}. "
                f"`taco devices doctor --device {self.address.text}` tells all that is missing",
            )

    def _check_tensorrt(self) -> None:
        lacks = [lack for lack in self.probe["missing"] if lack["what"] == "numpy"]
        if lacks:
            raise MeasurementError(
                f"{self.name} lacks numpy for {self.probe['executable']}", f"Install it there: {lacks[0]['command']}"
            )
        logger.debug("%s has TensorRT %s", self.name, self.tensorrt.version)

    def measure(self, models: Mapping[str, Path], options: MeasureOptions) -> BenchResult:
        """Time models there; see `taco.timing.measure.measure`, and `taco.attached.trt_device` for engines."""
        if options.provider == PROVIDER:
            return self.tensorrt.measure(models, options)
        return measure_with(self.agent, models, options)

    def classify(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Ask a model there about pictures; see `taco.device.classify.classify`."""
        return self.agent.ask_json("classify", request, _PICTURES_S)

    def deploy(
        self, bundle: Bundle, watch: Watch | None = None, there: Mapping[str, tuple[str, str]] | None = None
    ) -> Deployed:
        """Put a bundle there, all of it or nothing, and use it from now on if it runs there.

        Args:
            bundle: What to put there.
            watch: Folders on the device for the unit file; None leaves an older unit file as it is.
            there: Files that the device has already: name in the bundle -> where it lies there, and its SHA-256.

        Raises:
            MeasurementError: The device does not take it, or the model does not run there.
        """
        manifest = bundle.manifest
        wanted = {*_DEPLOYED, manifest.model_file} & set(manifest.files)
        paths = {name: bundle.path / name for name in (MANIFEST, *sorted(wanted))}
        stored = {path: name for suffix in (".onnx", ".dat") for path, name in self._sent(paths, suffix).items()}
        files = {name: {"from": stored[path], "sha256": sha256_of(path)} for name, path in paths.items()}
        files |= {name: {"from": place, "sha256": digest} for name, (place, digest) in (there or {}).items()}
        content = hashlib.sha256(json.dumps(sorted((n, f["sha256"]) for n, f in files.items())).encode()).hexdigest()
        name = f"{_plain(manifest.task)}-{content[:12]}"
        request: dict[str, Any] = {"name": name, "files": files}
        if watch is not None:
            request["watch"] = dataclasses.asdict(watch)
        found = self.agent.ask_json("deploy", request, _DEPLOY_S)
        before = found["before"]
        return Deployed(
            folder=str(found["folder"]),
            current=str(found["current"]),
            before=None if before is None else str(before),
            unit=str(found["unit"]),
        )

    def roll_back(self) -> str:
        """Use the bundle that was in use before this one.

        Returns:
            Its folder on the device.

        Raises:
            MeasurementError: There is none, or it does not run there.
        """
        now = self.agent.ask(["versions"])["current"]
        # Named, so that a command which is asked again over a bad link does not go back twice.
        named = [] if now is None else ["--from", str(now)]
        return str(self.agent.ask(["rollback", *named], _DEPLOY_S)["folder"])

    def _sent(self, paths: Mapping[str, Path], suffix: str) -> dict[Path, str]:
        """Send the models, which `measure` has sent already, or the other files."""
        chosen = [path for path in paths.values() if (path.suffix == ".onnx") == (suffix == ".onnx")]
        return self.agent.send(chosen, suffix)


@contextlib.contextmanager
def attached(address: Address) -> Iterator[Device]:
    """Reach a device, and leave it again.

    Raises:
        MeasurementError: It cannot be reached, or has no Python.
    """
    with transport_to(address) as transport:
        yield attach(address, transport)


@contextlib.contextmanager
def transport_to(address: Address) -> Iterator[Transport]:
    """Open the way to a device.

    Raises:
        MeasurementError: There is no ssh client.
    """
    if address.host is None:
        yield LocalTransport(Path.home() / ".cache" / "taco-export" / "device")
        return
    with SshTransport(address) as transport:
        yield transport


def attach(address: Address, transport: Transport) -> Device:
    """Find the device's Python and ask what it is."""
    agent = AgentCaller(transport, find_python(address, transport))
    before = time.time()
    probe = agent.ask(["doctor"])
    clock_off_s = float(probe["time"]) - (before + time.time()) / 2
    return Device(address, transport, agent, probe, clock_off_s)


def find_python(address: Address, transport: Transport) -> str:
    """Return the device's interpreter.

    Raises:
        NoPythonError: There is none, or only older ones than 3.8.
    """
    if address.host is None:
        return address.python or sys.executable
    wanted = (address.python,) if address.python else _PYTHONS
    found = transport.run(["sh", "-c", _LOOK, "sh", _NEW_ENOUGH, *wanted], _SHORT_S)
    if found.returncode or not found.stdout.strip():
        raise NoPythonError(
            f"{address.host} has no Python of 3.8 or newer: {', '.join(wanted)} cannot be run there, or is older",
            "Install it there: sudo apt install python3 python3-venv",
        )
    return found.stdout.strip().splitlines()[-1]


@contextlib.contextmanager
def leased(device: Device) -> Iterator[None]:
    """Hold the device for one run: others are refused, told who has it and since when.

    Raises:
        MeasurementError: Another run has it.
    """
    agent = device.agent
    agent.extra = ("--lease", secrets.token_hex(8), "--owner", owner())
    agent.ask(["take"])
    try:
        yield
    finally:
        with contextlib.suppress(MeasurementError):  # then it frees itself after a while
            agent.ask(["release"])
        agent.extra = ()


def unlock(device: Device) -> str | None:
    """Free the device whoever has it; returns who had it, None where nobody had."""
    held = device.agent.ask(["release"]).get("released")
    return str(held["owner"]) if isinstance(held, dict) else None


def owner() -> str:
    """Who we are, for others to read."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's number without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}, process {os.getpid()}"


def examine(text: str) -> dict[str, Any]:
    """Say what is at an address: everything that the device tells, and what is missing there.

    Returns:
        JSON values: `reachable` (always true), `device`, `python` (null without one), `runtimes`, `missing`, ...

    Raises:
        MeasurementError: It cannot be reached.
    """
    address = parse_address(text)
    with transport_to(address) as transport:
        try:
            device = attach(address, transport)
        except LinkError:
            raise
        except NoPythonError as error:
            return _without_agent(address, transport, "Python 3.8 or newer", error)
        except MeasurementError as error:  # it has a Python: never blame that for what is wrong with our agent there
            return _without_agent(address, transport, "an answer of our agent", error)
        lacks = list(device.probe["missing"])
        if abs(device.clock_off_s) > WRONG_CLOCK_S:
            why = f"its clock is {abs(device.clock_off_s):.0f} s {'ahead' if device.clock_off_s > 0 else 'behind'}"
            lacks.append({"what": "the right time", "why": why, "command": "sudo timedatectl set-ntp true"})
        return {
            "reachable": True,
            "device": text,
            **device.probe,
            "emulated": device.emulated,
            "clock_off_s": round(device.clock_off_s, 1),
            "missing": lacks,
        }


def _without_agent(address: Address, transport: Transport, what: str, error: MeasurementError) -> dict[str, Any]:
    """Tell a device that answers, and cannot run our agent, from one that is not there: the latter raises."""
    said = transport.run(["uname", "-srm"], _SHORT_S)
    system, _, rest = said.stdout.strip().partition(" ")
    return {
        "reachable": True,
        "device": address.text,
        "os": system or "unknown",
        "machine": rest.rpartition(" ")[2] or "unknown",
        "python": None,
        "runtimes": {},
        "missing": [{"what": what, "why": error.what, "command": error.todo}],
    }


def _plain(text: str) -> str:
    """Make a name of letters, digits and dashes."""
    kept = "".join(sign if sign.isascii() and sign.isalnum() else "-" for sign in text).strip("-")
    return kept[:40] or "bundle"
