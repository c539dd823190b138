"""`tarry check`: which files it looks at, `# noqa`, and any text at all without a traceback."""

import ast
import copy
import os
import tempfile
from pathlib import Path
from unittest import mock

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tarry import collection
from tarry.checks import Finding, check
from tarry.checks.files import Checked
from tarry.checks.rules import RULES

from .check_cases import HEAD, each, findings, loaded, render
from .test_checks_render import HELPERS

SEED = Path(__file__).parents[1] / "data" / "seed" / "seed.rpy"


# The scripts that are there already


def test_the_seed_has_two_mistakes():
    scripts, (text, forgets) = check([SEED])
    assert scripts == [SEED]
    assert str(text) == (
        f'{SEED}:7: RPY101 request.write is given a str: give it bytes, b"…" or "…".encode()'
    )
    assert (forgets.path, forgets.line, forgets.code) == (SEED, 12, "RPY301")
    assert "NOT_DONE_YET" in forgets.problem
    assert "request.notifyFinish()" in forgets.remedy


def test_the_seed_as_its_page_has_it_with_no_break_spaces(tmp_path):
    [(line, text)] = findings(tmp_path, SEED.read_text().replace("    ", " \xa0 \xa0"))
    assert line == 6
    assert text == (
        "RPY002 syntax error, no-break spaces (U+00A0) where spaces should be: replace each with a "
        "plain space: code copied from a web page often has them"
    )


def test_the_collection_has_none():
    scripts, found = check([collection()])
    assert scripts == sorted(collection().glob("*.rpy")) != []
    assert found == []


# Syntax


@each(
    ("source", "line", "text"),
    [
        ("x = 1\nx = = 2\n", 2, "RPY002 syntax error, invalid syntax: correct it"),
        ("x = 1\nreturn x\n", 2, "'return' outside function"),
        ("x = 1\nx = \u201ctext\u201d\n", 2, "invalid character '\u201c' (U+201C)"),
        (b"x = 1\n\nx = '\0'\n", 3, "null bytes"),
        (b"x = 1\nx = '\xff'\n", 2, "can't decode byte 0xff"),
        (b"# coding: nonsense\n", 1, "unknown encoding: nonsense"),
        ("x = " + "-" * 100_000 + "1", 1, "nested too deeply for Python"),
        ("x = " + "(" * 1000, 1, "nested parentheses"),
    ],
)
def test_a_script_that_does_not_parse(tmp_path, source, line, text):
    [(where, what)] = loaded(tmp_path, source)
    assert where == line
    assert text in what


def test_what_is_nested_too_deeply_for_the_rules_is_still_loaded(tmp_path):
    with mock.patch("tarry.checks.files.Script", side_effect=RecursionError):
        found = loaded(tmp_path, "1 / 0")
    assert [text.partition(": ")[0] for _, text in found] == [
        "RPY002 an expression is nested too deeply to be checked",
        "RPY003 loading it raises ZeroDivisionError",
    ]


WRITE = 'request.write("a")'


@each(
    ("comment", "silenced"),
    [
        ("# noqa", True),
        ("#noqa", True),
        ("# NOQA", True),
        ("# why not  # noqa", True),
        ("# noqa: RPY101", True),
        ("# noqa:RPY101", True),
        ("# noqa: rpy101", True),
        ("# noqa: E501, RPY101", True),
        ("# noqa: E501 RPY101", True),
        ("# noqa: RPY101  # why", True),
        ("# type: ignore  # noqa: RPY101", True),
        ("# noqa: E501  # noqa: RPY101", True),
        ("# noqa: RPY102", False),
        ("# noqa: E501", False),
        ("# noqa: RPY1", False),
        ("# noqable", False),
        ("# no qa", False),
    ],
)
def test_noqa(tmp_path, comment, silenced):
    assert (findings(tmp_path, render(f"{WRITE}  {comment}")) == []) == silenced


def test_noqa_is_for_its_line_and_for_all_lines_of_an_expression(tmp_path):
    split = 'request.write(\n    "a"\n)  # noqa: RPY101\nrequest.write("b")'
    assert [line for line, _ in findings(tmp_path, render(split))] == [10]
    method = "async def render_GET(self, request):{}\n        return b''{}\n"
    for first, second, count in (("  # noqa", "", 0), ("", "  # noqa", 1)):
        source = f"{HEAD}class R(Resource):\n    {method.format(first, second)}\n"
        assert len(findings(tmp_path, source)) == count


