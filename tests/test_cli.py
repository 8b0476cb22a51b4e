"""The command line: help, exit codes, messages, what goes to stdout and what to stderr."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from taco import cli, printing
from taco.predict import Prediction, render, softmax


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """The command line points the root logger at the stderr of the moment, which pytest closes after the test."""
    root, ours = logging.getLogger(), logging.getLogger("taco")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str, entry: str = "main") -> int:
    monkeypatch.setattr(sys, "argv", ["taco", *arguments])
    with pytest.raises(SystemExit) as caught:
        getattr(cli, entry)()
    return int(caught.value.code or 0)


TINY = ("--model", "test_efficientnet", "--random-weights", "--shots", "5", "--recover-minutes", "0")


@pytest.mark.parametrize(
    "arguments", [("-h",), ("export", "-h"), ("predict", "-h"), ("targets", "-h"), ("report", "-h")]
)
def test_help_of_every_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert call(monkeypatch, *arguments) == 0
    assert "Usage" in capsys.readouterr().out


def test_every_flag_of_the_issue_is_in_the_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert call(monkeypatch, "-h", entry="main_export") == 0
    text = capsys.readouterr().out
    flags = "target model weights random-weights classes class-map head shots eval speedup macs recover-minutes threads"
    for flag in [*flags.split(), *["seed", "out", "quiet", "verbose", "json", "debug", "dry-run"]]:
        assert f"--{flag}" in text
    assert "130 interrupted" in text


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, taco.cli; assert not {'torch', 'timm', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_prediction_does_not_import_torch() -> None:
    code = "import sys, taco.predict, taco.bundle; assert not {'torch', 'timm', 'onnx'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "for example: taco-export photos/"),
        (("nowhere", "--out", "OUT"), 2, "nowhere"),
        (("TASK", "--out", "OUT", "--target", "jetson-ori"), 2, "jetson-orin"),
        (("TASK", "--out", "OUT", "--model", "tf_eficientnet_lite0"), 2, "tf_efficientnet_lite0"),
        (("TASK", "--out", "OUT", "--speedup", "2", "--macs", "0.5"), 2, "exclude each other"),
        (("TASK", "--out", "OUT", "--macs", "1.5"), 2, "--macs 1.5"),
        (("TASK", "--out", "OUT", "--shots", "1"), 2, "--shots 1"),
        (("TASK", "--out", "OUT", "--classes", "ash,baa"), 2, "bay"),
        (("TASK", "--out", "OUT", "--weights", "none.pth"), 2, "none.pth"),
        (("TASK", "--out", "OUT", "--target", "jetson-orin", "--speedup", "2", *TINY), 5, "--macs"),
        (("TASK", "--out", "OUT", "--no-such-flag"), 2, "no-such-flag"),
    ],
)
def test_wrong_usage_gives_one_message_and_its_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    drawn_task: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    words = {"TASK": str(drawn_task), "OUT": str(tmp_path / "out")}
    assert call(monkeypatch, *(words.get(a, a) for a in arguments), entry="main_export") == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_dry_run_prints_the_plan_and_does_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], drawn_task: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert call(monkeypatch, "export", str(drawn_task), "--out", str(out), "--dry-run", *TINY) == 0
    text = capsys.readouterr().out
    assert "24 pictures of 3 classes" in text
    assert "4 inner widths" in text
    assert not out.exists()


def test_json_is_all_of_stdout_and_predict_reads_the_bundle(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], drawn_task: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = (str(drawn_task), "--out", str(out), "--target", "jetson-orin", "--macs", "0.8", "--json", *TINY)
    assert call(monkeypatch, *arguments, entry="main_export") == 0
    assert json.loads(capsys.readouterr().out)["latency_source"] == "none"

    broken = tmp_path / "new" / "broken.jpg"
    broken.parent.mkdir()
    broken.write_bytes(b"\xff\xd8\xff\xe0 no picture")
    table = tmp_path / "table.csv"
    assert call(monkeypatch, "predict", str(out), str(drawn_task), str(broken), "--output", str(table)) == 0
    lines = table.read_text().splitlines()
    assert lines[0] == "path,label,probability,failure,p:ash,p:bay,p:cob"
    assert len(lines) == 1 + 24 + 1
    assert lines[-1].startswith(f"{broken},,,")
    assert "1 of 25 pictures could not be read" in capsys.readouterr().err


def test_interruption_exits_130_and_a_fault_exits_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], drawn_task: Path, tmp_path: Path
) -> None:
    for raised, code in ((KeyboardInterrupt(), 130), (ZeroDivisionError("by design"), 1)):

        def fail(*_: object, error: BaseException = raised, **__: object) -> None:
            raise error

        monkeypatch.setattr("taco.api.export", fail)
        assert call(monkeypatch, "export", str(drawn_task), "--out", str(tmp_path / "out"), *TINY) == code
    text = capsys.readouterr().err
    assert "interrupted" in text
    assert "by design" in text
    assert "Traceback" not in text


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["taco", "export", str(tmp_path / "none"), "--debug"])
    with pytest.raises(Exception, match="none"):
        cli.main()


def test_targets_are_listed_and_shown_with_their_sources(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert call(monkeypatch, "targets") == 0
    listed = capsys.readouterr().out
    for name in ("host-cpu", "jetson-orin-nano", "raspberry-pi-4", "intel-nuc"):
        assert name in listed
    assert call(monkeypatch, "targets", "show", "raspberry-pi-5") == 0
    assert "# " in capsys.readouterr().out
    assert call(monkeypatch, "targets", "show", "rasberry-pi-5") == 2
    assert "raspberry-pi-5" in capsys.readouterr().err


def test_predict_refuses_what_is_no_bundle(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert call(monkeypatch, "predict", str(tmp_path), str(tmp_path)) == 2
    assert "not a bundle" in capsys.readouterr().err


def test_rendered_predictions_survive_hostile_names() -> None:
    import csv
    import io

    predictions = [
        Prediction(Path('a,"b"\n.jpg'), "fox", 0.75, {"fox": 0.75, "hare, brown": 0.25}, None),
        Prediction(Path("c.jpg"), None, None, None, "the file is empty"),
    ]
    rows = list(csv.reader(io.StringIO(render(predictions, ["fox", "hare, brown"], "csv"))))
    assert rows[1] == ['a,"b"\n.jpg', "fox", "0.75", "", "0.75", "0.25"]
    assert rows[2] == ["c.jpg", "", "", "the file is empty", "", ""]
    assert json.loads(render(predictions, ["fox", "hare, brown"], "json"))[1]["failure"] == "the file is empty"


def test_softmax_is_stable() -> None:
    import numpy as np

    shares = softmax(np.array([1000.0, 1000.0, -1000.0]))
    assert shares == pytest.approx([0.5, 0.5, 0.0])


def test_nothing_is_printed_by_quiet_progress(capsys: pytest.CaptureFixture[str]) -> None:
    with printing.progress(quiet=True).step("x") as advance:
        advance(1)
    assert capsys.readouterr().out == ""
