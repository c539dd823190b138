"""awaited.rpy in virtual time."""

import gc

import pytest

SCRIPT = "awaited.rpy"


def test_one_after_another_takes_as_long_as_all_together(script):
    asked = script.get("?delay=2")
    script.advance(2, 2)
    assert asked.response is None
    script.advance(2)
    told = asked.json()
    assert [(each["began"], each["ended"]) for each in told["lookups"]] == [(0, 2), (2, 4), (4, 6)]
    assert (told["sum"], told["took"]) == (6, 6)
    assert asked.header("Server-Timing") == "lookups;dur=6000.000"
    assert script.idle()


def test_at_once_takes_as_long_as_one(script):
    asked = script.get("?delay=2&together")
    script.advance(1.5)
    assert asked.response is None
    script.advance(0.5)
    told = asked.json()
    assert [(each["began"], each["ended"]) for each in told["lookups"]] == [(0, 2)] * 3
    assert (told["sum"], told["took"]) == (6, 2)
    assert script.idle()


@pytest.mark.parametrize(("query", "timers"), [("?delay=9", 1), ("?delay=9&together=1", 3)])
def test_a_client_that_leaves_cancels_every_lookup(script, logged, query, timers):
    asked = script.get(query)
    script.advance(1)
    assert len(script.clock.getDelayedCalls()) == timers
    asked.leave()
    assert script.idle()
    assert logged().count("the client left") == 1
    gc.collect()  # upon which Twisted tells of errors that nobody handled
    assert "Unhandled" not in logged()


@pytest.mark.parametrize("query", ["", "?together"])
def test_a_failure_is_a_500_of_one_line(script, logged, monkeypatch, query):
    monkeypatch.setattr(type(script.resource), "now", lambda *_: 1 / 0, raising=True)
    monkeypatch.delattr(script.resource, "now")
    asked = script.get(query)
    script.advance(1)
    assert asked.code == 500
    assert asked.body == b"the script failed: the server's log says why\n"
    assert "ZeroDivisionError" in logged()
    assert script.idle()