def test_noqa_for_what_loading_shows(tmp_path):
    assert loaded(tmp_path, "resource = 1  # noqa: RPY005\n") == []
    assert loaded(tmp_path, "1 / 0  # noqa: RPY003\n") == []
    assert len(loaded(tmp_path, "1 / 0  # noqa: RPY005\n")) == 1


# Files


def test_what_cannot_be_read(tmp_path):
    (tmp_path / "closed.rpy").write_text(SEED.read_text())
    (tmp_path / "dangling.rpy").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.rpy")
    names = ["closed.rpy", "dangling.rpy", "missing.rpy", "pipe.rpy"]
    read_bytes = Path.read_bytes

    def read(path):  # for root no file is closed
        if path.name == "closed.rpy":
            raise PermissionError(13, "Permission denied", str(path))
        return read_bytes(path)

    with mock.patch.object(Path, "read_bytes", read):
        scripts, found = check([tmp_path, *(tmp_path / name for name in names)])
    assert scripts == [tmp_path / name for name in names]
    nothing = "No such file or directory"
    assert found == [
        Finding(tmp_path / name, 1, "RPY001", f"cannot be read, {why}", "repair or remove it")
        for name, why in zip(
            names, ["Permission denied", nothing, nothing, "it is not a file"], strict=True
        )
    ]


def test_a_file_in_a_folder_that_cannot_be_entered():
    path = Path("closed", "x.rpy")
    denied = PermissionError(13, "Permission denied")
    with (
        mock.patch("os.stat", side_effect=denied),
        mock.patch.object(Path, "stat", side_effect=denied),  # has its own in Python 3.10
    ):
        scripts, [found] = check([path])
    assert scripts == [path]
    assert str(found).startswith(f"{path}:1: RPY001 cannot be read, Permission denied: ")


def test_a_folder_that_cannot_be_read(tmp_path):
    denied = PermissionError(13, "Permission denied", str(tmp_path / "closed"))
    with mock.patch("os.scandir", side_effect=denied):
        scripts, found = check([tmp_path])
    assert scripts == []
    assert [(one.path, one.problem) for one in found] == [
        (tmp_path / "closed", "cannot be read, Permission denied")
    ]


def test_files_beside_scripts(tmp_path):
    site = tmp_path / "site"
    wrong = {
        "helper.py": "move it out of the served folder",
        "sub/deep/helper.py": "move it out of the served folder",
        "sub/UP.RPY": "rename it to UP.rpy",
        "sub/up.Rpy": "rename it to up.rpy",
        "x.rpy~": "move it out of the served folder",
        "#x.rpy#": "move it out of the served folder",
        "x.rpy.bak": "move it out of the served folder",
        "x.rpy.orig": "move it out of the served folder",
        ".x.rpy.swp": "move it out of the served folder",
    }
    right = ["page.html", "sub/data.json", "sub/py", "notes.rpy.md"]
    hidden = [".git/x.rpy", ".git/x.py", "sub/__pycache__/x.py", "sub/.venv/lib/x.rpy~"]
    for name in [*wrong, *right, *hidden]:
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text("syntax error")
    for name in ["a.rpy", "sub/deep/b.rpy"]:
        (site / name).write_text(f"{HEAD}resource = Resource()\n")
    (site / "meant.py").write_text("'''Show this.'''  # noqa: RPY006\n")
    scripts, found = check([site])
    assert scripts == [site / "a.rpy", site / "sub/deep/b.rpy"]
    assert [one.path for one in found] == sorted(site / name for name in wrong)
    for one in found:
        assert (one.line, one.code) == (1, "RPY006")
        assert one.remedy == wrong[str(one.path.relative_to(site))]
        assert "as source" in one.problem


def test_a_folder_without_scripts_is_nobodys_site(tmp_path):
    (tmp_path / "helper.py").write_text("syntax error")
    assert check([tmp_path]) == ([], [])


