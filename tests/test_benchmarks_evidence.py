"""The evidence page: every claim in plain words from cells, none made up, prose left alone, equal cells equal pages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from make_front import make_front
from make_report import make_max_drop, make_report

from benchmarks import _claims, _fronts, evidence, front, minutes
from benchmarks.__main__ import LONG
from benchmarks._held import held
from benchmarks._page import told_drop

AIMS = {"lite0": (5.0, 2.0)}


def pruned(calibration: str, sparsity: float, drop: float, seed: int = 0, steps: int = 0) -> dict[str, Any]:
    return {
        "seed": seed, "calibration": calibration, "sparsity": sparsity, "steps": steps, "dense": 98.0,
        "percent": 98 - drop, "low": 90 - drop, "high": 99.0, "n": 178,
        "drop": drop, "drop_low": drop - 3, "drop_high": drop + 3,
    }  # fmt: skip


def both(seed: int, *gains: tuple[float, float]) -> list[dict[str, Any]]:
    """Cells in which the task gains so many points over the control at each sparsity."""
    return [
        cell
        for sparsity, gain in gains
        for cell in (pruned("task", sparsity, 5.0, seed), pruned("agnostic", sparsity, 5.0 + gain, seed))
    ]


def recovered(method: str, percent: float, seed: int = 0, k: int = 2) -> dict[str, Any]:
    return {"task": "known", "k": k, "seed": seed, "method": method, "percent": percent, "fit_percent": 100.0, "n": 178}


def fast(fp32: float, int8: float, drop: float, seed: int) -> dict[str, Any]:
    ratio = {"low": 1.0, "high": 9.0}
    return {
        "target": "host-cpu-int8", "model": "lite0", "task": "known", "seed": seed, "drop": drop, "drop_low": drop - 1,
        "drop_high": drop + 1, "select_points": 0.5,
        "over_fp32": {"value": fp32, **ratio}, "over_int8": {"value": int8, **ratio},
        "best_int8": "dense", "ms": {"small": 1.5}, "seconds": 660.0, "machine": "a quiet one",
    }  # fmt: skip


def test_without_cells_every_claim_says_so_with_its_command() -> None:
    found = [
        _claims.specialisation([]),
        _claims.fewer_weights("b", [], 0.9, 2.0),
        _claims.no_overfitting([]),
        _claims.faster([], AIMS),
    ]
    assert {claim.verdict for claim in found} == {"not measured yet"}
    assert all("`python -m benchmarks." in claim.markdown() for claim in found)


def test_specialisation_holds_only_where_every_seed_is_sure_and_it_grows() -> None:
    grows = ((0.5, 0.5), (0.95, 40.0))
    claim = _claims.specialisation([*both(0, *grows), *both(1, *grows)])
    assert claim.verdict == "holds"
    assert "95% zeros: +40.0 (+35.8 to +44.2), +40.0" in claim.found
    assert "Every seed surely gains at 95% zeros; the gain grows at every step." in claim.found
    assert _claims.specialisation(both(0, *grows)).verdict == "holds on the one seed that was run"
    assert _claims.specialisation([*both(0, *grows), *both(1, (0.5, 0.0), (0.95, 2.0))]).verdict == "not clear"
    assert _claims.specialisation(both(0, (0.5, 9.0), (0.95, 1.0))).verdict == "does not hold"


def test_a_gain_that_falls_at_one_step_of_one_seed_holds_in_part_alone() -> None:
    claim = _claims.specialisation(
        [*both(0, (0.5, 0.5), (0.9, 20.0), (0.95, 40.0)), *both(1, (0.5, 0.0), (0.9, 70.0), (0.95, 50.0))]
    )
    assert claim.verdict == "holds in part"
    told = "surely gains at 90%, 95% zeros; the gain does not grow at every step (seed 1: +70.0 at 90%, +50.0 at 95%)"
    assert told in claim.found


def test_one_shot_cells_are_no_evidence_for_gradual_pruning() -> None:
    claim = _claims.fewer_weights("b", [pruned("task", 0.9, 15.0)], 0.9, 2.0)
    assert claim.verdict == "not measured yet"
    assert "+15.0" in claim.found


@pytest.mark.parametrize(
    ("drops", "verdict"), [((-2.0, -1.5), "holds"), ((1.0, 0.0), "not clear"), ((9.0, 8.0), "does not hold")]
)
def test_fewer_weights_hold_where_every_interval_is_within_the_limit(drops: tuple[float, ...], verdict: str) -> None:
    cells = [pruned("task", 0.9, drop, seed, steps=64) for seed, drop in enumerate(drops)]
    claim = _claims.fewer_weights("b", cells, 0.9, 2.0)
    assert claim.verdict == verdict
    assert claim.claim.startswith("10 times fewer")


def test_fewer_weights_are_told_by_the_cells_that_were_recovered_longest() -> None:
    short = [pruned("task", 0.9, 9.0, seed, steps=64) for seed in (0, 1)]
    longer = [{**pruned("task", 0.9, -2.0, seed, steps=960), "batch": 8} for seed in (0, 1)]
    claim = _claims.fewer_weights("b", [*short, *longer], 0.9, 2.0)
    assert claim.verdict == "holds"
    assert "960 steps of gradual recovery, 8 views each" in claim.found
    assert "64 steps of gradual recovery, 32 views each" in _claims.fewer_weights("b", short, 0.9, 2.0).found


def test_over_fitting_is_told_by_the_fewest_pictures() -> None:
    seeds = [
        cell
        for seed in (0, 1)
        for cell in (
            recovered("unrecovered", 90.0, seed),
            recovered("cross-entropy", 80.0, seed),
            recovered("ours", 92.0, seed),
        )
    ]
    more = [recovered("unrecovered", 90.0, k=16), recovered("cross-entropy", 97.0, k=16), recovered("ours", 97.0, k=16)]
    assert _claims.no_overfitting([*seeds, *more]).verdict == "holds"
    worse = [c if c["method"] != "ours" else {**c, "percent": 70.0} for c in seeds]
    assert _claims.no_overfitting(worse).verdict == "does not hold"
    assert _claims.no_overfitting(seeds[:2]).verdict == "not measured yet"


def test_speed_is_a_geometric_mean_and_an_average_loss_beyond_the_limit_refutes_it() -> None:
    claim = _claims.faster([fast(4.0, 2.5, 0.2, 0), fast(9.0, 2.5, 0.6, 1)], AIMS)
    assert claim.verdict == "holds"
    assert "6.00 times over fp32 (4.00 to 9.00), 2.50 over the best INT8" in claim.found
    assert claim.found.endswith("On a quiet one.")
    assert _claims.faster([fast(9.0, 2.5, 1.8, 0), fast(9.0, 2.5, 0.6, 1)], AIMS).verdict == "does not hold"
    more = _claims.faster([fast(9.0, 2.5, 0.2, seed) for seed in (0, 1)], {**AIMS, "lite9": (1.0, 1.0)})
    assert (more.verdict, "lite9: no run" in more.found) == ("not clear", True), "nobody ran the other model"
    alone = _claims.faster([fast(4.0, 2.5, 0.2, 0)], AIMS).found
    assert "1 run (tasks and seeds): 4.00 times over fp32, 2.50" in alone, "one run has no range"


def test_processors_with_and_without_products_of_bytes_are_told_apart(tmp_path: Path) -> None:
    fine = {**fast(9.0, 4.5, 0.2, 0), "machine": "a quiet one, avx2 avx512_vnni"}
    slow = fast(2.0, 1.5, 0.2, 1)
    claim = _claims.faster([fine, slow], AIMS)
    assert claim.verdict == "does not hold"
    assert "VNNI, 1 run (tasks and seeds): 9.00 times over fp32" in claim.found
    assert "no VNNI, 1 run (tasks and seeds): 2.00 times over fp32" in claim.found
    for cell in (fine, slow):
        (tmp_path / f"a-seed{cell['seed']}.json").write_text(json.dumps(cell))
    rows = [line.split(" | ")[1] for line in front.table(tmp_path).splitlines() if line.startswith("| host-cpu")]
    assert rows == ["VNNI", "no VNNI"]


def test_points_a_nat_are_of_every_candidate_once(tmp_path: Path) -> None:
    """Also where the run for another target asked the very same ones."""
    judged = {"pictures": "160x160", "judging_images": 128, "low": -1.0, "high": 1.0}
    uncut = {**judged, "kept_percent": 100.0, "points": 0.5, "beyond": None, "expected_nats": None}
    smaller = {**uncut, "pictures": "128x128", "points": 9.5, "beyond": 9.0, "expected_nats": 0.01}
    cut = {**judged, "kept_percent": 60.0, "points": 1.5, "beyond": 1.0, "expected_nats": 0.05}
    most = {**judged, "kept_percent": 40.0, "points": 3.5, "beyond": 3.0, "expected_nats": 0.15}
    for target, tried in (("host-cpu-int8", [uncut, smaller, cut, most]), ("host-cpu-openvino-int8", [uncut, cut])):
        cell = {**fast(9.0, 4.5, 0.2, 0), "target": target, "tried": tried}
        (tmp_path / f"{target}-seed0.json").write_text(json.dumps(cell))
    assert "| lite0 | known | 1 | 2 | 0.050 to 0.150 | +1.0 to +3.0 | 20 |" in front.table(tmp_path)
    for file in tmp_path.glob("*.json"):
        file.write_text(json.dumps(fast(9.0, 4.5, 0.2, 0)))
    assert "points a nat" not in front.table(tmp_path), "older cells have no candidates"


def test_what_a_run_kept_and_lost_is_told_as_its_report_has_it() -> None:
    report = make_max_drop()
    found = held(report)
    assert found["select_points"] == 0.55
    assert (found["drop"], (found["drop_low"], found["drop_high"])) == (
        report.accuracy.drop_points,
        report.accuracy.drop_ci95,
    )
    assert 0 < found["macs"] < 1
    assert told_drop({"drop": 0.44, "drop_low": -1.06, "drop_high": 2.0}) == "+0.4 (-1.1 to +2.0)"
    with pytest.raises(ValueError, match="no --max-drop"):
        held(make_report())


def test_minutes_stand_beside_those_asked_with_what_took_longest(tmp_path: Path) -> None:
    steps = {f"step {n}": float(n) for n in range(9)}
    run = {
        "seconds": 90.0, "steps": steps, "taken_over": False, "candidates": 2, "kept": 0.5, "times_dense": 1.4,
        "select_points": 0.6, "drop": 0.0, "drop_low": -1.0, "drop_high": 1.0,
    }  # fmt: skip
    following = {**run, "target": "host-cpu-openvino-int8", "taken_over": True}
    runs = [{**run, "target": "host-cpu-int8"}, following, {**following, "take_over": minutes.ANY}]
    for seed, made_on in ((0, "avx2 avx512_vnni"), (1, "avx2")):
        cell = {"seed": seed, "made": "2026-12-01", "load": "0.5", "machine": made_on, "runs": runs}
        (tmp_path / f"a-seed{seed}.json").write_text(json.dumps(cell))
    text = minutes.table(tmp_path)
    assert (
        "| VNNI | 0 | 2026-12-01 | 0.5 | host-cpu-int8 | 1.5 | 12 | 2 | 50 % | 1.40 | +0.6 | +0.0 (-1.0 to +1.0) |"
        in text
    )
    assert "| no VNNI | 1 | 2026-12-01 | 0.5 | host-cpu-openvino-int8 | 1.5 (taken over) | 3 |" in text
    assert "| host-cpu-openvino-int8, `--take-over 1000` | 1.5 (taken over) | 3 |" in text
    assert "host-cpu-int8, longest steps: step 8 8 s, step 7 7 s," in text
    assert "step 2 2 s" not in text, "the others are hardly worth a word"


def test_pages_are_written_between_marks_from_cells_and_twice_alike(tmp_path: Path) -> None:
    cells = tmp_path / evidence.CELLS / "front"
    cells.mkdir(parents=True)
    for seed in (0, 1):
        cell = fast(5.5, 2.2, 0.4, seed)
        (cells / f"host-cpu-int8-lite0-known-seed{seed}.json").write_text(json.dumps(cell))
    whole = {**fast(5.5, 2.2, 0.4, 0), "front": make_front().model_dump(mode="json")}
    (cells / "host-cpu-int8-lite0-known-seed0.front.json").write_text(json.dumps(whole))
    page = tmp_path / evidence.EVIDENCE
    page.write_text("# Evidence\n\n<!-- claims -->\nstale words\n<!-- end of claims -->\n\nProse that stays.\n")
    evidence.write(tmp_path)
    text = page.read_text()
    assert "Prose that stays." in text
    assert "stale words" not in text
    for seed in (0, 1):
        row = f"| host-cpu-int8 | no VNNI | lite0 | known | {seed} | 5.50 (1.00 to 9.00) | 2.20 (1.00 to 9.00), dense |"
        assert row in text
    assert "| +0.4 (-0.6 to +1.4) |" in text
    assert text.count("Not measured yet") == 11, "seven tables, four claims"
    assert "a quiet one" in text
    assert "2 cells in `docs/evidence/front/`" in text, "whole fronts are counted by themselves"
    assert "1 cell in `docs/evidence/front/`" in text
    evidence.write(tmp_path)
    assert page.read_text() == text


def test_every_benchmark_is_in_the_index_or_has_no_cells() -> None:
    modules = {path.stem for path in Path(evidence.__file__).parent.glob("[a-z]*.py")}
    with_cells = {table.module.removeprefix("benchmarks.") for table in evidence.TABLES}
    assert modules == with_cells | set(evidence.WITHOUT_CELLS) | {"evidence"}
    assert set(LONG) == with_cells | {"evidence", "two_runtimes"}


def test_a_whole_front_says_what_beats_ours_and_is_drawn(tmp_path: Path) -> None:
    folder = tmp_path / "evidence" / "front"
    folder.mkdir(parents=True)
    ours, rival = ("ours-2x", "ours", 2.0, 290), ("nncf-int8", "runtime-int8", 1.5, 304)

    def told(*points: Any) -> str:
        cell = {"target": "host-cpu-int8", "model": "lite0", "task": "known", "seed": 1}
        cell["front"] = make_front((ours, ("dense", "dense", 4.0, 307), *points)).model_dump(mode="json")
        (folder / "host-cpu-int8-lite0-known-seed1.front.json").write_text(json.dumps(cell))
        return _fronts.render(folder)

    assert "No other model lies above and left of our front." in told()
    beaten = told(rival)
    assert "Above and left of our front, as measured: nncf-int8 (1.50 ms, 95.0 %)." in beaten
    picture = tmp_path / "images" / "front-host-cpu-int8-lite0-known-seed1.svg"
    assert f"(images/{picture.name})" in beaten
    drawn = picture.read_bytes()
    assert told(rival) == beaten
    assert picture.read_bytes() == drawn, "the same cells give the same picture"


def test_the_pages_in_the_repository_are_those_of_its_cells(tmp_path: Path) -> None:
    for page in (evidence.EVIDENCE, evidence.BENCHMARKS):
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / page).write_text((evidence.ROOT / page).read_text())
    (tmp_path / evidence.CELLS).symlink_to(evidence.ROOT / evidence.CELLS)
    evidence.write(tmp_path)
    for page in (evidence.EVIDENCE, evidence.BENCHMARKS):
        assert (tmp_path / page).read_text() == (evidence.ROOT / page).read_text(), "run `make evidence`"


def test_how_much_more_unseen_pictures_lose_than_was_told_counts_each_seed_once(tmp_path: Path) -> None:
    other = "host-cpu-openvino-int8"
    cells = {
        "a-seed0": fast(5, 2, 1.0, 0),
        "b-seed0": {**fast(5, 2, 2.0, 0), "target": other},
        "a-seed1": fast(5, 2, 4.0, 1),
    }
    for name, cell in cells.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(cell))
    assert "| known | 3 | 2 | +0.5 | +2.3 | +2.2 (standard error at least 1.2) |" in front.table(tmp_path)
    assert "| other |" not in front.table(tmp_path)
    alike = {"c-seed0": fast(5, 2, 2.0, 0), "c-seed1": fast(5, 2, 2.0, 1)}
    for seed, cell in enumerate(alike.values()):
        wide = {**cell, "task": "other", "drop_low": -0.8, "drop_high": 4.8}
        (tmp_path / f"c-seed{seed}.json").write_text(json.dumps(wide))
    told = next(line for line in front.table(tmp_path).splitlines() if line.startswith("| other |"))
    assert told.endswith("(standard error at least 1.0) |"), "as the pictures have it, though both seeds are alike"
    judged = {"judging_images": 128, "low": -1.96, "high": 1.96, "expected_nats": None}
    for seed in (0, 1):
        file = tmp_path / f"c-seed{seed}.json"
        trials = [judged, {**judged, "judging_images": 64, "high": 90.0}]
        file.write_text(json.dumps({**json.loads(file.read_text()), "tried": trials}))
    told = next(line for line in front.table(tmp_path).splitlines() if line.startswith("| other |"))
    assert told.endswith("(standard error 1.2) |"), "what the shots leave open comes on top, where all judged"


def test_cells_of_a_front_name_target_model_task_and_seed() -> None:
    assert front.Cell("host-cpu-int8", "lite2", "other", 2).name == "host-cpu-int8-lite2-other-seed2"
    slower = front.Cell("host-cpu-int8", "lite2", "other", 2, "no VNNI")
    assert slower.name == "host-cpu-int8-no-vnni-lite2-other-seed2", "the other kind's figures stay"
