"""threaded.rpy with a pool whose threads are the test's."""

import threading

import pytest

SCRIPT = "threaded.rpy"


class Pool:
    """Keeps what is to be called in a thread until the test says so."""

    started = True

    def __init__(self):
        self.calls = []

    def callInThreadWithCallback(self, told, function, *arguments):
        self.calls.append((told, function, arguments))

    def adjustPoolsize(self, low, high):
        assert not self.calls or high

    def run(self, result=None):
        """Call the first: for nothing real if there is a *result*."""
        told, function, arguments = self.calls.pop(0)
        told(True, result or function(*arguments))


@pytest.fixture
def pool(script):
    script.clock.callFromThread = lambda call, *arguments: call(*arguments)
    script.resource.pool = Pool()
    return script.resource.pool


def count(script):
    told = script.get("?count").json()
    return told["running"], told["waiting"]


def test_it_answers_with_what_the_function_returned(script, pool):
    asked = script.get("?duration=3")
    assert count(script) == (1, 0)
    script.clock.advance(3)
    pool.run(("a thread", 3.0))
    script.treq.flush()
    assert asked.json() == {"waited": 0, "blocked": 3, "thread": "a thread"}
    assert asked.header("Server-Timing") == "both;dur=3000.000"
    assert count(script) == (0, 0)


def test_who_finds_no_thread_waits_in_the_order_of_arrival(script, pool):
    asked = [script.get() for _ in range(12)]
    assert (count(script), len(pool.calls)) == ((10, 2), 10)
    script.clock.advance(2)
    pool.run(("a thread", 2.0))
    assert count(script) == (10, 1)
    del pool.calls[:9]
    pool.run(("a thread", 1.0))
    script.treq.flush()
    assert [each.done for each in asked] == [True] + [False] * 9 + [True, False]
    assert asked[10].json()["waited"] == 2
    assert asked[10].header("Server-Timing") == "both;dur=3000.000"


def test_a_client_that_leaves_while_it_waits_is_dropped(script, pool, logged):
    asked = [script.get() for _ in range(12)]
    asked[10].deferred.cancel()
    script.treq.flush()
    assert (count(script), len(pool.calls)) == ((10, 1), 10)
    pool.run(("a thread", 2.0))
    assert count(script) == (10, 0)
    pool.run(("a thread", 2.0))
    assert count(script) == (9, 0)
    assert logged().count("the client left") == 1
    assert "Unhandled" not in logged()


def test_a_function_is_told_that_its_client_left_and_keeps_its_thread_until_it_ends(script, pool):
    script.get("?duration=60").leave()
    assert count(script) == (1, 0)
    pool.run()  # really, in this thread
    assert count(script) == (0, 0)


def test_a_deaf_one_is_told_in_vain(script):
    block, unwanted = script.globals["block"], threading.Event()
    unwanted.set()
    assert block(60, False, unwanted)[1] < 60
    thread, blocked = block(0.01, True, unwanted)
    assert thread == threading.current_thread().name
    assert blocked >= 0.01


def test_a_failure_in_the_thread_is_a_500_and_frees_the_thread(script, pool, logged, monkeypatch):
    monkeypatch.setattr(pool, "callInThreadWithCallback", lambda *_: 1 / 0)
    asked = script.get()
    assert (asked.code, asked.body) == (500, b"the script failed: the server's log says why\n")
    assert "ZeroDivisionError" in logged()
    assert count(script) == (0, 0)


def test_no_more_wait_than_may(script, pool, monkeypatch):
    monkeypatch.setitem(type(script.resource).render_GET.__globals__, "MOST", 2)
    for _ in range(12):
        assert script.get().response is None
    full = script.get()
    assert (full.code, full.header("Retry-After")) == (503, "1")
    assert count(script) == (10, 2)
