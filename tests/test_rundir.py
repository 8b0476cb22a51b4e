"""The folder of a run: whose it is, who may write, and which results are used again."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taco.errors import InputError
from taco.rundir import RunDir, content_key


def counting(result: Any) -> tuple[Callable[[], Any], list[int]]:
    calls: list[int] = []

    def compute() -> Any:
        calls.append(1)
        return result

    return compute, calls


# --- whose folder ----------------------------------------------------------------------------------------------------


def test_a_new_an_empty_and_an_own_folder_are_taken(tmp_path: Path) -> None:
    for _ in range(2):
        RunDir(tmp_path / "deep" / "new").remember_asked({"a": 1})
    (tmp_path / "empty").mkdir()
    assert RunDir(tmp_path / "empty").asked() is None
    assert RunDir(tmp_path / "deep" / "new").asked() == {"a": 1}


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="was not made by taco-export") as caught:
        RunDir(tmp_path)
    assert caught.value.exit_code == 2
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_with_only_a_hidden_file_is_foreign_too(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    with pytest.raises(InputError, match="was not made by taco-export"):
        RunDir(tmp_path)


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        RunDir(tmp_path / "a")


@pytest.mark.parametrize("name", ["file/run", "x" * 300])
def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"--out .* cannot be used: .*\. Choose another --out"):
        RunDir(tmp_path / name)


def test_a_read_only_place_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(InputError, match="cannot be used: Permission denied"):
        RunDir(tmp_path / "run")


# --- one process at a time -------------------------------------------------------------------------------------------

HOLD = "import sys; from pathlib import Path; from taco.rundir import RunDir\n"
HOLD += "with RunDir(Path(sys.argv[1])).locked(): print('held', flush=True); sys.stdin.read()"


def test_a_second_process_is_refused_until_the_first_one_ends(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=r"another taco-export is working in .*\. Wait"), RunDir(tmp_path).locked():
            pytest.fail("two processes hold the folder")
        other.kill()  # a killed process leaves no stale lock
        other.wait()
        with RunDir(tmp_path).locked():
            assert (tmp_path / ".taco" / "lock").exists()


def test_the_lock_is_given_back_after_a_failure(tmp_path: Path) -> None:
    rundir = RunDir(tmp_path)
    with pytest.raises(ValueError, match="inside"), rundir.locked():
        raise ValueError("inside")
    with rundir.locked():
        pass


def test_a_folder_that_cannot_be_locked_is_a_clear_error(tmp_path: Path) -> None:
    rundir = RunDir(tmp_path)
    (tmp_path / ".taco" / "lock").mkdir()
    with pytest.raises(InputError, match="cannot be locked: Is a directory"), rundir.locked():
        pytest.fail("locked a folder")


def _no_locks(*_args: object) -> None:
    raise OSError(37, "No locks available")


def test_a_disk_without_locks_is_not_called_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.flock", _no_locks)
    with pytest.raises(InputError, match="cannot be locked: No locks available"), RunDir(tmp_path).locked():
        pytest.fail("locked without a lock")


# --- steps -----------------------------------------------------------------------------------------------------------


def test_a_result_is_computed_once_and_comes_back_the_same(tmp_path: Path) -> None:
    compute, calls = counting({"ratio": 0.1, "widths": {"a": 8}, "trials": [(0.5, 1.25)], "nothing": None})
    first = RunDir(tmp_path).json_step("widths", {"seed": 0}, compute)
    second = RunDir(tmp_path).json_step("widths", {"seed": 0}, compute)
    assert len(calls) == 1
    assert first == second == {"ratio": 0.1, "widths": {"a": 8}, "trials": [[0.5, 1.25]], "nothing": None}


def test_none_is_a_result(tmp_path: Path) -> None:
    compute, calls = counting(None)
    for _ in range(2):
        assert RunDir(tmp_path).json_step("a", {}, compute) is None
    assert len(calls) == 1


def test_a_result_that_no_longer_holds_is_computed_again(tmp_path: Path) -> None:
    rundir, asked = RunDir(tmp_path), list[Any]()

    def holds(stored: Any) -> bool:
        asked.append(stored)
        return stored != "gone"

    assert rundir.json_step("a", {}, lambda: "gone", holds=holds) == "gone"
    assert rundir.json_step("a", {}, lambda: "new", holds=holds) == "new"
    assert rundir.json_step("a", {}, lambda: "not asked", holds=holds) == "new"
    assert asked == ["gone", "new"], "what was just computed holds"


@pytest.mark.parametrize("changed", [{"seed": 1}, {"seed": "0"}, {}, {"seed": 0, "more": None}], ids=str)
def test_what_changed_is_computed_again(tmp_path: Path, changed: dict[str, Any]) -> None:
    rundir = RunDir(tmp_path)
    rundir.json_step("widths", {"seed": 0}, lambda: "old")
    assert rundir.json_step("widths", changed, lambda: "new") == "new"
    assert rundir.json_step("other", {"seed": 0}, lambda: "of another step") == "of another step"
    assert rundir.json_step("widths", {"seed": 0}, lambda: "not asked") == "old"


DAMAGE = (
    b"",
    b"{",
    b"null",
    b"[]",
    b"7",
    b'{"result": 1}',
    b'{"depends_on": {"seed": 0}}',
    b"\xff\xfe",
    b"[" * 100_000,
)


@pytest.mark.parametrize("content", DAMAGE, ids=lambda c: repr(c[:20]))
def test_a_damaged_result_is_computed_again(tmp_path: Path, content: bytes) -> None:
    rundir = RunDir(tmp_path)
    rundir.json_step("widths", {"seed": 0}, lambda: "right")
    rundir.step_file("widths", {"seed": 0}, ".json").write_bytes(content)
    assert rundir.json_step("widths", {"seed": 0}, lambda: "right again") == "right again"
    assert rundir.json_step("widths", {"seed": 0}, lambda: "not asked") == "right again"


def test_a_result_under_a_foreign_key_is_not_believed(tmp_path: Path) -> None:
    rundir = RunDir(tmp_path)
    rundir.json_step("widths", {"seed": 0}, lambda: "of seed 0")
    rundir.step_file("widths", {"seed": 0}, ".json").replace(rundir.step_file("widths", {"seed": 1}, ".json"))
    assert rundir.json_step("widths", {"seed": 1}, lambda: "of seed 1") == "of seed 1"


def test_a_step_that_fails_stores_nothing(tmp_path: Path) -> None:
    rundir = RunDir(tmp_path)
    with pytest.raises(ZeroDivisionError):
        rundir.json_step("widths", {}, lambda: 1 / 0)
    assert list((tmp_path / ".taco" / "steps").iterdir()) == []


def test_a_result_that_json_cannot_hold_is_refused_before_it_is_stored(tmp_path: Path) -> None:
    rundir = RunDir(tmp_path)
    with pytest.raises(TypeError, match="not JSON serializable"):
        rundir.json_step("widths", {}, lambda: {1, 2})
    assert list((tmp_path / ".taco" / "steps").iterdir()) == []


def test_another_runs_orders_are_taken_over_database_by_database_and_own_ones_stay(tmp_path: Path) -> None:
    old, new = RunDir(tmp_path / "old"), RunDir(tmp_path / "new")
    old.remember_asked({"options": {}})
    for rundir, name in ((old, "a"), (old, "b"), (new, "b"), (old, "")):  # in an older version's place, too
        (rundir.widths / name / "units").mkdir(parents=True, exist_ok=True)
        (rundir.widths / name / "index.json").write_text(f"{rundir.path.name} {name}")
        (rundir.widths / name / "units" / "one.safetensors").write_text(rundir.path.name)
    new.adopt(old.path)
    found = {str(f.relative_to(new.widths)): f.read_text() for f in new.widths.rglob("*") if f.is_file()}
    assert found == {
        "a/index.json": "old a",
        "a/units/one.safetensors": "old",
        "b/index.json": "new b",
        "b/units/one.safetensors": "new",
    }


def test_keys_do_not_depend_on_the_order_nor_on_the_process() -> None:
    value = {"b": [1, 2.5, None], "a": {"x": "é", "path": Path("/a")}}
    assert content_key(value) == content_key({"a": {"path": Path("/a"), "x": "é"}, "b": (1, 2.5, None)})
    assert content_key(value) != content_key({**value, "b": [2.5, 1, None]})
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(content_key, (value,)) == content_key(value)


def test_what_was_asked_is_none_where_it_cannot_be_read(tmp_path: Path) -> None:
    rundir = RunDir(tmp_path)
    assert rundir.asked() is None
    rundir.remember_asked({"task": Path("photos"), "shots": 16})
    assert rundir.asked() == {"task": "photos", "shots": 16}
    (tmp_path / ".taco" / "run.json").write_bytes(b"{half")
    assert rundir.asked() is None


def test_scratch_is_empty_every_time_and_goes(tmp_path: Path) -> None:
    rundir = RunDir(tmp_path)
    (rundir.scratch() / "old").write_text("x")
    assert list(rundir.scratch().iterdir()) == []
    rundir.drop_scratch()
    rundir.drop_scratch()
    assert not (tmp_path / ".taco" / "scratch").exists()
