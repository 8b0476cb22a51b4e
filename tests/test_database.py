"""Databases: what is solved is what a solver gives, is read back as it was, and is never done twice nor read wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_database import HALF, LEVELS, MOST, RECIPE, TWO_FOUR, Net, Pictures, contents, make, net, source

from taco.calibrate import CalibrationOptions, calibrate_in_waves
from taco.database import DEFAULT_LEVELS, LayerDatabase, Recipe, choose_layers
from taco.database import build as building
from taco.database.index import SCHEMA_VERSION, read_index
from taco.database.recipe import ADMM_COLUMNS, DAMPING_LEVEL, read_damping, solver_version
from taco.database.solving import Order, halves_of, solve_layer
from taco.errors import InputError, SolverError, TacoError, TaskError, UnsupportedModuleError
from taco.levels import Level
from taco.moments.sums import LayerMoments, Moments
from taco.moments.unfold import weight_matrix
from taco.solvers.damping import choose_damping
from taco.solvers.loading import solve_levels
from taco.solvers.solver import Solution

UNITS = ("deep", "wide", "grouped", "mix")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("database") / "db"
    make(folder)
    return folder


@pytest.fixture
def copied(built: Path, tmp_path: Path) -> Path:
    shutil.copytree(built, tmp_path / "db")
    return tmp_path / "db"


@pytest.fixture
def solved(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """What is solved from now on: (layer, levels)."""
    done: list[tuple[str, list[str]]] = []
    real = building.solve_layer

    def noting(order: building.Order, *arrays: object) -> building.Solved:
        done.append((order.layer, list(order.specs)))
        return real(order, *arrays)  # type: ignore[arg-type]

    monkeypatch.setattr(building, "solve_layer", noting)
    return done


def expected(unit: str, level: Level) -> Solution:
    given = source()
    moments = dict(calibrate_in_waves(given.model, [unit], given.batches, CalibrationOptions()))[unit].all
    layer = given.model.get_submodule(unit)
    return solve_levels(weight_matrix(layer), moments.H, [level.spec(layer)], "magnitude_refit", 0.01)[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("unit", UNITS)
def test_what_is_stored_is_what_the_solver_gives(unit: str, built: Path) -> None:
    database = LayerDatabase.open(built)
    layer = net().get_submodule(unit)
    for level in database.levels(unit):
        solution = expected(unit, level)
        weight = database.weight(unit, level)
        assert weight.dtype == torch.float32
        assert torch.equal(weight, solution.weight.reshape(layer.weight.shape))  # type: ignore[operator,arg-type]
        assert torch.equal(database.mask(unit, level), solution.mask.reshape(weight.shape))
        assert database.loss(unit, level) == solution.loss
        assert database.nonzeros(unit, level) == int(solution.mask.sum())
        assert 0 < database.relative_loss(unit, level) < 1.01


def test_layers_levels_and_what_does_not_fit(built: Path) -> None:
    database = LayerDatabase.open(built)
    assert database.units == UNITS
    assert database.levels("wide") == (TWO_FOUR, HALF, MOST)
    assert database.levels("deep") == (HALF, MOST)
    (skipped,) = database.skipped
    assert (skipped.layer, skipped.level) == ("deep", "nm:2:4")
    assert "9 columns are no multiple of 36" in skipped.reason
    assert database.entry("grouped").groups == 2
    dense = Level("dense")
    assert database.loss("mix", dense) == database.relative_loss("mix", dense) == 0
    assert database.nonzeros("mix", dense) == 16 * 12


def test_losing_everything_is_a_relative_loss_of_one(tmp_path: Path) -> None:
    database = make(tmp_path / "db", recipe=Recipe((Level("unstructured", 0.999),), "magnitude", 0.01))
    assert database.nonzeros("deep", Level("unstructured", 0.999)) == 0
    assert database.relative_loss("deep", Level("unstructured", 0.999)) == pytest.approx(1)


def test_stitching_gives_a_new_model_and_leaves_the_old_one(built: Path) -> None:
    database, model = LayerDatabase.open(built), net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    stitched = database.stitch(model, {"wide": MOST, "mix": TWO_FOUR, "deep": Level("dense")})
    after = stitched.state_dict()
    assert torch.equal(after["wide.weight"], database.weight("wide", MOST))
    assert torch.equal(after["mix.weight"], database.weight("mix", TWO_FOUR))
    assert all(torch.equal(after[k], v) for k, v in before.items() if k not in ("wide.weight", "mix.weight"))
    assert all(torch.equal(model.state_dict()[k], v) for k, v in before.items())


def test_stitching_refuses_another_model_and_unknown_names(built: Path) -> None:
    database = LayerDatabase.open(built)
    with pytest.raises(InputError, match=r"the model's deep is not the one.*build it again"):
        database.stitch(net(1), {"wide": MOST})
    with pytest.raises(InputError, match="the model's deep is not"):
        database.stitch(torch.nn.Sequential(torch.nn.Linear(2, 2)), {})
    with pytest.raises(InputError, match=r"'wild' is not in the database.*Did you mean 'wide'"):
        database.stitch(net(), {"wild": MOST})
    with pytest.raises(InputError, match=r"deep was not solved at nm:2:4.*It was at: unstructured:0.5"):
        database.weight("deep", TWO_FOUR)
    with pytest.raises(InputError, match="deep was not solved at dense"):
        database.weight("deep", Level("dense"))


def test_the_same_again_does_nothing(copied: Path, solved: list[tuple[str, list[str]]]) -> None:
    before, pictures = contents(copied), Pictures()
    make(copied, source(pictures=pictures))
    assert solved == []
    assert pictures.asked == 0
    assert contents(copied) == before


def test_more_levels_solve_only_these(copied: Path, tmp_path: Path, solved: list[tuple[str, list[str]]]) -> None:
    more = Level("unstructured", 0.7)
    database = make(copied, recipe=Recipe((*LEVELS, more), "magnitude_refit", 0.01))
    assert sorted(solved) == [(unit, ["unstructured:0.7"]) for unit in sorted(UNITS)]
    assert database.levels("deep") == (HALF, more, MOST)
    make(tmp_path / "at once", recipe=Recipe((*LEVELS, more), "magnitude_refit", 0.01))
    assert contents(copied) == contents(tmp_path / "at once")


def test_fewer_levels_and_layers_throw_nothing_away(copied: Path, solved: list[tuple[str, list[str]]]) -> None:
    database = make(copied, source(include=("wide",)), Recipe((HALF,), "magnitude_refit", 0.01))
    assert solved == []
    assert database.units == UNITS
    assert database.levels("wide") == (TWO_FOUR, HALF, MOST)


def test_other_pictures_redo_everything_and_other_weights_what_changed(
    copied: Path, solved: list[tuple[str, list[str]]]
) -> None:
    make(copied, source(pictures=Pictures(1)))
    assert {layer for layer, _ in solved} == set(UNITS)
    solved.clear()
    model = net()
    with torch.no_grad():
        model.get_submodule("mix").weight.mul_(2)  # type: ignore[operator,union-attr]
    database = make(copied, source(model, Pictures(1)))
    assert [layer for layer, _ in solved] == ["mix"], "the inputs of the others are what they were"
    assert database.stitch(model, {"mix": MOST}) is not model


@pytest.mark.parametrize("recipe", [Recipe(LEVELS, "magnitude", 0.01), Recipe(LEVELS, "magnitude_refit", 0.1)], ids=str)
def test_another_solver_or_damping_solves_again(
    recipe: Recipe, copied: Path, solved: list[tuple[str, list[str]]]
) -> None:
    make(copied, recipe=recipe)
    assert {layer for layer, _ in solved} == set(UNITS)


def test_a_flipped_byte_anywhere_is_named_and_repaired(copied: Path, solved: list[tuple[str, list[str]]]) -> None:
    before = contents(copied)
    database = LayerDatabase.open(copied)
    file = copied / database.entry("wide").file
    content = bytearray(file.read_bytes())
    for place in (0, 9, len(content) // 2, len(content) - 1):
        content[place] ^= 1
        file.write_bytes(content)
        content[place] ^= 1
        for read in (lambda: database.weight("wide", MOST), lambda: database.mask("wide", HALF), database.verify):
            with pytest.raises(TacoError, match=rf"{file.name} is damaged\. Build it again"):
                read()
        assert database.weight("mix", MOST).any(), "the others can be read"
    make(copied)
    assert [layer for layer, _ in solved] == ["wide"]
    assert contents(copied) == before


def test_a_file_that_is_gone_is_named_and_made_again(copied: Path) -> None:
    before = contents(copied)
    database = LayerDatabase.open(copied)
    (copied / database.entry("mix").file).unlink()
    with pytest.raises(InputError, match=r"mix-\w+\.safetensors cannot be read: No such file.*Build it again"):
        database.stitch(net(), {"mix": MOST})
    make(copied)
    assert contents(copied) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"kept": 96', '"kept": 97'),
        lambda text: text.replace("magnitude_refit", "magnitude_refix", 1),
        lambda text: "[]",
        lambda text: text.replace(f'"schema_version": {SCHEMA_VERSION}', f'"schema_version": {SCHEMA_VERSION + 1}'),
    ],
    ids=["cut", "a number", "a word", "a list", "a version"],
)
def test_a_damaged_index_is_named_and_made_again(change, copied: Path) -> None:  # type: ignore[no-untyped-def]
    before = contents(copied)
    index = copied / "index.json"
    assert change(index.read_text()) != index.read_text()
    index.write_text(change(index.read_text()))
    with pytest.raises(InputError, match=r"index\.json is damaged\. Build it again"):
        LayerDatabase.open(copied)
    make(copied)
    assert contents(copied) == before


def test_an_index_of_a_newer_version_is_left_alone(copied: Path) -> None:
    newer = read_index(copied).model_copy(update={"schema_version": SCHEMA_VERSION + 1})
    newer.write(copied)
    before = contents(copied)
    with pytest.raises(InputError, match=r"newer version.*Update taco-export"):
        LayerDatabase.open(copied)
    with pytest.raises(InputError, match="newer version"):
        make(copied)
    assert contents(copied) == before


def test_no_database_and_a_folder_of_others_are_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no database.*taco database build"):
        LayerDatabase.open(tmp_path)
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(InputError, match="exists and holds no database"):
        make(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["holiday.jpg"]


def test_what_a_killed_build_was_writing_is_swept(copied: Path) -> None:
    before = contents(copied)
    (copied / "units" / ".wide.safetensors.123.tmp").write_bytes(b"half")
    (copied / "units" / "wide-000000000000.safetensors").write_bytes(b"written, but the index was not")
    make(copied)
    assert contents(copied) == before


def test_a_build_that_fails_keeps_what_is_done_and_names_layer_and_damping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = building.solve_layer

    def failing(order: building.Order, *arrays: object) -> building.Solved:
        if order.layer == "wide":
            return real(building.dataclasses.replace(order, solver="gptq"), *arrays)  # type: ignore[arg-type]
        return real(order, *arrays)  # type: ignore[arg-type]

    monkeypatch.setattr(building, "solve_layer", failing)
    with pytest.raises(SolverError, match=r"wide: solver gptq makes no.*damping 0\.01"):
        make(tmp_path / "db")
    database = LayerDatabase.open(tmp_path / "db")
    assert database.index.finished is None
    assert database.units == ("deep", "grouped", "mix"), "wide is the least work, and comes last"
    monkeypatch.setattr(building, "solve_layer", real)
    assert make(tmp_path / "db").index.finished is not None


@pytest.mark.parametrize("n", [26, 4000])
def test_some_rows_stand_for_many_when_the_damping_is_chosen(n: int) -> None:
    """With as few inputs as columns much damping is right, with many little, whichever rows are asked."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(n, 24, generator=generator, dtype=torch.float64) for _ in range(2)]
    fit, held_out = (Moments((x.T @ x / n)[None], x.mean(0)[None], n) for x in inputs)
    W = torch.randn(1, 500, 24, generator=generator, dtype=torch.float64)
    spec = DAMPING_LEVEL.spec(torch.nn.Identity())
    order = Order("wide", (500, 24), {"unstructured:0.75": spec}, "magnitude", "auto")
    solved = solve_layer(order, W.numpy(), [*halves_of(LayerMoments(fit, held_out))])
    assert solved.damping == choose_damping(W, fit.H, held_out.H, spec)


