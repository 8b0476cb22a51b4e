"""Tests of `taco.transport`."""

import os
import signal
import subprocess
import sys
import time

import pytest
from device_models import is_running, wait_until

from taco.errors import InputError, MeasurementError
from taco.transport import Completed, FakeTransport, LocalTransport


@pytest.fixture
def local(tmp_path):
    return LocalTransport(tmp_path / "work")


def python(code):
    return [sys.executable, "-I", "-c", code]


HOSTILE = ["a b.onnx", 'it\'s "q".onnx', "new\nline.onnx", "-rf", "sub/dir/m.onnx", "$(touch x)", "é.onnx"]


@pytest.mark.parametrize("name", HOSTILE)
def test_files_travel_there_and_back_whatever_their_name(local, tmp_path, name):
    source = tmp_path / "source"
    source.write_bytes(b"content")
    local.put(source, name)
    assert (local.root / name).read_bytes() == b"content"
    local.get(name, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"content"


def test_putting_replaces_and_leaves_no_other_file(local, tmp_path):
    source = tmp_path / "source"
    for content in (b"first", b"second"):
        source.write_bytes(content)
        local.put(source, "m.onnx")
    assert [path.read_bytes() for path in local.root.iterdir()] == [b"second"]


def test_the_mode_travels_along(local, tmp_path):
    source = tmp_path / "tool"
    source.touch()
    source.chmod(0o755)
    local.put(source, "tool")
    assert os.access(local.root / "tool", os.X_OK)


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/x", ".", "", "a/.."])
def test_paths_that_leave_the_work_folder_are_refused(local, tmp_path, path):
    source = tmp_path / "source"
    source.touch()
    with pytest.raises(InputError, match="not a file below the work folder"):
        local.put(source, path)
    with pytest.raises(InputError, match="not a file below the work folder"):
        local.get(path, tmp_path / "back")
    assert not (tmp_path / "x").exists()


def test_a_link_out_of_the_work_folder_is_refused(local, tmp_path):
    (local.root / "link").symlink_to(tmp_path)
    source = tmp_path / "source"
    source.touch()
    with pytest.raises(InputError):
        local.put(source, "link/x")


def test_a_missing_source_is_named_and_nothing_is_left(local, tmp_path):
    with pytest.raises(InputError, match=r"gone cannot be copied to .*m\.onnx: No such file"):
        local.put(tmp_path / "gone", "m.onnx")
    with pytest.raises(InputError):
        local.get("gone", tmp_path / "back")
    assert list(local.root.iterdir()) == []
    assert not (tmp_path / "back").exists()


def test_a_command_runs_in_the_work_folder_with_our_environment(local, monkeypatch):
    monkeypatch.setenv("TACO_TEST_WORD", "hello")
    done = local.run(python("import os, sys; print(os.getcwd(), os.environ['TACO_TEST_WORD']); sys.exit(3)"), 20)
    assert done == Completed(3, f"{local.root} hello\n", "")


def test_arguments_arrive_untouched(local):
    done = local.run([*python("import sys; print(ascii(sys.argv[1:]))"), "a b", "$HOME", "*", "'\"", "new\nline"], 20)
    assert done.stdout == ascii(["a b", "$HOME", "*", "'\"", "new\nline"]) + "\n"


def test_output_that_is_no_text_is_kept_readable(local):
    done = local.run(python("import os; os.write(1, b'\\xffok'); os.write(2, b'bad\\xff')"), 20)
    assert (done.stdout, done.stderr) == ("\ufffdok", "bad\ufffd")


def test_a_signal_is_a_negative_exit_code(local):
    assert local.run(python("import os; os.kill(os.getpid(), 9)"), 20).returncode == -9


def test_stdin_is_empty_so_that_nothing_waits_for_a_person(local):
    assert local.run(python("import sys; print(repr(sys.stdin.read()))"), 20).stdout == "''\n"


@pytest.mark.parametrize("argv", [["/no/such/program"], ["no-such-program-x"]])
def test_a_missing_program_is_a_measurement_error(local, argv):
    with pytest.raises(MeasurementError, match="cannot be started"):
        local.run(argv, 20)


def test_no_command_is_an_input_error(local):
    with pytest.raises(InputError, match="no command"):
        local.run([], 20)


STUBBORN_CHILD = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
PARENT = (
    "import pathlib, subprocess, sys, time;"
    f"child = subprocess.Popen([sys.executable, '-I', '-c', {STUBBORN_CHILD!r}]);"
    "pathlib.Path('new').write_text(str(child.pid)); pathlib.Path('new').rename('pid'); time.sleep(60)"
)


def test_a_timeout_ends_the_command_and_everything_it_started(local):
    began = time.monotonic()
    with pytest.raises(MeasurementError, match="did not end within 3 s and was stopped"):
        local.run(python(PARENT), 3)
    assert time.monotonic() - began < 10
    pid = int((local.root / "pid").read_text())
    assert wait_until(lambda: not is_running(pid))


INTERRUPTED = """
import pathlib, signal, sys
from taco.transport import LocalTransport
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job may be started with Ctrl-C switched off
try:
    LocalTransport(pathlib.Path(sys.argv[1])).run([sys.executable, "-I", "-c", sys.argv[2]], 30)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interruption_ends_the_command_and_everything_it_started(local):
    """In a process of its own: a signal that came late would end whatever runs the tests."""
    command = [sys.executable, "-c", INTERRUPTED, str(local.root), PARENT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert wait_until((local.root / "pid").exists, 60)
            process.send_signal(signal.SIGINT)
            told, _ = process.communicate(timeout=20)
        finally:
            process.kill()
    assert told == "interrupted\n"
    pid = int((local.root / "pid").read_text())
    assert wait_until(lambda: not is_running(pid))


def test_the_work_folder_is_made(tmp_path):
    assert LocalTransport(tmp_path / "a" / "b").root.is_dir()


def test_the_fake_records_calls_and_gives_its_answers_in_order(tmp_path):
    done = Completed(0, "out", "")
    fake = FakeTransport([done, lambda argv: Completed(len(argv), "", ""), MeasurementError("gone")])
    assert fake.run(["a"], 1) is done
    assert fake.run(["b", "c"], 2).returncode == 2
    with pytest.raises(MeasurementError, match="gone"):
        fake.run(["d"], 3)
    with pytest.raises(MeasurementError, match=r"no answer was scripted for call 4: \['e'\]"):
        fake.run(["e"], 4)
    assert fake.calls == [("a",), ("b", "c"), ("d",), ("e",)]
    assert fake.timeouts_s == [1, 2, 3, 4]


def test_the_fake_keeps_files(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"x")
    fake = FakeTransport()
    fake.put(source, "there")
    fake.get("there", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"x"
    with pytest.raises(MeasurementError, match="'gone'"):
        fake.get("gone", tmp_path / "back")
