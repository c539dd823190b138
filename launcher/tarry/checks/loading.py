"""Load scripts in a child process, so that none can hang or end the check: RPY003 to RPY005."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from tarry.checks.child import Report

TO_START = 60.0  # seconds for the child to import Twisted, on a busy machine
GRACE = 5.0  # seconds over the limit, in which the child itself says which line hangs


def reports(paths: Sequence[Path], limit: float) -> Iterator[tuple[Path, Report]]:
    """Yield each path with what the child reports. A script that takes more than *limit* seconds,
    or ends the child, is reported as such, and the next ones are loaded in another child."""
    left = list(paths)
    while left:
        process = _start(left, limit)
        lines: queue.Queue[bytes] = queue.Queue()
        try:
            threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True).start()
            if not lines.get(timeout=TO_START):
                raise RuntimeError(f"cannot load scripts: {sys.executable} ended at once")
            while left:
                report = _next(process, lines, limit)
                yield left.pop(0), report
                if "overdue" in report or "ended" in report:
                    break
        finally:
            _kill(process)


def _start(paths: Sequence[Path], limit: float) -> subprocess.Popen[bytes]:
    code = f"import sys; sys.path[:] = {sys.path!r}; from tarry.checks.child import main; main()"
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # what a script has started ends with it
    )
    job = {"paths": [str(path.absolute()) for path in paths], "limit": limit}
    try:
        if process.stdin:
            process.stdin.write(json.dumps(job).encode())
            process.stdin.close()
    except OSError:
        pass  # it ended already, which its output shows
    return process


def _pump(output: IO[bytes], lines: queue.Queue[bytes]) -> None:
    with output:
        for line in output:
            lines.put(line)
    lines.put(b"")


def _next(process: subprocess.Popen[bytes], lines: queue.Queue[bytes], limit: float) -> Report:
    try:
        line = lines.get(timeout=limit + GRACE)
    except queue.Empty:
        return {"overdue": 1}
    if line:
        return json.loads(line)  # type: ignore[no-any-return]
    status = process.wait()
    if status < 0:
        return {"ended": f"by {signal.Signals(-status).name}"}
    return {"ended": f"with exit status {status}"}


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except (ProcessLookupError, PermissionError):
        pass
    process.wait()
