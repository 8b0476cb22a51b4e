"""Tests of `taco.device.board` and `taco.device.emulation` on made-up boards, in documented formats."""

from __future__ import annotations

from pathlib import Path

import pytest

from taco.device import board
from taco.device.emulation import emulation

PMIC = """ 3V7_WL_SW_A current(0)=0.07709848A
  VDD_CORE_A current(7)=2.94657990A
 3V7_WL_SW_V volt(8)=3.69049700V
  VDD_CORE_V volt(15)=0.89097620V
     EXT5V_V volt(24)=5.11478000V
"""


def write(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


class Programs:
    """The programs of a board; any other is missing."""

    def __init__(self, **said: str) -> None:
        self.said = said

    def __call__(self, argv: list[str]) -> str:
        return self.said.get("_".join(argv).replace("-", ""), "")


NOTHING = Programs()


def test_a_jetson_tells_mode_power_clock_and_over_current(tmp_path: Path) -> None:
    write(tmp_path, "sys/class/hwmon/hwmon3/name", "ina3221\n")
    write(tmp_path, "sys/class/hwmon/hwmon3/in1_label", "VDD_IN\n")
    write(tmp_path, "sys/class/hwmon/hwmon3/in1_input", "19128\n")
    write(tmp_path, "sys/class/hwmon/hwmon3/curr1_input", "514\n")
    write(tmp_path, "sys/class/hwmon/hwmon3/in2_label", "VDD_CPU\n")
    write(tmp_path, "sys/class/hwmon/hwmon3/in2_input", "unreadable\n")
    write(tmp_path, "sys/class/hwmon/hwmon1/oc1_event_cnt", "3\n")
    write(tmp_path, "sys/class/devfreq/17000000.gpu/cur_freq", "1020000000\n")
    programs = Programs(nvpmodel_q="NVPM WARN: fan mode is not set!\nNV Power Mode: MAXN_SUPER\n2\n")
    root = str(tmp_path)
    assert board.power_mode(root, programs) == "MAXN_SUPER"
    assert board.power_w(root, programs) == {"VDD_IN": pytest.approx(9.832, abs=0.001)}
    assert board.throttled(root, programs) == {"jetson_oc1_event_cnt": "3"}
    assert board.gpu_clock_mhz(root) == 1020.0


@pytest.mark.parametrize(
    ("release", "version"), [("R35.4.1", "5"), ("R36.4.3", "6"), ("R38.2", "7"), ("unknown", "unknown")]
)
def test_jetpack_is_told_by_its_linux(tmp_path: Path, release: str, version: str) -> None:
    assert board.jetpack(str(tmp_path), release) == version


def test_jetpack_is_told_by_the_package_list_first(tmp_path: Path) -> None:
    status = "Package: nvidia-jetpack\nStatus: install ok installed\nVersion: 6.2+b77\n\nPackage: other\nVersion: 1\n"
    write(tmp_path, "var/lib/dpkg/status", status)
    assert board.jetpack(str(tmp_path), "R36.4.3") == "6.2+b77"


def test_a_pi_tells_throttling_and_power(tmp_path: Path) -> None:
    programs = Programs(vcgencmd_get_throttled="throttled=0x50005\n", vcgencmd_pmic_read_adc=PMIC)
    root = str(tmp_path)
    assert board.throttled(root, programs) == {"raspberry_pi_flags": "0x50005"}
    expected = 0.07709848 * 3.690497 + 2.9465799 * 0.8909762
    assert board.power_w(root, programs) == {"pmic rails": pytest.approx(expected, abs=1e-3)}
    assert board.power_mode(root, programs) == "unknown"


def test_the_kernel_s_own_flags_need_no_program(tmp_path: Path) -> None:
    write(tmp_path, "sys/devices/platform/soc@1/soc@1:firmware/get_throttled", "50005\n")
    assert board.throttled(str(tmp_path), NOTHING) == {"raspberry_pi_flags": "50005"}


def test_an_intel_machine_tells_turbo_heat_and_energy(tmp_path: Path) -> None:
    root = str(tmp_path)
    write(tmp_path, "sys/devices/system/cpu/intel_pstate/no_turbo", "1\n")
    write(tmp_path, "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count", "12\n")
    write(tmp_path, "sys/class/powercap/intel-rapl:0/energy_uj", "123456\n")
    assert board.power_mode(root, NOTHING) == "turbo off"
    assert board.throttled(root, NOTHING) == {"x86_package_count": "12"}
    assert board.energy_uj(root) == 123456


def test_a_machine_that_tells_nothing_is_unknown(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert board.power_mode(root, NOTHING) == "unknown"
    assert (board.power_w(root, NOTHING), board.throttled(root, NOTHING)) == ({}, {})
    assert (board.energy_uj(root), board.gpu_clock_mhz(root)) == (None, None)
    rubbish = Programs(nvpmodel_q="?", vcgencmd_get_throttled="error=1", vcgencmd_pmic_read_adc="error")
    assert board.power_mode(root, rubbish) == "unknown"
    assert (board.power_w(root, rubbish), board.throttled(root, rubbish)) == ({}, {})


def test_a_program_that_is_missing_or_fails_says_nothing() -> None:
    assert board.ask_program(["no-such-program-x"]) == ""
    assert board.ask_program(["false"]) == ""
    assert board.ask_program(["echo", "yes"]) == "yes\n"


def test_qemu_is_seen_by_what_runs_the_thread(tmp_path: Path) -> None:
    place = tmp_path / "proc/thread-self"
    place.mkdir(parents=True)
    (place / "exe").symlink_to("/usr/bin/qemu-aarch64-static")
    assert emulation(str(tmp_path)) == "qemu-aarch64-static runs this program"


def test_qemu_is_seen_in_the_maps_of_a_task(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/task/7/maps", "60000000-60001000 r-xp 00000000 fe:01 42 /opt/qemu-arm\n")
    assert emulation(str(tmp_path)) == "qemu runs this program"


def test_a_handler_for_this_processor_s_programs_gives_it_away(tmp_path: Path) -> None:
    write(tmp_path, "proc/sys/fs/binfmt_misc/qemu-aarch64", "enabled\n")
    assert emulation(str(tmp_path), "aarch64") == "programs for this processor are run by qemu-aarch64"
    assert emulation(str(tmp_path), "x86_64") is None


def test_a_virtual_arm_machine_stands_for_no_board(tmp_path: Path) -> None:
    write(tmp_path, "proc/device-tree/model", "linux,dummy-virt\0")
    assert emulation(str(tmp_path), "aarch64") == "a virtual machine (linux,dummy-virt)"


def test_this_machine_and_a_real_board_are_not_emulated(tmp_path: Path) -> None:
    assert emulation() is None
    write(tmp_path, "proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0")
    (tmp_path / "proc/thread-self").mkdir(parents=True)
    (tmp_path / "proc/thread-self/exe").symlink_to("/usr/bin/python3.11")
    assert emulation(str(tmp_path), "aarch64") is None