def test_the_damping_is_chosen_on_held_out_pictures_and_kept(tmp_path: Path) -> None:
    recipe = Recipe((HALF,), "magnitude_refit", "auto")
    first = make(tmp_path / "db", recipe=recipe)
    chosen = {unit: first.entry(unit).damping for unit in first.units}
    assert set(chosen.values()) <= {1e-3, 1e-2, 1e-1}
    second = make(tmp_path / "db", recipe=Recipe(LEVELS, "magnitude_refit", "auto"))
    assert {unit: second.entry(unit).damping for unit in second.units} == chosen
    assert second.levels("mix") == (TWO_FOUR, HALF, MOST)


def test_waves_give_the_same_database_as_one_pass(built: Path, tmp_path: Path) -> None:
    given = source()
    narrow = building.dataclasses.replace(given, options=CalibrationOptions(budget_bytes=200_000))
    make(tmp_path / "db", narrow)
    assert contents(tmp_path / "db") == contents(built)


@pytest.mark.slow
def test_processes_give_the_same_database_as_this_one(built: Path, tmp_path: Path) -> None:
    make(tmp_path / "db", executor="local:2")
    assert contents(tmp_path / "db") == contents(built)


def test_no_picture_is_said(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="no picture"):
        make(tmp_path / "db", building.dataclasses.replace(source(), batches=lambda: iter([])))


