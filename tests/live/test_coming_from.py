"""docs/coming-from.md: each of our URLs there does what the table says."""

import gzip
import json
import re
import time
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, ensureDeferred, gatherResults
from twisted.internet.threads import deferToThread
from websockets.sync.client import connect as websocket

from tests.live.conftest import PLAIN, RPY, TARRY, Server, ask
from tests.live.sockets import HANG, connect, rest

PAGE = (Path(__file__).parents[2] / "docs" / "coming-from.md").read_text()
OURS = re.findall(r"^\| .+ \| `(/[^`]+)` \|.*\|$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module", params=["twistd web", "tarry serve"])
def server(request):
    plain = request.param == "twistd web"
    command = [*PLAIN, f"--path={RPY}"] if plain else [*TARRY, RPY]
    server = Server(command, env={"STEPS_OPEN": "1"})
    server.plain = plain
    yield server
    server.stop()


def answers(code=200, body=None, least=0.0, **headers):
    """Return a check for a whole response, after *least* seconds or more."""

    async def check(server, path):
        answer = await ask(server.url(path[1:]))
        assert answer.code == code
        assert answer.took >= least - 0.01
        if callable(body):
            assert body(answer.body)
        elif body is not None:
            assert answer.body == body
        for name, value in headers.items():
            assert answer.header(name.replace("_", "-")) == value

    return check


def ends(how, least=0.0, pattern=rb".*"):
    """Return a check for what comes on the connection, until FIN, RST or silence."""

    async def check(server, path):
        began = time.monotonic()
        with connect(server, path[1:]) as client:
            patience = 1 if how == "silence" else HANG
            got, end = await deferToThread(rest, client, patience)
        took = time.monotonic() - began
        assert end == how
        assert took >= least - 0.01
        assert re.fullmatch(pattern, got, re.DOTALL)

    return check


def fails(times, code):
    """Return a check for so many failures, then a success."""

    async def check(server, path):
        codes = [(await ask(server.url(path[1:]))).code for _ in range(times + 1)]
        assert codes == [code] * times + [200]

    return check


def some_fail(code, share):
    async def check(server, path):
        asked = [ensureDeferred(ask(server.url(path[1:]))) for _ in range(100)]
        codes = [answer.code for answer in await gatherResults(asked)]
        assert set(codes) == {200, code}
        assert abs(codes.count(code) / 100 - share) < 0.15

    return check


async def echoes(server, path):
    def exchange():
        url = f"ws://127.0.0.1:{server.port}{path}"
        with websocket(url, open_timeout=HANG, close_timeout=HANG, proxy=None) as client:
            began = time.monotonic()
            client.send("hello")
            return client.recv(HANG), time.monotonic() - began

    said, took = await deferToThread(exchange)
    assert said == "hello"
    assert took >= 0.49


async def lists_what_was_asked(server, path):
    answer = await ask(server.url(path[1:]))
    if server.plain:
        assert answer.code == 503
    else:
        assert {entry["path"] for entry in json.loads(answer.body)} == {"/delayed.rpy"}


def waited(low, high):
    return lambda body: low <= json.loads(body)["waited"] and json.loads(body)["wait"] <= high


