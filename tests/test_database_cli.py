"""`taco database build|show` from the command line, on drawn pictures and a small model."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from conftest import draw_task

from taco import cli
from taco.database import LayerDatabase, Recipe
from taco.database.build import request_key
from taco.executor import Executor
from taco.field.database_job import DatabaseOptions, build_database
from taco.levels import Level
from taco.options import make_options
from taco.progress import PlainProgress

TINY = ("--model", "test_efficientnet", "--random-weights", "--head", "fit", "--shots", "4", "--executor", "local:1")
FAST = (*TINY, "--solver", "magnitude", "--damping", "0.01", "--include", "blocks.4.*dw", "--include", "conv_head")


def call(*arguments: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["taco", "database", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
    return int(caught.value.code or 0)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_task(tmp_path_factory.mktemp("task") / "site", count=6)


@pytest.fixture(scope="module")
def built(task: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("database") / "db"
    assert call("build", str(task), "--out", str(folder), *FAST) == 0
    return folder


def test_build_makes_all_levels_of_the_layers_that_were_asked_for(built: Path) -> None:
    database = LayerDatabase.open(built)
    assert set(database.units) == {"blocks.4.0.conv_dw", "conv_head"}
    assert len(database.levels("conv_head")) == 13
    assert database.index.finished is not None


def test_build_again_reads_no_picture(task: Path, built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("build", str(task), "--out", str(built), *FAST) == 0
    said = capsys.readouterr().err
    assert "was there already" in said
    assert "read the pictures" not in said


def test_widths_join_a_database_are_listed_and_not_built_twice(
    task: Path, built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(shutil.copytree(built, tmp_path / "db"))
    assert call("build", str(task), "--out", folder, *FAST, "--widths") == 0
    assert "4 units at every width" in capsys.readouterr().err
    assert call("show", folder) == 0
    shown = capsys.readouterr().out
    assert "conv_head" in shown
    assert "UNIT" in shown
    assert call("show", folder, "--json") == 0
    channels = json.loads(capsys.readouterr().out)["channels"]
    assert len(channels) == 4
    unit = next(iter(channels.values()))
    assert unit["levels"][f"channels:{unit['width']}"] == 0
    assert len(unit["levels"]) == unit["width"]
    assert call("build", str(task), "--out", folder, *FAST, "--widths") == 0
    said = capsys.readouterr().err
    assert "was there already" in said
    assert "read the pictures" not in said


def test_show_prints_a_table_with_losses_and_what_stays_dense(
    built: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    assert call("show", str(built)) == 0
    out, err = capsys.readouterr()
    for word in ("LAYER", "30 %", "98 %", "DAMPING", "KB", "conv_head", "256x64x1x1", "0.01"):
        assert word in out, word
    assert "blocks.4.0.conv_dw stays dense at nm:2:4: 9 columns are no multiple of 36" in err


def test_show_as_json(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("show", str(built), "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    level = shown["units"]["conv_head"]["levels"]["unstructured:0.9"]
    assert level["nonzeros"] == round(0.1 * 256 * 64)
    assert 0 < level["relative_loss"] < 1
    assert shown["finished"] is True
    assert shown["skipped"][0]["level"] == "nm:2:4"


def test_show_draws(built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("show", str(built), "--plot", str(tmp_path / "losses.png")) == 0
    assert (tmp_path / "losses.png").stat().st_size > 10_000
    assert "losses.png shows loss against sparsity" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--levels", "unstructured:2"), "is no level"),
        (("--executor", "cluster"), "--executor 'cluster' is not known"),
        (("--exclude", "nothing.*"), "'nothing.*' matches no Linear or Conv2d"),
        (("--damping", "much"), "--damping 'much' is no number"),
        (("--solver", "obs"), "there is no solver 'obs'"),
        (("--calibration", "agnostic"), "--agnostic-images"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_is_wrong_is_said_before_pictures_are_read(
    task: Path, tmp_path: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("build", str(task), "--out", str(tmp_path / "db"), *TINY, *arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "read the pictures" not in said
    assert not (tmp_path / "db").exists()


def test_show_of_no_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("show", str(tmp_path)) == 2
    assert "holds no database" in capsys.readouterr().err


def test_agnostic_pictures_give_another_database(task: Path, built: Path, tmp_path: Path) -> None:
    general = draw_task(tmp_path / "general", ("x", "y"), 12, seed=5)
    more = ("--calibration", "agnostic", "--agnostic-images", str(general))
    assert call("build", str(task), "--out", str(tmp_path / "db"), *FAST, *more) == 0
    ours, control = LayerDatabase.open(built).entry("conv_head"), LayerDatabase.open(tmp_path / "db").entry("conv_head")
    assert ours.inputs.weights_sha256 == control.inputs.weights_sha256
    assert ours.moments_sha256 != control.moments_sha256
    assert ours.energy != control.energy


def test_the_same_steps_from_python(task: Path, built: Path, tmp_path: Path) -> None:
    out = shutil.copytree(built, tmp_path / "copy")  # others look at the one that was built
    asked = {"task": task, "target": "host-cpu", "out": out, "model": "test_efficientnet", "random_weights": True}
    options = make_options({**asked, "head": "fit", "shots": 4})
    include = ("blocks.4.*dw", "conv_head")
    recipe = Recipe((Level("unstructured", 0.9),))
    fast = DatabaseOptions(recipe, include, executor=Executor("local", workers=1))
    built_now = build_database(options, fast, PlainProgress())
    assert not built_now.already_done, "another solver was asked for"
    assert built_now.database.entry("conv_head").inputs.solver == "admm"
    again = build_database(options, fast, PlainProgress())
    assert again.already_done
    assert request_key("a", include, fast.recipe) != request_key("b", include, fast.recipe)
