"""Runs the commands that a page shows, and compares what they print with what the page says.

In a `console` block a line that starts with "$ " is a command, and those after it are its output;
"..." stands for any lines. A command that serves does so until the page's next one, on a port of
its own, which reads 8080 in all that is shown; what the server prints later may be shown, too. A
`python` block is run, and must not fail.
"""

import contextlib
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import threading

from tarry import collection
from tests.live.conftest import BIN, HANG, Server, until

NOT_RUN = {
    "scripts/check": "needs ruff and mypy, which the tests do not; CI runs it",
    "scripts/docs": "needs Sphinx, which the tests do not; CI runs it",
    "scripts/test": "would run this test again",
    "git clone": "stands for a place that only the reader knows",
    "python -m pip install": "test_launcher.py installs it",
    "source .venv/bin/activate": "the programs of this environment are first on PATH already",
}
SERVES = re.compile(r"(scripts/serve|tarry serve|twistd -n web)(?!.* --(help|print-command))")

BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
VARIES = [
    (r"\d{4}-\d\d-\d\dT[\d:.]+(\+[\d:]+)?|\w{3}, \d\d \w{3} \d{4} [\d:]+ GMT", "DATE"),
    (r"\d\d/\w{3}/\d{4}:[\d:]+ \+\d{4}", "DATE"),
    (r"(?<![.\d])\d+\.\d+\.\d+(?![.\d])", "VERSION"),
    (r'"pid": \d+|\b\d{16}\b', "MADE UP"),
    (r"·*█+", "BAR"),  # says in columns what the row says in seconds
    (r"\s+", " "),
]
MEASURED = re.compile(r"(?<![/.\d])\d+\.\d+|\d+(?= milliseconds)")


def same(said, got):
    """Whether two lines say the same. Whole numbers must be equal; of what was measured, the real
    value may be more but hardly less, as a server may be late, but a wait is never shorter."""
    for pattern, name in VARIES:
        said, got = re.sub(pattern, name, said.rstrip()), re.sub(pattern, name, got.rstrip())
    pairs = zip(MEASURED.findall(said), MEASURED.findall(got), strict=False)
    return MEASURED.sub("#", said) == MEASURED.sub("#", got) and all(
        float(real) >= 0.9 * float(shown) - 0.05 for shown, real in pairs
    )


def matches(said, got):
    """Whether the lines *got* are what the lines *said* show; empty lines do not count."""
    said, got = list(filter(str.strip, said)), list(filter(str.strip, got))
    if not said:
        return not got
    if said[0] == "...":
        return any(matches(said[1:], got[n:]) for n in range(len(got) + 1))
    return bool(got) and same(said[0], got[0]) and matches(said[1:], got[1:])


def steps(text):
    """Each command of a page, or its Python source, with the lines that it is said to print."""
    assert text.count("```console") + text.count("```python") == len(BLOCK.findall(text))
    for kind, block in BLOCK.findall(text):
        if kind == "python":
            yield kind, block, ["..."]
        else:
            assert block.startswith("$ "), block
            for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                command, *said = step.splitlines()
                yield kind, command, said


def terminal(arguments, **options):
    """Run a command in a terminal, since its output depends on that; returns code and output."""
    ours, its = pty.openpty()
    mode = termios.tcgetattr(its)
    mode[1] &= ~termios.OPOST  # lines end as the command ends them
    termios.tcsetattr(its, termios.TCSANOW, mode)
    options |= {"stdin": subprocess.DEVNULL, "stdout": its, "stderr": its}
    process = subprocess.Popen(arguments, start_new_session=True, **options)
    os.close(its)
    hang = threading.Timer(HANG, os.killpg, [process.pid, signal.SIGKILL])
    hang.start()
    output = b""
    with open(ours, "rb", buffering=0) as screen:
        with contextlib.suppress(OSError):  # EIO, which is how Linux says that it ended
            while piece := screen.read(65536):
                output += piece
        code = process.wait(HANG)
    hang.cancel()
    assert code != -signal.SIGKILL, f"still running after {HANG} s: {arguments[-1]}"
    return code, output.decode()


class Reader:
    """Somebody who types what a page shows, in *folder*, a copy of the checkout."""

    def __init__(self, folder):
        self.folder, self.server, self.missing = folder, None, set()
        self.env = {
            **os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "TARRY_BIN": str(BIN),
            "COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1", "NO_PROXY": "*", "PYTHONUTF8": "1",
        }  # fmt: skip

    def as_shown(self, output):
        """The lines of *output* with the port and the places of the page instead of this run's."""
        output = output.replace(str(collection()), "rpy").replace("tcp:0:", "tcp:8080:")
        if self.server:
            output = re.sub(rf"(?<![\d.]){self.server.port}\b", "8080", output)
        # curl prints headers bold, and makes a link of Location
        return re.sub(r"\x1b\[[\d;]*m|\x1b\]8;;.*?\x1b\\", "", output).splitlines()

    def serve(self, command):
        if command.startswith("twistd"):
            listen = "--listen=tcp:0:interface=127.0.0.1"
            command = f"{command.replace(' --listen=tcp:8080:interface=127.0.0.1', '')} {listen}"
        else:
            command += " --port=0"
        self.server = Server(["bash", "-c", f"exec {command}"], self.folder, self.env)

    def run(self, kind, command):
        """Run *command* to its end; returns its exit code and what it printed."""
        port = str(self.server.port) if self.server else "8080"
        command = re.sub(r"\b8080\b", port, command)
        shell = [sys.executable, "-c"] if kind == "python" else ["bash", "-c"]
        env = {**self.env, "TARRY_BASE": f"http://127.0.0.1:{port}/"}  # for `tarry fetch`
        return terminal([*shell, command], cwd=self.folder, env=env)

    async def follow(self, text):
        """Do all that the page *text* shows; AssertionError where it is not true."""
        log = None
        try:
            for kind, command, said in steps(text):
                if any(command.startswith(start) for start in NOT_RUN):
                    continue
                if command.startswith("curl ") and not shutil.which("curl"):
                    self.missing.add("curl")
                    continue
                if SERVES.match(command):
                    await self.end_of_server(log)
                    log = said
                    self.serve(command)
                    continue
                code, output = self.run(kind, command)
                got = self.as_shown(output)
                shown = "\n".join(got)
                assert matches(said, got), f"$ {command}\n{shown}"
                assert kind == "console" or code == 0, output
            await self.end_of_server(log)
        finally:
            if self.server:
                self.server.stop()

    async def end_of_server(self, said):
        """Stop the server once it has printed all that it is *said* to."""
        if self.server:
            if not self.missing:
                try:
                    await until(lambda: matches([*said, "..."], self.as_shown(self.server.output)))
                except AssertionError:
                    raise AssertionError(f"the server said\n{self.server.output}") from None
            self.server.stop()
            self.server = None
