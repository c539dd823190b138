"""That what a client sends takes time in proportion to its size, whatever script it is sent to.

A regular expression or a loop that is quadratic in a client's input holds up all other requests: 16 KB of
one header took 1.4 s. Each script gets values of n and of 2n bytes for every parameter and for every header
that it reads. What takes it longer than some milliseconds must not take over three times as long for 2n.
"""

import json
import re
import sys
import time

import pytest
from twisted.internet.error import ConnectionLost
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.server import Site

from tarry.ledger import Ledger
from tarry.script_docs import read

from .conftest import RPY
from .test_promises import SCRIPTS, Script

SIZE = 15_000  # bytes: more does not fit into a request line or a header
QUICK = 0.01  # seconds that nobody notices, however they grow: nothing larger than SIZE gets in
MAX_TIME = 0.1  # seconds that no request may take in one turn: twice the promise, for slow machines

BEGINNINGS = (b"", b"X-A:", b"bytes=1-", b"/a?")
UNITS = (b"a", b"1", b"+", b"%2B", b",", b";")
ENDS = (b"", b"%00")


def values(size):
    """Yield texts of *size* bytes that a regular expression might try in many ways."""
    for begin in BEGINNINGS:
        for unit in UNITS:
            for end in ENDS:
                yield begin + unit * ((size - len(begin) - len(end)) // len(unit)) + end


def queries(names, size):
    """Yield queries of *size* bytes: a long value for each parameter, and many parameters."""
    for name in names:
        for value in values(size - len(name) - 1):
            yield b"%b=%b" % (name, value)
        for pair in (b"%b&" % name, b"%b=2:1&" % name):
            yield pair * (size // len(pair))
    for pair in (b"a&", b"&", b"send=&repeat=2:1&", b"send=&", b"key=%00;"):
        yield pair * (size // len(pair))


class Stopwatch:
    """Measures how long a script takes to render a request, in seconds of processor time."""

    def __init__(self, script):
        self.script, self.render, self.spent = script, script.resource.render, 0.0
        script.resource.render = self.timed

    def timed(self, request):
        began = time.process_time()
        try:
            return self.render(request)
        finally:
            self.spent = time.process_time() - began

    def took(self, data):
        server, transport = Site(self.script.root).buildProtocol(None), StringTransport()
        server.site.ledger = Ledger()
        server.makeConnection(transport)
        self.spent = None
        server.dataReceived(data)
        server.connectionLost(Failure(ConnectionLost()))
        assert self.spent is not None, f"{data[:60]} did not reach the script: {transport.value()}"
        return self.spent

    def problem(self, small, large):
        """Return what is wrong with the time that *large* takes, which is twice *small*; or ""."""
        if self.took(large) < QUICK:
            return ""
        one, two = (min(self.took(data) for _ in range(7)) for data in (small, large))
        if two > MAX_TIME or two > max(QUICK, 3 * one):
            return f"{one * 1000:.1f} ms, and {two * 1000:.1f} ms for 2n: {large[:60]}"
        return ""


def get(query, *headers):
    lines = [b"GET /?%b HTTP/1.1" % query, b"Host: localhost", *headers]
    return b"\r\n".join([*lines, b"", b""])


def every_request(path, size):
    """Yield requests of about *size* bytes for the script at *path*."""
    for query in queries([p.name.encode() for p in read(path, path.name).parameters], size):
        yield get(query)
    for header in re.findall(r'getHeader\(b?"([^"]+)"', path.read_text()):
        for value in values(size):
            yield get(b"", b"%b: %b" % (header.encode(), value.replace(b"+", b" ")))


def problems(path):
    """Yield what is wrong with the times that the script at *path* takes."""
    watch = Stopwatch(Script(path))
    pairs = zip(every_request(path, SIZE // 2), every_request(path, SIZE), strict=True)
    for small, large in pairs:
        if found := watch.problem(small, large):
            yield found


@pytest.mark.parametrize("name", SCRIPTS)
def test_time_is_linear_in_every_parameter_and_header(name):
    found = "\n".join(problems(RPY / name))
    assert not found, found


def test_a_quadratic_expression_is_found(tmp_path, monkeypatch):
    """It tries each blank as the beginning of the value: the one that blocked the server."""
    monkeypatch.setattr(sys.modules[__name__], "SIZE", 5000)  # enough for some 100 ms
    path = tmp_path / "slow.rpy"
    path.write_text(r'''"""
Match.

    GET /slow.rpy

Parameters:

    name    meaning   range     default
    header  a header  any text  -

Answer: 200.
"""
import re
from urllib.parse import parse_qsl
from twisted.web.resource import Resource
class Slow(Resource):
    isLeaf = True
    def render_GET(self, request):
        for _, value in parse_qsl(request.uri.partition(b"?")[2]):
            re.fullmatch(rb"([A-Za-z-]+):[ \t]*([\t\x20-\x7e]*)", value)
        return b"matched"
resource = Slow()
''')
    assert "header=X-A:+++" in next(problems(path), "")


BODIES = {  # for a size in bytes
    "messages": lambda size: b'"messages": [%b{}]' % (b"{}," * (size // 3)),
    "parts": lambda size: b'"messages": [{"content": [%b{}]}]' % (b"{}," * (size // 3)),
    "text": lambda size: b'"messages": [{"content": "%b"}]' % (b"a " * (size // 2)),
    "numbers": lambda size: b'"messages": [%b0]' % (b"1e5," * (size // 4)),
    "fields": lambda size: b", ".join(b'"%d": 1' % n for n in range(size // 11)),
    "brackets": lambda size: b'"messages": %b' % (b"[" * size),
    "no end": lambda size: b'"messages": "%b' % (b"\\" * size),
    "a long number": lambda size: b'"n": %b' % (b"9" * size),
}


@pytest.mark.parametrize("kind", BODIES)
def test_time_is_linear_in_the_body_of_a_chat(kind):
    watch = Stopwatch(Script(RPY / "chat.rpy"))
    small, large = (
        b"POST /script.rpy/v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        for body in (b'{"model": "a", %b}' % BODIES[kind](size) for size in (245_000, 490_000))
    )
    assert not watch.problem(small, large)


def test_a_body_of_the_allowed_size_is_read_and_a_larger_one_is_not():
    """So that the test above measures what it says."""
    script = Script(RPY / "chat.rpy")
    for size, words in ((490_000, b"a list of 1 to 1000"), (510_000, b"the body is too long")):
        body = json.dumps({"model": "a", "messages": [{}] * (size // 3)}).encode()
        body = body.replace(b" ", b"")
        asked = script.post("/v1/chat/completions", data=body)
        assert asked.code == 400
        assert words in asked.body
