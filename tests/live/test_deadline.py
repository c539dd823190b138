"""deadline.rpy on real timers."""

import json

import pytest_twisted
from twisted.internet.defer import ensureDeferred, gatherResults

from tests.live.conftest import ask, until


@pytest_twisted.ensureDeferred
async def test_work_as_long_as_the_deadline_is_late_and_shorter_work_is_not(server):
    queries = ["duration=0.3&deadline=0.3", "duration=0&deadline=0", "duration=0.1&deadline=30"]
    urls = [server.url(f"deadline.rpy?{q}&count={n}") for q in queries for n in (1, 2, 7, 1000)]
    answers = await gatherResults([ensureDeferred(ask(url)) for url in urls])
    assert [answer.code for answer in answers] == [504] * 8 + [200] * 4
    for answer, asked in zip(answers, [0.3] * 4 + [0] * 4 + [0.1] * 4, strict=True):
        assert answer.measured >= asked
    assert [json.loads(a.body)["steps"] for a in answers[8:]] == [1, 2, 7, 1000]


@pytest_twisted.ensureDeferred
async def test_a_disconnect_cancels_the_work(server):
    request = ensureDeferred(ask(server.url("deadline.rpy?duration=600&deadline=600&key=gone")))
    request.addErrback(lambda failure: None)
    await ask(server.url("deadline.rpy?duration=0"))
    request.cancel()
    await until(lambda: "&key=gone': the client disconnected" in server.output)
    await request