def test_layers_are_chosen_by_globs() -> None:
    assert choose_layers(net()).layers == UNITS
    assert choose_layers(net(), exclude=("*e*",)).layers == ("mix",)
    assert choose_layers(net(), include=("stem", "h*")).layers == ("stem", "head"), "asked for by name, they are taken"
    assert choose_layers(net(), include=("*",), exclude=("head",)).layers == ("stem", *UNITS)
    with pytest.raises(InputError, match=r"'grouper\*' matches no Linear or Conv2d.*Did you mean 'grouped'"):
        choose_layers(net(), exclude=("grouper*",))
    with pytest.raises(UnsupportedModuleError, match="no layer is left"):
        choose_layers(net(), include=("mix",), exclude=("mix",))


def test_a_layer_of_an_unknown_kind_is_listed() -> None:
    class Scaled(torch.nn.Conv2d):
        """Treats its weights first."""

    model = Net()
    model.wide = Scaled(8, 16, 1)
    chosen = choose_layers(model)
    assert chosen.layers == ("deep", "grouped", "mix")
    assert chosen.skipped == {"wide": "Scaled multiplies no known weight matrix"}


def test_recipes() -> None:
    assert len(DEFAULT_LEVELS) == 13
    assert Recipe().solver_for(ADMM_COLUMNS) == "admm"
    assert Recipe().solver_for(ADMM_COLUMNS + 1) == "fastobc"
    assert Recipe(solver="magnitude").solver_for(10_000) == "magnitude"
    assert read_damping("auto") == "auto"
    assert read_damping("1e-3") == 0.001
    assert solver_version("admm") == solver_version("magnitude")
    assert solver_version("nobody's") == "unknown"


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe(solver="adm"), "no solver 'adm'"),
        (Recipe(()), "levels are none"),
        (Recipe((HALF, HALF)), "one is there twice"),
        (Recipe(damping=-1.0), "damping of -1.0"),
        (Recipe(damping=float("nan")), "damping of nan"),
    ],
    ids=str,
)
def test_recipes_that_cannot_be(recipe: Recipe, message: str) -> None:
    with pytest.raises(InputError, match=message):
        recipe.check()
    with pytest.raises(InputError, match="is no number"):
        read_damping("little")


def test_a_level_of_more_than_one_layer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="level drop is not one of a single layer"):
        make(tmp_path / "db", recipe=Recipe((Level("drop"),), "magnitude", 0.01))


def test_the_index_is_what_the_schema_says(built: Path) -> None:
    index = json.loads((built / "index.json").read_text())
    assert index["schema_version"] == SCHEMA_VERSION
    assert list(index["units"]) == list(UNITS)
    assert RECIPE.solver == index["units"]["mix"]["inputs"]["solver"]
