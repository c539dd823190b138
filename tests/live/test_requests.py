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


@pytest_twisted.ensureDeferred
async def test_a_bad_request_line_alone_gets_an_answer(site):
    for line in (b"GET / HTTP/2.0", b"X", b"\x16\x03\x01"):
        assert all_of(site, line + b"\r\n\r\n").startswith(b"HTTP/1.1 400 "), line
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
