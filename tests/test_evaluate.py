"""The accuracy of a bundle alone, on labelled pictures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_bundle import BLUE, GREEN, RED, make_bundle, paint

from taco import cli
from taco.bundle import Bundle
from taco.errors import InputError, TaskError
from taco.evaluate import evaluate, list_for


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "bundle")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Two foxes and two hares, of which one hare looks like a fox."""
    for name, colours in (("fox", (RED, RED)), ("hare", (GREEN, RED))):
        for number, colour in enumerate(colours):
            paint(tmp_path / "site" / name / f"{number}.png", colour)
    return tmp_path / "site"


def test_right_answers_are_counted_by_class(bundle: Bundle, site: Path) -> None:
    seen: list[int] = []
    found = evaluate(bundle, list_for(bundle, site), 1, seen.append)
    assert found.score.top1.percent == 75.0
    recalls = {name: None if p is None else p.percent for name, p in found.score.per_class.items()}
    assert recalls == {"fox": 100.0, "hare": 50.0, "blank": None}
    assert sum(seen) == 4


def test_classes_in_another_order_are_matched_by_name(bundle: Bundle, tmp_path: Path) -> None:
    paint(tmp_path / "s" / "empty" / "0.png", BLUE)
    paint(tmp_path / "s" / "hare" / "0.png", GREEN)
    assert evaluate(bundle, list_for(bundle, tmp_path / "s"), 1).score.top1.percent == 100.0


def test_unreadable_pictures_are_listed(bundle: Bundle, site: Path) -> None:
    (site / "fox" / "9.png").write_bytes(b"no picture")
    found = evaluate(bundle, list_for(bundle, site), 1)
    assert found.score.top1.n == 4
    assert any("9.png" in line for line in found.skipped)


def test_nothing_readable_is_said(bundle: Bundle, tmp_path: Path) -> None:
    for name in ("fox", "hare"):
        (tmp_path / "s" / name).mkdir(parents=True)
        (tmp_path / "s" / name / "0.png").write_bytes(b"no picture")
    with pytest.raises(TaskError, match="no picture could be read"):
        evaluate(bundle, list_for(bundle, tmp_path / "s"), 1)


def test_a_class_that_the_bundle_does_not_know_is_said(bundle: Bundle, site: Path) -> None:
    paint(site / "elk" / "0.png", RED)
    with pytest.raises(InputError, match=r"pictures of 'elk', which .* does not know"):
        list_for(bundle, site)


def test_a_bundle_of_boxes_needs_boxes(tmp_path: Path, site: Path) -> None:
    cropped = make_bundle(tmp_path / "cropped", crop_margin=0.1)
    with pytest.raises(InputError, match="learned from boxes around animals"):
        list_for(cropped, site)


def test_the_command_prints_a_table_or_json(
    bundle: Bundle, site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for more in ([], ["--json"]):
        monkeypatch.setattr(sys, "argv", ["taco", "evaluate", str(bundle.path), str(site), *more])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
        out = capsys.readouterr().out
        assert json.loads(out)["score"]["top1"]["percent"] == 75.0 if more else "accuracy 75.0 % on 4" in out


def test_it_needs_no_torch(bundle: Bundle, site: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = None; sys.modules['timm'] = None; from pathlib import Path;"
        "from taco.verify import open_bundle; from taco.evaluate import *;"
        "b = open_bundle(Path(sys.argv[1])); print(evaluate(b, list_for(b, Path(sys.argv[2])), 1).score.top1.percent)"
    )
    call = [sys.executable, "-c", program, str(bundle.path), str(site)]
    assert subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip() == "75.0"
