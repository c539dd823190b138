"""Twisted's own tests of what the launcher replaces, run over the replacement.

`python -m tests.unit.twisted_cases NAME` runs one group in a process of its own, because it puts our
classes into Twisted's modules, and prints the names of the tests that fail, one a line, and how many ran.
"""

import sys

from twisted.trial import reporter, runner

from tarry.script_directory import ScriptDirectory


def static():
    from twisted.web.test import test_static

    test_static.static.File = ScriptDirectory
    return test_static


def main(group):
    class Quiet(reporter.TestResult):
        """Only counts."""

    result = Quiet()
    runner.TestLoader().loadModule({"static": static}[group]()).run(result)
    for case, _ in [*result.failures, *result.errors]:
        print(case.id().partition(".test.")[2])
    print(result.testsRun)


if __name__ == "__main__":
    main(sys.argv[1])
