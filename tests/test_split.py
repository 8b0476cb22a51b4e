"""Dividing pictures. Nothing is decoded here, so a file of any bytes is a picture; `Facts` say how it looks."""

from __future__ import annotations

import dataclasses
import logging
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import folder, touch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from taco.errors import TaskError
from taco.pictures.facts import Facts
from taco.pictures.listing import Box, LabelledPicture, Listing, Skipped, View
from taco.pictures.split import SplitOptions, Task, split
from taco.task import list_pictures


def look(key: object) -> bytes:
    """A hash of its own for every key: half of its bits are set, as in that of a picture."""
    bits = [0] * 128 + [1] * 128
    random.Random(str(key)).shuffle(bits)
    return int("".join(map(str, bits)), 2).to_bytes(32, "big")


def known(pictures: Iterable[LabelledPicture]) -> dict[View, Facts]:
    """Facts of pictures that look like no other."""
    return {p.view: Facts(look(p.view), infrared=False, taken=None) for p in pictures}


def divided(listing: Listing, facts: Mapping[View, Facts] | None = None, **options: object) -> Task:
    return split(listing, facts or known(listing.pictures), SplitOptions(**options))  # type: ignore[arg-type]


def of_class(pictures: tuple[LabelledPicture, ...], index: int) -> list[str]:
    return [p.path.name for p in pictures if p.label_index == index]


def everything(task: Task) -> tuple[LabelledPicture, ...]:
    return (*task.fit, *task.select, *task.evaluation)


def places(pictures: Iterable[LabelledPicture]) -> set[str | None]:
    return {p.location for p in pictures}


@dataclass(frozen=True)
class Row:
    """A picture to be listed: its class, and what is told of it."""

    label: int
    location: str | None = None
    sequence: str | None = None
    look: int | None = None
    taken: float | None = None
    box: Box | None = None


@dataclass(frozen=True)
class Told:
    """A listing and its facts."""

    listing: Listing
    facts: dict[View, Facts]

    def divided(self, **options: object) -> Task:
        return divided(self.listing, self.facts, **options)


def told(root: Path, rows: Sequence[Row], salt: str = "") -> Told:
    """List one file a row; equal salts give equal files."""
    pictures, facts = [], {}
    for number, row in enumerate(rows):
        path = root / f"{number:03}.jpg"
        if not path.exists():
            touch(path, f"{salt}{number:03}" + "x" * number)
        picture = LabelledPicture(path, row.label, row.box, row.location, row.sequence)
        pictures.append(picture)
        facts[picture.view] = Facts(look(number if row.look is None else f"look {row.look}"), False, row.taken)
    used = max(row.label for row in rows) + 1
    return Told(Listing("told", ("ape", "bat", "cat", "dog")[:used], tuple(pictures)), facts)


# --- pictures that nothing holds together --------------------------------------------------------------------------


@dataclass(frozen=True)
class Counts:
    pictures: int
    shots: int
    fit: int
    select: int
    rest: int


@pytest.mark.parametrize(
    "case",
    [
        Counts(20, 16, 12, 4, 4),
        Counts(2, 16, 1, 1, 0),
        Counts(3, 2, 1, 1, 1),
        Counts(5, 5, 4, 1, 0),
        Counts(9, 6, 4, 2, 3),
    ],
    ids=str,
)
def test_each_class_is_divided(case: Counts, tmp_path: Path) -> None:
    task = divided(list_pictures(folder(tmp_path, fox=case.pictures, hare=case.pictures)), shots=case.shots)
    for index in (0, 1):
        parts = [of_class(part, index) for part in (task.fit, task.select, task.evaluation)]
        assert [len(part) for part in parts] == [case.fit, case.select, case.rest]
        assert len({name for part in parts for name in part}) == case.pictures


def test_split_depends_on_neither_other_classes_nor_order_nor_place(tmp_path: Path) -> None:
    small = list_pictures(folder(tmp_path / "a", fox=20, hare=5))
    large = list_pictures(folder(tmp_path / "b", fox=20, hare=9, ape=7))
    turned = Listing(large.name, large.classes, large.pictures[::-1])
    expected = divided(small, shots=8)
    for task, index in ((divided(large, shots=8), 1), (divided(turned, shots=8), 1)):
        assert of_class(task.fit, index) == of_class(expected.fit, 0)
        assert of_class(task.select, index) == of_class(expected.select, 0)


