"""The table of the loop's benchmark: what its verdict counts, and where cells take finished steps from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import loop
from benchmarks._page import save


def make_cell(
    share: float = 0.98, rounds: tuple[tuple[float, float], ...] = ((3.0, 4.0), (3.9, 4.0))
) -> dict[str, Any]:
    return {
        "model": "resnet50", "target": "host-cpu", "speedup": 2.0, "share": share, "precision": "fp32",
        "rounds": [{"predicted_ms": before, "measured_ms": after} for before, after in rounds], "profile_seconds": 61.4,
    }  # fmt: skip


INFEASIBLE = {"model": "resnet50", "target": "host-cpu", "speedup": 9.0, "infeasible": "9 cannot be reached"}


def test_the_verdict_counts_runs_in_the_band_after_few_rounds() -> None:
    slow = make_cell(rounds=((3.0, 4.0),) * 3 + ((3.9, 4.0),))
    missed = {"model": "resnet50", "target": "host-cpu", "speedup": 3.0, "missed": "3 was not confirmed: 2.8"}
    cells = [make_cell(), make_cell(share=0.94), make_cell(share=1.01), slow, INFEASIBLE, missed]
    assert "not confirmed: 2.8" in loop.table(cells)
    assert loop.verdict(cells).startswith("1 of 5 feasible runs ended within 95% to 100% of the budget")


def test_errors_are_those_of_the_first_and_the_last_round() -> None:
    assert loop.verdict([make_cell()]).endswith("25.0% in the first round, 2.5% in the last.")
    assert loop.verdict([INFEASIBLE]) == "No cell was feasible."


def test_the_table_has_a_row_a_cell() -> None:
    _, _, row, other, eight, *_ = loop.table(
        [make_cell(), INFEASIBLE, {**make_cell(), "target": "host-cpu-int8"}]
    ).splitlines()
    assert row == "| resnet50, random weights | host-cpu | 2x | 3.00 / 4.00; 3.90 / 4.00 | 98.0 % | 61 |"
    assert "9 cannot be reached" in other
    assert "INT8 did not pay: fp32" in eight


def test_random_weights_and_what_was_not_recovered_are_told() -> None:
    text = loop.table([make_cell(), {**make_cell(), "model": "tf_efficientnet_lite0"}])
    assert "| tf_efficientnet_lite0 | host-cpu |" in text
    assert "1 of 2 runs are of models with random weights. Nothing was recovered in any run" in text
    assert "random" not in loop.table([{**make_cell(), "model": "tf_efficientnet_lite0"}])


def test_the_threads_of_the_timed_models_are_told_where_they_were_chosen() -> None:
    assert "thread" not in loop.table([make_cell()])
    assert loop.table([{**make_cell(), "threads": 1}]).endswith("Timed with 1 thread (`--threads`).")


def test_cells_that_are_there_are_read_and_not_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "resnet50-host-cpu-2.json").write_text(json.dumps(make_cell()))
    page = tmp_path / "page.md"
    loop.main([str(tmp_path), "--table", "--save", str(page)])
    assert "1 of 1 feasible runs" in capsys.readouterr().out
    assert page.read_text().count("<!-- loop -->") == 1


def test_a_cell_goes_on_from_a_run_of_its_target_if_there_is_one(tmp_path: Path) -> None:
    for name in ("a-host-cpu-2", "a-host-cpu-int8-2", "b-host-cpu-2"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    out = tmp_path / "runs" / "a-host-cpu-3"
    assert loop._earlier(tmp_path, "a", "host-cpu-int8", out) == tmp_path / "runs" / "a-host-cpu-int8-2"
    assert loop._earlier(tmp_path, "a", "host-cpu-openvino", out) == tmp_path / "runs" / "a-host-cpu-2"
    assert loop._earlier(tmp_path, "c", "host-cpu", out) is None


def test_a_part_of_a_page_is_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    save(page, "x", "one")
    page.write_text(page.read_text() + "\nafter\n")
    save(page, "x", "two")
    text = page.read_text()
    assert "one" not in text
    assert text.index("two") < text.index("after")
