"""Tests of `taco.device.profile`, and of the packed agent under every Python that can be had here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from device_models import write_conv

from taco.attached.agent_pack import pack_agent, without_docstrings
from taco.device import wire
from taco.device.profile import nodes, profile
from taco.device.wire import DeviceError

PYENV = Path.home() / ".pyenv" / "versions"


def test_a_model_s_operators_are_timed(tmp_path: Path) -> None:
    found = profile(str(write_conv(tmp_path / "m.onnx")), threads=1)
    assert "Conv" in [node["op"] for node in found["nodes"]]
    assert found["nodes"][0]["ms"] > 0
    assert found["provider"] == found["nodes"][0]["provider"] == "CPUExecutionProvider"
    assert list(tmp_path.iterdir()) == [tmp_path / "m.onnx"]


def test_events_are_gathered_by_node_without_the_first_runs() -> None:
    def event(name: str, us: float) -> dict[str, object]:
        return {"cat": "Node", "name": name, "dur": us, "args": {"op_name": "Conv", "provider": "CPU"}}

    times = [9000, 8000, 1000, 3000, 2000]
    events = [event("a_kernel_time", us) for us in times] + [
        event("a_fence_before", 1),
        {"cat": "Session", "name": "x"},
    ]
    assert nodes(events) == [{"name": "a", "op": "Conv", "provider": "CPU", "ms": 2.0}]


def test_openvino_is_not_profiled_so(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="ONNX Runtime only"):
        profile(str(write_conv(tmp_path / "m.onnx")), "GPU")


def interpreters() -> list[str]:
    """Pythons from 3.8 on, one a version."""
    found = {}
    for minor in range(8, 16):
        made = sorted(PYENV.glob(f"3.{minor}.*/bin/python"))
        path = shutil.which(f"python3.{minor}", path="/usr/bin:/usr/local/bin") or (str(made[0]) if made else None)
        if path is not None:
            found[minor] = path
    return [found[minor] for minor in sorted(found)]


@pytest.mark.parametrize("python", interpreters())
def test_the_packed_agent_runs_under_other_pythons(python: str, tmp_path: Path) -> None:
    agent = pack_agent(tmp_path / "agent.pyz")
    done = subprocess.run([python, "-I", str(agent), "doctor"], capture_output=True, text=True, check=True)
    assert wire.parse(done.stdout)["executable"]
    held = subprocess.run(
        [python, "-I", str(agent), "take", "--lease", "a"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert wire.parse(held.stdout)["owner"]


def test_docstrings_go_and_the_code_stays() -> None:
    first, second, third = b'"""Module\n\xc3\xa9.\n"""', b'"""One."""', b"'''Two\n    lines.'''"
    code = b'%s\n\ndef f(x):\n    %s\n    return "kept"\n\nclass A:\n    %s\n'
    source, expected = code % (first, second, third), code % (b'""', b'""', b'""')
    slim = without_docstrings(source)
    assert slim == expected
    compile(slim, "slim", "exec")
