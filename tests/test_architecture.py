"""The shape of the package, read from its syntax: layers, sizes, and what must never be there (ARCHITECTURE 2, STYLE).

Imports inside functions and under TYPE_CHECKING count like all others.
"""

from __future__ import annotations

import ast
import dataclasses
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: Folder -> import name. Nothing else is installed.
PACKAGES = {"taco": "taco", "exporters": "taco.exporters", "targets": "taco.targets"}
#: From the lowest layer to the highest. A package name stands for all of its modules.
LAYERS = (
    ("errors", "files", "wording", "plugins", "trouble", "address", "compute", "heap", "device"),
    (
        *("formats", "task", "pictures", "model", "weights", "units", "graph", "calibrate", "moments", "levels"),
        *("solvers", "executor", "metrics", "options", "progress"),
    ),
    (
        *("material", "specialist", "compress", "surgery", "recover", "recovery", "sparse", "allocate", "allocation"),
        *("database", "latency"),
    ),
    ("targets", "exporters", "bundle", "model_file", "rundir", "transport", "attached", "timing"),
    (
        *("search", "steps", "field", "front", "pipeline", "summaries"),
        *("answers", "predict", "verify", "evaluate", "report"),
    ),
    ("api", "testing"),
    ("cli", "commands", "families", "schemas"),
)
#: Modules that a device's host needs without the training stack: they load no torch.
LIGHT = (
    "bundle",
    "allocate",
    "allocation.distribute",
    "allocation.within",
    "metrics.drop_estimate",
    "timing.timings",
    "timing.measure",
    "metrics.parity",
    "metrics.accuracy",
    "metrics.quality",
    "metrics.gates",
    "predict",
    "verify",
    "evaluate",
    "latency.table",
    "latency.levels",
    "latency.limits",
    "latency.asked",
    "latency.losses",
    "latency.rounds",
    "latency.problem",
    "latency.spdy",
    "latency.evopress",
    "latency.levelsearch",
    "attached.ondevice",
    "attached.fleet",
    "timing.spread",
    "metrics.energy",
    "field.benching",
    "timing.cells",
    "field.unit_table",
)
#: The one module that may name pickle: it catches what torch's weights-only loader raises.
PICKLE = "taco.weights"
#: Typer reads flags from signatures: its commands take one parameter a flag, and their length is that of the body.
COMMAND_LINE = "taco.cli"
CLIS = ("database", "devices", "front", "inspect", "profile", "report")
COMMANDS = (COMMAND_LINE, *(f"taco.commands.{name}" for name in CLIS))
#: Where an unforeseen error becomes a message.
ENTRY_POINTS = (COMMAND_LINE,)
MAX_FILE, MAX_FUNCTION, MAX_PARAMETERS = 400, 60, 6


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Module:
    """One source file."""

    name: str
    path: Path
    tree: ast.Module
    lines: int

    def __str__(self) -> str:
        return self.name

    def imports(self) -> Iterator[str]:
        """Dotted names of everything imported anywhere in the file, absolute."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                origin = self._absolute(node)
                yield from (f"{origin}.{alias.name}" for alias in node.names)

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        package = self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]
        base = package.split(".")[: len(package.split(".")) - node.level + 1]
        return ".".join([*base, *([node.module] if node.module else [])])

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        yield from (n for n in ast.walk(self.tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


@lru_cache(maxsize=1)
def modules() -> dict[str, Module]:
    found = {}
    for folder, package in PACKAGES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join([package, *(part for part in parts if part != "__init__")])
            text = path.read_text(encoding="utf-8")
            found[name] = Module(name, path, ast.parse(text), len(text.splitlines()))
    return found


Check = Callable[[Module], None]
#: Check -> the modules that it passes over. One test covers all others: 350 tests a check cost a minute of pytest.
CHECKS: dict[Check, tuple[str, ...]] = {}


def every(*but: str) -> Callable[[Check], Check]:
    """Check every module, except for some."""

    def noted(check: Check) -> Check:
        CHECKS[check] = but
        return check

    return noted


def offenders(check: Check, among: Iterable[Module]) -> list[str]:
    """What a check says of each module that fails it."""
    found = []
    for module in among:
        try:
            check(module)
        except AssertionError as error:
            found.append(f"{module.name}: {error}")
    return found


def layer_of(name: str) -> int:
    """Layer of a module of ours; the package root, which holds only the version, is below all."""
    if name == "taco":
        return -1
    part = name.split(".")[1]
    for number, members in enumerate(LAYERS):
        if part in members:
            return number
    raise AssertionError(f"{name} is in no layer: add {part!r} to LAYERS in tests/test_architecture.py and to docs")


def ours(module: Module) -> set[str]:
    """Modules of ours that a module imports."""
    found = set()
    for name in module.imports():
        if name.split(".")[0] != "taco":
            continue
        while name not in modules():
            name = name.rpartition(".")[0]
        found.add(name)
    return found - {module.name}


@every()
def every_module_has_a_layer_and_imports_only_downwards(module: Module) -> None:
    own = layer_of(module.name)
    upwards = {name for name in ours(module) if layer_of(name) > own}
    assert not upwards, f"{module.name} (layer {own}) imports from above: {sorted(upwards)}"


def test_no_import_cycle_lazy_or_not() -> None:
    try:
        TopologicalSorter({name: ours(module) for name, module in modules().items()}).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


@every()
def nothing_comes_from_the_package_root_but_the_version(module: Module) -> None:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom):
            names = [a.name for a in node.names] if node.module == "taco" and not node.level else []
            hidden = [name for name in names if f"taco.{name}" not in modules()]
            assert not hidden, f"{module.path}:{node.lineno}: import {hidden} from the defining module"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "taco":
            known = node.attr == "__version__" or f"taco.{node.attr}" in modules()
            assert known, f"{module.path}:{node.lineno}: taco.{node.attr}"


@every()
def bare_folder_names_are_never_imported(module: Module) -> None:
    bare = {name for name in module.imports() if name.split(".")[0] in ("exporters", "targets", "tests")}
    assert not bare, f"bare imports {sorted(bare)}"


def on_the_device(name: str) -> bool:
    return name == "taco.device" or name.startswith("taco.device.")


def test_the_device_side_knows_nothing_of_the_host() -> None:
    for module in modules().values():
        if on_the_device(module.name):
            outside = {name for name in ours(module) if not on_the_device(name)}
            assert not outside, f"{module.name} imports {sorted(outside)}"


@every()
def files_and_functions_are_short_and_explained(module: Module) -> None:
    assert ast.get_docstring(module.tree), f"{module.path} has no docstring"
    assert module.lines <= MAX_FILE, f"{module.path} has {module.lines} lines"
    for function in module.functions():
        begin = function.body[0].lineno if module.name in COMMANDS else function.lineno
        length = (function.end_lineno or 0) - begin + 1
        assert length <= MAX_FUNCTION, f"{module.path}:{function.lineno} {function.name} has {length} lines"


@every(*COMMANDS)
def functions_take_at_most_six_parameters(module: Module) -> None:
    for function in module.functions():
        given = function.args
        names = [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg) if a]
        count = len([name for name in names if name not in ("self", "cls")])
        assert count <= MAX_PARAMETERS, f"{module.path}:{function.lineno} {function.name} takes {count}"


@every()
def pickle_is_only_named_where_its_error_is_caught(module: Module) -> None:
    dangerous = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}
    named = {name for name in module.imports() if name.split(".")[0] in dangerous}
    if module.name != PICKLE:
        assert not named, f"{module.name} imports {sorted(named)}"
        return
    used = {n.attr for n in ast.walk(module.tree) if isinstance(n, ast.Attribute) and is_name(n.value, "pickle")}
    assert named <= {"pickle", "pickle.UnpicklingError"}
    assert used <= {"UnpicklingError"}


def is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


@every()
def no_shell_no_eval_and_no_unsafe_load(module: Module) -> None:
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call):
            continue
        where = f"{module.path}:{node.lineno}"
        keywords = {k.arg: k.value for k in node.keywords}
        shell = keywords.get("shell")
        assert shell is None or (isinstance(shell, ast.Constant) and shell.value is False), f"{where}: shell"
        assert not any(is_name(node.func, name) for name in ("eval", "exec", "__import__")), where
        name = ast.unparse(node.func)
        assert name not in ("os.system", "os.popen", "subprocess.getoutput"), where
        if name == "torch.load":
            safe = keywords.get("weights_only")
            assert isinstance(safe, ast.Constant), where
            assert safe.value is True, where


@every(*ENTRY_POINTS)
def no_handler_swallows_everything(module: Module) -> None:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ExceptHandler) and ast.unparse(node.body[-1]) != "raise":
            caught = ast.unparse(node.type) if node.type else "everything"
            assert caught not in ("everything", "Exception", "BaseException"), f"{module.path}:{node.lineno}"


def at_import(tree: ast.Module) -> Iterator[str]:
    """Names imported when a module is imported: not those in functions or under TYPE_CHECKING."""
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        pending.extend(ast.iter_child_nodes(node))


@pytest.mark.parametrize("name", LIGHT)
def test_light_modules_reach_no_torch(name: str) -> None:
    seen: dict[str, str] = {}
    pending = [(f"taco.{name}", f"taco.{name}")]
    while pending:
        current, way = pending.pop()
        if current in seen:
            continue
        seen[current] = way
        for imported in at_import(modules()[current].tree):
            assert imported.split(".")[0] not in ("torch", "timm", "torchvision"), f"{way} -> {imported}"
            target = imported
            while target and target not in modules():
                target = target.rpartition(".")[0]
            if target:
                pending.append((target, f"{way} -> {target}"))


def test_importing_light_modules_loads_no_torch() -> None:
    code = "import sys\n" + "\n".join(f"import taco.{name}" for name in LIGHT) + "\nprint('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_module(check: Check) -> None:
    checked = [module for module in modules().values() if module.name not in CHECKS[check]]
    assert len(checked) > 200
    assert offenders(check, checked) == []


def test_every_offender_is_named_not_only_the_first() -> None:
    pair = [module_of("import exporters.ort", "taco.one"), module_of("import tests.x", "taco.two"), module_of("", "c")]
    found = offenders(bare_folder_names_are_never_imported, pair)
    assert [line.partition(":")[0] for line in found] == ["taco.one", "taco.two"]


def module_of(source: str, name: str = "taco.model") -> Module:
    return Module(name, Path("model.py"), ast.parse(source), len(source.splitlines()))


def test_the_checks_see_lazy_relative_and_conditional_imports() -> None:
    source = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from taco.pipeline import run
def f():
    import taco.cli
    from . import verify
    from .device import wire
"""
    found = ours(module_of(source))
    assert found == {"taco.pipeline", "taco.cli", "taco.verify", "taco.device.wire"}
    with pytest.raises(AssertionError, match="imports from above"):
        every_module_has_a_layer_and_imports_only_downwards(module_of(source))
    assert list(at_import(ast.parse(source))) == ["typing.TYPE_CHECKING"]


