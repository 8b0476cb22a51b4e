"""The device runs Python 3.8 with numpy, Pillow and one runtime: what is packed must need nothing more."""

import ast
import sys
from pathlib import Path

import pytest

import taco.device

SOURCES = sorted(Path(taco.device.__file__).parent.glob("*.py"))
ALLOWED = {"numpy", "PIL", "onnxruntime", "openvino", "tensorrt", "taco"}
NEWER_NAMES = {"removeprefix", "removesuffix", "bit_count", "file_digest", "pairwise", "is_relative_to", "hardlink_to"}
NEWER_ARGUMENTS = {"slots", "kw_only", "strict", "root_dir", "encoding_errors"}
NEWER_MODULES = {"tomllib", "zoneinfo", "graphlib"}


@pytest.fixture(params=SOURCES, ids=lambda path: path.name)
def tree(request):
    return ast.parse(request.param.read_text(encoding="utf-8"), feature_version=(3, 8))


def test_there_is_something_to_check():
    assert {"agent.py", "bench.py", "session.py", "worker.py"} <= {path.name for path in SOURCES}


def test_no_newer_name_or_argument_is_used(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            assert node.attr not in NEWER_NAMES
        if isinstance(node, ast.Call):
            given = {keyword.arg for keyword in node.keywords}
            if not ast.unparse(node.func).startswith("json."):  # its `strict` is old, that of zip is not
                assert not NEWER_ARGUMENTS & given


def test_annotations_are_not_evaluated_or_not_new(tree):
    lazy = any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)
    annotated = any(isinstance(node, ast.FunctionDef | ast.AnnAssign | ast.arg) for node in ast.walk(tree))
    assert lazy or not annotated


def test_no_type_alias_subscripts_a_builtin(tree):
    for node in tree.body:
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        subscripts = [item for item in ast.walk(value) if isinstance(item, ast.Subscript)] if value else []
        assert not {"dict", "list", "tuple", "set", "type"} & {ast.unparse(item.value) for item in subscripts}


def test_only_the_standard_library_numpy_pillow_and_a_runtime_are_imported(tree):
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    for name in names:
        top = name.partition(".")[0]
        assert top in ALLOWED | (sys.stdlib_module_names - NEWER_MODULES)
        assert top != "taco" or name.startswith("taco.device")


def test_runtimes_are_imported_inside_functions_only(tree):
    names = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    assert not names & {"onnxruntime", "openvino", "tensorrt"}
