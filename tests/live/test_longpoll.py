"""longpoll.rpy over real sockets: a reader that leaves at any moment, and comes back."""

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

MESSAGES = 60  # fewer than are kept: a reader may be as late as it likes


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest_twisted.ensureDeferred
async def test_each_message_comes_once_and_in_order_however_often_the_reader_leaves(server, seed):
    channel, rng, read = f"longpoll.rpy?key=random-{seed}", random.Random(seed), []

    async def publish():
        for n in range(1, MESSAGES + 1):
            await deferLater(reactor, 0.02 * rng.random())  # so that the reader has to wait, too
            told = await ask(server.url(channel), "POST", data=f"message {n}".encode())
            assert json.loads(told.body)["n"] == n

    async def follow():
        last = 0
        while last < MESSAGES:
            asked = ensureDeferred(ask(server.url(f"{channel}&after={last}")))
            leaving = reactor.callLater(rng.choice([0.02, HANG]) * rng.random(), asked.cancel)
            try:
                told = json.loads((await asked).body)
            except Exception:
                if leaving.active():  # so it was not we who ended it
                    raise
                continue
            finally:
                if leaving.active():
                    leaving.cancel()
            assert (told["missed"], told["reset"]) == (0, False)
            read.extend(told["messages"])
            last = told["last"]

    await gatherResults([ensureDeferred(publish()), ensureDeferred(follow())])
    assert [each["n"] for each in read] == list(range(1, MESSAGES + 1))
    assert [each["text"] for each in read] == [f"message {n}" for n in range(1, MESSAGES + 1)]
    await until(lambda: re.search(f"/{re.escape(channel)}.*: the client left", server.output))


@pytest_twisted.ensureDeferred
async def test_one_message_reaches_all_who_wait_and_who_left_reads_it_later(server):
    async def waiting():
        return json.loads((await ask(server.url("longpoll.rpy?key=all&count"))).body)["waiting"]

    url = server.url("longpoll.rpy?key=all&after=0&timeout=600")
    asked = [ensureDeferred(ask(url)) for _ in range(20)]
    await until(lambda: ensureDeferred(waiting()).addCallback((20).__eq__))
    leaver = asked.pop()
    leaver.cancel()
    with pytest.raises(ResponseNeverReceived):
        await leaver
    await until(lambda: ensureDeferred(waiting()).addCallback((19).__eq__))
    told = await ask(server.url("longpoll.rpy?key=all"), "POST", data=b"hello")
    assert json.loads(told.body)["waiting"] == 19
    for each in [*asked, ask(url)]:
        (message,) = json.loads((await each).body)["messages"]
        assert message["text"] == "hello"
