"""Options are checked once, in the words of the command line."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from pydantic import ValidationError

from taco.errors import InputError
from taco.options import ExportOptions, make_options

LEAST: dict[str, object] = {"task": "photos", "target": "host-cpu", "out": "runs/a"}


def test_defaults_are_those_of_the_documentation() -> None:
    options = make_options(LEAST)
    assert (options.model, options.head, options.shots, options.seed) == ("tf_efficientnet_lite0", "auto", 16, 0)
    assert options.recover_minutes == 5.0
    assert options.task == Path("photos")
    unset = ("weights", "classes", "class_map", "evaluation", "speedup", "macs", "threads")
    assert all(getattr(options, name) is None for name in unset)
    assert not options.random_weights


def test_what_may_lose_little_is_recovered_for_less_time_unless_minutes_are_given() -> None:
    assert make_options({**LEAST, "max_drop": 1.0}).recover_minutes == 2.0
    assert make_options({**LEAST, "max_drop": 1.0, "recover_minutes": 5.0}).recover_minutes == 5.0
    assert make_options({**LEAST, "max_drop": 1.0, "recover_minutes": 0.0}).recover_minutes == 0.0
    assert make_options({**LEAST, "max_drop": None, "recover_minutes": None}).recover_minutes == 5.0


@dataclasses.dataclass(frozen=True)
class Refused:
    values: dict[str, object]
    message: str

    @property
    def name(self) -> str:
        return " ".join(f"{k}={v}" for k, v in self.values.items())


REFUSED = (
    Refused({"input_size": "large"}, "--input-size: "),
    Refused({"input_size": 16}, "--input-size 16: pixels from 32"),
    Refused({"input_size": 96, "sparsity": 0.9}, "--input-size and --sparsity exclude each other"),
    Refused({"input_size": "auto"}, "--input-size auto needs --max-drop and --allocation latency"),
    Refused({"input_size": 96, "latency_table": "t.json", "speedup": 2}, "--input-size and --latency-table exclude"),
    Refused({"shots": 1}, "--shots 1: at least 2"),
    Refused({"shots": "many"}, "--shots: .*integer"),
    Refused({"shots": 2.5}, "--shots: .*integer"),
    Refused({"speedup": 0}, "--speedup 0.0: a finite ratio above 0"),
    Refused({"speedup": -2}, "--speedup -2.0"),
    Refused({"speedup": float("nan")}, "--speedup nan"),
    Refused({"speedup": float("inf")}, "--speedup inf"),
    Refused({"speedup": 2, "macs": 0.5}, "--speedup and --macs exclude each other"),
    Refused({"macs": 0}, "--macs 0.0: a share above 0"),
    Refused({"sparsity": 0}, "--sparsity 0.0: the share that becomes zero"),
    Refused({"sparsity": 1}, "--sparsity 1.0: the share that becomes zero"),
    Refused({"sparsity": 0.9, "speedup": 2}, "--sparsity and --speedup exclude each other"),
    Refused({"sparsity": 0.9, "macs": 0.5}, "--sparsity and --macs exclude each other"),
    Refused({"pattern": "2:4", "macs": 0.5}, "--pattern 2:4 excludes --speedup and --macs"),
    Refused({"pattern": "2:4", "sparsity": 0.9}, "--pattern 2:4 makes half of the weights zero"),
    Refused({"pattern": "4-block"}, "--pattern 4-block needs --sparsity"),
    Refused({"pattern": "3:4"}, "--pattern: "),
    Refused({"include": ("a",)}, "--include and --exclude name layers for --sparsity"),
    Refused({"damping": -1}, "--damping -1.0: a number from 0"),
    Refused({"calibration": "agnostic"}, "--calibration agnostic needs --agnostic-images"),
    Refused({"agnostic_images": "photos"}, "--agnostic-images needs --calibration agnostic"),
    Refused({"calibration": "agnostic", "agnostic_images": "nowhere"}, "--agnostic-images nowhere: there is no such"),
    Refused({"macs": 1.01}, "--macs 1.01"),
    Refused({"macs": float("nan")}, "--macs nan"),
    Refused({"recover_minutes": -1}, "--recover-minutes -1.0: 0 is none"),
    Refused({"recover_minutes": float("inf")}, "--recover-minutes inf"),
    Refused({"recover_minutes": float("nan")}, "--recover-minutes nan"),
    Refused({"seed": -1}, "--seed -1: a whole number from 0"),
    Refused({"seed": 2**32}, "--seed 4294967296"),
    Refused({"gate_drop": -1}, "--gate-drop -1.0: points from 0 to 100"),
    Refused({"gate_class_drop": float("nan")}, "--gate-class-drop nan: points from 0 to 100"),
    Refused({"runtime_device": "AUTO"}, "--runtime-device: .*'CPU'"),
    Refused({"threads": 0}, "--threads 0: at least 1"),
    Refused({"weights": "a.pth", "random_weights": True}, "--weights and --random-weights exclude each other"),
    Refused({"classes": ()}, "--classes names no class"),
    Refused({"head": "guess"}, "--head: .*'auto'"),
    Refused({"class_map": "no/such.json"}, "--class-map no/such.json: there is no such file"),
    Refused({"evaluation": 3}, "--eval: "),
    Refused({"task": None}, "TASK: "),
    Refused({"speed_up": 2}, "--speed-up: Extra inputs"),
)


@pytest.mark.parametrize("case", REFUSED, ids=lambda c: c.name)
def test_what_cannot_be_is_refused_by_its_flag(case: Refused) -> None:
    with pytest.raises(InputError, match=f"^{case.message}") as caught:
        make_options(LEAST | case.values)
    assert caught.value.exit_code == 2
    assert "--help" in caught.value.todo


@pytest.mark.parametrize(
    "values",
    [{"shots": 2}, {"macs": 1.0}, {"macs": 1e-9}, {"speedup": 0.5}, {"recover_minutes": 0}, {"seed": 2**32 - 1}],
    ids=str,
)
def test_the_limits_themselves_are_allowed(values: dict[str, object]) -> None:
    options = make_options(LEAST | values)
    assert all(getattr(options, name) == value for name, value in values.items())


def test_a_missing_value_names_its_flag() -> None:
    with pytest.raises(InputError, match="--target: Field required"):
        make_options({"task": "photos", "out": "runs/a"})


def test_options_do_not_change() -> None:
    options = make_options(LEAST)
    with pytest.raises(ValidationError):
        options.shots = 4  # type: ignore[misc]


def test_options_survive_a_round_trip_through_json(tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text("{}")
    options = make_options(LEAST | {"classes": ["b", "a"], "class_map": tmp_path / "map.json", "speedup": 1.5})
    assert ExportOptions.model_validate_json(options.model_dump_json()) == options
    assert options.classes == ("b", "a")
