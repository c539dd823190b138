"""docs/site.md says which Twisted each script works on: the oldest and the newest of them serve it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred, gatherResults

from tests.live.conftest import BIN, HANG, RPY, ask

TABLE = re.compile(
    r"^\| ([\d.]+)(?: to [\d.]+)? \| ([\d.]+) to ([\d.]+) \| all(.*) \|$", re.MULTILINE
)
SITE = (Path(__file__).parents[2] / "docs" / "site.md").read_text()
ROWS = [
    (twisted, re.findall(r"`(\w+)`", exceptions)) for twisted, *_, exceptions in TABLE.findall(SITE)
]
NEWEST, OLDEST = ROWS[0], ROWS[-1]

CHAT = b'{"model": "a", "messages": [{"role": "user", "content": "Hello"}], "stream": true}'
REQUESTS = {  # one for each script, answered within a second: method, URL, status, part of the body
    "awaited": ("GET", "?duration=0.1&together", 200, b'"sum"'),
    "broken": ("GET", "?how=overlong", 200, b"0123456789"),
    "cancellable": ("GET", "?duration=0.1", 200, b'"finished"'),
    "chat": ("POST", "/v1/chat/completions?count=2&delay=0", 200, b"data: [DONE]"),
    "deadline": ("GET", "?duration=5&deadline=0.1", 504, b'"steps"'),
    "delayed": ("GET", "?delay=0.1", 200, b"Sorry to keep you waiting."),
    "dripped": ("GET", "?duration=0.1&part=headers", 200, b"0123456789"),
    "earlyhints": ("GET", "?delay=0.1", 200, b"<html"),
    "flaky": ("GET", "?failures=1", 503, b'"failed"'),
    "gated": ("POST", "?key=versions", 200, b'"opened"'),
    "idleclose": ("GET", "?after=0.1", 200, b'"after"'),
    "jittered": ("GET", "?mean=0.1", 200, b'"drawn"'),
    "job": ("POST", "?duration=0.1", 202, b'"state"'),
    "ledger": ("GET", "", 503, b"tarry serve"),
    "longpoll": ("GET", "?timeout=0", 200, b'"messages"'),
    "proxied": ("GET", "?path=/streamed.rpy%3Fcount=2%26interval=0.1", 200, b'"n": 2'),
    "queued": ("GET", "?duration=0.1", 200, b'"waited"'),
    "sse": ("GET", "?count=2&interval=0.1", 200, b"data:"),
    "steps": ("GET", "?status=201&send=one&wait=0.1&send=+two", 201, b"one two"),
    "streamed": ("GET", "?count=2&interval=0.1", 200, b'"n": 2'),
    "subprocess": ("GET", "?count=2&interval=0.1", 200, b'"exit": 0'),
    "threaded": ("GET", "?duration=0.1", 200, b'"blocked"'),
    "throttled": ("GET", "?size=160&rate=1000", 200, b"\n"),
    "websocket": ("GET", "", 426, b""),
}


def twistd_of(version, cache):
    """Return `twistd` of that Twisted, from an environment which is made on first use."""
    folder = cache.mkdir(f"twisted-{version}-python{sys.version_info[0]}.{sys.version_info[1]}")
    twistd, made = folder / "bin" / "twistd", folder / "made"
    if not made.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True, timeout=120)
        install = [folder / "bin" / "pip", "install", "--retries=1", f"Twisted=={version}"]
        installed = subprocess.run(install, capture_output=True, text=True, timeout=300)
        if installed.returncode:
            pytest.skip(f"pip can't install Twisted {version}: {installed.stderr.strip()[-300:]}")
        made.touch()
    return twistd


async def problems(server, exceptions):
    """Send each script its request; return a line for each wrong response."""
    names = sorted({*REQUESTS} - {*exceptions})

    async def wrong(name):
        method, url, status, part = REQUESTS[name]
        data = CHAT if name == "chat" else None
        answer = await ask(server.url(f"{name}.rpy{url}"), method=method, data=data, timeout=HANG)
        if answer.code != status or part not in answer.body:
            return f"{name}: {answer.code} {answer.body[:200]}"

    return [line for line in await gatherResults([ensureDeferred(wrong(n)) for n in names]) if line]


def test_each_script_has_a_request_here():
    assert {*REQUESTS} == {path.stem for path in RPY.glob("*.rpy")}
    assert not NEWEST[1]


@pytest.mark.parametrize(("version", "exceptions"), [OLDEST, NEWEST], ids=["oldest", "newest"])
@pytest_twisted.ensureDeferred
async def test_a_twisted_serves_the_scripts_that_work_on_it(
    version, exceptions, serve, pytestconfig
):
    if version == NEWEST[0]:
        twistd = BIN / "twistd"
    elif sys.version_info >= (3, 13):
        pytest.skip(f"Twisted {version} needs Python 3.12 or older")
    else:
        twistd = twistd_of(version, pytestconfig.cache)
    listen = "--listen=tcp:0:interface=127.0.0.1"
    server = serve([twistd, "-n", "--pidfile=", "web", listen, f"--path={RPY}"])
    assert not await problems(server, exceptions)
    answer = await ask(server.url("delayed.rpy?delay=0"))
    assert answer.header("Server").startswith(f"TwistedWeb/{version}")
