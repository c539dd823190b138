"""Twisted's own tests of what the launcher replaces, run over the replacement.

`python -m tests.unit.twisted_cases NAME` runs one group in a process of its own, because it puts our
classes into Twisted's modules, and prints the names of the tests that fail, one a line, and how many ran.
"""

import sys

from twisted.trial import reporter, runner

from tarry import folder, ledger, web


class Channel(web.Channel):
    """One as Twisted's tests make it: without a site."""

    def __init__(self):
        super().__init__()
        self.site = web.Site(None, web.Limits(), ledger.Ledger(0))


def http():
    from twisted.web.test import test_http

    test_http.http.HTTPChannel = Channel
    return test_http


def static():
    from twisted.web.test import test_static

    test_static.static.File = folder.Folder
    return test_static


def main(group):
    class Quiet(reporter.TestResult):
        """Only counts."""

    result = Quiet()
    runner.TestLoader().loadModule({"http": http, "static": static}[group]()).run(result)
    for case, _ in [*result.failures, *result.errors]:
        print(case.id().partition(".test.")[2])
    print(result.testsRun)


if __name__ == "__main__":
    main(sys.argv[1])
