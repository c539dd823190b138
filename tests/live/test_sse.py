"""sse.rpy over real sockets, read by a real client of server-sent events."""

import socket

import httpx
import pytest_twisted
from httpx_sse import connect_sse
from twisted.internet.threads import deferToThread

from tests.live.conftest import until
from tests.live.sockets import HANG, connect, more


def listen(url, enough=None, last=None):
    """Return the data of *enough* events, or of all until the response ends; and the last id."""
    got, headers = [], {"Last-Event-ID": last} if last else {}
    with (
        httpx.Client(timeout=HANG, trust_env=False) as client,
        connect_sse(client, "GET", url, headers=headers) as source,
    ):
        if source.response.status_code == 204:
            return got, None
        for event in source.iter_sse():
            last = event.id
            got += [event.json()["n"]] if event.data else []
            if len(got) == enough:
                break
    return got, last


@pytest_twisted.ensureDeferred
async def test_no_event_is_lost_or_doubled_when_a_client_reconnects(server):
    url, got, last = server.url("sse.rpy?interval=0.01&count=12"), [], None
    for enough in (2, 1, 5, None):  # the last one reads until the server ends the response
        numbers, last = await deferToThread(listen, url, enough, last)
        got += numbers
    assert (got, last) == ([*range(1, 13)], "12")
    assert await deferToThread(listen, url, None, last) == ([], None)


@pytest_twisted.ensureDeferred
async def test_a_disconnect_is_noticed(server):
    path = "sse.rpy?interval=600"
    with connect(server, path) as client:
        assert more(client).startswith(b"HTTP/1.1 200")
        client.shutdown(socket.SHUT_RDWR)
        await until(lambda: f"/{path}': the client disconnected" in server.output)
