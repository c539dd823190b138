"""queued.rpy over real sockets: the order of service, and what a disconnect does to it."""

import json

import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred, gatherResults
from twisted.web.client import ResponseNeverReceived

from tests.live.conftest import ask, until


@pytest_twisted.ensureDeferred
async def test_twenty_requests_are_served_in_order_of_arrival(server):
    """The first holds the only place until all are waiting. Then it and one of the others disconnect."""

    async def length():
        shown = json.loads((await ask(server.url("queued.rpy?key=a&limit=1&show"))).body)
        return shown["serving"], shown["waiting"]

    def becomes(serving, waiting):
        async def fact():
            return await length() == (serving, waiting)

        return fact

    asked, ended = [], []
    for n in range(20):
        duration = 0.05 if n else 600
        url = server.url(f"queued.rpy?key=a&limit=1&duration={duration}")
        asked.append(ensureDeferred(ask(url)).addCallback(lambda a, n=n: ended.append(n) or a))
        await until(becomes(1, n))
    full = await ask(server.url("queued.rpy?key=a&limit=1&duration=2&backlog=19"))
    assert (full.code, full.header("Retry-After")) == (503, "40")

    for leaver, left in [(asked.pop(10), (1, 18)), (asked.pop(0), None)]:
        leaver.cancel()
        with pytest.raises(ResponseNeverReceived):
            await leaver
        if left:
            await until(becomes(*left))
    answers = await gatherResults(asked)
    assert ended == [n for n in range(20) if n not in (0, 10)]
    contents = [json.loads(answer.body) for answer in answers]
    assert [each["ahead"] for each in contents] == [n - 1 for n in ended]
    assert all(each["served"] >= 0.05 for each in contents)
    for answer, each in zip(answers, contents, strict=True):
        assert answer.measured == pytest.approx(each["waited"], abs=0.001)
    assert await length() == (0, 0)
