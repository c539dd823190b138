"""dripped.rpy over real sockets, to clients as people have them."""

import zlib

import pytest
import pytest_twisted
import requests
from twisted.internet.threads import deferToThread

from tests.live.conftest import HANG, more, until
from tests.live.test_leaving import connect


@pytest.mark.parametrize("part", ["body", "headers"])
@pytest_twisted.ensureDeferred
async def test_a_limit_on_each_read_does_not_limit_the_whole(server, part):
    """What a read timeout is worth: a response that takes longer passes, if its bytes keep coming."""
    url = server.url(f"dripped.rpy?size=30&duration=1.5&part={part}")
    got = await deferToThread(requests.get, url, timeout=1)
    assert got.text == "0123456789" * 3
    assert got.elapsed.total_seconds() >= (1.5 if part == "headers" else 0)
    with pytest.raises(requests.exceptions.RequestException, match="timed out"):
        await deferToThread(requests.get, f"{url}&delay={HANG}", timeout=0.2)


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest_twisted.ensureDeferred
async def test_a_connection_goes_on_after_a_dripped_head(server, framing):
    def two():
        with connect(server, f"dripped.rpy?part=headers&duration=0.2&framing={framing}") as client:
            client.settimeout(HANG)
            client.sendall(
                b"GET /delayed.rpy?delay=0 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            )
            got = b""
            while piece := client.recv(65536):
                got += piece
        return got

    first, second = (await deferToThread(two)).split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert first.endswith(b"0123456789" if framing == "length" else b"a\r\n0123456789\r\n0\r\n\r\n")
    assert b"Sorry" in second


@pytest_twisted.ensureDeferred
async def test_a_part_of_a_gzip_member_is_there_long_before_the_whole(server):
    path = "dripped.rpy?size=1000000&encoding=gzip&duration=100"

    def read():
        unpacker, text = zlib.decompressobj(wbits=31), b""
        with connect(server, path) as client:
            client.settimeout(HANG)
            got = b""
            while not text:
                got += more(client)
                body = got.partition(b"\r\n\r\n")[2]
                text = unpacker.copy().decompress(body)
        return text

    assert b"0123456789".startswith(await deferToThread(read))
    await until(lambda: f"/{path}': the client disconnected" in server.output)


@pytest.mark.parametrize("part", ["body", "headers"])
@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_ends_the_drip(server, part):
    path = f"dripped.rpy?size=1000&duration=50&part={part}"
    with connect(server, path) as client:
        client.settimeout(HANG)
        assert (await deferToThread(client.recv, 5)).startswith(b"H")
    await until(lambda: f"/{path}': the client disconnected" in server.output)
