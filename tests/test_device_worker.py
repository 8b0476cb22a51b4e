"""Tests of `taco.device.worker` and of the parent's end, `taco.device.child`."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from device_models import is_running, write_conv

from taco.device import opening as opening_module
from taco.device import worker
from taco.device.child import WorkerProcess, worker_argv
from taco.device.session import OrtSession
from taco.device.wire import DeviceError, RequestError

CPU = "CPUExecutionProvider"


@pytest.fixture(autouse=True)
def keep_arithmetic(monkeypatch):
    """A worker lets its thread flush denormals for good; the tests' own thread must not."""
    monkeypatch.setattr(opening_module, "OrtSession", Gentle)


class Gentle(OrtSession):
    def __init__(self, path, threads, provider, flush_caller):
        assert flush_caller
        super().__init__(path, threads, provider)


def opening(path):
    return {"cmd": "open", "model": str(path), "threads": 1, "provider": CPU, "seed": 0, "cpus": None}


def serve(*commands):
    """Answers of a worker to these commands."""
    answers = []
    worker.serve((command if isinstance(command, str) else json.dumps(command) for command in commands), answers.append)
    return answers


@pytest.fixture
def model(tmp_path):
    return write_conv(tmp_path / "m.onnx")


def test_opening_answers_what_is_really_used(model):
    (answer,) = serve(opening(model))
    assert answer["provider"] == CPU
    assert answer["runtime"]["name"] == "onnxruntime"
    assert answer["session"]["intra_op_num_threads"] == 1
    assert answer["cold_ms"] > 0
    assert answer["open_ms"] > 0


def test_timing_gives_one_sample_an_iteration(model):
    answers = serve(
        opening(model), {"cmd": "time", "iterations": 4, "warmup": 1}, {"cmd": "time", "iterations": 1, "warmup": 0}
    )
    assert [len(answer["samples_ns"]) for answer in answers[1:]] == [4, 1]
    assert all(isinstance(sample, int) and sample > 0 for sample in answers[1]["samples_ns"])


def test_warm_up_runs_are_run_but_not_counted(model, monkeypatch):
    runs = []
    real = opening_module.OrtSession.run
    monkeypatch.setattr(opening_module.OrtSession, "run", lambda self, array: runs.append(array) or real(self, array))
    serve(opening(model), {"cmd": "time", "iterations": 3, "warmup": 2})
    assert len(runs) == 1 + 2 + 3
    assert all(array is runs[0] for array in runs)


def test_quit_ends_the_worker_at_once(model):
    assert len(serve(opening(model), {"cmd": "quit"}, {"cmd": "time", "iterations": 1, "warmup": 0})) == 1
    assert serve({"cmd": "quit"}) == []
    assert serve() == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not JSON"),
        ("[1]", "no command"),
        ("{}", "no command"),
        ('{"cmd": "time"}', "first command must be 'open'"),
    ],
)
def test_a_line_that_is_no_command_is_refused(line, words):
    with pytest.raises(RequestError, match=words):
        serve(line)


def test_an_unknown_command_is_named(model):
    with pytest.raises(RequestError, match="'dance'"):
        serve(opening(model), {"cmd": "dance"})


@pytest.fixture
def start():
    """Start workers that are killed after the test."""
    started = []

    def start_one(argv, timeout_s=20.0):
        started.append(WorkerProcess("dense", argv, timeout_s))
        return started[-1]

    yield start_one
    for process in started:
        process.kill()


def python(code):
    return [sys.executable, "-I", "-c", code]


def test_a_real_worker_is_asked_through_its_process(start, model):
    process = start(worker_argv())
    assert process.ask(opening(model))["provider"] == CPU
    assert len(process.ask({"cmd": "time", "iterations": 3, "warmup": 0})["samples_ns"]) == 3


def test_a_worker_s_error_names_the_model(start, tmp_path):
    process = start(worker_argv())
    with pytest.raises(DeviceError, match=r"^model 'dense': there is no model file .*gone") as caught:
        process.ask(opening(tmp_path / "gone.onnx"))
    assert caught.value.todo == "Copy the model to the device first."


