"""Run a command inside an unpacked arm64 system, emulated by qemu: `enter.py ROOT COMMAND...`.

A user and mount namespace of its own, with a private binfmt_misc (Linux 6.7 or newer) that hands every arm64 program,
children too, to qemu-aarch64-static. Nothing outside the namespace changes. Only the standard library: sshd starts it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
BINFMT = "/proc/sys/fs/binfmt_misc"
#: ELF, 64 bits, little endian, an executable or a shared object for machine 0xb7 (aarch64).
MAGIC = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
ENTRY = f":qemu-aarch64:M::{MAGIC}:{MASK}:/usr/bin/qemu-aarch64-static:OCF"
OVERLAYS = ("proc/cpuinfo", "sys/devices/system/cpu", "sys/class/thermal")
libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str | None, flags: int = 0) -> None:
    words = (source.encode(), target.encode(), kind.encode() if kind else None)
    check(libc.mount(*words, ctypes.c_ulong(flags), None), f"mount {target}")


def inside(root: str, command: list[str]) -> None:
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("binfmt_misc", BINFMT, "binfmt_misc")
    Path(BINFMT, "register").write_text(ENTRY)
    for name in ("proc", "sys", "dev"):
        mount(f"/{name}", f"{root}/{name}", None, MS_BIND | MS_REC)
    for name in OVERLAYS:
        if Path(root, "opt/fake", name).exists() and Path(root, name).exists():
            mount(f"{root}/opt/fake/{name}", f"{root}/{name}", None, MS_BIND)
    os.chroot(root)
    os.chdir("/home/pi")
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    cpu = os.environ.get("QEMU_CPU", "cortex-a76")
    os.execvpe(command[0], command, {"PATH": path, "HOME": "/home/pi", "LANG": "C.UTF-8", "QEMU_CPU": cpu})  # noqa: S606


def main() -> int:
    root, command = os.path.realpath(sys.argv[1]), sys.argv[2:]
    ready, mapped = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        check(libc.unshare(CLONE_NEWUSER | CLONE_NEWNS), "unshare")
        os.write(ready[1], b"x")
        os.read(mapped[0], 1)
        for end in (*ready, *mapped):
            os.close(end)
        inside(root, command)
    os.close(ready[1])
    if os.read(ready[0], 1):
        Path(f"/proc/{child}/setgroups").write_text("deny")
        Path(f"/proc/{child}/uid_map").write_text(f"0 {os.getuid()} 1")
        Path(f"/proc/{child}/gid_map").write_text(f"0 {os.getgid()} 1")
        os.write(mapped[1], b"x")
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda got, _: os.kill(child, got))
    status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


if __name__ == "__main__":
    sys.exit(main())
