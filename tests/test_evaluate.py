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


def test_what_one_number_hides_is_told(bundle: Bundle, site: Path) -> None:
    found = evaluate(bundle, list_for(bundle, site), 1).quality
    assert {n: p and p.percent for n, p in found.precision.items()} == {
        "fox": pytest.approx(200 / 3),
        "hare": 100.0,
        "blank": None,
    }
    assert found.worst == "hare"
    assert [(c.true, c.answer, c.count) for c in found.confusion] == [
        ("fox", "fox", 2),
        ("hare", "fox", 1),
        ("hare", "hare", 1),
    ]
    assert found.balanced.percent == 75.0
    assert found.coverage[-1].right == 75.0
    assert 20 < found.calibration.error < 26  # nearly sure of every answer, and one in four is wrong


def test_the_bundles_own_threshold_is_tried(tmp_path: Path, site: Path) -> None:
    sure = make_bundle(tmp_path / "sure", sure_from=0.9)
    found = evaluate(sure, list_for(sure, site), 1).sure
    assert found is not None
    assert found.right is not None
    assert (found.sure.percent, found.right.percent) == (100.0, 75.0)
    never = make_bundle(tmp_path / "never", sure_from=1.000001)
    found = evaluate(never, list_for(never, site), 1).sure
    assert found is not None
    assert (found.sure.percent, found.right) == (0.0, None)


def test_two_bundles_are_compared_on_the_same_pictures(bundle: Bundle, tmp_path: Path, site: Path) -> None:
    swapped = make_bundle(tmp_path / "swapped", classes=("hare", "fox", "blank"))  # calls red a hare and green a fox
    found = evaluate(bundle, list_for(bundle, site), 1, against=swapped)
    assert found.paired is not None
    assert found.other is not None
    assert (found.paired.both, found.paired.only_first, found.paired.only_second, found.paired.neither) == (0, 1, 3, 0)
    assert found.other.top1.percent == 25.0
    assert evaluate(bundle, list_for(bundle, site), 1).paired is None


def test_bundles_that_cannot_be_compared_are_said(bundle: Bundle, tmp_path: Path, site: Path) -> None:
    foreign = make_bundle(tmp_path / "foreign", classes=("fox", "hare", "elk"))
    with pytest.raises(InputError, match="has other classes than"):
        evaluate(bundle, list_for(bundle, site), 1, against=foreign)
    boxed = make_bundle(tmp_path / "boxed", crop_margin=0.1)
    with pytest.raises(InputError, match="looks at boxes"):
        evaluate(bundle, list_for(bundle, site), 1, against=boxed)


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


def test_the_command_compares_and_draws(
    bundle: Bundle, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["taco", "evaluate", str(bundle.path), str(site), "--against", str(bundle.path)]
    monkeypatch.setattr(sys, "argv", [*words, "--plot", str(tmp_path / "matrix.svg")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "worst class: hare, 50.0 % of 2" in out
    assert "calibration error" in out
    assert "Right only there 0, only here 0, McNemar p = 1" in out
    assert "1. fox" in (tmp_path / "matrix.svg").read_text()
    monkeypatch.setattr(sys, "argv", [*words, "--plot", str(tmp_path / "matrix.png")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "Give a name that ends in .svg" in capsys.readouterr().err


def test_it_needs_no_torch(bundle: Bundle, site: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = None; sys.modules['timm'] = None; from pathlib import Path;"
        "from taco.verify import open_bundle; from taco.evaluate import *;"
        "b = open_bundle(Path(sys.argv[1])); print(evaluate(b, list_for(b, Path(sys.argv[2])), 1).score.top1.percent)"
    )
    call = [sys.executable, "-c", program, str(bundle.path), str(site)]
    assert subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip() == "75.0"