def test_what_a_runtime_prints_does_not_disturb_the_answers(start, model):
    argv = worker_argv()
    place = argv.index("-c") + 1
    noisy_serve = "lambda *a: (os.write(1, b'noise'), print('more', flush=True), serve(*a))"
    noise = f"import os, taco.device.worker as w; serve = w.serve; w.serve = {noisy_serve}; sys.exit(main())"
    argv[place] = argv[place].replace("sys.exit(main())", noise)
    assert "noise" in argv[place]
    assert start(argv).ask(opening(model))["provider"] == CPU


def test_a_worker_that_dies_is_named_with_its_last_words(start):
    process = start(python("import sys; sys.exit('out of luck')"))
    with pytest.raises(
        DeviceError, match="worker of model 'dense' ended with exit code 1; its last words: out of luck"
    ):
        process.ask({"cmd": "quit"})


@pytest.mark.parametrize(("number", "hint"), [("SIGILL", "instruction"), ("SIGKILL", "memory"), ("SIGUSR1", "")])
def test_a_worker_killed_by_a_signal_says_which_and_why(start, number, hint):
    process = start(python(f"import os, signal; os.kill(os.getpid(), signal.{number})"))
    with pytest.raises(DeviceError, match=f"was killed by {number}") as caught:
        process.ask({"cmd": "quit"})
    assert hint in caught.value.todo


@pytest.mark.parametrize("answer", ["hello", "[1, 2]", "", "3"], ids=["words", "list", "empty", "number"])
def test_rubbish_names_the_model(start, answer):
    process = start(python(f"import sys; sys.stdin.readline(); print({answer!r}, flush=True); sys.stdin.read()"))
    with pytest.raises(DeviceError, match="worker of model 'dense' answered rubbish"):
        process.ask({"cmd": "quit"})


def test_a_silent_worker_is_given_up(start):
    process = start(python("import time; time.sleep(60)"), timeout_s=0.2)
    with pytest.raises(DeviceError, match=r"'dense' did not answer within 0\.2 s"):
        process.ask({"cmd": "quit"})


def test_an_answer_in_pieces_is_put_together_and_the_next_kept(start):
    code = (
        "import sys, time; sys.stdin.readline();"
        "print('{\"a\":', end='', flush=True); time.sleep(0.1); print('1}\\n{\"a\":2}', flush=True); sys.stdin.read()"
    )
    process = start(python(code))
    assert [process.ask({"cmd": "x"}), process.ask({"cmd": "y"})] == [{"a": 1}, {"a": 2}]


def test_killing_ends_the_process_and_may_be_repeated(start):
    process = start(python("import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"))
    process.kill()
    assert not is_running(process.pid)
    process.kill()


def test_a_worker_ends_when_its_parent_s_pipe_closes(start, model):
    process = start(worker_argv())
    process.ask(opening(model))
    process._process.stdin.close()
    assert process._process.wait(timeout=10) == 0


def test_a_stray_module_in_the_current_folder_is_not_imported(start, model, tmp_path, monkeypatch):
    (tmp_path / "onnxruntime.py").write_text("raise SystemExit('the stray module was imported')")
    monkeypatch.chdir(tmp_path)
    assert start(worker_argv()).ask(opening(model))["provider"] == CPU


def state_of(pid):
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0]


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="reads /proc")
def test_a_paused_worker_does_not_run_and_a_resumed_one_answers(start, model):
    worker = start(worker_argv())
    worker.ask(opening(model))
    worker.pause()
    deadline = time.monotonic() + 5
    while state_of(worker.pid) != "T" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert state_of(worker.pid) == "T"
    worker.resume()
    assert len(worker.ask({"cmd": "time", "iterations": 3, "warmup": 0})["samples_ns"]) == 3


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux's")
def test_a_paused_worker_does_not_outlive_a_killed_parent(model):
    code = (
        "import sys, time; from taco.device.child import WorkerProcess, worker_argv;"
        f"w = WorkerProcess('m', worker_argv()); w.ask({opening(model)!r}); w.pause();"
        "print(w.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if state_of(pid) == "Z":
                return
        except OSError:
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the paused worker outlived its parent")
