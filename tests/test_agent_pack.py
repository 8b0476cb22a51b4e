"""Tests of `taco.attached.agent_pack`: what is in the file, that it never differs, and that it runs by itself."""

import json
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from device_models import write_conv
from pythons import oldest_and_newest

import taco.device
from taco.attached import agent_pack
from taco.attached.agent_pack import agent_bytes, pack_agent
from taco.device import wire
from taco.errors import TacoError


@pytest.fixture
def agent(tmp_path):
    return pack_agent(tmp_path / "agent.pyz")


def run(agent, *argv, cwd=None):
    """Run the packed agent where the host's package cannot be found."""
    return subprocess.run(
        [sys.executable, "-I", str(agent), *argv], capture_output=True, text=True, cwd=cwd, check=False
    )


def test_it_holds_the_device_package_and_nothing_of_the_host(agent):
    sources = {f"taco/device/{path.name}" for path in Path(taco.device.__file__).parent.glob("*.py")}
    with zipfile.ZipFile(agent) as archive:
        assert set(archive.namelist()) == sources | {"__main__.py", "taco/__init__.py"}
        assert archive.read("taco/__init__.py") == b""
        assert archive.testzip() is None


def test_it_is_small(agent):
    assert agent.stat().st_size < 100_000


def test_the_same_sources_give_the_same_bytes(tmp_path):
    first, second = (pack_agent(tmp_path / name).read_bytes() for name in ("a.pyz", "b.pyz"))
    assert first == second == agent_bytes()


def test_threads_that_ask_at_once_have_it_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two devices are asked beside each other; Python 3.11's parser fails where threads use it at once."""
    made, members = list[int](), agent_pack._members

    def slowly() -> dict[str, bytes]:
        made.append(1)
        time.sleep(0.05)
        return members()

    monkeypatch.setattr(agent_pack, "_members", slowly)
    agent_pack._packed.cache_clear()
    with ThreadPoolExecutor(4) as pool:
        packs = {bytes(pack) for pack in pool.map(lambda _: agent_bytes(), range(4))}
    assert (len(packs), len(made)) == (1, 1)


def test_no_time_of_packing_and_a_sorted_list_are_in_it(agent):
    with zipfile.ZipFile(agent) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.namelist() == sorted(archive.namelist())


def test_an_older_agent_is_replaced_and_nothing_else_is_left(tmp_path):
    target = tmp_path / "agent.pyz"
    target.write_bytes(b"old")
    assert pack_agent(target) == target
    assert zipfile.is_zipfile(target)
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(TacoError, match=r"cannot be written to .*agent\.pyz"):
        pack_agent(tmp_path / "gone" / "agent.pyz")


def test_a_failed_replacement_leaves_nothing_behind(tmp_path):
    target = tmp_path / "agent.pyz"
    target.mkdir()
    (target / "kept").touch()
    with pytest.raises(TacoError):
        pack_agent(target)
    assert list(tmp_path.iterdir()) == [target]


def test_the_packed_agent_introduces_itself(agent):
    shown = run(agent, "-h").stdout
    assert shown.startswith("usage: agent.pyz")
    assert "bench" in shown


def test_the_packed_agent_measures_with_workers_from_its_own_archive(agent, tmp_path):
    write_conv(tmp_path / "m.onnx")
    request = {"models": {"a": "m.onnx", "b": "m.onnx"}, "rounds": 2, "round_ms": 1, "threads": 1}
    (tmp_path / "bench.json").write_text(json.dumps(request))
    done = run(agent, "bench", "bench.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answer = wire.parse(done.stdout)
    assert [len(answer["models"][name]["rounds_ms"]) for name in "ab"] == [2, 2]


def test_the_packed_agent_reports_errors_on_the_wire(agent, tmp_path):
    (tmp_path / "bench.json").write_text('{"models": {"dense": "gone.onnx"}}')
    done = run(agent, "bench", "bench.json", cwd=tmp_path)
    assert done.returncode == 5
    assert "'dense'" in wire.parse(done.stdout)["error"]["what"]


def test_without_any_package_it_says_what_is_missing(agent):
    done = subprocess.run([sys.executable, "-I", "-S", agent, "doctor"], capture_output=True, text=True, check=True)
    answer = wire.parse(done.stdout)
    assert answer["runtimes"] == {}
    assert {lack["what"] for lack in answer["missing"]} >= {"numpy", "pillow", "onnxruntime"}


NAMED = """
import sys
sys.path.insert(0, sys.argv[1])
from taco.device.answers import facts_of
from taco.device.watch import Means, WatchAsked, Watcher
manifest = {"task": "t", "classes": ["a", "b"], "taco_version": "0", "model": {"name": "m"}}
means = Means(lambda path: ([0.25, 0.75], ""), facts_of(manifest, "t-1"), lambda: False)
watcher = Watcher(WatchAsked(".", "out", settle_s=0, poll_s=0.01, once=True), means)
watcher.run()
print(watcher.named)
"""


def test_it_runs_under_the_oldest_and_the_newest_python_of_this_machine(agent, tmp_path):
    for python in oldest_and_newest():
        work = tmp_path / python.replace("/", "_")
        work.mkdir()
        (work / "1.jpg").touch()
        (work / "deploy.json").write_text(json.dumps({"name": "site-1", "files": {}}))

        def run_there(*words, python=python, work=work):
            argv = [python, "-I", *words]
            return subprocess.run(argv, capture_output=True, text=True, cwd=work, timeout=60, check=False)

        assert wire.parse(run_there(agent, "doctor").stdout)["executable"]
        assert wire.parse(run_there(agent, "take", "--lease", "x", "--owner", "anna").stdout)["owner"] == "anna"
        assert "not that of a bundle" in run_there(agent, "deploy", "deploy.json", "--lease", "x").stderr
        assert run_there("-c", NAMED, str(agent)).stdout == "1\n"
        assert (work / "out" / "part-000001.csv").is_file()
