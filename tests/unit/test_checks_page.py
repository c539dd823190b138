"""docs/checks.md has a section for each rule, and its examples are what they say they are."""

import re
from pathlib import Path
from textwrap import indent

import pytest

from tarry.checks import check
from tarry.checks.rules import RULES

PAGE = Path(__file__).parents[2] / "docs" / "checks.md"
SECTION = re.compile(r"^### (RPY\d+): (.*)\n((?:(?!^##).*\n)*)", re.MULTILINE)
SECTIONS = SECTION.findall(PAGE.read_text())
EXAMPLE = re.compile(r"^(Bad|Good):\n\n```(py|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
IMPORTS = """\
import json, time
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from twisted.web.static import Data
"""


def test_the_page_has_a_section_for_each_rule():
    assert [(code, title) for code, title, _ in SECTIONS] == [(r.code, r.title) for r in RULES]


def write(folder, kind, example):
    """Write the file, or the files, of an example."""
    if kind == "text":
        for line in example.splitlines():
            name, arrow, target = line.partition(" -> ")
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if arrow:
                path.symlink_to(target)
            else:
                path.write_text(f"{IMPORTS}resource = Resource()\n")
        return
    if not re.search("^resource = ", example, re.MULTILINE):
        example = f"class Page(Resource):\n{indent(example, '    ')}\nresource = Page()\n"
    (folder / "page.rpy").write_text(f"{IMPORTS}{example}")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Return the codes found in each example, by rule and "Bad" or "Good"."""
    top = tmp_path_factory.mktemp("examples")
    for code, _, text in SECTIONS:
        examples = EXAMPLE.findall(text)
        assert [which for which, _, _ in examples] == ["Bad", "Good"], code
        for which, kind, example in examples:
            (top / code / which).mkdir(parents=True)
            write(top / code / which, kind, example)
    never_loaded = top / "RPY004" / "Bad"
    others = [folder for folder in top.glob("*/*") if folder != never_loaded]
    codes = {f"{code} {which}": set() for code, _, _ in SECTIONS for which in ("Bad", "Good")}
    for finding in [*check([never_loaded], limit=1)[1], *check(others)[1]]:
        code, which, *_ = finding.path.relative_to(top).parts
        codes[f"{code} {which}"].add(finding.code)
    return codes


@pytest.mark.parametrize("code", [code for code, _, _ in SECTIONS])
def test_the_examples_of_a_rule(found, code):
    assert (found[f"{code} Bad"], found[f"{code} Good"]) == ({code}, set())
