"""`tarry serve` under what clients, scripts and operators really do: each fault is sent for real."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred, gatherResults
from twisted.internet.threads import deferToThread
from twisted.web.client import ResponseFailed, ResponseNeverReceived

from tests.live.conftest import BIN, HANG, RPY, TARRY, EnoughError, Server, ask, until
from tests.live.test_leaving import WAYS, connect

SEED = """
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from twisted.internet import reactor

class DelayedResource(Resource):
    def _delayedRender(self, request):
        request.write("<html><body>Sorry to keep you waiting.</body></html>")
        request.finish()

    def render_GET(self, request):
        reactor.callLater(0.1, self._delayedRender, request)
        return NOT_DONE_YET

resource = DelayedResource()
"""

RENDERS = """
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
recache()
class Page(Resource):
    isLeaf = True
    def render_GET(self, request):
        {body}
resource = Page()
"""


@pytest.fixture
def site(tmp_path, request):
    """A server of an empty folder beside the ledger; `folder.write` puts a script into it."""
    (tmp_path / "ledger.rpy").write_bytes((RPY / "ledger.rpy").read_bytes())
    (tmp_path / "delayed.rpy").write_bytes((RPY / "delayed.rpy").read_bytes())
    (tmp_path / "streamed.rpy").write_bytes((RPY / "streamed.rpy").read_bytes())
    server = Server([*TARRY, *getattr(request, "param", []), tmp_path])
    server.folder = tmp_path
    yield server
    server.stop(signal.SIGKILL)


def put(site, name, body):
    (site.folder / name).write_text(RENDERS.format(body=body))


async def entries(site, **about):
    query = "&".join(f"{name}={value}" for name, value in about.items())
    return json.loads((await ask(site.url(f"ledger.rpy?{query}"))).body)


def raw(site, data=b"", **options):
    client = socket.create_connection(("127.0.0.1", site.port), timeout=HANG)
    client.sendall(data)
    return client


def everything(client):
    """All that comes until the server closes; b"RST" at the end if it resets."""
    got = b""
    try:
        while piece := client.recv(65536):
            got += piece
    except ConnectionResetError:
        got += b"RST"
    client.close()
    return got


def all_of(site, data):
    with raw(site, data) as client:
        return everything(client)


def not_listening(site):
    try:
        raw(site).close()
    except ConnectionRefusedError:
        return True


# --- what the seed's listing gets ---


@pytest_twisted.ensureDeferred
async def test_the_seed_s_listing_gets_a_500_at_once_and_the_log_says_what_to_do(site):
    path = site.folder / "seed.rpy"
    path.write_text(SEED)
    answer = await ask(site.url("seed.rpy"))
    assert answer.code == 500
    assert answer.header("Content-Type").startswith("text/plain")
    assert answer.body.count(b"\n") == 1
    advice = f"{path}:8: request.write was given a str, '<html><body>Sorry to keep you waiting.</'"
    await until(lambda: advice in site.output)
    assert "write bytes: b'…' or .encode()" in site.output
    assert "Traceback" not in site.output
    (entry,) = await entries(site, outcome="failed")
    assert (entry["status"], entry["detail"]) == (500, f"str written at {path}:8")


@pytest_twisted.ensureDeferred
async def test_a_script_may_note_something_of_a_request(site):
    put(site, "x.rpy", "request.note = 'n' * 300; return b'done'")
    await ask(site.url("x.rpy"))
    (entry,) = await entries(site, path="/x.rpy")
    assert entry["note"] == "n" * 200


WEBSOCKET = """
from twisted.web.websocket import WebSocketResource
recache()
class Echo:
    def negotiationStarted(self, transport): self.transport = transport
    def negotiationFinished(self): pass
    def textMessageReceived(self, message): self.transport.sendTextMessage(message)
    def connectionLost(self, reason): pass
class Factory:
    def buildProtocol(self, request): return Echo()
