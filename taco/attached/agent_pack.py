"""Pack `taco.device` into one file that any Python 3.8 or newer can run: `python3 agent.pyz bench request.json`.

The same sources give the same bytes on one machine (fixed timestamps, sorted names; zlib's output may change with its
version), so that what lies on a device is known by its hash and need not be sent again.
"""

from __future__ import annotations

import ast
import functools
import io
import os
import tempfile
import threading
import zipfile
from pathlib import Path

import taco.device
from taco.errors import TacoError

MAIN = """import sys

from taco.device.agent import main

sys.exit(main())
"""
EPOCH = (1980, 1, 1, 0, 0, 0)
READABLE = 0o644 << 16
UNIX = 3
#: Devices are asked beside each other, and Python 3.11 fails where two threads parse at once.
_PACKING = threading.Lock()


def pack_agent(destination: Path) -> Path:
    """Write the agent.

    Args:
        destination: The file to write, such as `agent.pyz`; replaced as a whole when it exists.

    Returns:
        The destination.

    Raises:
        TacoError: The file cannot be written.
    """
    try:
        _write_atomically(destination, agent_bytes())
    except OSError as error:
        raise TacoError(
            f"the device agent cannot be written to {destination}: {error.strerror}", "Choose a writable folder."
        ) from error
    return destination


def agent_bytes() -> bytes:
    """The zipapp's content, made once, whichever threads ask.

    Returns:
        The same bytes for the same sources and zlib.
    """
    with _PACKING:
        return _packed()


@functools.cache
def _packed() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in sorted(_members().items()):
            info = zipfile.ZipInfo(name, EPOCH)
            info.external_attr = READABLE
            info.create_system = UNIX
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return buffer.getvalue()


def _members() -> dict[str, bytes]:
    """Name in the archive -> content. The package itself is empty there: the agent needs nothing of the host's."""
    sources = Path(taco.device.__file__).parent.glob("*.py")
    members = {f"taco/device/{source.name}": without_docstrings(source.read_bytes()) for source in sources}
    return {"__main__.py": MAIN.encode(), "taco/__init__.py": b"", **members}


def without_docstrings(source: bytes) -> bytes:
    """Empty the docstrings of a module, which nobody reads on the device: they are a third of it.

    Args:
        source: UTF-8.

    Returns:
        The same code, the same bytes under every version of Python.
    """
    lines = source.splitlines(keepends=True)
    scopes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [
        node.body[0] for node in ast.walk(ast.parse(source)) if isinstance(node, scopes) and ast.get_docstring(node)
    ]
    for text in sorted(found, key=lambda node: node.lineno, reverse=True):
        first, last = text.lineno - 1, (text.end_lineno or text.lineno) - 1
        lines[first : last + 1] = [lines[first][: text.col_offset] + b'""' + lines[last][text.end_col_offset :]]
    return b"".join(lines)


def _write_atomically(destination: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=destination.parent, prefix=f".{destination.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(destination)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
