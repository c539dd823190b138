"""The private names of Twisted that the launcher relies on are those in docs/server.md, and are there."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest
import twisted

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "server.md").read_text()
ROWS = re.findall(r"^\| `(twisted[\w.]*):([\w.]+)` \|", PAGE, re.MULTILINE)
MODULES = sorted((ROOT / "launcher" / "tarry").rglob("*.py"))


PYTHONS = {"_current_frames", "_exit", "_getframe"}  # of os and sys


def private(name):
    return name.startswith("_") and not name.startswith("__") and name != "_"


def names():
    """Private names that the launcher uses, and those that it makes itself."""
    used, made = set(), set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and private(node.attr):
                (made if isinstance(node.ctx, ast.Store) else used).add(node.attr)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                made.add(node.name)
            elif isinstance(node, ast.AnnAssign | ast.Assign):
                targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
                made.update(
                    name.id for t in targets for name in ast.walk(t) if isinstance(name, ast.Name)
                )
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("twisted"):
                used.update(
                    filter(private, [*node.module.split("."), *(a.name for a in node.names)])
                )
    return used, made


def test_every_private_name_of_twisted_is_in_the_table():
    used, made = names()
    listed = {name for _, path in ROWS for name in path.split(".")}
    listed |= {name for module, _ in ROWS for name in module.split(".")}
    assert used - made - listed - PYTHONS == set()


@pytest.mark.parametrize(("module", "path"), ROWS)
def test_what_the_table_names_is_there(module, path):
    found = importlib.import_module(module)
    *outer, name = path.split(".")
    for each in outer:
        found = getattr(found, each)
    source = inspect.getsource(found)
    assert hasattr(found, name) or re.search(rf"\bself\.{name}\b", source), f"{name} is gone"


def test_the_page_names_the_version_they_were_tried_on():
    tried = re.search(r"tried on Twisted ([\d.]+)", PAGE)[1]
    assert twisted.__version__.startswith(tried)
