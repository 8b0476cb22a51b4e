"""Tests of the agent's command line, in this process and as a process of its own."""

import hashlib
import io
import json
import signal
import subprocess
import sys

import pytest
from device_models import children_of, is_running, wait_until, write_conv

from taco.device import agent, commands, wire


@pytest.fixture(autouse=True)
def keep_signals():
    """`main` installs a SIGTERM handler; give the old one back."""
    old = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, old)


def run(capsys, *argv):
    """Exit code, answer and what people saw."""
    code = agent.main(list(argv))
    captured = capsys.readouterr()
    return code, wire.parse(captured.out), captured.err


def test_doctor_describes_the_machine(capsys):
    code, answer, seen = run(capsys, "doctor")
    assert code == 0
    assert answer["runtimes"]["onnxruntime"]["version"] in seen
    assert answer["telemetry"].keys() >= {"governor", "temperatures_c"}


def test_bench_reads_a_request_whose_paths_start_at_its_folder(capsys, tmp_path):
    write_conv(tmp_path / "m.onnx")
    file = tmp_path / "request.json"
    file.write_text(json.dumps({"models": {"dense": "m.onnx"}, "rounds": 1, "round_ms": 1, "threads": 1}))
    code, answer, seen = run(capsys, "bench", str(file))
    assert code == 0
    assert answer["rounds"] == 1
    assert "'dense': median" in seen


def test_bench_reads_stdin(capsys, monkeypatch, tmp_path):
    text = json.dumps({"models": {"a": str(write_conv(tmp_path / "m.onnx"))}, "rounds": 1, "round_ms": 1, "threads": 1})
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert run(capsys, "bench", "-")[0] == 0


def test_output_goes_to_a_file_and_leaves_no_other(capsys, tmp_path):
    target = tmp_path / "answer.json"
    assert agent.main(["doctor", "--output", str(target)]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert str(target) in captured.err
    assert json.loads(target.read_text())["machine"]
    assert list(tmp_path.iterdir()) == [target]


def test_an_output_that_cannot_be_written_is_an_error(capsys, tmp_path):
    code, answer, _ = run(capsys, "doctor", "--output", str(tmp_path / "no" / "answer.json"))
    assert code == 2
    assert "cannot be written" in answer["error"]["what"]


def test_a_missing_model_ends_with_5_and_an_error_for_both_readers(capsys, tmp_path):
    file = tmp_path / "r.json"
    file.write_text('{"models": {"dense": "gone.onnx"}}')
    code, answer, seen = run(capsys, "bench", str(file))
    assert code == 5
    assert answer["error"]["what"].startswith("model 'dense': there is no model file")
    assert answer["error"]["todo"] in seen


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot be read"), ("{", "is not JSON"), ("[]", "must be a JSON object"), ("\udcff", "is not JSON")],
    ids=["missing", "cut", "list", "not-utf8"],
)
def test_a_wrong_request_ends_with_2(capsys, tmp_path, content, words):
    file = tmp_path / "r.json"
    if content is not None:
        file.write_bytes(content.encode("utf-8", "surrogateescape"))
    code, answer, _ = run(capsys, "bench", str(file))
    assert code == 2
    assert words in answer["error"]["what"]


def test_hash_knows_what_is_there(capsys, tmp_path):
    file = tmp_path / "a b"
    file.write_bytes(b"content")
    code, answer, _ = run(capsys, "hash", str(file), str(tmp_path / "gone"), str(tmp_path))
    assert code == 0
    assert answer["files"] == {
        str(file): hashlib.sha256(b"content").hexdigest(),
        str(tmp_path / "gone"): None,
        str(tmp_path): None,
    }


@pytest.mark.parametrize("argv", [[], ["dance"], ["bench"], ["hash"]])
def test_wrong_usage_ends_with_2(capsys, argv):
    with pytest.raises(SystemExit) as caught:
        agent.main(argv)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["-h"], ["bench", "-h"], ["doctor", "-h"]])
def test_help_reads_well(capsys, argv):
    with pytest.raises(SystemExit) as caught:
        agent.main(argv)
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: python -m taco.device")
    assert max(map(len, shown.split("\n"))) <= 120


def test_an_interruption_ends_with_130(capsys, monkeypatch, tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "bench", interrupted)
    file = tmp_path / "r.json"
    file.write_text("{}")
    assert agent.main(["bench", str(file)]) == 130
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)], ids=["term", "int", "kill"]
)
def test_workers_do_not_outlive_an_agent_that_is_ended(tmp_path, number, code):
    file = tmp_path / "r.json"
    models = {name: str(write_conv(tmp_path / f"{name}.onnx")) for name in ("a", "b")}
    file.write_text(json.dumps({"models": models, "rounds": 10**6, "max_seconds": 60, "threads": 1}))
    # A background job may have been started with Ctrl-C switched off.
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from taco.device.agent import main; sys.exit(main())"
    )
    argv = [sys.executable, "-c", program, "bench", str(file)]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert wait_until(lambda: len(children_of(process.pid)) == 2)
        workers = children_of(process.pid)
        process.send_signal(number)
        assert process.wait(timeout=10) == code
    finally:
        process.kill()
        process.wait()
    assert wait_until(lambda: not any(map(is_running, workers)))


def test_the_package_can_be_run_as_a_module():
    done = subprocess.run([sys.executable, "-m", "taco.device", "doctor"], capture_output=True, text=True, check=True)
    assert wire.parse(done.stdout)["machine"]
