"""The ledger, as a client reads it over HTTP: what became of every request."""

import json

import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred
from twisted.internet.threads import deferToThread

from tests.live.conftest import EnoughError, ask, entries, put, until
from tests.live.sockets import WAYS, all_of, connect, raw, request, status


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


HANDSHAKE = [
    "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
]  # fmt: skip
CLOSE = b"\x88\x80\0\0\0\0"  # a close frame, with a mask of zeros


@pytest.mark.parametrize(("leave", "outcome", "detail"), [
    (lambda client: client.sendall(CLOSE), "left", "close 1005"),
    (WAYS[0], "left", "FIN"),
    (WAYS[2], "left", "RST"),
], ids=["close frame", "FIN", "RST"])  # fmt: skip
@pytest_twisted.ensureDeferred
async def test_a_websocket_is_in_the_ledger_until_its_end(site, leave, outcome, detail):
    (site.folder / "echo.rpy").write_text(WEBSOCKET)
    with raw(site, request("/echo.rpy?key=ws", *HANDSHAKE)) as client:
        assert await deferToThread(status, client) == 101
        (entry,) = await entries(site, key="ws")
        assert entry["outcome"] == "pending"
        leave(client)
        (entry,) = await until(lambda: ensureDeferred(entries(site, key="ws", outcome=outcome)))
        assert (entry["status"], entry["detail"]) == (101, detail)


@pytest.mark.parametrize(
    ("leave", "how"), list(zip(WAYS, ["FIN or RST", "FIN", "RST"], strict=True))
)
@pytest_twisted.ensureDeferred
async def test_until_left_answers_when_the_server_has_seen_the_disconnect(site, leave, how):
    waiting = ensureDeferred(ask(site.url("ledger.rpy?until=left&key=mine&timeout=30")))
    with connect(site, "streamed.rpy?interval=0.05&key=mine") as client:
        assert status(client) == 200
        assert not waiting.called
        leave(client)
        entry = json.loads((await waiting).body)
    assert (entry["outcome"], entry["status"]) == ("left", 200)
    assert entry["detail"] in how  # closing with something unread in the buffer is a RST
    assert entry["bytes"] == sum(size for _, size in entry["writes"]) > 0
    assert 0 <= entry["first_byte"] <= entry["last_byte"] <= entry["end"]
    again = await ask(site.url("ledger.rpy?until=left&key=mine"))  # it is there already
    assert json.loads(again.body)["id"] == entry["id"]


@pytest_twisted.ensureDeferred
async def test_until_times_out(site):
    answer = await ask(site.url("ledger.rpy?until=left&key=none&timeout=0.1"))
    told = json.loads(answer.body)
    assert answer.code == 408
    assert (told["until"], told["key"]) == ("left", "none")


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
async def test_the_ledger_is_followed_live(site):
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
    waiting = await ask(site.url("ledger.rpy?until=left&path=/ledger.rpy"))
    assert json.loads(waiting.body)["outcome"] == "left"


@pytest_twisted.ensureDeferred
async def test_the_summary_has_the_peak_and_the_clients_that_do_not_read(site):
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
async def test_a_connection_that_the_script_aborts_or_closes_early_is_aborted(site):
    put(
        site,
        "x.rpy",
        "request.write(b'part'); request.transport.abortConnection(); return NOT_DONE_YET",
    )
    put(site, "y.rpy", "request.write(b'part'); request.loseConnection(); return NOT_DONE_YET")
    for name in ("x.rpy", "y.rpy"):
        all_of(site, request(f"/{name}"))
        (entry,) = await entries(site, path=f"/{name}")
        assert entry["outcome"] == "aborted"


@pytest_twisted.ensureDeferred
async def test_the_ledger_never_holds_secrets(site):
    headers = [
        "Authorization: Basic hunter2",
        "Cookie: s=hunter2",
        "Connection: close",
        "Content-Type: application/x-www-form-urlencoded",
        "Content-Length: 11",
    ]
    url = "http://user:hunter2@localhost/delayed.rpy?token=hunter2&delay=0"
    all_of(site, request(url, *headers, method="POST") + b"key=hunter2")
    held = (await ask(site.url("ledger.rpy"))).body
    assert b'"POST"' in held
    assert b"hunter2" not in held


@pytest_twisted.ensureDeferred
async def test_a_query_is_kept_as_it_was_sent(site):
    for query in ("flag", "a=1&flag", "&&", "a;b"):
        await ask(site.url(f"nowhere?{query}"))
    assert [e["query"] for e in await entries(site)] == ["flag", "a=1&flag", "&&", "a;b"]


@pytest.mark.parametrize("site", [["--ledger", "0"]], indirect=True)
@pytest_twisted.ensureDeferred
async def test_without_a_ledger_its_script_names_the_option(site):
    answer = await ask(site.url("ledger.rpy"))
    assert (answer.code, answer.body.count(b"\n")) == (503, 1)
    assert b"--ledger" in answer.body
