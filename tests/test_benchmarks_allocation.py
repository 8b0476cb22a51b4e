"""Unit by unit against its rivals at equal measured time: what is interpolated, and how sure a lead is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import allocation
from taco.metrics.accuracy import paired_drop


def point(kind: str, ms: float, right: str, asked: float = 2.0, changed: float = 0.1) -> dict[str, Any]:
    told = {"name": f"{kind}-{ms:g}", "kind": kind, "asked": asked, "ms": ms, "macs": 1, "right": right}
    return {**told, "changed": [changed * weight for weight in (0.5, 1.0, 1.0, 1.5)]}


def cell(*points: dict[str, Any], species: str = "imagenet", seed: int = 0) -> dict[str, Any]:
    told = {"machine": "a quiet one", "threads": 1, "labels": [0, 0, 1, 1], "points": list(points)}
    return {"species": species, "seed": seed, **told}


DENSE = point("dense", 10.0, "1111", asked=1.0, changed=0.0)


def test_between_two_files_right_answers_are_interpolated_in_time() -> None:
    points = [point("uniform", 4.0, "0000"), point("uniform", 8.0, "1000"), DENSE]
    found = allocation.at_time(points, 5.0)
    assert found is not None
    assert found.tolist() == [0.25, 0, 0, 0]
    assert allocation.at_time(points, 4.0) == pytest.approx(np.zeros(4))
    assert allocation.at_time(points, 9.0) == pytest.approx(np.array([1, 0.5, 0.5, 0.5]))
    assert allocation.at_time(points, 3.9) is None
    assert allocation.at_time(points, 10.1) is None


def test_classes_weigh_the_same() -> None:
    labels, right = [0, 0, 0, 1], np.array([1.0, 1.0, 0.0, 0.0])
    assert allocation.shares_right(labels, right) == pytest.approx(100 / 3)
    assert allocation.gain(labels, right, np.zeros(4)).points == pytest.approx(100 / 3)


@pytest.mark.parametrize("sizes", [(40,), (25, 20), (12, 31, 9)])
def test_where_nothing_is_interpolated_the_interval_is_that_of_a_paired_drop(sizes: tuple[int, ...]) -> None:
    random = np.random.default_rng(3)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    ours, theirs = (random.random(labels.size) < share for share in (0.9, 0.6))
    found = allocation.gain(labels.tolist(), ours.astype(float), theirs.astype(float))
    drop = paired_drop(labels, np.where(ours, labels, -1), np.where(theirs, labels, -1), balanced=True)
    assert found.points == pytest.approx(drop.points)
    assert (found.low, found.high) == pytest.approx((drop.low, drop.high))
    assert found.low < found.points < found.high


def test_no_interval_is_empty_where_both_are_right_everywhere() -> None:
    found = allocation.gain([0, 0, 1, 1], np.ones(4), np.ones(4))
    assert found.points == 0
    assert found.low < 0 < found.high


def test_how_far_answers_lie_is_interpolated_in_its_logarithm_and_pictures_are_drawn_in_pairs() -> None:
    """Each of our pictures is changed half as much as a rival's between its two files: no draw tells otherwise."""
    theirs = [point("uniform", 4.0, "1111", changed=0.4), point("uniform", 8.0, "1111", changed=0.1)]
    found = allocation.farther(point("ours", 6.0, "1111", changed=0.1), theirs)
    assert found is not None
    assert (found.times, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))
    assert str(found) == "2.00 (2.00 to 2.00)"
    assert allocation.farther(point("ours", 8.0, "1111"), theirs) is not None
    assert allocation.farther(point("ours", 8.1, "1111"), theirs) is None, "nothing is as slow but the dense model"


def test_a_temperature_of_ones_own_is_no_distance() -> None:
    """A head that was fitted anew may be twice as sure of the same order."""
    logits = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    assert max(allocation._changed(logits, 2 * logits)) < 1e-9
    assert min(allocation._changed(logits, logits[:, ::-1])) >= 0
    assert max(allocation._changed(logits, logits[:, ::-1])) > 0.1


def test_older_cells_without_it_are_shown_without_it(tmp_path: Path) -> None:
    made = cell(point("ours", 5.0, "1110"), point("uniform", 4.0, "1000"), point("uniform", 6.0, "1110"), DENSE)
    for one in made["points"]:
        del one["changed"]
    (tmp_path / "lite0-imagenet-seed0.json").write_text(json.dumps(made))
    text = allocation.table(tmp_path)
    assert "| 75.0 | - | +25.0 (" in text
    assert "points at 2x. Its answers lie so many times as far" in text
    assert "(geometric mean): nothing to compare." in text


def test_a_lead_that_one_picture_makes_has_a_wide_interval() -> None:
    theirs = [point("uniform", 4.0, "1111", changed=0.4), point("uniform", 8.0, "1111", changed=0.4)]
    ours = {**point("ours", 6.0, "1111"), "changed": [0.4, 0.4, 0.4, 0.0]}
    found = allocation.farther(ours, theirs)
    assert found is not None
    assert found.times == pytest.approx(1.6 / 1.2)
    assert found.low < 1.01 < 1.4 < found.high


def test_the_table_compares_at_equal_time_and_says_where_it_cannot(tmp_path: Path) -> None:
    ours = [point("ours", 5.0, "1110", 2.0), point("ours", 2.0, "1000", 4.0)]
    made = cell(
        *ours, point("uniform", 5.0, "1000"), point("macs", 5.0, "1110"), point("macs", 2.0, "0000", 4.0), DENSE
    )
    (tmp_path / "lite0-imagenet-seed0.json").write_text(json.dumps(made))
    text = allocation.table(tmp_path)
    rows = [row for row in text.splitlines() if row.startswith("| ImageNet species")]
    assert rows[0].startswith("| ImageNet species | 0 | dense | 10.00 | 1 | 100.0 |")
    assert rows[1].startswith("| ImageNet species | 0 | 2x | 5.00 | 2.00 | 75.0 | 0.1000 | +50.0 (")
    assert "| 4x | 2.00 | 5.00 | 25.0 | 0.1000 | - | - | +25.0 (" in rows[2]
    assert rows[2].endswith("| 1.00 (1.00 to 1.00) |")
    mean = "Ahead of one ratio at equal measured time, without recovery, mean over tasks and seeds: +50.0 points at 2x."
    assert mean in text
    assert "EfficientNet-Lite0 on host-cpu, 16 shots a class" in text
    assert "NOT RECOVERED" in text
    assert "interpolated in time, picture by picture" in text
    assert "+0.0 points at 2x, +25.0 points at 4x. Its answers lie" in text
    assert "(geometric mean): 1.00 at 2x, 1.00 at 4x." in text
    assert "(geometric mean): nothing to compare." in text
    assert "Timed with 1 thread (" in text
    assert all(row.count("|") == rows[0].count("|") for row in rows)


def test_cells_that_are_there_are_read_and_not_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for species in allocation.TASKS:
        made = cell(point("ours", 5.0, "1111"), point("uniform", 4.0, "1000"), point("macs", 4.0, "1000"), DENSE)
        (tmp_path / f"lite0-{species}-seed0.json").write_text(json.dumps({**made, "species": species}))
    allocation.main([str(tmp_path), "--seeds", "0"])
    assert capsys.readouterr().out.count("2x") == 4