resource = WebSocketResource(Factory())
"""


CLOSE = b"\x88\x80\0\0\0\0"  # a frame that closes a WebSocket, with a mask of zeros


@pytest.mark.parametrize(("leave", "outcome", "detail"), [
    (lambda client: client.sendall(CLOSE), "finished", ""),
    (WAYS[0], "left", "FIN"),
    (WAYS[2], "left", "RST"),
], ids=["close frame", "FIN", "RST"])  # fmt: skip
@pytest_twisted.ensureDeferred
async def test_a_websocket_is_in_the_ledger_until_its_end(site, leave, outcome, detail):
    (site.folder / "echo.rpy").write_text(WEBSOCKET)
    head = (
        "GET /echo.rpy?key=ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with raw(site, head.encode()) as client:
        assert (await deferToThread(client.recv, 1000)).startswith(b"HTTP/1.1 101 ")
        (entry,) = await entries(site, key="ws")
        assert entry["outcome"] == "pending"
        leave(client)
        (entry,) = await until(lambda: ensureDeferred(entries(site, key="ws", outcome=outcome)))
        assert (entry["status"], entry["detail"]) == (101, detail)


AFTER_THE_FIRST_BYTE = [
    "request.write(b'part'); request.write('text'); request.finish(); return NOT_DONE_YET",
    "request.write(b'part'); raise RuntimeError('late')",
    "request.write(b'part'); 1 / 0",
    "request.write(b'part'); return 'text'",
    "request.write(b'part'); return None",
]


@pytest.mark.parametrize("body", AFTER_THE_FIRST_BYTE)
@pytest_twisted.ensureDeferred
async def test_a_failure_after_the_first_byte_is_never_a_whole_answer(site, body):
    put(site, "x.rpy", body)
    got = all_of(site, b"GET /x.rpy HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b"\r\n0\r\n\r\n" not in got
    assert b"<html" not in got
    (entry,) = await entries(site, path="/x.rpy")
    assert entry["outcome"] == "failed"
    assert (await ask(site.url("delayed.rpy?delay=0"))).code == 200


BEFORE_THE_FIRST_BYTE = ["raise RuntimeError('early')", "return 'text'", "return None", "1 / 0"]


@pytest.mark.parametrize("body", BEFORE_THE_FIRST_BYTE)
@pytest_twisted.ensureDeferred
async def test_a_failure_before_the_first_byte_is_a_plain_500(site, body):
    put(site, "x.rpy", body)
    answer = await ask(site.url("x.rpy"))
    assert (answer.code, answer.body.count(b"\n")) == (500, 1)
    assert b"<" not in answer.body
    assert b"Traceback" not in answer.body
    (entry,) = await entries(site, path="/x.rpy")
    assert entry["outcome"] == "failed"
    if "raise" in body:
        assert entry["detail"] == f"RuntimeError at {site.folder}/x.rpy:8"


@pytest.mark.parametrize("site", [["--display-tracebacks"]], indirect=True)
@pytest_twisted.ensureDeferred
async def test_tracebacks_are_shown_to_those_who_ask_for_them(site):
    put(site, "x.rpy", "raise RuntimeError('early')")
    answer = await ask(site.url("x.rpy"))
    assert answer.code == 500
    assert b"early" in answer.body
    (site.folder / "y.rpy").write_text("1 / 0")
    assert b"ZeroDivisionError" in (await ask(site.url("y.rpy"))).body


# --- the ledger ---


@pytest.mark.parametrize(
    ("leave", "how"), list(zip(WAYS, ["FIN or RST", "FIN", "RST"], strict=True))
)
@pytest_twisted.ensureDeferred
async def test_a_test_waits_for_its_client_to_have_been_seen_leaving(site, leave, how):
    waiting = ensureDeferred(ask(site.url("ledger.rpy?await=left&key=mine&timeout=30")))
    with connect(site, "streamed.rpy?interval=0.05&key=mine") as client:
        assert client.recv(100).startswith(b"HTTP/1.1 200")
        assert not waiting.called
        leave(client)
        entry = json.loads((await waiting).body)
    assert (entry["outcome"], entry["status"]) == ("left", 200)
    assert entry["detail"] in how  # closing with something unread in the buffer is a RST
    assert entry["bytes"] == sum(size for _, size in entry["writes"]) > 0
    assert 0 <= entry["first_byte"] <= entry["last_byte"] <= entry["end"]
    again = await ask(site.url("ledger.rpy?await=left&key=mine"))  # it is there already
    assert json.loads(again.body)["id"] == entry["id"]


@pytest_twisted.ensureDeferred
async def test_nothing_that_was_awaited_comes(site):
    answer = await ask(site.url("ledger.rpy?await=left&key=none&timeout=0.1"))
    told = json.loads(answer.body)
    assert answer.code == 408
    assert (told["await"], told["key"], told["error"]) == ("left", "none", "none came")


@pytest_twisted.ensureDeferred
async def test_the_ledger_is_filtered_and_forgets(site):
    for key, path in [
        ("a", "delayed.rpy?delay=0"),
        ("b", "delayed.rpy?delay=0"),
        ("a", "no.rpy?x=1"),
    ]:
        await ask(site.url(f"{path}&key={key}"))
    await ask(site.url("delayed.rpy?delay=0"), headers={"X-Tarry-Key": "from-a-header"})
    assert [e["status"] for e in await entries(site)] == [200, 200, 404, 200]
    assert [e["path"] for e in await entries(site, key="a")] == ["/delayed.rpy", "/no.rpy"]
    assert [e["key"] for e in await entries(site, path="/delayed.rpy")] == [
        "a",
        "b",
        "from-a-header",
    ]
    second = (await entries(site, key="b"))[0]["id"]
    assert [e["key"] for e in await entries(site, since=second)] == ["a", "from-a-header"]
    forgotten = await ask(site.url("ledger.rpy?key=a"), method="DELETE")
    assert json.loads(forgotten.body) == {"forgotten": 2}
    assert [e["key"] for e in await entries(site)] == ["b", "from-a-header"]
    assert len(await entries(site, path="/ledger.rpy")) > 0


@pytest_twisted.ensureDeferred
async def test_the_ledger_is_followed_live_and_says_what_it_left_out(site):
    seen = b""

    def received(piece):
        nonlocal seen
        seen += piece
        if b"event: finished" in seen:
            raise EnoughError

    headers = {"Accept": "text/event-stream"}
    following = ensureDeferred(ask(site.url("ledger.rpy"), received=received, headers=headers))
    await until(lambda: seen)
    await ask(site.url("delayed.rpy?delay=0&key=live"))
    with pytest.raises(EnoughError):
        await following
    blocks = [block.splitlines() for block in seen.decode().split("\n\n") if "data:" in block]
    assert [block[1] for block in blocks] == ["event: pending", "event: finished"]
    assert json.loads(blocks[1][2].removeprefix("data: "))["key"] == "live"
    waiting = await ask(site.url("ledger.rpy?await=left&path=/ledger.rpy"))
    assert json.loads(waiting.body)["outcome"] == "left"


@pytest_twisted.ensureDeferred
async def test_the_summary_tells_the_peak_and_who_does_not_read(site):
    clients = [connect(site, "streamed.rpy?count=100000&interval=0", room=4096) for _ in range(3)]

    async def summary():
        return json.loads((await ask(site.url("ledger.rpy?summary"))).body)

    async def three_do_not_read():
        return (await summary())["not_reading"] == 3

    await until(three_do_not_read)
    told = await summary()
    assert (told["pending"], told["peak_pending"]) == (4, 4)
    for client in clients:
        client.close()

    async def all_have_left():
        return (await summary())["outcomes"]["left"] == 3

    await until(all_have_left)
    assert (await summary())["not_reading"] == 0


@pytest_twisted.ensureDeferred
async def test_what_a_script_breaks_off_is_aborted(site):
    put(
        site,
        "x.rpy",
        "request.write(b'part'); request.transport.abortConnection(); return NOT_DONE_YET",
    )
    put(site, "y.rpy", "request.write(b'part'); request.loseConnection(); return NOT_DONE_YET")
    for name in ("x.rpy", "y.rpy"):
        all_of(site, f"GET /{name} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        (entry,) = await entries(site, path=f"/{name}")
        assert entry["outcome"] == "aborted"


@pytest_twisted.ensureDeferred
async def test_the_ledger_never_holds_secrets(site):
    sent = (b"POST http://user:hunter2@localhost/delayed.rpy?token=hunter2&delay=0 HTTP/1.1\r\nHost: localhost\r\n"
            b"Authorization: Basic hunter2\r\nCookie: s=hunter2\r\nConnection: close\r\n"
            b"Content-Type: application/x-www-form-urlencoded\r\n"
            b"Content-Length: 11\r\n\r\nkey=hunter2")  # fmt: skip
    all_of(site, sent)
    held = (await ask(site.url("ledger.rpy"))).body
    assert b'"POST"' in held
    assert b"hunter2" not in held


@pytest.mark.parametrize("site", [["--ledger", "0"]], indirect=True)
@pytest_twisted.ensureDeferred
async def test_without_a_ledger_its_script_says_what_keeps_one(site):
    answer = await ask(site.url("ledger.rpy"))
    assert (answer.code, answer.body.count(b"\n")) == (503, 1)
    assert b"--ledger" in answer.body


# --- the access log ---


@pytest_twisted.ensureDeferred
async def test_the_access_log_has_those_that_left_and_were_aborted_too(tmp_path):
    file = tmp_path / "access.log"
    server = Server([*TARRY, "--access-log", file, RPY])
    await ask(
        server.url("delayed.rpy?delay=0"), headers={"User-Agent": 'me "q"', "Referer": "http://x/"}
    )
    connect(server, "delayed.rpy?delay=60").close()
    await until(lambda: "the client left" in server.output)
    os.replace(file, tmp_path / "old.log")
    server.process.send_signal(signal.SIGHUP)
    await until(file.exists)
    await ask(server.url("delayed.rpy?delay=x"))
    assert server.process.poll() is None
    assert server.stop() == 0
    old, new = (tmp_path / "old.log").read_text().splitlines(), file.read_text().splitlines()
    assert old[0].startswith("127.0.0.1 - - [")
    assert old[0].endswith('"GET /delayed.rpy?delay=0 HTTP/1.1" 200 137 "http://x/" "me \\"q\\""')
    assert old[1].endswith('"GET /delayed.rpy?delay=60 HTTP/1.1" 499 - "-" "-"')
    assert '"GET /delayed.rpy?delay=x HTTP/1.1" 400 55 ' in new[0]
    assert (len(old), len(new)) == (2, 1)
    assert "GET /delayed" not in server.output.replace("b'/delayed", "")


def test_quiet_is_quiet():
    server = Server([*TARRY, "--quiet"])
    all_of(server, b"GET /delayed.rpy?delay=0 HTTP/1.0\r\n\r\n")
    assert server.stop() == 0
    assert server.output.endswith("Stop it with Ctrl-C.\n")


# --- limits ---

TIGHT = ["--head-seconds", "0.5", "--idle-seconds", "1.5", "--head-bytes", "2000", "--body-bytes",
         "1000", "--pending", "3", "--connections", "20"]  # fmt: skip
tight = pytest.mark.parametrize("site", [TIGHT], indirect=True)


async def serves_on(site):
    assert (await ask(site.url("delayed.rpy?delay=0"))).code == 200


@tight
@pytest_twisted.ensureDeferred
async def test_a_head_that_trickles_is_ended(site):
    with raw(site, b"GET /delayed.rpy?delay=0 HTTP/1.1\r\n") as client:
        client.settimeout(0.05)
        got = b""
        give_up = time.monotonic() + HANG
        while b"\r\n\r\n" not in got and time.monotonic() < give_up:
            client.sendall(b"X-More: and more\r\n")
            with contextlib.suppress(TimeoutError):
                got += client.recv(1000)
        assert got.startswith(b"HTTP/1.1 408 ")
        assert b"no whole head in 0.5 seconds\n" in got
    await serves_on(site)


@tight
@pytest_twisted.ensureDeferred
async def test_a_connection_that_says_nothing_is_closed_without_a_word(site):
    with raw(site) as client:
        assert everything(client) == b""
    with raw(site, b"GET /delayed.rpy?delay=0 HTTP/1.1\r\nHost: localhost\r\n\r\n") as client:
        got = everything(client)  # an answer, and then nothing more
        assert got.startswith(b"HTTP/1.1 200 ")
        assert got.count(b"HTTP/1.1") == 1
    await serves_on(site)


@tight
@pytest_twisted.ensureDeferred
async def test_a_body_that_stalls_is_ended(site):
    head = b"POST /delayed.rpy HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n"
    got = all_of(site, head + b"some")
    assert got.startswith(b"HTTP/1.1 408 ")
    assert await entries(site) == []
    await serves_on(site)


@tight
@pytest_twisted.ensureDeferred
async def test_a_long_wait_is_not_idling(site):
    """The response takes longer than a connection may idle."""
    assert (await ask(site.url("delayed.rpy?delay=3"))).measured >= 3


BIG_HEADS = [
    b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /delayed.rpy HTTP/1.1\r\n" + b"X-H: value\r\n" * 300 + b"\r\n",
    b"GET /delayed.rpy HTTP/1.1\r\nX-H: " + b"v" * 5000,
    b"G" * 100_000,
]


@tight
@pytest.mark.parametrize("data", BIG_HEADS, ids=["line", "headers", "one header", "garbage"])
@pytest_twisted.ensureDeferred
async def test_a_head_that_is_too_big(site, data):
    got = all_of(site, data)
    assert got.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert got.endswith(b"\r\n\r\nrequest line and headers are over 2000 bytes\n")
    await serves_on(site)


BIG_BODIES = [
    b"Content-Length: 5000\r\n\r\n" + b"b" * 5000,
    b"Content-Length: 99999999999999999999\r\n\r\n",
    b"Content-Length: 5000\r\nExpect: 100-continue\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n"
    + b"200\r\n"
    + b"c" * 512
    + b"\r\n200\r\n"
    + b"c" * 512
    + b"\r\n",
]


@tight
@pytest.mark.parametrize("rest", BIG_BODIES, ids=["sent", "declared", "expected", "chunked"])
@pytest_twisted.ensureDeferred
async def test_a_body_that_is_too_big(site, rest):
    got = all_of(site, b"POST /delayed.rpy HTTP/1.1\r\nHost: localhost\r\n" + rest)
    assert got.startswith(b"HTTP/1.1 413 ")
    assert b"100 Continue" not in got
    assert b"1000" in got
    assert await entries(site, path="/delayed.rpy") == []
    await serves_on(site)


@tight
@pytest_twisted.ensureDeferred
async def test_too_many_pending(site):
    waiting = [ensureDeferred(ask(site.url("delayed.rpy?delay=60"))) for _ in range(3)]

    async def full():  # the ledger answers in the turn in which it is asked: it takes no place
        answer = await ask(site.url("ledger.rpy?summary"))
        return answer if answer.code == 503 else None

    answer = await until(full)
    assert answer.header("Retry-After") == "1"
    assert answer.body == b"3 requests are pending: try again later\n"
    for each in waiting:
        each.cancel()
        with pytest.raises(ResponseNeverReceived):
            await each

    async def recovered():
        return (await ask(site.url("delayed.rpy?delay=0"))).code == 200

    await until(recovered)


@tight
@pytest_twisted.ensureDeferred
async def test_too_many_connections(site):
    clients = [raw(site) for _ in range(20)]
    await until(lambda: everything(raw(site)).startswith(b"HTTP/1.1 503 "))
    got = everything(raw(site))
    assert b"\r\nRetry-After: 1\r\n" in got
    assert got.endswith(b"20 connections are open: try again later\n")
    for client in clients:
        client.close()

    async def recovered():
        try:
            return (await ask(site.url("delayed.rpy?delay=0"))).code == 200
        except (ResponseFailed, ResponseNeverReceived):
            return False

    await until(recovered)


@pytest_twisted.ensureDeferred
async def test_few_descriptors(tmp_path):
    """With a limit of descriptors far below what comes, it says so and serves on."""
    server = Server(["bash", "-c", 'ulimit -n 150; exec "$@"', "bash", *TARRY])
    clients = [raw(server, b"GET /delayed.rpy?delay=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
               for _ in range(400)]  # fmt: skip
    got = [everything(client) for client in clients]
    codes = {code: sum(g.startswith(b"HTTP/1.1 %d " % code) for g in got) for code in (200, 503)}
    assert codes[200] + codes[503] == 400
    assert codes[200] >= 50
    assert codes[503] > 0
    await serves_on(server)
    assert server.stop() == 0
    assert "Traceback" not in server.output


# --- what comes over a connection ---


@pytest_twisted.ensureDeferred
async def test_pipelined_requests_are_answered_in_order(site):
    requests = b"".join(b"GET /delayed.rpy?delay=%s&key=%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % (d, n)
                        for n, d in enumerate([b"0.3", b"0", b"x", b"0.1"]))  # fmt: skip
    last = b"GET /delayed.rpy?delay=0&key=last HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    got = all_of(site, requests + last)
    codes = re.findall(rb"HTTP/1.1 (\d+) ", got)
    assert codes == [b"200", b"200", b"400", b"200", b"200"]
    assert [e["key"] for e in await entries(site)] == ["0", "1", "2", "3", "last"]


@pytest_twisted.ensureDeferred
async def test_a_file_edited_under_load_fails_nobody(site):
    async def asking():
        versions = []
        for _ in range(100):
            answer = await ask(site.url("x.rpy"))
            assert answer.code == 200
            versions.append(int(answer.body))
        return versions

    def version(n):
        (site.folder / "x.new").write_text(RENDERS.format(body=f"return b'{n}'"))
        os.replace(site.folder / "x.new", site.folder / "x.rpy")

    version(0)
    asked = [ensureDeferred(asking()) for _ in range(5)]
    for n in range(1, 30):
        version(n)
        assert (await ask(site.url("x.rpy"))).body == b"%d" % n
    for versions in await gatherResults(asked):
        assert versions == sorted(versions)


@pytest_twisted.ensureDeferred
async def test_static_files_with_ranges(site):
    (site.folder / "page.txt").write_bytes(bytes(range(65, 91)) * 10_000)
    answer = await ask(site.url("page.txt"))
    assert (answer.code, len(answer.body)) == (200, 260_000)
    part = await ask(site.url("page.txt"), headers={"Range": "bytes=26-28"})
    assert (part.code, part.body) == (206, b"ABC")
    head = await ask(site.url("page.txt"), method="HEAD")
    same = {"If-Modified-Since": answer.header("Last-Modified")}
    unchanged = await ask(site.url("page.txt"), headers=same)
    assert (head.code, unchanged.code) == (200, 304)
    assert [e["bytes"] for e in await entries(site, path="/page.txt")] == [260_000, 3, 0, 0]


@pytest_twisted.ensureDeferred
async def test_a_query_is_kept_as_it_was_sent(site):
    for query in ("flag", "a=1&flag", "&&", "a;b"):
        await ask(site.url(f"nowhere?{query}"))
    assert [e["query"] for e in await entries(site)] == ["flag", "a=1&flag", "&&", "a;b"]


# --- stopping ---


@pytest_twisted.ensureDeferred
async def test_what_is_in_flight_may_end(site):
    waiting = [ensureDeferred(ask(site.url("delayed.rpy?delay=1"))) for _ in range(20)]
    idle = raw(site, b"GET /delayed.rpy?delay=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert idle.recv(1000).startswith(b"HTTP/1.1 200")

    async def all_there():
        return len(await entries(site, outcome="pending")) == 20

    await until(all_there)
    site.process.send_signal(signal.SIGTERM)
    assert everything(idle)[-10:] != b"RST"  # closed at once, there was nothing to wait for
    answers = await gatherResults(waiting)
    assert {answer.code for answer in answers} == {200}
    assert site.end() == 0
    with pytest.raises(ConnectionRefusedError):
        raw(site)


@pytest.mark.parametrize("site", [["--grace", "300"]], indirect=True)
@pytest_twisted.ensureDeferred
async def test_an_answer_that_is_finished_but_not_read_yet_is_in_flight_too(site):
    put(site, "big.rpy", "return bytes(6_000_000)")
    with connect(site, "big.rpy", room=4096) as client:
        await until(lambda: client.recv(1, socket.MSG_PEEK))
        site.process.send_signal(signal.SIGTERM)

        await until(lambda: not_listening(site))
        client.settimeout(HANG)
        got = everything(client)
    assert len(got.partition(b"\r\n\r\n")[2]) == 6_000_000
    assert site.end() == 0
    assert "broken off" not in site.output


@pytest.mark.parametrize("site", [["--grace", "0.5"]], indirect=True)
@pytest_twisted.ensureDeferred
async def test_what_does_not_end_in_time_is_broken_off(site):
    with connect(site, "streamed.rpy?interval=0.1&count=100000") as client:
        assert client.recv(100).startswith(b"HTTP/1.1 200")
        site.process.send_signal(signal.SIGINT)
        assert everything(client).endswith(b"RST")
    assert site.end() == 0
    assert "broken off in flight: 1 request" in site.output


@pytest_twisted.ensureDeferred
async def test_a_second_signal_ends_it_now(site):
    with connect(site, "delayed.rpy?delay=600"):

        async def there():
            return await entries(site, outcome="pending")

        await until(there)
        site.process.send_signal(signal.SIGTERM)

        await until(lambda: not_listening(site))
        assert site.process.poll() is None
        assert site.stop(signal.SIGTERM) == 128 + signal.SIGTERM


needs_ss = pytest.mark.skipif(not shutil.which("ss"), reason="asks ss, of iproute2, for sockets")


@needs_ss
def test_the_backlog_is_long(site):
    """As far as the kernel lets it be, the listening socket's queue takes 4,096."""
    shown = subprocess.run(
        ["ss", "-tlnH", f"sport = :{site.port}"], capture_output=True, text=True, timeout=HANG
    )
    most = int(Path("/proc/sys/net/core/somaxconn").read_text())
    assert int(shown.stdout.split()[2]) == min(4096, most)


