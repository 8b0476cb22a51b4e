"""Tests of `taco.targets.loading` and of every target file."""

import re
import shlex
from dataclasses import FrozenInstanceError, dataclass

import pytest

from taco.errors import TargetError
from taco.targets.loading import FOLDER, list_targets, load_target, read_target, target_names

HOST = ("host-cpu", "host-cpu-int8", "host-cpu-openvino", "host-cpu-openvino-bf16", "host-cpu-openvino-int8")
NAMES = [
    *HOST,
    "intel-nuc",
    "jetson-agx-orin",
    "jetson-orin",
    "jetson-orin-int8",
    "jetson-orin-nano",
    "jetson-orin-nx",
    "raspberry-pi-4",
    "raspberry-pi-5",
]
GOOD = """
name = "my-board"
description = "A board"
runtime = "ort"
precision = "fp32"
local = false
provider = "CPUExecutionProvider"
channel_multiple = 8
default_macs = 0.5
run_on_device = "run {model}"
threads = 4
[benchmark]
rounds = 25
round_ms = 40
max_seconds = 60
"""


def write(tmp_path, text, name="my-board"):
    path = tmp_path / f"{name}.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return path


def test_the_promised_targets_are_there():
    assert target_names() == NAMES
    assert [target.name for target in list_targets()] == NAMES


def test_only_this_machine_is_local():
    assert [target.name for target in list_targets() if target.local] == list(HOST)


@pytest.fixture(params=NAMES)
def target(request):
    return load_target(request.param)


def test_runtime_precision_and_width_fit_the_device(target):
    expected = {
        "host-cpu": ("ort", "fp32", "auto", 16),
        "host-cpu-int8": ("ort", "int8", "auto", 16),
        "host-cpu-openvino": ("ov", "fp32", "auto", 16),
        "host-cpu-openvino-int8": ("ov", "int8", "auto", 16),
        "host-cpu-openvino-bf16": ("ov", "bf16", "auto", 16),
        "intel-nuc": ("ov", "int8", "x86", 16),
        "raspberry-pi-4": ("ort", "fp32", "auto", 8),
        "raspberry-pi-5": ("ort", "int8", "arm", 8),
        "jetson-orin-int8": ("trt", "int8", "auto", 32),
    }.get(target.name, ("trt", "fp16", "auto", 32))
    assert (target.runtime, target.precision, target.isa, target.channel_multiple) == expected
    assert target.provider == {"ort": "CPUExecutionProvider", "ov": "CPU", "trt": "TensorRT"}[target.runtime]
    assert target.threads == (4 if target.name.startswith("raspberry") else None)


def test_the_protocol_gives_an_interval(target):
    assert target.benchmark.rounds >= 6
    assert target.benchmark.round_ms * target.benchmark.rounds * 3 < 1000 * target.benchmark.max_seconds


def test_every_figure_has_a_comment_above_it(target):
    lines = (FOLDER / f"{target.name}.toml").read_text().splitlines()
    for index, line in enumerate(lines):
        if re.match(
            r"(precision|runtime|isa|channel_multiple|default_macs|threads|rounds|round_ms|max_seconds|run_on)", line
        ):
            above = [text for text in lines[max(0, index - 3) : index] if text.startswith("#")]
            assert above, f"{target.name}: {line}"


def test_every_judgement_is_called_one_and_the_rest_has_a_source(target):
    text = (FOLDER / f"{target.name}.toml").read_text()
    blocks = re.findall(
        r"((?:^#.*\n)+)(?:channel_multiple|default_macs|threads|rounds|round_ms|max_seconds) =", text, re.M
    )
    assert len(blocks) >= 5
    for block in blocks:
        assert re.search(r"judgement:|https://|measured, docs/adr", block), block


def test_the_instructions_hold_the_model_s_path_quoted(target):
    shown = target.instructions("runs/my trap's/model.onnx")
    assert "{model}" not in shown
    assert shlex.quote("runs/my trap's/model.onnx") in shown
    assert "\n" not in shown


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("jetson")])
def test_a_jetson_is_told_one_command_that_the_agent_knows(name):
    sentence, _, command = load_target(name).instructions("a b/model.onnx").partition(": ")
    assert sentence.startswith("Copy the folder that holds 'a b/model.onnx'")
    assert shlex.split(command) == ["python3", "agent.pyz", "jetson"]


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("jetson")])
def test_a_computer_is_told_to_run_the_agent(name):
    assert "venv/bin/python agent.pyz bench bench.json" in load_target(name).instructions("m")


def test_a_target_cannot_be_changed(target):
    with pytest.raises(FrozenInstanceError):
        target.threads = 1


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [
        ("raspberry-pi5", "raspberry-pi-5"),
        ("Jetson_Orin", "jetson-orin"),
        ("host cpu", "host-cpu"),
        ("nuc-intel", None),
    ],
)
def test_an_unknown_name_suggests_the_nearest_and_lists_all(typed, nearest):
    with pytest.raises(TargetError, match=f"no target '{typed}'") as caught:
        load_target(typed)
    if nearest:
        assert f"Did you mean {nearest}?" in caught.value.todo
    assert ", ".join(NAMES) in caught.value.todo
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["", "../targets/host-cpu", "/etc/passwd", "host-cpu.toml", "*"])
def test_a_name_is_never_a_path(name):
    with pytest.raises(TargetError, match="there is no target"):
        load_target(name)