DIGITS = b"0123456789" * 10
CHECKS = {
    "/delayed.rpy?delay=1": answers(least=1),
    "/dripped.rpy?duration=1&size=10&status=201&delay=0.5": answers(201, DIGITS[:10], 1.5),
    "/streamed.rpy?count=5&interval=0": answers(body=lambda body: body.count(b'"due"') == 5),
    "/throttled.rpy?size=1024&rate=1024": answers(
        body=lambda body: len(body) == 1024 and body[160:176] == b"%015d\n" % 160, least=1
    ),
    "/steps.rpy?bytes=100": answers(body=DIGITS),
    "/steps.rpy?bytes=10&repeat=10:1": answers(body=DIGITS),
    "/steps.rpy?status=418": answers(418, b""),
    "/flaky.rpy?rate=0.1&status=500": some_fail(500, 0.1),
    "/steps.rpy?header=X-A:1": answers(X_A="1"),
    "/dripped.rpy?encoding=gzip&duration=0.5": answers(
        body=lambda body: body == DIGITS[:10] or gzip.decompress(body) == DIGITS[:10], least=0.5
    ),
    "/sse.rpy?count=5&interval=0.25": answers(
        body=lambda body: body.count(b"\ndata: ") == 5, least=1
    ),
    "/websocket.rpy?delay=0.5": echoes,
    "/flaky.rpy?rate=0.3&seed=7&status=500": some_fail(500, 0.3),
    "/flaky.rpy?failures=1&key=retry": fails(1, 503),
    "/jittered.rpy?distribution=lognormal&median=0.09&spread=0.1": answers(body=waited(0.05, 0.15)),
    "/jittered.rpy?distribution=uniform&mean=0.02&spread=0.005": answers(body=waited(0.014, 0.025)),
    "/dripped.rpy?size=5&duration=1&framing=chunked": answers(body=DIGITS[:5], least=1),
    "/broken.rpy?how=empty": ends("FIN", pattern=b""),
    "/broken.rpy?how=reset": ends("RST", pattern=b""),
    "/broken.rpy?how=badchunk": ends("FIN", pattern=rb".*\r\na\r\n0123456789\r\nno number\r\n"),
    "/broken.rpy?how=garbage": ends("FIN", pattern=rb"SSH.*"),
    "/flaky.rpy?failures=2&key=scenario": fails(2, 503),
    "/ledger.rpy?path=/delayed.rpy": lists_what_was_asked,
    "/jittered.rpy?mean=1&spread=0.1": answers(body=waited(0.89, 1.1), least=0.9),
    "/throttled.rpy?size=100000&rate=100000": answers(body=lambda b: len(b) == 10**5, least=1),
    "/steps.rpy?send=done&wait=0.5&close": ends("FIN", 0.5, rb".*\r\n4\r\ndone\r\n"),
    "/steps.rpy?wait=0.5&close": ends("FIN", 0.5, b""),
    "/broken.rpy?how=silent": ends("silence", 1, b""),
    "/broken.rpy?how=reset&delay=0.5": ends("RST", 0.5, b""),
    "/steps.rpy?bytes=10&wait=0.01&repeat=50:2": answers(body=DIGITS * 5, least=0.5),
    "/broken.rpy?how=truncated&size=100": ends("FIN", pattern=rb".*\r\n\r\n[0-9]{100}"),
    "/steps.rpy?wait=1&bytes=100": answers(body=DIGITS, least=1),
    "/steps.rpy?length=100&bytes=50&wait=1&bytes=50": answers(body=DIGITS, least=1),
    "/steps.rpy?length=100&bytes=50&hang": ends("silence", 1, rb".*\r\n\r\n[0-9]{50}"),
    "/steps.rpy?length=100&bytes=50&close": ends("FIN", pattern=rb".*\r\n\r\n[0-9]{50}"),
    "/steps.rpy?status=200&header=X-A:1": answers(X_A="1"),
    "/steps.rpy?raw=xHTTP/1.1+200+OK%0D%0A%0D%0A": ends(
        "FIN", pattern=rb"xHTTP/1.1 200 OK\r\n\r\n"
    ),
}


def test_each_row_has_its_test():
    rows = re.findall(r"^\| (?!theirs|---).*\|$", PAGE, re.MULTILINE)
    assert len(OURS) == len(rows)
    assert set(OURS) == set(CHECKS)


@pytest_twisted.ensureDeferred
async def test_each_of_our_urls_does_what_the_table_says(server):
    """All at once, except for the ledger, which lists the others."""
    wrong = []

    async def check(path):
        try:
            await CHECKS[path](server, path)
        except Exception as error:
            wrong.append(f"{path}: {error!r}")

    paths = [path for path in CHECKS if not path.startswith("/ledger")]
    await gatherResults([Deferred.fromCoroutine(check(path)) for path in paths])
    await check("/ledger.rpy?path=/delayed.rpy")
    assert wrong == []