def test_a_module_without_a_layer_says_where_to_add_it() -> None:
    with pytest.raises(AssertionError, match=r"add 'novelty' to LAYERS in tests/test_architecture\.py"):
        layer_of("taco.novelty")


@dataclasses.dataclass(frozen=True, slots=True)
class Offence:
    """Source that one of the checks must refuse."""

    name: str
    check: str
    source: str


OFFENCES = (
    Offence("root import", "nothing_comes_from_the_package_root_but_the_version", "from taco import Task"),
    Offence("bare folder", "bare_folder_names_are_never_imported", "import exporters.ort"),
    Offence("no docstring", "files_and_functions_are_short_and_explained", "x = 1"),
    Offence("long file", "files_and_functions_are_short_and_explained", "'''A.'''\n" + "x = 1\n" * 400),
    Offence(
        "long function",
        "files_and_functions_are_short_and_explained",
        "'''A.'''\ndef f():\n" + "    x = 1\n" * 60,
    ),
    Offence("parameters", "functions_take_at_most_six_parameters", "def f(self, a, b, c, *d, e, f, **g): ..."),
    Offence("pickle", "pickle_is_only_named_where_its_error_is_caught", "def f():\n    import pickle"),
    Offence("shell", "no_shell_no_eval_and_no_unsafe_load", "subprocess.run('ls', shell=True)"),
    Offence("eval", "no_shell_no_eval_and_no_unsafe_load", "eval('1')"),
    Offence("torch.load", "no_shell_no_eval_and_no_unsafe_load", "torch.load(f)"),
    Offence("swallowing", "no_handler_swallows_everything", "try: ...\nexcept Exception: ..."),
)


@pytest.mark.parametrize("offence", OFFENCES, ids=lambda offence: offence.name)
def test_each_check_refuses_what_it_should(offence: Offence) -> None:
    with pytest.raises(AssertionError):
        globals()[offence.check](module_of(offence.source))