def test_seed_changes_the_shots_and_more_shots_keep_the_earlier(tmp_path: Path) -> None:
    listing = list_pictures(folder(tmp_path, fox=40, hare=40))

    def shots(count: int, seed: int) -> set[str]:
        task = divided(listing, shots=count, seed=seed)
        return set(of_class(task.fit + task.select, 0))

    assert shots(8, 0) != shots(8, 1)
    assert shots(8, 0) == shots(8, 0)
    assert shots(8, 0) < shots(16, 0)


def test_classes_do_not_draw_the_same_positions(tmp_path: Path) -> None:
    task = divided(list_pictures(folder(tmp_path, fox=40, hare=40)), shots=8)
    assert of_class(task.fit, 0) != of_class(task.fit, 1)


def test_unreadable_pictures_are_left_out_and_passed_on(tmp_path: Path) -> None:
    listing = list_pictures(folder(tmp_path, fox=4, hare=4))
    bad = listing.pictures[0].path
    skipped = Skipped(bad, "cut short")
    task = split(listing, known(listing.pictures[1:]), SplitOptions(4), [skipped])
    assert bad not in {p.path for p in task.fit + task.select + task.evaluation}
    assert task.skipped == (skipped,)


def test_class_with_one_readable_picture_is_an_error(tmp_path: Path) -> None:
    listing = list_pictures(folder(tmp_path, fox=4, hare=4))
    with pytest.raises(TaskError, match="class 'hare' has 1 readable pictures, at least 2"):
        split(listing, known(listing.pictures[:5]), SplitOptions())


def test_one_shot_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="1 shots a class are too few"):
        divided(list_pictures(folder(tmp_path, fox=4, hare=4)), shots=1)


def test_few_pictures_and_none_for_evaluation_are_warned_of(tmp_path: Path) -> None:
    task = divided(list_pictures(folder(tmp_path, fox=3, hare=9)), shots=5)
    assert task.warnings == (
        "fewer readable pictures than the 5 shots asked, all of them used: fox (3)",
        "no picture left for evaluation: fox",
    )


def test_long_warnings_are_shortened(tmp_path: Path) -> None:
    task = divided(list_pictures(folder(tmp_path, **{f"c{n}": 2 for n in range(12)})), shots=2)
    assert task.warnings == ("no picture left for evaluation: c0, c1, c10, c11, c2, c3, c4, c5 and 4 more",)


# --- evaluation from elsewhere ------------------------------------------------------------------------------------


def test_evaluation_listing_replaces_the_rest_and_is_relabelled(tmp_path: Path) -> None:
    listing = list_pictures(folder(tmp_path / "a", fox=9, hare=9, owl=9))
    evaluation = list_pictures(folder(tmp_path / "b", hare=3, owl=2))
    readable = known((*listing.pictures, *evaluation.pictures[1:]))
    task = split(listing, readable, SplitOptions(4, evaluation=evaluation))
    assert [(p.path.parent.name, task.classes[p.label_index]) for p in task.evaluation] == [
        *[("hare", "hare")] * 2,
        *[("owl", "owl")] * 2,
    ]
    assert task.warnings == ("no picture left for evaluation: fox",)


def test_copies_of_shots_are_not_evaluated(tmp_path: Path) -> None:
    listing = list_pictures(folder(tmp_path / "a", fox=4, hare=4))
    shots = divided(listing, shots=4)
    root = folder(tmp_path / "b", fox=2, hare=2)
    (root / "fox/copy.jpg").write_bytes(shots.fit[0].path.read_bytes())
    (root / "fox/link.jpg").symlink_to(shots.select[0].path)
    same_size = "x" * shots.fit[0].path.stat().st_size
    touch(root / "hare/other.jpg", same_size)
    evaluation = list_pictures(root)
    readable = known((*listing.pictures, *evaluation.pictures))
    task = split(listing, readable, SplitOptions(4, evaluation=evaluation))
    kept = {p.path.name for p in task.evaluation}
    assert {"copy.jpg", "link.jpg"}.isdisjoint(kept)
    assert "other.jpg" in kept
    assert (
        "2 evaluation pictures are copies of shots, or of their bursts, and were left out of the evaluation"
        in task.warnings
    )