def test_a_file_stands_for_itself_and_nothing_is_told_twice(tmp_path):
    (tmp_path / "helper.py").write_text("x = 1\n")
    path = tmp_path / "x.rpy"
    path.write_text("x = = 1\n")
    (tmp_path / "y.rpy").write_text("1 / 0\n")
    scripts, found = check([path, path])
    assert scripts == [path]
    assert [one.path for one in found] == [path]
    scripts, found = check([tmp_path / "y.rpy", tmp_path, path, tmp_path])
    assert scripts == [path, tmp_path / "y.rpy"]
    assert [one.path.name for one in found] == ["helper.py", "x.rpy", "y.rpy"]
    assert found == sorted(found)


def test_a_finding_is_one_line_whatever_is_in_it():
    finding = Finding(Path("a\nb\udcff.rpy"), 3, "RPY001", "\x1b[31mred\r", "ü\u2028…")
    assert str(finding) == r"a\nb\udcff.rpy:3: RPY001 \x1b[31mred\r: ü\u2028…"


# Any text at all

WORDS = """
    "a" b"" f"{x}" PAGE import from as try: except ImportError lambda x: nonlocal global request.write(
    = := += % * @ ... [ ] { } for in if else match case with async await yield while class def return
    twisted.web.resource NoResource time sleep open self, request. .finish() render_GET( NOT_DONE_YET
    request.args request.method == "POST" callLater( addCallback( cache() cgi # noqa : RPY101
    resource ; : \\ # \0 \xa0 \ud800 1e999 0777 """
WORDS = [*WORDS.split(), *SEED.read_text().split(), *HELPERS.splitlines(True), "\n", "\n    ", "\t"]


def checked(source):
    """Look at one script without running it: there may be findings, but no traceback."""
    with tempfile.TemporaryDirectory() as folder:
        return findings(Path(folder), source)


@settings(deadline=None)
@given(st.text() | st.binary())
@example(b"\xff\xfe")
@example("x" + ".x" * 3000)
@example("x = " + "+".join(["x"] * 900))
@example("class C:\n  def render_GET(self, r):\n    r.write(" + "+".join(["x"] * 900) + ")")
@example("class C:\n  def render_GET(self, r):\n    r" + ".a()" * 900 + "\n    r.write('')")
@example("def f():\n" + "".join(f"  x{n} = x{n + 1} + x{n + 1}\n" for n in range(100)) + "  x0")
@example("class C:\n  def render_GET(self, r):\n    self.render_GET(r); return self.render_GET(r)")
@example("class C(C):\n  def f(self, r):\n    self.g()")
def test_any_text(source):
    checked(source if isinstance(source, bytes) else source.encode("utf-8", "surrogatepass"))


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(WORDS)).map(" ".join))
def test_any_words(source):
    checked(source.encode("utf-8", "surrogatepass"))


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_change_to_the_seed(data):
    """Nodes of its tree in each other's places: valid to the parser, or nearly."""
    tree = ast.parse(f"{SEED.read_text()}{HELPERS}")
    for _ in range(data.draw(st.integers(1, 5))):
        expressions = [node for node in ast.walk(tree) if isinstance(node, ast.expr)]
        statements = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]
        node = data.draw(st.sampled_from([*expressions, *statements]))
        other = data.draw(st.sampled_from(expressions if node in expressions else statements))
        node.__class__, node.__dict__ = other.__class__, copy.deepcopy(other.__dict__)
    checked(ast.unparse(tree))


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(sorted(collection().glob("*.rpy"))), st.data())
def test_any_line_of_the_collection_left_out(path, data):
    lines = path.read_text().splitlines(True)
    del lines[data.draw(st.integers(0, len(lines) - 1))]
    checked("".join(lines).encode())


def test_codes_are_unique_and_in_order():
    codes = [rule.code for rule in RULES]
    assert codes == sorted(set(codes))


def test_what_is_found_has_a_code_of_the_table(tmp_path):
    path = tmp_path / "x.rpy"
    path.write_text(render("request.write('a')\nimport cgi\nreturn {}"))
    codes = {finding.code for finding in Checked(path).findings}
    assert codes == {"RPY101", "RPY202", "RPY503"} < {rule.code for rule in RULES}
