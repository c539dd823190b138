"""What the documents show is true: every console and Python block of every page is run."""

import re
import runpy
import shutil
from pathlib import Path

import pytest
import pytest_twisted
from treq.testing import StubTreq
from twisted.internet import reactor
from twisted.internet.defer import DeferredList
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from tarry.script_docs import manuals, order
from tests.live.transcripts import NOT_RUN, Reader, matches

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
MADE = runpy.run_path(str(DOCS / "_ext" / "manuals.py"))
MANUALS = manuals(ROOT / "rpy")


@pytest.fixture
def reader(tmp_path):
    """Somebody in a fresh checkout."""
    for name in ("rpy", "docs", "scripts", "tests/data"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return Reader(tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest_twisted.ensureDeferred
async def test_what_a_page_shows_is_true(page, reader):
    await reader.follow(page.read_text())
    if reader.missing:
        pytest.skip(f"not installed, so not all was run: {', '.join(reader.missing)}")


def try_it(manual, reader):
    """Do what a manual says to try, on the reader's server."""
    for command in manual.commands[1:]:
        code, output = reader.run("console", command)
        time_over = 28  # curl's word for it
        assert code == (time_over if " -m " in command else 0), f"$ {command}\n{output}"
        for complaint in ("not allowed", "no parameter", "No Such Resource"):
            assert complaint not in output, f"$ {command}\n{output}"


def try_alone(manual, folder):
    """The same with a server of a folder which has nothing but the script, and what it names."""
    named = {manual.name, *re.findall(r"=/(\w+\.rpy)", " ".join(manual.commands))}
    for name in named:
        shutil.copy(ROOT / "rpy" / name, folder)
    reader = Reader(folder)
    reader.serve(manual.commands[0])
    try:
        try_it(manual, reader)
    finally:
        reader.server.stop()


async def of_all(attempt, *arguments):
    """Try all manuals, some at once; AssertionError of all that did not work."""
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    tried = [deferToThread(attempt, manual, *arguments) for manual in MANUALS]
    results = await DeferredList(tried, consumeErrors=True)
    wrong = [failure.getErrorMessage() for right, failure in results if not right]
    assert not wrong, "\n\n".join(wrong)


@pytest_twisted.ensureDeferred
async def test_what_a_manual_says_to_try_works_where_the_script_is_alone(tmp_path):
    def attempt(manual):
        folder = tmp_path / manual.name
        folder.mkdir()
        try_alone(manual, folder)

    await of_all(attempt)


@pytest_twisted.ensureDeferred
async def test_what_a_manual_says_to_try_works_among_the_others(server, tmp_path):
    reader = Reader(tmp_path)
    reader.server = server
    await of_all(try_it, reader)


def test_the_readme_links_every_script_in_the_order_of_learning():
    links = re.findall(r"\]\(rpy/(\w+\.rpy)\)", (ROOT / "README.md").read_text())
    assert links == [name for names in order().values() for name in names]


@pytest_twisted.ensureDeferred
async def test_a_folder_mounted_by_a_program_serves_its_scripts(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    shutil.copy(ROOT / "rpy" / "delayed.rpy", tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    client = StubTreq(runpy.run_path(str(DOCS / "listings" / "mounted.py"))["root"])
    for delay, code in (("soon", 400), ("0", 200)):
        asked = client.get(f"http://127.0.0.1/slow/delayed.rpy?delay={delay}")
        await deferLater(reactor, 0)  # the script's clock is the reactor
        client.flush()
        assert (await asked).code == code


@pytest.mark.parametrize("manual", MANUALS, ids=lambda manual: manual.name)
def test_a_script_has_a_reference_page(manual):
    page = MADE["page"](manual)
    assert page.startswith(f"# {manual.name}\n")
    assert all(f"| `{parameter.name}` |" in page for parameter in manual.parameters)
    assert all(f"**{title}:**" in page for title in ("Answer", "Errors", "Client leaves"))
    assert f"{{literalinclude}} /../rpy/{manual.name}\n" in page
    assert f"]({manual.name.removesuffix('.rpy')}.md)" in MADE["index"](MANUALS)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_between_files_lead_somewhere(page):
    made = [DOCS / "reference" / f"{m.name.removesuffix('.rpy')}.md" for m in MANUALS]
    made.append(DOCS / "reference" / "index.md")
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / link).exists() or page.parent / link in made, link


def test_what_is_not_run_is_shown_somewhere():
    text = "".join(page.read_text() for page in PAGES)
    assert all(f"\n$ {command}" in text for command in NOT_RUN)


SAID = """\
HTTP/1.1 200 OK
Server: TwistedWeb/26.10.0
Date: Mon, 23 Nov 2026 01:38:45 GMT
...
delayed.rpy  200  2.004 s  2.010 s  ·····█
curl: (28) Operation timed out after 2002 milliseconds with 0 bytes received"""


@pytest.mark.parametrize(("old", "new"), [
    ("26.10.0", "27.1.0"), ("Mon, 23 Nov 2026 01", "Tue, 24 Nov 2026 11"), ("...\n", ""),
    ("...", "X-One: 1\nX-Two: 2"), ("2.004 s", "2.9 s"), ("·····█", "····██"), ("2002", "2731"),
])  # fmt: skip
def test_what_may_differ_from_run_to_run(old, new):
    assert matches(SAID.splitlines(), SAID.replace(old, new).splitlines())


@pytest.mark.parametrize(("old", "new"), [
    ("200 OK", "400 Bad Request"), ("HTTP/1.1", "HTTP/1.0"), ("(28)", "(7)"),
    ("delayed", "delayd"), ("2.004 s", "1.004 s"), ("2002 milli", "1002 milli"), ("curl: ", ""),
    ("Server: TwistedWeb/26.10.0\n", ""), ("\nDate", "\nX: 1\nDate"), ("·····█", ""),
    (" received", " received\nmore"),
])  # fmt: skip
def test_what_may_not_differ(old, new):
    assert not matches(SAID.splitlines(), SAID.replace(old, new).splitlines())


@pytest.mark.parametrize("page", [
    "```console\n$ echo 1\n2\n```\n",
    "```console\n$ echo 1\n$ echo 2\n2\n```\n",
    "```console\n$ echo 1\n1\n2\n```\n",
    "```console\n$ no-such-command\n```\n",
    "```python\nassert 1 == 2\n```\n",
    "1. A list\n\n   ```console\n   $ true\n   ```\n",
])  # fmt: skip
@pytest_twisted.ensureDeferred
async def test_a_page_that_is_not_true_fails(page, reader):
    with pytest.raises(AssertionError):
        await reader.follow(page)
