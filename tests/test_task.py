"""Listing labelled pictures and dividing them. Nothing is decoded here, so a file of any bytes is a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taco.errors import TaskError
from taco.task import LabelledPicture, Listing, Skipped, SplitOptions, Task, list_pictures, split


def touch(path: Path, content: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content or str(path))
    return path


def folder(root: Path, **counts: int) -> Path:
    for name, count in counts.items():
        for number in range(count):
            touch(root / name / f"{number:03}.jpg")
    return root


def names(listing: Listing) -> list[tuple[str, str]]:
    return [(p.path.name, listing.classes[p.label_index]) for p in listing.pictures]


def divided(listing: Listing, **options: object) -> Task:
    return split(listing, {p.path for p in listing.pictures}, SplitOptions(**options))  # type: ignore[arg-type]


def of_class(pictures: tuple[LabelledPicture, ...], index: int) -> list[str]:
    return [p.path.name for p in pictures if p.label_index == index]


# --- folders -------------------------------------------------------------------------------------------------------


def test_folder_is_listed_recursively_in_order(tmp_path: Path) -> None:
    root = tmp_path / "site"
    for name in ("hare/b.JPG", "hare/deep/er/a.webp", "fox/2.TIFF", "fox/1.png", "fox/notes.txt", "fox/Thumbs.db"):
        touch(root / name)
    for hidden in (".git/x.jpg", "fox/.trash/x.jpg", "fox/._1.png"):
        touch(root / hidden)
    listing = list_pictures(root)
    assert listing.name == "site"
    assert listing.classes == ("fox", "hare")
    assert names(listing) == [("1.png", "fox"), ("2.TIFF", "fox"), ("b.JPG", "hare"), ("a.webp", "hare")]
    assert all(p.path.is_absolute() for p in listing.pictures)
    assert listing.warnings == ()


def test_asked_classes_keep_their_order_and_leave_others_out(tmp_path: Path) -> None:
    listing = list_pictures(folder(tmp_path, fox=2, hare=2, owl=2), ["owl", "fox"])
    assert listing.classes == ("owl", "fox")
    assert {label for _, label in names(listing)} == {"owl", "fox"}


def test_pictures_beside_the_class_folders_are_reported(tmp_path: Path) -> None:
    touch(folder(tmp_path, fox=2, hare=2) / "stray.jpg")
    assert list_pictures(tmp_path).warnings == (f"1 pictures beside the class folders of {tmp_path.name} are not used",)


def test_link_loops_end_and_links_are_followed(tmp_path: Path) -> None:
    root = folder(tmp_path / "site", fox=2, hare=2)
    elsewhere = folder(tmp_path, elsewhere=1) / "elsewhere"
    (root / "fox/loop").symlink_to(root / "fox", target_is_directory=True)
    (root / "hare/more").symlink_to(elsewhere, target_is_directory=True)
    (root / "fox/self.jpg").symlink_to(root / "fox/self.jpg")
    listing = list_pictures(root)
    assert [n for n, label in names(listing) if label == "fox"] == ["000.jpg", "001.jpg", "self.jpg"]
    assert len(of_class(listing.pictures, 1)) == 3


# --- CSV files -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GoodCsv:
    id: str
    content: bytes
    expected: list[tuple[str, str]]


PLAIN = [("a.jpg", "fox"), ("b.jpg", "hare")]


@pytest.mark.parametrize(
    "case",
    [
        GoodCsv("plain", b"path,label\na.jpg,fox\nb.jpg,hare\n", PLAIN),
        GoodCsv("filepath", b"filepath,label\na.jpg,fox\nb.jpg,hare\n", PLAIN),
        GoodCsv("extra columns", b"id,label,path,when\n1,fox,a.jpg,\n2,hare,sub/b.jpg,now\n", PLAIN),
        GoodCsv("bom and crlf", b"\xef\xbb\xbfpath,label\r\na.jpg,fox\r\nb.jpg,hare\r\n", PLAIN),
        GoodCsv("spaces and case", b"Path, Label\na.jpg, fox \n b.jpg,hare\n\n", PLAIN),
        GoodCsv("quotes", b'path,label\n"a,1.jpg","fox, red"\nb.jpg,hare\n', [("a,1.jpg", "fox, red"), PLAIN[1]]),
        GoodCsv("utf-8", "path,label\na.jpg,Lüchs\nb.jpg,hare\n".encode(), [("a.jpg", "Lüchs"), PLAIN[1]]),
        GoodCsv("latin-1", "path,label\na.jpg,Lüchs\nb.jpg,hare\n".encode("latin-1"), [("a.jpg", "Lüchs"), PLAIN[1]]),
    ],
    ids=lambda c: c.id,
)
def test_csv_is_read(case: GoodCsv, tmp_path: Path) -> None:
    (tmp_path / "site.CSV").write_bytes(case.content)
    listing = list_pictures(tmp_path / "site.CSV")
    assert listing.name == "site"
    assert names(listing) == case.expected
    assert all(p.path.is_relative_to(tmp_path) for p in listing.pictures)


def test_csv_takes_absolute_paths_and_drops_repeats(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"path,label\n/there/a.jpg,fox\n{tmp_path}/b.jpg,hare\nb.jpg,hare\n./b.jpg,hare\n")
    listing = list_pictures(tmp_path / "t.csv")
    assert [p.path for p in listing.pictures] == [Path("/there/a.jpg"), tmp_path / "b.jpg"]
    assert listing.warnings == ("2 pictures were listed more than once in t.csv and are used once",)


# --- errors --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BadSource:
    id: str
    make: Callable[[Path], Path]
    says: str
    classes: tuple[str, ...] | None = None


def csv_with(text: str) -> Callable[[Path], Path]:
    return lambda root: touch(root / "t.csv", text)


def linked_twice(root: Path) -> Path:
    folder(root, fox=2, hare=2)
    (root / "hare/same.jpg").symlink_to(root / "fox/000.jpg")
    return root


def empty_class(root: Path) -> Path:
    return touch(folder(root, fox=2) / "owl/x.txt").parents[1]


def loose(root: Path) -> Path:
    touch(root / "1.jpg")
    return touch(root / "2.jpg").parent


@pytest.mark.parametrize(
    "case",
    [
        BadSource("absent", lambda root: root / "no", r"no does not exist\. Check the path"),
        BadSource("empty folder", lambda root: root, r"is empty\. Give a folder with one folder of pictures for each"),
        BadSource("no class folders", loose, "holds 2 pictures but no class folders.*/fox/1.jpg"),
        BadSource("one class", lambda root: folder(root, fox=3), r"gives 1 class \(fox\); at least 2"),
        BadSource(
            "empty class", lambda root: touch(folder(root, fox=2) / "owl/x.txt").parents[1], "owl holds no picture"
        ),
        BadSource("wrong class", lambda root: folder(root, fox=2, hare=2), "Did you mean 'hare'", ("fox", "hares")),
        BadSource("far class", lambda root: folder(root, fox=2, hare=2), "It has fox, hare", ("fox", "zebu")),
        BadSource("asked twice", lambda root: folder(root, fox=2, hare=2), "asked for twice", ("fox", "fox")),
        BadSource("two labels, linked", linked_twice, "listed as 'fox' and as 'hare'"),
        BadSource("two labels", csv_with("path,label\na.jpg,fox\na.jpg,hare\n"), "listed as 'fox' and as 'hare'"),
        BadSource("no header", csv_with("a.jpg,fox\nb.jpg,hare\n"), "names no columns path and label"),
        BadSource("header only", csv_with("path,label\n"), "lists no picture"),
        BadSource("short row", csv_with("path,label\na.jpg,fox\nb.jpg\n"), "line 3 lacks a path or a label"),
        BadSource("nul", csv_with("path,label\na\0.jpg,fox\n"), "line 2 lacks a path or a label|not a CSV file"),
        BadSource("huge field", csv_with("path,label\n" + "a" * 200_000 + ",fox\n"), "is not a CSV file: field larger"),
        BadSource("a picture", lambda root: touch(root / "a.jpg"), "neither a folder nor a CSV file"),
    ],
    ids=lambda c: c.id,
)
def test_bad_sources_are_explained(case: BadSource, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=case.says):
        list_pictures(case.make(tmp_path), case.classes)


def test_forbidden_folder_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", forbidden)
    with pytest.raises(TaskError, match=r"cannot read .*: Permission denied"):
        list_pictures(tmp_path)


# --- splitting -----------------------------------------------------------------------------------------------------


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


@given(st.integers(2, 12), st.integers(2, 12), st.integers(2, 10), st.integers(0, 5))
def test_a_class_does_not_depend_on_the_others(foxes: int, hares: int, shots: int, seed: int) -> None:
    nothing = Listing("nothing", (), ())  # nothing is evaluated, so the pictures need not exist

    def listing(**counts: int) -> Listing:
        pictures = [
            LabelledPicture(Path(f"/{name}/{number}.jpg"), index)
            for index, (name, count) in enumerate(counts.items())
            for number in range(count)
        ]
        return Listing("t", tuple(counts), tuple(reversed(pictures)))

    one = divided(listing(fox=foxes, hare=hares), shots=shots, seed=seed, evaluation=nothing)
    other = divided(listing(owl=3, fox=foxes), shots=shots, seed=seed, evaluation=nothing)
    assert of_class(one.fit, 0) == of_class(other.fit, 1)
    assert of_class(one.select, 0) == of_class(other.select, 1)


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
    task = split(listing, [p.path for p in listing.pictures[1:]], SplitOptions(4), [skipped])
    assert bad not in {p.path for p in task.fit + task.select + task.evaluation}
    assert task.skipped == (skipped,)


def test_class_with_one_readable_picture_is_an_error(tmp_path: Path) -> None:
    listing = list_pictures(folder(tmp_path, fox=4, hare=4))
    with pytest.raises(TaskError, match="class 'hare' has 1 readable pictures, at least 2"):
        split(listing, [p.path for p in listing.pictures[:5]], SplitOptions())


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
    readable = {p.path for p in (*listing.pictures, *evaluation.pictures)} - {evaluation.pictures[0].path}
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
    readable = {p.path for p in (*listing.pictures, *evaluation.pictures)}
    task = split(listing, readable, SplitOptions(4, evaluation=evaluation))
    kept = {p.path.name for p in task.evaluation}
    assert {"copy.jpg", "link.jpg"}.isdisjoint(kept)
    assert "other.jpg" in kept
    assert "2 evaluation pictures are copies of shots and were left out of the evaluation" in task.warnings


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


@pytest.mark.parametrize("name", ["two\nlines", "tab\there", "bad\udcffbytes"], ids=["newline", "tab", "not UTF-8"])
def test_class_names_that_no_label_file_can_hold_are_refused(tmp_path: Path, name: str) -> None:
    for folder_name in ("fox", name):
        touch(tmp_path / folder_name / "1.jpg", "x")
    with pytest.raises(TaskError, match="not printable"):
        list_pictures(tmp_path)