@needs_ss
@pytest_twisted.ensureDeferred
async def test_connections_are_kept_alive_by_tcp(site):
    """The kernel's timer of an accepted connection is that of keep-alive."""
    with connect(site, "delayed.rpy?delay=600") as client:

        async def there():
            return await entries(site, outcome="pending")

        await until(there)
        port = client.getsockname()[1]
        shown = subprocess.run(
            ["ss", "-tnoH", f"dport = :{port}"], capture_output=True, text=True, timeout=HANG
        )
        assert "timer:(keepalive," in shown.stdout


@pytest.mark.parametrize("site", [["--listing"]], indirect=True)
@pytest_twisted.ensureDeferred
async def test_a_listing_only_if_asked_for(site):
    (site.folder / "secret.py").write_text("x")
    shown = await ask(site.url())
    assert (shown.code, b"delayed.rpy" in shown.body, b"secret" in shown.body) == (200, True, False)


@pytest_twisted.ensureDeferred
async def test_the_limit_of_descriptors_is_raised():
    server = Server(["bash", "-c", 'ulimit -S -n 100; exec "$@"', "bash", *TARRY])
    waiting = [ensureDeferred(ask(server.url("delayed.rpy?delay=1"))) for _ in range(200)]
    assert {answer.code for answer in await gatherResults(waiting)} == {200}
    assert server.stop() == 0


