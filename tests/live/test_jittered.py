"""jittered.rpy over real sockets: a hundred requests with one URL, and the same run again."""

import json

import pytest_twisted
from twisted.internet.defer import ensureDeferred, gatherResults

from tests.live.conftest import ask


@pytest_twisted.ensureDeferred
async def test_a_hundred_requests_at_once_can_be_repeated(server):
    async def fire(query):
        url = server.url(f"jittered.rpy?mean=0.1&spread=0.1&{query}")
        answers = await gatherResults([ensureDeferred(ask(url)) for _ in range(100)])
        answered = [json.loads(answer.body) for answer in answers]
        for answer, each in zip(answers, answered, strict=True):
            assert each["waited"] >= each["wait"]
            assert abs(answer.measured - each["waited"]) < 0.001
        return {each["n"]: each["wait"] for each in answered}, {each["seed"] for each in answered}

    waits, (seed,) = await fire("key=first")
    assert set(waits) == set(range(1, 101))
    assert len(set(waits.values())) > 90
    assert await fire(f"key=second&seed={seed}") == (waits, {seed})
    gone = await ask(server.url("jittered.rpy?key=first"), method="DELETE")
    assert json.loads(gone.body) == {"key": "first", "forgotten": 100}
    assert await fire(f"key=first&seed={seed}") == (waits, {seed})
