"""The child process in which scripts are loaded: it reports on each, and may die of any.

The parent sends a list of paths and the time limit as JSON on standard input. The answer is a line
of JSON as a start, and then one for each script, in order.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import warnings
from traceback import walk_tb
from typing import Any

Report = dict[str, Any]


def load(path: str) -> Report:
    """Run a script as Twisted does for each request, and report what it left in *resource*."""
    from twisted.application.service import IServiceCollection, MultiService
    from twisted.python.reflect import safe_str
    from twisted.web import script, static
    from twisted.web.resource import IResource

    registry = static.Registry()
    registry.setComponent(IServiceCollection, MultiService())  # as under twistd
    try:
        found = script.ResourceScript(path, registry)
        if found is script.noRsrc:
            return {"resource": ""}
        if IResource(found, None) is None:
            name = f"class {found.__name__}" if isinstance(found, type) else type(found).__name__
            return {"resource": name[:200]}
    except BaseException as error:  # SystemExit and KeyboardInterrupt are no end for us
        steps = walk_tb(error.__traceback__)
        lines = [line for frame, line in steps if frame.f_code.co_filename == path]
        said = safe_str(error).partition("\n")[0][:500]
        return {
            "line": lines[-1] if lines else 1,
            "raises": type(error).__name__,
            "message": said,
            "name_is_missing": isinstance(error, ImportError | AttributeError | TypeError),
        }
    return {}


def line_of_main_thread(path: str) -> int:
    """Return the line of the script at *path* that the main thread is in, 1 if in none."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame and frame.f_code.co_filename != path:
        frame = frame.f_back
    return frame.f_lineno if frame else 1


class Reporter:
    """Writes one report for each script, from whichever thread is first."""

    def __init__(self, output: int) -> None:
        self.output, self.lock, self.number = output, threading.Lock(), 0
        self.process = os.getpid()

    def write(self, report: Report) -> None:
        if os.getpid() != self.process:
            os._exit(0)  # a script has forked
        os.write(self.output, json.dumps(report).encode() + b"\n")
        self.number += 1

    def done(self, report: Report) -> None:
        with self.lock:
            self.write(report)

    def overdue(self, number: int, path: str) -> None:
        with self.lock:
            if number == self.number:
                self.write({"overdue": line_of_main_thread(path)})
                os._exit(0)


def main() -> None:
    """Load the scripts that standard input names."""
    started = json.loads(sys.stdin.buffer.read())
    folder, reporter = os.getcwd(), Reporter(os.dup(1))
    warnings.simplefilter("ignore")
    load(os.devnull)  # imports Twisted, which is not the first script's time
    reporter.done({})
    for path in started["paths"]:
        os.chdir(folder)
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):  # what scripts read and print
            os.dup2(nothing, descriptor)
        overdue = threading.Timer(started["limit"], reporter.overdue, (reporter.number, path))
        overdue.daemon = True
        overdue.start()
        report = load(path)
        overdue.cancel()
        reporter.done(report)
    os._exit(0)  # a script may have left threads that never end
