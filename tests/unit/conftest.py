"""Virtual time: a script loaded as Twisted loads it, driven by a Clock, requested in memory by treq."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from treq.testing import StubTreq
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.web.resource import Resource
from twisted.web.script import ResourceScript
from twisted.web.server import Site
from twisted.web.static import Registry

from tarry.ledger import Ledger

RPY = Path(__file__).parents[2] / "rpy"


class Asked:
    """A request that has been sent, and what has come back so far."""

    def __init__(self, script, method, query, below="", **options):
        self.script, self.response, self.failure, self.body, self.done = (
            script,
            None,
            None,
            b"",
            False,
        )
        url = f"http://127.0.0.1/script.rpy{below}{query}"
        self.deferred = script.treq.request(method, url, unbuffered=True, **options)
        self.deferred.addCallbacks(self._headers, self._failed)
        script.treq.flush()

    def _headers(self, response):
        self.response = response
        ended = self.script.treq.collect(response, self._received)
        ended.addCallbacks(self._ended, self._failed)

    def _received(self, data):
        self.body += data

    def _ended(self, _):
        self.done = True

    def _failed(self, failure):
        self.failure = failure

    @property
    def code(self):
        return self.response.code

    def header(self, name):
        return self.response.headers.getRawHeaders(name, [None])[0]

    def json(self):
        return json.loads(self.body)

    def lines(self):
        return [json.loads(line) for line in self.body.splitlines()]

    def leave(self):
        """Close the client's end of every connection."""
        for pump in list(self.script.treq._agent._pumps):
            pump.clientIO.abortConnection()
        self.script.treq.flush()


class Script:
    """One `.rpy` file in virtual time."""

    def __init__(self, path):
        self.clock, self.events = Clock(), []
        self.resource = ResourceScript(str(path), Registry())
        self.resource.clock, self.resource.now = self.clock, self.clock.seconds
        self.globals = vars(SimpleNamespace(**type(self.resource).render_GET.__globals__))
        root = Resource()
        root.putChild(b"script.rpy", self.resource)
        root.putChild(
            b"", self.resource
        )  # so that for `connect`, "/" is the script and not below it
        self.root, self.treq = root, StubTreq(root)
        self.treq._agent._serverFactory.ledger = Ledger()  # what `tarry serve` gives to its site

    def get(self, query="", method="GET", **options):
        """Send a request. *query* follows the script's name in the URL; *options* are treq's, and
        `below`, a path below the script."""
        return Asked(self, method, query, **options)

    def post(self, query="", **options):
        return self.get(query, "POST", **options)

    def connect(self, query, headers=b""):
        """Send a GET over a transport that the test pauses and resumes; return both ends."""
        site = Site(self.root, reactor=self.clock)
        site.ledger = self.treq._agent._serverFactory.ledger
        server, transport = site.buildProtocol(None), StringTransport()
        server.makeConnection(transport)
        server.dataReceived(b"GET /?%s HTTP/1.1\r\nHost: localhost\r\n%s\r\n" % (query, headers))
        return server, transport

    def advance(self, *seconds):
        for each in seconds:
            self.clock.advance(each)
            self.treq.flush()

    def idle(self):
        return not self.clock.getDelayedCalls()


@pytest.fixture
def script(request):
    """The script that the test's module names in its constant SCRIPT."""
    return Script(RPY / request.module.SCRIPT)


@pytest.fixture
def logged():
    """A function that returns all that has been logged, exceptions too, as text."""
    from twisted.logger import eventAsText, globalLogPublisher

    events = []
    globalLogPublisher.addObserver(events.append)
    yield lambda: "\n".join(map(eventAsText, events))
    globalLogPublisher.removeObserver(events.append)
