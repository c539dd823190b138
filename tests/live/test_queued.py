"""queued.rpy over real sockets: the order of those who wait, and the place of one who leaves."""

import json

import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred, gatherResults
from twisted.web.client import ResponseNeverReceived

from tests.live.conftest import ask, until


@pytest_twisted.ensureDeferred
async def test_twenty_are_served_in_the_order_of_their_arrival(server):
    """The first holds the only place until all are there; it leaves, and so does one in the middle."""

    async def length():
        told = json.loads((await ask(server.url("queued.rpy?key=a&count"))).body)
        return told["serving"], told["waiting"]

    def all_there(serving, waiting):
        async def fact():
            return await length() == (serving, waiting)

        return fact

    asked, ended = [], []
    for n in range(20):
        duration = 0.05 if n else 600
        url = server.url(f"queued.rpy?key=a&limit=1&duration={duration}")
        asked.append(ensureDeferred(ask(url)).addCallback(lambda a, n=n: ended.append(n) or a))
        await until(all_there(1, n))
    full = await ask(server.url("queued.rpy?key=a&limit=1&duration=2&most=19"))
    assert (full.code, full.header("Retry-After")) == (503, "40")

    for leaver, left in [(asked.pop(10), (1, 18)), (asked.pop(0), None)]:
        leaver.cancel()
        with pytest.raises(ResponseNeverReceived):
            await leaver
        if left:
            await until(all_there(*left))
    answers = await gatherResults(asked)
    assert ended == [n for n in range(20) if n not in (0, 10)]
    told = [json.loads(answer.body) for answer in answers]
    assert [each["ahead"] for each in told] == [n - 1 for n in ended]
    assert all(each["served"] >= 0.05 for each in told)
    for answer, each in zip(answers, told, strict=True):
        assert answer.measured == pytest.approx(each["waited"], abs=0.001)
    assert await length() == (0, 0)
