"""Twisted's own tests of what the launcher replaces, run over the replacement.

`python -m tests.unit.twisted_cases NAME` runs one group in a process of its own, because it puts our
classes into Twisted's modules. It prints the names of the tests that fail, one a line, and how many ran.
"""

import sys

from twisted.trial import reporter, runner
from twisted.web import resource, server, static
from twisted.web.test import requesthelper

from tarry.http1 import HTTP1
from tarry.ledger import Ledger
from tarry.limits import Limits
from tarry.request import Request
from tarry.script_directory import ScriptDirectory
from tarry.site import Site


class Transport:
    """What a test gave for a transport, with the methods that HTTP1 takes for granted."""

    disconnecting = False

    def __init__(self, given):
        self.given = given

    def __getattr__(self, name):
        return getattr(self.given, name, lambda *arguments: None)


class Channel(HTTP1):
    def dataReceived(self, data):
        """Add the Host that HTTP/1.1 asks for."""
        if b"\r\nHost:" not in data:
            data = data.replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\nHost: localhost\r\n")
        super().dataReceived(data)

    def makeConnection(self, transport):
        super().makeConnection(Transport(transport))


class OurSite(Site):
    """One as Twisted's tests make it, with Twisted's arguments."""

    opening = Channel

    def __init__(self, root, *arguments, reactor=None, **options):
        super().__init__(root, Limits(), Ledger(0), reactor=reactor)


def over_requests(name):
    server.Site, server.Request = OurSite, Request
    requesthelper.DummyChannel.site = OurSite(resource.Resource())
    return name


def over_files(name):
    static.File = ScriptDirectory
    return name


GROUPS = {
    "static": lambda: over_files("test_static"),
    "web": lambda: over_requests("test_web"),
    "resource": lambda: over_requests("test_resource"),
}


def main(group):
    class Quiet(reporter.TestResult):
        """Only counts."""

    name = GROUPS[group]()
    module = __import__(f"twisted.web.test.{name}", fromlist=["*"])
    if group == "static":
        module.static.File = ScriptDirectory
    result = Quiet()
    runner.TestLoader().loadModule(module).run(result)
    for case, failure in [*result.failures, *result.errors]:
        why = str(getattr(failure, "value", failure)).splitlines()[:1]
        print(case.id().partition(".test.")[2], *why, sep="\t")
    print(result.testsRun)


if __name__ == "__main__":
    main(sys.argv[1])
