"""awaited.rpy in virtual time."""

import gc

import pytest

SCRIPT = "awaited.rpy"


def test_lookups_one_after_another_take_as_long_as_their_sum(script):
    asked = script.get("?duration=2")
    script.advance(2, 2)
    assert asked.response is None
    script.advance(2)
    content = asked.json()
    times = [(lookup["began"], lookup["ended"]) for lookup in content["lookups"]]
    assert times == [(0, 2), (2, 4), (4, 6)]
    assert (content["sum"], content["took"]) == (6, 6)
    assert asked.header("Server-Timing") == "lookups;dur=6000.000"
    assert script.idle()


def test_lookups_at_once_take_as_long_as_one(script):
    asked = script.get("?duration=2&together")
    script.advance(1.5)
    assert asked.response is None
    script.advance(0.5)
    content = asked.json()
    assert [lookup["name"] for lookup in content["lookups"]] == [
        "the user", "the orders", "the weather",
    ]  # fmt: skip
    assert {(lookup["began"], lookup["ended"]) for lookup in content["lookups"]} == {(0, 2)}
    assert (content["sum"], content["took"]) == (6, 2)
    assert script.idle()


@pytest.mark.parametrize(("query", "timers"), [("?duration=9", 1), ("?duration=9&together=1", 3)])
def test_a_disconnect_cancels_every_lookup(script, logged, query, timers):
    asked = script.get(query)
    script.advance(1)
    assert len(script.clock.getDelayedCalls()) == timers
    asked.leave()
    assert script.idle()
    assert logged().count("the client disconnected") == 1
    gc.collect()  # that is when Twisted logs errors that nobody handled
    assert "Unhandled" not in logged()
    assert "Traceback" not in logged()


@pytest.mark.parametrize("query", ["", "?together"])
def test_a_failed_lookup_is_a_500_and_cancels_the_others(script, logged, query):
    asked = script.get(query)
    first, *_ = script.clock.getDelayedCalls()
    first.reset(0)
    script.resource.now = lambda: 1 / 0
    script.advance(0)
    assert asked.code == 500
    assert asked.body == b"the script failed: the server's log says why\n"
    assert script.idle()  # the other lookups had a second to go
    assert "ZeroDivisionError" in logged()
    gc.collect()
    assert "Unhandled" not in logged()
