"""threaded.rpy with real threads."""

import json

import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred, gatherResults

from tests.live.conftest import HANG, PLAIN, RPY, TARRY, Server, ask, until


def start(server, query):
    return ensureDeferred(ask(server.url(f"threaded.rpy?{query}")))


async def leave(*asked):
    for each in asked:
        each.addErrback(lambda failure: None)
        each.cancel()
        await each


def count(server, running, waiting):
    """Wait until so many functions run, and so many requests wait for a thread."""

    async def counted():
        shown = json.loads((await start(server, "show")).body)
        return shown == {"running": running, "waiting": waiting}

    return until(counted)


@pytest_twisted.ensureDeferred
async def test_eight_block_their_threads_two_wait_and_no_other_script_does(server):
    asked = [start(server, "duration=50") for _ in range(10)]
    await count(server, 8, 2)
    assert (await ask(server.url("delayed.rpy?delay=0"))).code == 200
    assert not any(each.called for each in asked)
    await leave(*asked[8:])  # some of which are likely to wait
    await leave(*asked)
    await count(server, 0, 0)


@pytest_twisted.ensureDeferred
async def test_a_request_that_waited_gets_a_thread_that_became_free(server):
    answers = await gatherResults([start(server, "duration=0.2") for _ in range(25)])
    assert (
        max(answer.took for answer in answers) >= 0.8
    )  # eight at a time: the last is in the fourth round
    contents = [json.loads(answer.body) for answer in answers]
    assert max(one["waited"] for one in contents) > 0
    for answer, one in zip(answers, contents, strict=True):
        assert one["blocked"] >= 0.2
        assert answer.took >= answer.measured >= one["waited"] + one["blocked"] - 0.002


@pytest_twisted.ensureDeferred
async def test_a_stubborn_function_outlives_its_request_and_others_do_not(server):
    stubborn, other = start(server, "duration=2&stubborn"), start(server, "duration=50")
    await count(server, 2, 0)
    await leave(stubborn, other)
    await count(server, 1, 0)
    await count(server, 0, 0)


@pytest.mark.parametrize("command", [[*PLAIN, f"--path={RPY}"], [*TARRY, "--grace=0", RPY]])
@pytest_twisted.ensureDeferred
async def test_threads_do_not_hold_up_the_exit_of_the_server(command):
    server = Server(command)
    try:
        asked = [start(server, "duration=60") for _ in range(10)]
        for each in asked:
            each.addErrback(lambda failure: None)
        await count(server, 8, 2)
    finally:
        server.stop()  # fails after HANG
    assert HANG < 60
    await gatherResults(asked)
    assert "Traceback" not in server.output
