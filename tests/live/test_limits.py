"""Limits on what one client may send and hold: each is answered, and the server goes on."""

import contextlib
import time

import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred, gatherResults
from twisted.web.client import ResponseFailed, ResponseNeverReceived

from tests.live.conftest import TARRY, ask, entries, put, serves_on, until
from tests.live.sockets import HANG, all_of, connect, raw, request, rest

TIGHT = ["--header-seconds", "0.5", "--idle-seconds", "1.5", "--header-bytes", "2000", "--body-bytes",
         "1000", "--pending", "3", "--connections", "20"]  # fmt: skip


tight = pytest.mark.parametrize("site", [TIGHT], indirect=True)


@tight
@pytest_twisted.ensureDeferred
async def test_headers_that_trickle_in_are_ended(site):
    with raw(site, b"GET /delayed.rpy?delay=0 HTTP/1.1\r\n") as client:
        client.settimeout(0.05)
        got = b""
        give_up = time.monotonic() + HANG
        while b"\r\n\r\n" not in got and time.monotonic() < give_up:
            client.sendall(b"X-More: and more\r\n")
            with contextlib.suppress(TimeoutError):
                got += client.recv(1000)
        assert got.startswith(b"HTTP/1.1 408 ")
        assert got.endswith(b"\r\n\r\nno complete headers in 0.5 seconds\n")
    await serves_on(site)


@tight
@pytest_twisted.ensureDeferred
async def test_an_idle_connection_is_closed(site):
    with raw(site) as client:
        assert rest(client) == (b"", "FIN")
    with connect(site, "delayed.rpy?delay=0") as client:
        got, _ = rest(client)  # one response, and nothing after it
        assert got.startswith(b"HTTP/1.1 200 ")
        assert got.count(b"HTTP/1.1") == 1
    await serves_on(site)


@tight
@pytest_twisted.ensureDeferred
async def test_a_body_that_stalls_is_ended(site):
    head = b"POST /delayed.rpy HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n"
    got = all_of(site, head + b"some")
    assert got.startswith(b"HTTP/1.1 408 ")
    (entry,) = await entries(site)
    assert (entry["outcome"], entry["status"]) == ("refused", 408)
    await serves_on(site)


@tight
@pytest_twisted.ensureDeferred
async def test_a_long_wait_is_not_idle(site):
    """The response takes longer than a connection may be idle."""
    assert (await ask(site.url("delayed.rpy?delay=3"))).measured >= 3


BIG_HEADERS = {
    "line": b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "many": b"GET /delayed.rpy HTTP/1.1\r\n" + b"X-H: value\r\n" * 300 + b"\r\n",
    "one": b"GET /delayed.rpy HTTP/1.1\r\nX-H: " + b"v" * 5000,
}


@tight
@pytest_twisted.ensureDeferred
async def test_headers_that_are_too_big(site):
    for kind, data in BIG_HEADERS.items():
        got = all_of(site, data)
        assert got.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n"), kind
        assert got.endswith(b"\r\n\r\nrequest line and headers are over 2000 bytes\n"), kind
    await serves_on(site)


CHUNK = b"200\r\n" + b"c" * 512 + b"\r\n"
BIG_BODIES = {
    "sent": b"Content-Length: 5000\r\n\r\n" + b"b" * 5000,
    "declared": b"Content-Length: 9999999999\r\n\r\n",
    "expected": b"Content-Length: 5000\r\nExpect: 100-continue\r\n\r\n",
    "chunked": b"Transfer-Encoding: chunked\r\n\r\n" + CHUNK * 2,
}


@tight
@pytest_twisted.ensureDeferred
async def test_a_body_that_is_too_big(site):
    for kind, data in BIG_BODIES.items():
        got = all_of(site, b"POST /delayed.rpy HTTP/1.1\r\nHost: localhost\r\n" + data)
        assert got.startswith(b"HTTP/1.1 413 "), kind
        assert b"100 Continue" not in got, kind
        assert b"1000" in got, kind
    seen = await entries(site, path="/delayed.rpy")
    assert [(e["outcome"], e["status"]) for e in seen] == [("refused", 413)] * len(BIG_BODIES)
    await serves_on(site)


@tight
@pytest_twisted.ensureDeferred
async def test_too_many_pending(site):
    waiting = [ensureDeferred(ask(site.url("delayed.rpy?delay=60"))) for _ in range(3)]

    async def full():  # the ledger answers at once, so its request does not count
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
    await until(lambda: all_of(site, b"").startswith(b"HTTP/1.1 503 "))
    got = all_of(site, b"")
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
async def test_few_descriptors(serve):
    """With far fewer descriptors than clients, some get a 503 and the server goes on."""
    server = serve(["bash", "-c", 'ulimit -n 150; exec "$@"', "bash", *TARRY])
    closing = request("/delayed.rpy?delay=1", "Connection: close")
    clients = [raw(server, closing) for _ in range(400)]
    got = [rest(client)[0] for client in clients]
    for client in clients:
        client.close()
    codes = {code: sum(g.startswith(b"HTTP/1.1 %d " % code) for g in got) for code in (200, 503)}
    assert codes[200] + codes[503] == 400
    assert codes[200] >= 50
    assert codes[503] > 0
    await serves_on(server)
    assert server.stop() == 0
    assert "Traceback" not in server.output


@pytest_twisted.ensureDeferred
async def test_the_limit_of_descriptors_is_raised(serve):
    server = serve(["bash", "-c", 'ulimit -S -n 100; exec "$@"', "bash", *TARRY])
    waiting = [ensureDeferred(ask(server.url("delayed.rpy?delay=1"))) for _ in range(200)]
    assert {answer.code for answer in await gatherResults(waiting)} == {200}
    assert server.stop() == 0


FORM, MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data; boundary=b"
FORMS = [
    (FORM, b"a=1&" * 10_000, 413),
    (FORM, b"a=1&" * 1000, 200),
    (f"{FORM}; charset=utf-8", b"a=1;" * 10_000, 413),
    (MULTIPART, b"\r\n--b\r\n" * 5000, 413),
    (MULTIPART, b"\n--b\n" * 5000, 413),
    (f"multipart/form-data{';' * 5000}; boundary=b", b"a=1", 400),
    ("text/plain", b"a=1&" * 10_000, 200),
]


@pytest_twisted.ensureDeferred
async def test_a_form_that_would_take_long_to_parse_is_refused(site):
    """Parsing it would take seconds, and block every other request."""
    put(site, "form.rpy", "return b'%d' % len(request.args)", "POST")
    for kind, body, code in FORMS:
        answer = await ask(site.url("form.rpy"), "POST", data=body, headers={"Content-Type": kind})
        assert answer.code == code, (kind[:60], body[:10])
        assert answer.body.count(b"\n") == (code != 200)