def test_copies_within_one_folder_are_not_evaluated(tmp_path: Path) -> None:
    root = folder(tmp_path, hare=8)
    for number in range(8):
        touch(root / f"fox/{number}.jpg", "the same picture")
    task = divided(list_pictures(root), shots=4)
    assert of_class(task.evaluation, 0) == []
    assert len(of_class(task.evaluation, 1)) == 4


def test_unknown_evaluation_label_is_an_error(tmp_path: Path) -> None:
    evaluation = list_pictures(folder(tmp_path / "b", foxes=3, hare=2))
    listing = list_pictures(folder(tmp_path / "a", fox=4, hare=4))
    with pytest.raises(TaskError, match=r"evaluation class 'foxes' is not a class of the task\. Did you mean 'fox'"):
        divided(listing, evaluation=evaluation)


def test_picture_removed_meanwhile_is_an_error(tmp_path: Path) -> None:
    listing = list_pictures(folder(tmp_path, fox=4, hare=4))
    listing.pictures[0].path.unlink()
    with pytest.raises(TaskError, match=r"cannot read .*000.jpg: No such file"):
        divided(listing, shots=3)


# --- places, bursts and copies -------------------------------------------------------------------------------------


def spread(classes: int, at: int, each: int) -> list[Row]:
    """`each` pictures of every class at each of `at` places."""
    return [Row(c, location=f"place {p}") for c in range(classes) for p in range(at) for _ in range(each)]


def test_places_are_apart_and_shots_come_from_several(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "taco.pictures.split"):
        task = told(tmp_path, spread(3, 12, 6)).divided(shots=16)
    fit, select, evaluation = (places(part) for part in (task.fit, task.select, task.evaluation))
    assert task.split_by == "location"
    assert fit.isdisjoint(select)
    assert (fit | select).isdisjoint(evaluation)
    assert len(fit | select) == 4
    assert Counter(p.label_index for p in (*task.fit, *task.select)) == {0: 16, 1: 16, 2: 16}
    assert (len(task.evaluation), task.held_back) == (8 * 6 * 3, (24 - 16) * 3)
    assert task.warnings == ()
    assert "split by location: 4 places for the shots, 8 for the evaluation" in caplog.text


def test_a_label_that_the_place_decides_cannot_be_learnt_from_the_evaluation_places(tmp_path: Path) -> None:
    rows = [Row(p % 2, location=f"place {p}") for p in range(10) for _ in range(8)]
    by_place = told(tmp_path, rows).divided(shots=8)
    assert places((*by_place.fit, *by_place.select)).isdisjoint(places(by_place.evaluation))
    assert {p.label_index for p in by_place.evaluation} == {0, 1}
    careless = told(tmp_path, rows).divided(shots=8, split_by="image")
    leaking = sum(p.location in places((*careless.fit, *careless.select)) for p in careless.evaluation)
    [warning] = careless.warnings
    assert leaking > 40
    assert warning == (
        "pictures of the same place are both among the shots and in the evaluation "
        f"({leaking} of 64 evaluation pictures): "
        "the accuracy may be that of recognising the place; use --split-by location"
    )


def test_a_place_that_few_lack_is_still_the_level(tmp_path: Path) -> None:
    rows = [*spread(2, 6, 10), *[Row(0), Row(1)]]
    assert told(tmp_path, rows).divided(shots=4).split_by == "location"
    half = [Row(c, location=f"place {n % 6}" if n % 2 else None) for c in (0, 1) for n in range(40)]
    assert told(tmp_path, half).divided(shots=4).split_by == "image"