def test_a_good_file_is_read(tmp_path):
    target = read_target(write(tmp_path, GOOD))
    assert (target.name, target.threads, target.benchmark.round_ms) == ("my-board", 4, 40.0)
    assert read_target(write(tmp_path, GOOD.replace("threads = 4\n", ""))).threads is None


@pytest.mark.parametrize(
    ("name", "board"),
    [
        ("raspberry-pi-4", "Raspberry Pi 4 Model B Rev 1.4"),
        ("raspberry-pi-4", "Raspberry Pi 400 Rev 1.0"),
        ("raspberry-pi-4", "Raspberry Pi Compute Module 4 Rev 1.0"),
        ("raspberry-pi-5", "Raspberry Pi 5 Model B Rev 1.0"),
        ("raspberry-pi-5", "Raspberry Pi 500 Rev 1.0"),
        ("raspberry-pi-5", "Raspberry Pi Compute Module 5 Rev 1.0"),
    ],
)
def test_every_board_of_a_family_is_known_by_the_name_it_gives_itself(name, board):
    family = [other for other in ("raspberry-pi-4", "raspberry-pi-5") if load_target(other).may_be(board)]
    assert family == [name]
    assert not load_target("jetson-orin").may_be(board)
    assert load_target("host-cpu").may_be(board), "any name will do"


def test_one_name_of_a_board_needs_no_list(tmp_path):
    target = read_target(write(tmp_path, GOOD.replace("threads = 4", 'threads = 4\nboard = "My Board"')))
    assert target.board == ("My Board",)


@dataclass(frozen=True)
class Wrong:
    old: str
    new: str
    words: str


WRONG = [
    Wrong('name = "my-board"', 'name = "other"', "name: must be the file's own name, 'my-board'"),
    Wrong('description = "A board"', "", "description: "),
    Wrong('"ort"', '"tflite"', "runtime: Input should be 'ort', 'ov' or 'trt'"),
    Wrong('"fp32"', '"fp8"', "precision: Input should be 'fp32', 'fp16', 'bf16' or 'int8'"),
    Wrong('"fp32"', '"fp16"', "precision: floats of 16 bits are for TensorRT, or for OpenVINO on this very machine"),
    Wrong("local = false", 'local = "no"', "local: Input should be a valid boolean"),
    Wrong("local = false", "local = 0", "local: "),
    Wrong('"CPUExecutionProvider"', '"CPU"', "provider: must be an ONNX Runtime provider"),
    Wrong('"ort"', '"ov"', "provider: must be an OpenVINO device: CPU, GPU, NPU"),
    Wrong('"fp32"', '"int8"', "isa: must name what the device's processor has"),
    Wrong("threads = 4", 'threads = 4\nboard = [""]', "board.0: "),
    Wrong("threads = 4", 'threads = 4\nboard = ""', "board.0: "),
    Wrong("threads = 4", 'threads = 4\nisa = "mips"', "isa: Input should be 'auto', 'x86-vnni', 'x86' or 'arm'"),
    Wrong("channel_multiple = 8", "channel_multiple = 0", "channel_multiple: "),
    Wrong("channel_multiple = 8", "channel_multiple = 8.0", "channel_multiple: "),
    Wrong("channel_multiple = 8", "channel_multiple = true", "channel_multiple: "),
    Wrong("default_macs = 0.5", "default_macs = 1.5", "default_macs: "),
    Wrong("default_macs = 0.5", "default_macs = nan", "default_macs: "),
    Wrong("run {model}", "run it", "run_on_device: must hold {model}"),
    Wrong("run {model}", "run {model} on {device}", "run_on_device: must hold {model} and no other"),
    Wrong("threads = 4", "threads = 0", "threads: "),
    Wrong("rounds = 25", "rounds = 5", "benchmark.rounds: "),
    Wrong("round_ms = 40", "", "benchmark.round_ms: "),
    Wrong("max_seconds = 60", "max_seconds = inf", "benchmark.max_seconds: "),
    Wrong("max_seconds = 60", "max_seconds = 60\nwarmup = 3", "benchmark.warmup: "),
    Wrong("threads = 4", "threads = 4\nspeed = 1", "speed: "),
    Wrong("[benchmark]", "[bench]", "benchmark: "),
    Wrong("name =", "name = =", "is not TOML"),
    Wrong("A board", "\udcff", "is not TOML"),
]


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case.words)
def test_a_wrong_file_names_file_key_and_what_is_expected(tmp_path, case):
    assert GOOD.count(case.old) == 1
    path = write(tmp_path, GOOD.replace(case.old, case.new))
    with pytest.raises(TargetError) as caught:
        read_target(path)
    assert str(path) in str(caught.value)
    assert case.words in str(caught.value)


def test_every_mistake_is_named_at_once(tmp_path):
    text = GOOD.replace("threads = 4", "threads = 0").replace('"fp32"', '"fp8"')
    with pytest.raises(TargetError, match=r"precision: .*; threads: "):
        read_target(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TargetError, match=r"gone\.toml cannot be read"):
        read_target(tmp_path / "gone.toml")
