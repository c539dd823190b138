"""Requests as they arrive on a connection: pipelined, malformed, behind a proxy."""

import re

import pytest_twisted

from tests.live.conftest import BIN, RPY, entries, serves_on
from tests.live.sockets import all_of, request


@pytest_twisted.ensureDeferred
async def test_pipelined_requests_are_answered_in_order(site):
    targets = [f"/delayed.rpy?delay={d}&key={n}" for n, d in enumerate(["0.3", "0", "x", "0.1"])]
    requests = b"".join(map(request, targets))
    last = request("/delayed.rpy?delay=0&key=last", "Connection: close")
    got = all_of(site, requests + last)
    codes = re.findall(rb"HTTP/1.1 (\d+) ", got)
    assert codes == [b"200", b"200", b"400", b"200", b"200"]
    assert [e["key"] for e in await entries(site)] == ["0", "1", "2", "3", "last"]


BAD_LINES = {
    b"GET / HTTP/2.0": 505,
    b"X": 501,
    b"G" * 100_000: 501,
    b"\x16\x03\x01": 400,
    b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + b"9" * 5000: 400,
}


@pytest_twisted.ensureDeferred
async def test_a_malformed_request_gets_one_plain_line(site):
    for line, code in BAD_LINES.items():
        got = all_of(site, line + b"\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 %d " % code), line[:80]
        assert got.partition(b"\r\n\r\n")[2].count(b"\n") == 1, line[:80]
    assert "Traceback" not in site.output
    await serves_on(site)


@pytest_twisted.ensureDeferred
async def test_behind_a_proxy_that_tells_the_client_s_address(serve):
    """The PROXY protocol gives the log an address; proxied.rpy still connects to this server only."""
    arguments = ["--listen", "haproxy:tcp:0:interface=127.0.0.1", "--path", RPY]
    server = serve([BIN / "tarry", "serve", *arguments])
    line = b"PROXY TCP4 1.2.3.4 127.0.0.2 5555 1\r\n"
    got = all_of(server, line + b"GET /proxied.rpy?path=/streamed.rpy%3Fcount=1 HTTP/1.0\r\n\r\n")
    assert got.startswith(b"HTTP/1.0 502 ")  # as the script sends no PROXY line
    got = all_of(server, line + b"GET /delayed.rpy?delay=0 HTTP/1.0\r\n\r\n")
    assert got.startswith(b"HTTP/1.")
    assert b"Sorry" in got
