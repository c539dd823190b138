"""longpoll.rpy over real sockets: clients that disconnect at any moment and come back."""

import json
import random
import re

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred, gatherResults
from twisted.internet.task import deferLater
from twisted.web.client import ResponseNeverReceived

from tests.live.conftest import HANG, ask, until

MESSAGES = 60  # fewer than are kept, so that a client may be as late as it likes


async def last(server, key):
    """Return the number of the last message, and how many requests wait, without waiting."""
    answer = await ask(server.url(f"longpoll.rpy?key={key}&timeout=0"))
    told = json.loads(answer.body)
    return told["last"], told["waiting"]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest_twisted.ensureDeferred
async def test_each_message_comes_once_and_in_order_however_often_a_client_disconnects(
    server, seed
):
    channel, rng, read = f"longpoll.rpy?key=random-{seed}", random.Random(seed), []
    begin, _ = await last(server, f"random-{seed}")

    async def publish():
        for n in range(1, MESSAGES + 1):
            await deferLater(reactor, 0.02 * rng.random())  # sometimes the client has to wait
            posted = await ask(server.url(channel), "POST", data=f"message {n}".encode())
            assert json.loads(posted.body)["n"] == begin + n

    async def follow():
        after = begin
        while after < begin + MESSAGES:
            asked = ensureDeferred(ask(server.url(f"{channel}&after={after}")))
            leaving = reactor.callLater(rng.choice([0.02, HANG]) * rng.random(), asked.cancel)
            try:
                told = json.loads((await asked).body)
            except Exception:
                if leaving.active():  # this test did not cancel it
                    raise
                continue
            finally:
                if leaving.active():
                    leaving.cancel()
            read.extend(told["messages"])
            after = told["last"]

    await gatherResults([ensureDeferred(publish()), ensureDeferred(follow())])
    numbers = range(1, MESSAGES + 1)
    assert read == [{"n": begin + n, "text": f"message {n}"} for n in numbers]
    await until(
        lambda: re.search(f"/{re.escape(channel)}.*: the client disconnected", server.output)
    )


@pytest_twisted.ensureDeferred
async def test_a_message_reaches_all_that_wait_and_later_those_that_disconnected(server):
    url = server.url("longpoll.rpy?key=all&timeout=600")

    async def waiting(count):
        return (await last(server, "all"))[1] == count

    asked = [ensureDeferred(ask(url)) for _ in range(50)]
    await until(lambda: waiting(50))
    leaver = asked.pop()
    leaver.cancel()
    with pytest.raises(ResponseNeverReceived):
        await leaver
    await until(lambda: waiting(49))
    posted = await ask(server.url("longpoll.rpy?key=all"), "POST", data=b"hello")
    assert json.loads(posted.body)["waiting"] == 49
    for each in [*asked, ask(url)]:
        (message,) = json.loads((await each).body)["messages"]
        assert message["text"] == "hello"
