"""sse.rpy, listened to by a real client of server-sent events."""

import socket

import httpx
import pytest_twisted
from httpx_sse import connect_sse
from twisted.internet.threads import deferToThread

from tests.live.conftest import HANG, ask, until
from tests.live.test_leaving import connect


def listen(url, enough, last=None):
    """Events until there are *enough*, or the server ends the response; and the last id."""
    got, headers = [], {"Last-Event-ID": last} if last else {}
    with (
        httpx.Client(timeout=HANG, trust_env=False) as client,
        connect_sse(client, "GET", url, headers=headers) as source,
    ):
        if source.response.status_code == 204:
            return got, None
        for event in source.iter_sse():
            last = event.id
            got += [event.data] if event.data else []
            if len(got) == enough:
                break
    return got, last


async def publish(url, *bodies):
    for body in bodies:
        answer = await ask(url, "POST", data=b"%d" % body)
        assert answer.code == 200


def readers(server, key):
    """A fact: the answer to an event of a name that no test looks for."""

    async def told():
        answer = await ask(server.url(f"sse.rpy?key={key}&event=knock"), "POST", data=b"")
        return b'"readers": 1}' in answer.body

    return told


@pytest_twisted.ensureDeferred
async def test_no_event_is_lost_or_doubled_over_breaks(server):
    url = server.url("sse.rpy?key=break")
    listening = deferToThread(listen, url, 3)
    await until(readers(server, "break"))
    await publish(url, *range(7))
    got, last = await listening
    while len(got) < 10:  # it comes back for two at a time, to events of before and after that
        more, last = await deferToThread(listen, url, 2, last)
        got += more
        if len(got) == 5:
            await publish(url, *range(7, 12))
    assert got == [str(n) for n in range(len(got))]


@pytest_twisted.ensureDeferred
async def test_the_clock_is_told_out_and_then_there_is_nothing_to_come_back_to(server):
    url = server.url("sse.rpy?interval=0.01&count=4")
    got, last = await deferToThread(listen, url, 2)
    more, last = await deferToThread(listen, url, None, last)  # to the end, which the server makes
    assert (len(got), len(more), last) == (2, 2, "4")
    assert await deferToThread(listen, url, None, last) == ([], None)


@pytest_twisted.ensureDeferred
async def test_a_reader_that_stops_reading_goes_on_later_or_is_told_what_it_missed(server):
    path = "sse.rpy?key=slow"
    with connect(server, path, room=4096) as client:
        client.settimeout(HANG)
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
        await until(readers(server, "slow"))
        body = b"x" * 65536
        for _ in range(200):  # 13 MB, more than the kernel takes
            await ask(server.url(path), "POST", data=body)
        await ask(server.url(f"{path}&event=last"), "POST", data=b"")
        got = await deferToThread(read_until, client, b"event: last")
        assert b"event: missed" in got
        assert got.count(b"x") < 200 * 65536
        client.shutdown(socket.SHUT_RDWR)
        await until(lambda: f"/{path}': the client left" in server.output)


def read_until(client, end):
    got = b""
    while end not in got[-100:]:
        piece = client.recv(1 << 20)
        assert piece
        got += piece
    return got