def test_sequences_of_the_source_come_before_times(tmp_path: Path) -> None:
    rows = [Row(c, sequence=f"s{n // 3}", taken=0.0) for c in (0, 1) for n in range(30)]
    task = told(tmp_path, rows).divided(shots=6)
    sequence = {p.path: p.sequence for p in everything(task)}
    assert task.split_by == "sequence"
    assert {sequence[p.path] for p in (*task.fit, *task.select)}.isdisjoint(p.sequence for p in task.evaluation)


def test_frames_taken_within_a_minute_are_a_burst(tmp_path: Path) -> None:
    # Bursts of 3, each frame 50 s after the one before, an hour apart; listed in no order of time.
    rows = [Row(c, taken=c * 1e6 + (n % 8) * 3600 + n // 8 * 50.0) for c in (0, 1) for n in range(24)]
    made = told(tmp_path, rows)
    task = made.divided(shots=6)
    hour = {view: (f.taken or 0) // 3600 for view, f in made.facts.items()}
    assert task.split_by == "sequence"
    assert {hour[p.view] for p in (*task.fit, *task.select)}.isdisjoint(hour[p.view] for p in task.evaluation)
    assert len(task.evaluation) % 3 == 0
    [warning] = made.divided(shots=6, split_by="image").warnings
    assert "pictures of the same burst are both among the shots and in the evaluation" in warning
    apart = [dataclasses.replace(row, taken=61.0 * n) for n, row in enumerate(rows)]
    assert told(tmp_path, apart).divided(shots=6).split_by == "image"


def test_auto_takes_the_next_level_where_most_classes_are_at_one_place(tmp_path: Path) -> None:
    rows = [Row(c, location=f"place {c}", sequence=f"{c}-{n // 2}") for c in (0, 1) for n in range(20)]
    rows += [Row(2, location=f"place {n % 4}", sequence=f"2-{n}") for n in range(20)]
    task = told(tmp_path, rows).divided(shots=4)
    assert task.split_by == "sequence"
    assert task.warnings[0] == (
        "not split by location: 2 of 3 classes have pictures of one place only, which leaves none to evaluate them on"
    )
    assert "recognising the place" in task.warnings[1]
    assert "--split-by" not in task.warnings[1]
    asked = told(tmp_path, rows).divided(shots=4, split_by="location")
    assert asked.split_by == "location"
    assert asked.warnings[-1].startswith("no picture left for evaluation: ape, bat; give pictures of another place")
    assert "shots of one place only, so choices are made on pictures like those learnt from: ape, bat" in asked.warnings


def test_locations_that_nobody_told_cannot_be_split_by(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"does not tell where its pictures were taken.*--split-by sequence"):
        told(tmp_path, [Row(0), Row(0), Row(1), Row(1)]).divided(split_by="location")


def test_a_place_is_left_for_the_evaluation_and_shots_are_fewer(tmp_path: Path) -> None:
    task = told(tmp_path, spread(2, 3, 2)).divided(shots=16)
    assert (
        "fewer than the 16 shots asked, because a place is left for the evaluation: ape (4), bat (4)" in task.warnings
    )
    assert len(places(task.evaluation)) == 1


def test_a_place_with_one_picture_of_a_class_is_rather_evaluated_on(tmp_path: Path) -> None:
    for seed in range(4):
        rows = [Row(0, location="a"), *[Row(0, location="b")] * 5, *spread(1, 4, 3)]
        rows = [rows[0], *rows[1:6], *[Row(1, location=f"far {n % 4}") for n in range(12)]]
        task = told(tmp_path, rows).divided(shots=4, seed=seed)
        assert [p.location for p in task.evaluation if p.label_index == 0] == ["a"]


def test_copies_stay_together_over_classes_and_are_named(tmp_path: Path) -> None:
    # Every picture of class 0 looks like one of class 1: a camera's frame with and without the animal.
    made = told(tmp_path, [Row(c, look=n) for c in (0, 1) for n in range(20)])
    task = made.divided(shots=4)
    shots = {made.facts[p.view].phash for p in (*task.fit, *task.select)}
    assert shots.isdisjoint(made.facts[p.view].phash for p in task.evaluation)
    assert task.duplicates == 40
    assert len(everything(task)) + task.held_back == 40
    [warning] = task.warnings
    assert warning.startswith("40 pictures are copies or near copies of another one and stay together: ")
    assert "/000.jpg = " in warning
    assert "and 17 more" in warning


def test_a_look_that_many_places_share_does_not_join_them(tmp_path: Path) -> None:
    dark = [Row(c, location=f"place {n}", look=0) for c in (0, 1) for n in range(8)]
    task = told(tmp_path, [*spread(2, 8, 4), *dark]).divided(shots=8)
    assert task.split_by == "location"
    assert len(places(task.evaluation)) == 4


def test_a_look_that_two_places_share_makes_them_one(tmp_path: Path) -> None:
    twins = [Row(0, location="place 0", look=0), Row(0, location="place 1", look=0)]
    for seed in range(6):
        task = told(tmp_path, [*spread(2, 6, 4), *twins]).divided(shots=4, seed=seed)
        evaluated = places(task.evaluation)
        assert ("place 0" in evaluated) == ("place 1" in evaluated)


def test_views_of_one_file_stay_together(tmp_path: Path) -> None:
    paths = [touch(tmp_path / f"{n}.jpg") for n in range(20)]
    boxes = [Box(0.1, 0.1, 0.2, 0.2), Box(0.6, 0.5, 0.3, 0.3)]
    pictures = [LabelledPicture(path, label, boxes[label]) for path in paths for label in (0, 1)]
    task = divided(Listing("t", ("fox", "hare"), tuple(pictures)), shots=4)
    shots = {p.path for p in (*task.fit, *task.select)}
    assert shots.isdisjoint(p.path for p in task.evaluation)
    assert {p.box for p in everything(task)} == set(boxes)
    assert task.duplicates == 0


def test_the_same_bytes_under_two_labels_are_used_for_neither(tmp_path: Path) -> None:
    root = folder(tmp_path, fox=6, hare=6)
    touch(root / "fox/same.jpg", "one picture")
    touch(root / "hare/again.jpg", "one picture")
    task = divided(list_pictures(root), shots=4)
    assert {"same.jpg", "again.jpg"}.isdisjoint(p.path.name for p in everything(task))
    assert [(s.path.name, s.reason) for s in task.skipped] == [
        ("same.jpg", f"the same picture as {root}/hare/again.jpg, which has the label 'hare': one must be wrong"),
        ("again.jpg", f"the same picture as {root}/fox/same.jpg, which has the label 'fox': one must be wrong"),
    ]


# --- evaluation from elsewhere: copies, bursts and places ----------------------------------------------------------


def test_near_copies_and_bursts_of_shots_are_not_evaluated(tmp_path: Path) -> None:
    task = told(
        tmp_path / "a",
        [Row(c, sequence=f"{c}-{n}", location="hill", look=10 * c + n) for c in (0, 1) for n in range(4)],
    )
    extra = [
        Row(0, look=0, location="lake"),  # the look of a shot
        Row(0, sequence="1-2", location="hill"),  # the sequence of a shot
        Row(1, location="hill"),
        Row(1, location="lake"),
    ]
    evaluation = told(
        tmp_path / "b",
        [dataclasses.replace(r, look=99 + n if r.look is None else r.look) for n, r in enumerate(extra)],
        "b",
    )
    done = divided(task.listing, {**task.facts, **evaluation.facts}, shots=4, evaluation=evaluation.listing)
    assert [p.path.name for p in done.evaluation] == ["002.jpg", "003.jpg"]
    assert done.held_back == 2
    assert (
        "2 evaluation pictures are copies of shots, or of their bursts, and were left out of the evaluation"
        in done.warnings
    )
    assert any("(1 of 2 evaluation pictures): the accuracy may be that of recognising" in w for w in done.warnings)


def test_everything_but_evaluation_may_be_at_one_place_where_that_comes_from_elsewhere(tmp_path: Path) -> None:
    task = told(tmp_path / "a", [Row(c, location=f"place {c}") for c in (0, 1) for _ in range(6)])
    evaluation = told(tmp_path / "b", [Row(c, location="lake", look=c) for c in (0, 1)], "b")
    done = divided(task.listing, {**task.facts, **evaluation.facts}, shots=4, evaluation=evaluation.listing)
    assert done.split_by == "location"
    assert len(done.evaluation) == 2
    assert done.warnings == (
        "shots of one place only, so choices are made on pictures like those learnt from: ape, bat",
    )


def test_no_class_gives_all_of_its_places_to_the_select_shots(tmp_path: Path) -> None:
    where = (("a", "b"), ("b", "c"), ("c", "d"))
    rows = [Row(c, location=place) for c, two in enumerate(where) for place in two for _ in range(4)]
    made, evaluation = told(tmp_path / "a", rows), told(tmp_path / "b", [Row(0, look=99), Row(1, look=98)], "b")
    facts = {**made.facts, **evaluation.facts}
    for seed in range(12):
        task = divided(made.listing, facts, shots=8, seed=seed, evaluation=evaluation.listing)
        assert not [warning for warning in task.warnings if "learnt from" in warning]
        assert places(task.fit).isdisjoint(places(task.select))


# --- laws ----------------------------------------------------------------------------------------------------------


@st.composite
def tasks(draw: st.DrawFn) -> list[Row]:
    """Rows of up to four classes, with and without places, sequences, times and copies."""
    located, named, timed, copied = (draw(st.booleans()) for _ in range(4))
    every = st.builds(
        Row,
        st.integers(0, draw(st.integers(1, 3))),
        st.sampled_from(["p0", "p1", "p2", "p3", "p4", "p5"]) if located else st.none(),
        st.none() | st.sampled_from(["s0", "s1", "s2", "s3", "s4"]) if named else st.none(),
        st.none() | st.integers(0, 4) if copied else st.none(),
        st.none() | st.integers(0, 30).map(lambda n: 25.0 * n) if timed else st.none(),
    )
    rows = draw(st.lists(every, min_size=4, max_size=40))
    counts = Counter(row.label for row in rows)
    assume(len(counts) >= 2)
    labels = {label: index for index, label in enumerate(sorted(counts))}
    rows += [dataclasses.replace(row, look=None) for row in rows if counts[row.label] == 1]
    return [dataclasses.replace(row, label=labels[row.label]) for row in rows]


def keys_of(task: Task, made: Told) -> dict[View, set[object]]:
    """What each picture shares with others that must be on its side, told anew from the rows."""
    keys: dict[View, set[object]] = {p.view: set() for p in made.listing.pictures}
    timed: dict[object, list[tuple[float, View]]] = defaultdict(list)
    looks: dict[bytes, list[LabelledPicture]] = defaultdict(list)
    for p in made.listing.pictures:
        looks[made.facts[p.view].phash].append(p)
        if task.split_by == "location":
            keys[p.view].add(p.location)
        elif task.split_by == "sequence" and p.sequence:
            keys[p.view].add((p.location, p.sequence))
        elif task.split_by == "sequence" and (taken := made.facts[p.view].taken) is not None:
            timed[p.location].append((taken, p.view))
    for place, moments in timed.items():
        start = before = -1e9
        for taken, view in sorted(moments):
            start = taken if taken - before > 60 else start
            before = taken
            keys[view].add((place, start))
    for phash, alike in looks.items():
        if task.split_by != "location" or len(places(alike)) <= 3:
            for p in alike:
                keys[p.view].add(phash)
    return keys


def groups(keys: Mapping[View, set[object]]) -> dict[View, int]:
    """Number the connected parts, the slow way."""
    group = {view: number for number, view in enumerate(keys)}
    changed = True
    while changed:
        lowest: dict[object, int] = {}
        for view, mine in keys.items():
            for key in mine:
                lowest[key] = min(group[view], lowest.get(key, group[view]))
        now = {view: min([group[view], *(lowest[key] for key in mine)]) for view, mine in keys.items()}
        changed, group = now != group, now
    return group


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two places for the files, which `told` makes once."""
    return tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("there") / "and/deeper"


asked = st.sampled_from(["auto", "auto", "sequence", "image"])
many = settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


@many
@given(rows=tasks(), shots=st.integers(2, 9), seed=st.integers(0, 3), split_by=asked)
def test_no_group_straddles(roots: tuple[Path, Path], rows: list[Row], shots: int, seed: int, split_by: str) -> None:
    made = told(roots[0], rows)
    task = made.divided(shots=shots, seed=seed, split_by=split_by)
    views = [p.view for p in everything(task)]
    assert len(views) == len(set(views))
    assert task.held_back == len(rows) - len(views)
    group = groups(keys_of(task, made))
    learnt = {group[p.view] for p in (*task.fit, *task.select)}
    assert learnt.isdisjoint(group[p.view] for p in task.evaluation)
    inside = next((w.partition("learnt from: ")[2].split(", ") for w in task.warnings if "learnt from: " in w), [])
    for index, name in enumerate(made.listing.classes):
        fit, select = ([p for p in part if p.label_index == index] for part in (task.fit, task.select))
        assert fit
        assert select
        assert len(fit) + len(select) <= shots
        apart = {group[p.view] for p in fit}.isdisjoint(group[p.view] for p in select)
        assert apart or name in inside
        of_name = Counter(group[p.view] for p in made.listing.pictures if p.label_index == index)
        if len(of_name) == 1:
            assert name in inside
    sides = [
        {group[p.view] for p in part if made.listing.classes[p.label_index] not in inside}
        for part in (task.fit, task.select)
    ]
    assert sides[0].isdisjoint(sides[1])


@many
@given(rows=tasks(), shots=st.integers(2, 9), seed=st.integers(0, 3), split_by=asked, mix=st.randoms())
def test_neither_the_order_nor_the_place_of_the_folder_matters(
    roots: tuple[Path, Path], rows: list[Row], shots: int, seed: int, split_by: str, mix: random.Random
) -> None:
    here, there = (told(root, rows) for root in roots)
    order = list(there.listing.pictures)
    mix.shuffle(order)
    there = Told(dataclasses.replace(there.listing, pictures=tuple(order)), there.facts)

    def roles(task: Task) -> list[list[tuple[str, int]]]:
        return [[(p.path.name, p.label_index) for p in part] for part in (task.fit, task.select, task.evaluation)]

    one, other = (t.divided(shots=shots, seed=seed, split_by=split_by) for t in (here, there))
    assert roles(one) == roles(other)
    assert (one.held_back, one.duplicates) == (other.held_back, other.duplicates)


@many
@given(rows=tasks(), few=st.integers(2, 8), more=st.integers(0, 8), seed=st.integers(0, 3))
def test_more_shots_keep_the_earlier_ones(
    roots: tuple[Path, Path], rows: list[Row], few: int, more: int, seed: int
) -> None:
    def shots(count: int) -> set[View]:
        task = told(roots[0], rows).divided(shots=count, seed=seed, split_by="image")
        return {p.view for p in (*task.fit, *task.select)}

    assert shots(few) <= shots(few + more)


@many
@given(foxes=st.integers(2, 12), hares=st.integers(2, 12), shots=st.integers(2, 10), seed=st.integers(0, 5))
def test_without_copies_a_class_does_not_depend_on_the_others(
    roots: tuple[Path, Path], foxes: int, hares: int, shots: int, seed: int
) -> None:
    fox = [Row(0)] * foxes
    one = told(roots[0], [*fox, *[Row(1)] * hares]).divided(shots=shots, seed=seed)
    other = told(roots[0], [*fox, *[Row(1)] * 3]).divided(shots=shots, seed=seed)
    assert of_class(one.fit, 0) == of_class(other.fit, 0)
    assert of_class(one.select, 0) == of_class(other.select, 0)


def test_seeds_draw_different_places(tmp_path: Path) -> None:
    made = told(tmp_path, spread(2, 12, 4))
    drawn = [frozenset(places(made.divided(shots=8, seed=seed).fit)) for seed in range(5)]
    assert len(set(drawn)) > 2
    assert drawn[0] == frozenset(places(made.divided(shots=8, seed=0).fit))
