"""The command line: help, exit codes, messages, what goes to stdout and what to stderr."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import inspect
import io
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, get_type_hints

import onnx
import pytest
import typer
from conftest import draw_task, logging_as_it_was

from taco import cli
from taco.commands import printing
from taco.commands.config import key_of
from taco.device.trt_kit import read_kit
from taco.options import ExportOptions
from taco.predict import Format
from taco.report.schema import Report
from taco.rundir import RunDir


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str, entry: str = "main") -> int:
    monkeypatch.setattr(sys, "argv", ["taco", *arguments])
    with pytest.raises(SystemExit) as caught:
        getattr(cli, entry)()
    return int(caught.value.code or 0)


TINY = ("--model", "test_efficientnet", "--random-weights", "--shots", "5", "--recover-minutes", "0")


@pytest.mark.parametrize(
    "arguments", [("-h",), ("export", "-h"), ("predict", "-h"), ("targets", "-h"), ("report", "-h"), ("front", "-h")]
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
    flags = {f"--{key_of(field)}" for field in ExportOptions.model_fields if field != "task"}
    talk = ("--no-crop", "--config", "--dump-config", "--quiet", "--verbose", "--json", "--debug", "--dry-run")
    for flag in (*flags, *talk):
        assert f" {flag} " in text, flag
    for said in ("130 interrupted", "[default: (runs/TARGET)]", "[default: 16]", "[default: 95.0]", "For experts"):
        assert said in text


def test_help_fits_a_terminal_of_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert call(monkeypatch, "-h", entry="main_export") == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if "…" in line]


def test_flags_and_options_agree() -> None:
    """The command has a parameter for every option, with its default; the choices are those of the options."""
    hints, signature = get_type_hints(cli.export), inspect.signature(cli.export)
    for field, info in ExportOptions.model_fields.items():
        default = signature.parameters[field].default
        assert default == {"task": None, "target": "host-cpu", "out": None}.get(field, info.default), field
    assert hints["head"] == ExportOptions.model_fields["head"].annotation
    assert get_type_hints(cli.predict)["form"] == Format


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
        (("TASK", "--out", "OUT", "--config", "none.toml"), 2, "none.toml cannot be read"),
        (("TASK", "--out", "OUT", "--split-by", "camera"), 2, "location"),
        (("TASK", "--out", "OUT", "--boxes", "b.json", "--no-crop"), 2, "exclude each other"),
        (("TASK", "--out", "OUT", "--sure", "0"), 2, "--sure 0"),
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


@dataclasses.dataclass(frozen=True)
class JetsonRun:
    """A finished run for a Jetson that is not there: its bundle, and what `--json` printed."""

    task: Path
    out: Path
    printed: str


@pytest.fixture(scope="module")
def jetson_run(tmp_path_factory: pytest.TempPathFactory) -> JetsonRun:
    folder, printed = tmp_path_factory.mktemp("jetson"), io.StringIO()
    task, out = draw_task(folder / "site"), folder / "out"
    arguments = (str(task), "--out", str(out), "--target", "jetson-orin", "--macs", "0.8", "--json", *TINY)
    with logging_as_it_was(), pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        assert call(patch, *arguments, entry="main_export") == 0
    return JetsonRun(task, out, printed.getvalue())


def test_json_is_all_of_stdout(jetson_run: JetsonRun) -> None:
    assert json.loads(jetson_run.printed)["latency_source"] == "none"


def test_a_jetson_s_folder_is_complete_and_labelled_as_not_run_on_hardware(jetson_run: JetsonRun) -> None:
    report, out = Report.model_validate_json(jetson_run.printed), jetson_run.out
    assert "python3 agent.pyz jetson" in (report.next_step or "")
    assert any("not been run on hardware" in w for w in report.warnings)
    assert "Not run on hardware: no jetson-orin" in (out / "report.md").read_text()
    assert report.runtime.precision == "fp16"
    assert [gate.passed for gate in report.gates if gate.name == "FP16 logits against torch"] == [True]
    kit = read_kit(str(out))
    assert (kit.shown.pixels.shape[0], kit.shown.kind) == (report.task.eval_images, "evaluation")
    graph = onnx.load(out / kit.models["compressed"].weak)
    kinds = {tensor.data_type for tensor in graph.graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds
    assert onnx.TensorProto.FLOAT not in kinds
    modules = set(kit.owners["compressed"].values())
    assert {"conv_stem", "conv_head", "classifier"} <= modules
    assert {n.name for n in graph.graph.node if not n.name.startswith("taco/")} == set(kit.owners["compressed"])


def test_predict_reads_the_bundle(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], jetson_run: JetsonRun, tmp_path: Path
) -> None:
    out, drawn_task = jetson_run.out, jetson_run.task
    broken = tmp_path / "new" / "broken.jpg"
    broken.parent.mkdir()
    broken.write_bytes(b"\xff\xd8\xff\xe0 no picture")
    table = tmp_path / "table.csv"
    assert call(monkeypatch, "predict", str(out), str(drawn_task), str(broken), "--output", str(table)) == 0
    lines = table.read_text().splitlines()
    assert lines[0].startswith("path,label,probability,")
    assert len(lines) == 1 + 24 + 1
    assert lines[-1].startswith(f"{broken},,,")
    assert "1 of 25 pictures could not be read" in capsys.readouterr().err

    for form, key in (("json", "path"), ("megadetector", "images"), ("camtrap-dp", "observationID")):
        assert call(monkeypatch, "predict", str(out), str(drawn_task), "--format", form, "--quiet") == 0
        captured = capsys.readouterr()
        assert key in captured.out
        assert captured.err == ""
    assert call(monkeypatch, "predict", str(out), str(drawn_task), "--boxes", "none.json") == 2
    assert "none.json" in capsys.readouterr().err


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


@pytest.mark.parametrize("command", ["export", "front", "database", "predict", "evaluate", "bench", "profile"])
def test_an_interruption_promises_to_go_on_only_where_something_is_stored(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", fail)
    assert call(monkeypatch, command, "site", "--quiet") == 130
    said = capsys.readouterr().err
    goes_on = "The same command goes on where this one stopped" in said
    assert goes_on == (command in ("export", "front", "database"))
    assert goes_on != ("no result was written" in said and "The same command begins again" in said)


def test_names_that_are_not_utf_8_are_printed_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr(cli, "app", lambda *_, **__: typer.echo(os.fsdecode(b"\xe9.jpg")))
    assert call(monkeypatch, "export") == 0
    assert capfdbinary.readouterr().out == b"\xe9.jpg\n"


def test_a_full_disk_is_no_fault_of_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "out" / "model.onnx"))

    monkeypatch.setattr("taco.api.export", fail)
    assert call(monkeypatch, "export", str(tmp_path), "--out", str(tmp_path / "out")) == 1
    said = capsys.readouterr().err
    assert f"{tmp_path / 'out' / 'model.onnx'}: No space left on device. Free some space" in said
    assert "a fault of taco-export" not in said


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[ExportOptions]:
    """Export nothing; keep what was asked, in a folder without settings."""
    monkeypatch.chdir(tmp_path)
    found: list[ExportOptions] = []

    def stop(options: ExportOptions, *_: object, **__: object) -> None:
        found.append(options)
        raise KeyboardInterrupt

    monkeypatch.setattr("taco.api.export", stop)
    return found


def test_only_flags_that_are_given_win_over_the_settings_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: list[ExportOptions]
) -> None:
    Path("taco.toml").write_text('task = "photos"\nshots = 5\nseed = 3\nhead = "fit"\ncrop = true\nsure = 80\n')
    assert call(monkeypatch, "export", "--shots", "16", "--head", "auto", "--no-crop", "--classes", "fox, hare,") == 130
    assert "settings from taco.toml" in capsys.readouterr().err
    (options,) = asked
    assert (options.shots, options.head, options.crop) == (16, "auto", False), "given, though they are the defaults"
    assert (options.seed, options.sure, options.classes) == (3, 80.0, ("fox", "hare"))
    assert options.task == Path("photos").absolute()
    assert options.out == Path("runs/host-cpu")

    assert call(monkeypatch, "export", "--quiet", "--config", "taco.toml") == 130
    assert "settings from" not in capsys.readouterr().err
    assert asked[1].crop is True


def test_every_flag_reaches_its_option(monkeypatch: pytest.MonkeyPatch, asked: list[ExportOptions]) -> None:
    given: dict[str, Any] = {
        "eval": "val", "images": "pics", "boxes": "md.json", "min-confidence": 0.4, "max-images": 0, "sure": 90.0,
        "split-by": "sequence", "model": "resnet18", "weights": "w.pth", "head": "fit", "speedup": 1.5, "shots": 4,
        "recover-minutes": 0.5, "threads": 2, "seed": 9, "target": "intel-nuc", "out": "o",
    }  # fmt: skip
    words = [word for key, value in given.items() for word in (f"--{key}", str(value))]
    assert call(monkeypatch, "photos", *words, "--crop", entry="main_export") == 130
    (options,) = asked
    found = options.model_dump(mode="json", exclude_unset=True)
    assert {key_of(field): value for field, value in found.items()} == given | {"task": "photos", "crop": True}


def test_a_second_device_takes_its_task_and_flags_from_the_first_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: list[ExportOptions]
) -> None:
    Path("taco.toml").write_text("shots = 7")
    stored = {"task": "/photos", "target": "host-cpu", "shots": 5, "speedup": 1.5, "macs": None}
    RunDir(Path("a")).remember_asked({"options": stored})
    assert call(monkeypatch, "--from", "a", "--target", "jetson-orin", entry="main_export") == 130
    assert "--speedup 1.5 cannot be measured for jetson-orin" in capsys.readouterr().err
    (options,) = asked
    assert (options.task, options.shots, options.speedup) == (Path("/photos"), 5, None)
    assert (options.target, options.out, options.from_run) == ("jetson-orin", Path("runs/jetson-orin"), Path("a"))
    assert call(monkeypatch, "--from", "none", entry="main_export") == 2
    assert "none holds no run" in capsys.readouterr().err


def test_a_dumped_config_asks_for_the_same_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: list[ExportOptions]
) -> None:
    Path("photos").mkdir()
    Path("taco.toml").write_text("seed = 3")
    words = ("photos", "--sure", "90", "--boxes", "md.json", "--macs", "0.5")
    assert call(monkeypatch, *words, "--dump-config", entry="main_export") == 0
    text = capsys.readouterr().out
    written = tomllib.loads(text)
    assert written == {
        "task": str(Path("photos").absolute()), "seed": 3, "sure": 90.0, "boxes": str(Path("md.json").absolute()),
        "macs": 0.5,
    }  # fmt: skip
    assert "# Labelled pictures a class to learn from.\n#shots = 16\n" in text
    assert not asked
    Path("photos/taco.toml").write_text(text)
    assert call(monkeypatch, "photos", entry="main_export") == 130
    assert call(monkeypatch, *words, "--seed", "3", "--config", "photos/taco.toml", entry="main_export") == 130
    one, other = asked
    assert one.model_dump(exclude={"task", "boxes"}) == other.model_dump(exclude={"task", "boxes"})


def test_a_config_can_be_dumped_before_there_is_a_task(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: list[ExportOptions]
) -> None:
    assert call(monkeypatch, "--dump-config", entry="main_export") == 0
    text = capsys.readouterr().out
    assert tomllib.loads(text) == {}
    assert '\n#task = "photos/"\n' in text
    assert call(monkeypatch, "--dump-config", "--macs", "2", entry="main_export") == 2


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


def test_predict_refuses_an_output_in_no_folder_before_it_works(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for output in (tmp_path, tmp_path / "no" / "table.csv"):
        assert call(monkeypatch, "predict", str(tmp_path), str(tmp_path), "--output", str(output)) == 2
        assert f"--output {output}" in capsys.readouterr().err


def test_predict_refuses_what_is_no_bundle(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert call(monkeypatch, "predict", str(tmp_path), str(tmp_path)) == 2
    assert "not a bundle" in capsys.readouterr().err


def test_nothing_is_printed_by_quiet_progress(capsys: pytest.CaptureFixture[str]) -> None:
    with printing.progress(quiet=True).step("x") as advance:
        advance(1)
    assert capsys.readouterr().out == ""
