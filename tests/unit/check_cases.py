"""Scripts for the tests of `tarry check`, and what is found in them.

A line of a script that ends in "#! text" must be found, with that text in the message; no other
line may be.
"""

from inspect import Signature, signature
from textwrap import dedent, indent

from tarry.checks import check
from tarry.checks.files import Checked

HEAD = """\
from twisted.internet import reactor
from twisted.web import server
from twisted.web.resource import Resource
"""


def _write(folder, source):
    path = folder / "script.rpy"
    path.write_bytes(source if isinstance(source, bytes) else source.encode())
    return path


def _pairs(path, found):
    assert all(str(one).startswith(f"{path}:{one.line}: {one.code} ") for one in found)
    assert all(len(str(one).splitlines()) == 1 for one in found)
    return [(one.line, str(one).partition(f":{one.line}: ")[2]) for one in found]


def findings(folder, source):
    """Return what the source of a script shows, as pairs of line and text. It is not loaded."""
    path = _write(folder, source)
    return _pairs(path, sorted(set(Checked(path).findings)))


def loaded(folder, source, limit=10):
    """Return what is found in a script that is also loaded, as pairs of line and text."""
    path = _write(folder, source)
    scripts, found = check([path], limit)
    assert scripts == [path]
    return _pairs(path, found)


def expect(folder, source):
    """Assert that exactly the marked lines are found, for the reasons they are marked with."""
    found = findings(folder, source)
    marks = [
        (number, mark.strip())
        for number, line in enumerate(source.splitlines(), 1)
        for mark in line.split("#!")[1:]
    ]
    assert [line for line, _ in found] == [line for line, _ in marks], found
    for (_, text), (_, mark) in zip(found, marks, strict=True):
        assert mark in f": {text}", (text, mark)


def resource(body, rest=""):
    """Return a script whose Resource has this body."""
    body = indent(dedent(body).strip("\n"), "    ")
    return f"{HEAD}{dedent(rest)}\nclass R(Resource):\n{body}\n\nresource = R()\n"


def render(body, rest="", end="return b''"):
    """Return a script whose render_GET has this body, and then this end."""
    body = indent(dedent(f"{body}\n{end}").strip("\n"), "    ")
    return resource(f"def render_GET(self, request):\n{body}", rest)


def each(names, rows):
    """Run a test with each row, as `parametrize` does, but as one test that reports all failures:
    a table of scripts is one promise."""
    names = [names] if isinstance(names, str) else list(names)

    def decorate(test):
        def run(**fixtures):
            failed = []
            for row in rows:
                values = dict(zip(names, row if len(names) > 1 else [row], strict=True))
                try:
                    test(**fixtures, **values)
                except AssertionError as error:
                    failed.append(f"{values}\n    {error}")
            assert not failed, "\n".join(failed)

        run.__name__, run.__doc__ = test.__name__, test.__doc__
        parameters = signature(test).parameters.values()
        run.__signature__ = Signature([one for one in parameters if one.name not in names])
        return run

    return decorate
