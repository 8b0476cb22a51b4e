"""What was typed on a command line, and what its help says: read from typer's own context."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from taco.commands.config import Flag, split_names
from taco.options import ExportOptions

#: Flags that take names separated by commas.
_NAMES = ("classes", "include", "exclude")


def typed(context: typer.Context, parameters: Mapping[str, Any]) -> dict[str, object]:
    """Return the options that were typed, as `ExportOptions` takes them; defaults are not among them.

    Args:
        context: Of the command.
        parameters: The command's parameters by their names, which are those of the fields.
    """
    given = {n: v for n, v in parameters.items() if n in ExportOptions.model_fields and _was_typed(context, n)}
    several = {"device": tuple(given["device"])} if given.get("device") else {}
    return given | {field: split_names(given[field]) for field in _NAMES if field in given} | several


def _was_typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def described(context: typer.Context, group: str) -> list[Flag]:
    """Return what the help says of every flag of a command.

    Args:
        context: Of the command.
        group: Heading of what has no panel of its own, such as the arguments.
    """
    flags = []
    for parameter in context.command.params:
        text, default = getattr(parameter, "help", None) or "", getattr(parameter, "show_default", None)
        panel = getattr(parameter, "rich_help_panel", None)
        more = f" Default: {default}." if isinstance(default, str) else ""
        flags.append(Flag(str(parameter.name), text + more, panel or group))
    return flags
