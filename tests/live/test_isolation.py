"""Each request keeps its own time. Order and containment prove it, not upper limits on time."""

import json

import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred, gatherResults
from twisted.web.client import ResponseNeverReceived

from tests.live.conftest import EnoughError, ask, until

SLACK = 0.010  # seconds, between two clocks


def start(url, **options):
    return ensureDeferred(ask(url, **options))


@pytest_twisted.ensureDeferred
async def test_two_hundred_at_once_each_waits_its_own_time(server):
    delays = [0.1 + (n % 20) / 10 for n in range(200)]
    urls = [server.url(f"delayed.rpy?delay={delay:.3f}") for delay in delays]
    answers = await gatherResults(list(map(start, urls)))
    assert {answer.code for answer in answers} == {200}
    for delay, answer in zip(delays, answers, strict=True):
        assert b"Sorry to keep you waiting." in answer.body
        assert answer.measured >= delay
        assert answer.took >= answer.measured - SLACK


@pytest_twisted.ensureDeferred
async def test_shorter_delays_overtake_longer_ones(server):
    order = []
    waits = []
    for delay in (1.5, 1.0, 0.5):
        asked = start(server.url(f"delayed.rpy?delay={delay}"))
        waits.append(asked.addCallback(lambda _, delay=delay: order.append(delay)))
    await gatherResults(waits)
    assert order == [0.5, 1.0, 1.5]


@pytest_twisted.ensureDeferred
async def test_a_long_wait_blocks_no_other_request(server):
    long = start(server.url("delayed.rpy?delay=50"))
    assert (await ask(server.url("delayed.rpy?delay=0"))).code == 200
    stream = await ask(server.url("streamed.rpy?count=5&interval=0.05"))
    assert len(stream.body.splitlines()) == 5
    leaver = start(server.url("cancellable.rpy?duration=60&key=between"))
    await until(lambda: listed(server, "running", "between"))
    leaver.cancel()
    await until(lambda: listed(server, "recent", "between"))
    assert not long.called
    long.cancel()
    for asked in (leaver, long):
        with pytest.raises(ResponseNeverReceived):
            await asked


async def listed(server, which, key):
    answer = await ask(server.url(f"cancellable.rpy?show={which}&key={key}"))
    return json.loads(answer.body)


@pytest_twisted.ensureDeferred
async def test_the_claim_of_the_article(server):
    """Of two requests two seconds apart, each takes five seconds from when it arrived."""
    done = []
    first = start(server.url("delayed.rpy?delay=5")).addCallback(lambda a: done.append(1) or a)
    await ask(server.url("delayed.rpy?delay=2"))
    second = start(server.url("delayed.rpy?delay=5")).addCallback(lambda a: done.append(2) or a)
    one, two = await gatherResults([first, second])
    assert done == [1, 2]
    assert min(one.measured, two.measured) >= 5


@pytest_twisted.ensureDeferred
async def test_the_first_line_of_a_stream_is_read_long_before_the_last_is_written(server):
    def received(piece):
        assert json.loads(piece)["n"] == 1
        raise EnoughError

    path = "streamed.rpy?count=1000&interval=60&key=first"
    with pytest.raises(EnoughError):
        await ask(server.url(path), received=received)
    await until(lambda: f"/{path}': the client disconnected" in server.output)


@pytest_twisted.ensureDeferred
async def test_fifty_streams_at_once_interleave(server):
    events = []
    asked = [
        start(
            server.url("streamed.rpy?count=3&interval=1.5"),
            received=lambda piece, n=n: events.extend(
                (n, json.loads(line)["n"]) for line in piece.splitlines()
            ),
        )
        for n in range(50)
    ]
    await gatherResults(asked)
    assert len(events) == 150
    for n in range(50):
        assert [chunk for stream, chunk in events if stream == n] == [1, 2, 3]
    last_first = max(i for i, (_, chunk) in enumerate(events) if chunk == 1)
    first_last = min(i for i, (_, chunk) in enumerate(events) if chunk == 3)
    assert last_first < first_last


@pytest_twisted.ensureDeferred
async def test_a_stream_keeps_its_schedule(server):
    answer = await ask(server.url("streamed.rpy?delay=0.2&count=20&interval=0.05"))
    lines = [json.loads(line) for line in answer.body.splitlines()]
    assert [line["n"] for line in lines] == list(range(1, 21))
    assert [line["due"] for line in lines] == [round(0.2 + n * 0.05, 4) for n in range(20)]
    assert all(line["written"] >= line["due"] for line in lines)
    assert answer.measured >= 0.2
    assert answer.took >= lines[-1]["written"] - SLACK
