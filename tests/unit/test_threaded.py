"""threaded.rpy with a thread pool that runs each function when the test says so."""

import threading

import pytest
from twisted.python.failure import Failure

SCRIPT = "threaded.rpy"


class Pool:
    """Holds each call until the test runs it."""

    def __init__(self):
        self.calls = []

    def callInThreadWithCallback(self, report, function):
        self.calls.append((report, function))

    def run(self):
        """Run the first call, in the test's thread."""
        report, function = self.calls.pop(0)
        try:
            report(True, function())
        except Exception:
            report(False, Failure())


@pytest.fixture
def pool(script):
    script.clock.callFromThread = lambda call, *arguments: call(*arguments)
    script.resource.pool = Pool()
    return script.resource.pool


@pytest.fixture
def replace(script, monkeypatch):
    """Give a name in the script another value."""
    namespace = type(script.resource).render_GET.__globals__
    return lambda name, value: monkeypatch.setitem(namespace, name, value)


@pytest.fixture
def no_block(replace):
    """Make block() return at once, as if it had taken its time."""
    replace("block", lambda duration, *_: ("a thread", duration))


def count(script):
    """How many functions run, and how many requests wait for a thread."""
    shown = script.get("?show").json()
    return shown["running"], shown["waiting"]


def test_the_answer_has_what_the_function_returned(script, pool, no_block):
    asked = script.get("?duration=3")
    assert count(script) == (1, 0)
    script.clock.advance(3)
    pool.run()
    script.treq.flush()
    assert asked.json() == {"waited": 0, "blocked": 3, "thread": "a thread"}
    assert asked.header("Server-Timing") == "total;dur=3000.000"
    assert count(script) == (0, 0)


def test_requests_wait_for_a_thread_in_order_of_arrival(script, pool, no_block):
    asked = [script.get() for _ in range(10)]
    assert (count(script), len(pool.calls)) == ((8, 2), 8)
    script.clock.advance(2)
    pool.run()
    assert count(script) == (8, 1)
    del pool.calls[:7]
    pool.run()
    script.treq.flush()
    assert [each.done for each in asked] == [True] + [False] * 7 + [True, False]
    assert asked[8].json()["waited"] == 2
    assert asked[8].header("Server-Timing") == "total;dur=4000.000"


def test_a_request_that_waits_is_dropped_when_its_client_disconnects(
    script, pool, logged, no_block
):
    asked = [script.get() for _ in range(10)]
    asked[8].deferred.cancel()
    script.treq.flush()
    assert (count(script), len(pool.calls)) == ((8, 1), 8)
    pool.run()
    assert count(script) == (8, 0)
    pool.run()
    assert count(script) == (7, 0)
    assert logged().count("the client disconnected") == 1
    assert "Unhandled" not in logged()


def test_a_function_keeps_its_thread_until_it_returns(script, pool):
    script.get("?duration=60").leave()
    assert count(script) == (1, 0)
    pool.run()  # the real function, which sees that it should stop
    assert count(script) == (0, 0)


def test_a_stubborn_function_does_not_stop(script):
    block, unwanted = script.globals["block"], threading.Event()
    unwanted.set()
    assert block(60, False, unwanted)[1] < 60
    thread, blocked = block(0.01, True, unwanted)
    assert thread == threading.current_thread().name
    assert blocked >= 0.01


def test_a_function_that_fails_is_a_500_and_frees_its_thread(script, pool, logged, replace):
    replace("block", lambda *_: 1 / 0)
    asked = script.get()
    pool.run()
    script.treq.flush()
    assert (asked.code, asked.body) == (500, b"the script failed: the server's log says why\n")
    assert "ZeroDivisionError" in logged()
    assert count(script) == (0, 0)


def test_no_more_requests_wait_than_allowed(script, pool, replace):
    replace("MAX_WAITING", 2)
    for _ in range(10):
        assert script.get().response is None
    full = script.get()
    assert (full.code, full.header("Retry-After")) == (503, "1")
    assert count(script) == (8, 2)