@pytest.mark.parametrize("line", [b"GET / HTTP/2.0", b"X", b"\x16\x03\x01"])
@pytest_twisted.ensureDeferred
async def test_a_bad_request_line_alone_gets_an_answer(site, line):
    assert all_of(site, line + b"\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert "Traceback" not in site.output
    await serves_on(site)


@pytest.mark.parametrize(("kind", "body", "code"), [
    ("application/x-www-form-urlencoded", b"a&" * 10_001, 413),
    ("application/x-www-form-urlencoded; charset=utf-8", b"a&" * 10_000, 405),
    ("multipart/form-data; boundary=b", b"\r\n--b\r\n" * 10_001, 413),
    ("text/plain", b"a&" * 10_001, 405),
])  # fmt: skip
@pytest_twisted.ensureDeferred
async def test_a_form_of_too_many_fields_is_not_parsed(site, kind, body, code):
    """Which would take seconds, in which nobody else is answered."""
    url = site.url("delayed.rpy?delay=0")
    answer = await ask(url, "POST", data=body, headers={"Content-Type": kind})
    assert answer.code == code
    if code == 413:
        assert answer.body == b"the form has over 10000 fields\n"


@pytest_twisted.ensureDeferred
async def test_behind_a_proxy_that_says_who_asks(tmp_path):
    """The PROXY protocol. What it says is for the log: proxied.rpy goes to no other address."""
    arguments = ["--listen", "haproxy:tcp:0:interface=127.0.0.1", "--path", RPY]
    server = Server([BIN / "tarry", "serve", *arguments])
    try:
        said = b"PROXY TCP4 1.2.3.4 127.0.0.2 5555 1\r\n"
        path = b"/proxied.rpy?path=/streamed.rpy%3Fcount=1"
        got = all_of(server, said + b"GET " + path + b" HTTP/1.0\r\n\r\n")
        assert got.startswith(b"HTTP/1.0 502 ")  # ours does not begin with PROXY
        got = all_of(server, said + b"GET /delayed.rpy?delay=0 HTTP/1.0\r\n\r\n")
        assert got.startswith(b"HTTP/1.")
        assert b"Sorry" in got
    finally:
        server.stop()
