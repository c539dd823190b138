"""ledger.rpy in virtual time; over real connections it is in tests/live/test_ledger_live.py."""

import re

import pytest

from tarry.ledger import FINISHED, LEFT, Entry

SCRIPT = "ledger.rpy"


@pytest.fixture
def ledger(script):
    return script.treq._agent._serverFactory.ledger


def enter(ledger, key="", path=b"/x", outcome=FINISHED):
    entry = Entry(0.0, 0.0)
    entry.key, entry.path = key, path
    ledger.open(entry)
    if outcome:
        ledger.close(entry, outcome, "", 1.0)
    return entry


def test_an_entry_that_is_there_is_not_waited_for(script, ledger):
    enter(ledger, "a", outcome=LEFT)
    asked = script.get("?await=left&key=a")
    assert (asked.code, asked.json()["outcome"]) == (200, "left")
    assert script.idle()


def test_the_first_that_comes_is_the_answer(script, ledger):
    asked = script.get("?await=left&key=a&timeout=5")
    script.advance(4)
    enter(ledger, "b", outcome=LEFT)
    enter(ledger, "a", outcome=FINISHED)
    script.treq.flush()
    assert asked.response is None
    enter(ledger, "a", outcome=LEFT)
    enter(ledger, "a", outcome=LEFT)
    script.treq.flush()
    assert asked.json()["id"] == 3
    assert script.idle()
    assert ledger._watchers == []


def test_only_later_ones_count_if_so_asked(script, ledger):
    enter(ledger, outcome=LEFT)
    asked = script.get("?await=left&since=1&timeout=3600")
    assert asked.response is None
    enter(ledger, outcome=LEFT)
    script.treq.flush()
    assert asked.json()["id"] == 2


def test_none_came(script, ledger):
    asked = script.get("?await=aborted&key=a&timeout=2.5")
    script.advance(2.25)
    assert asked.response is None
    script.advance(0.25)
    assert asked.code == 408
    assert asked.json() == {
        "await": "aborted", "key": "a", "path": "", "since": 0, "timeout": 2.5, "error": "none came",
    }  # fmt: skip
    assert script.idle()
    assert ledger._watchers == []


@pytest.mark.parametrize("query", ["?await=left", ""])
def test_who_waits_and_leaves_is_forgotten(script, ledger, query):
    asked = script.get(query) if query else follow(script)
    assert len(ledger._watchers) == 1
    asked.leave()
    assert ledger._watchers == []
    assert script.idle()


def follow(script):
    script.treq.headers = {"Accept": "text/event-stream"}
    request = script.treq.request
    script.treq.request = lambda *a, **k: request(*a, headers=script.treq.headers, **k)
    return script.get()


def test_a_stream_beats_when_there_is_no_news(script, ledger):
    asked = follow(script)
    script.advance(15, 15)
    assert asked.body.count(b": still here\n\n") == 2
    enter(ledger, "a")
    script.treq.flush()
    assert [line for line in asked.body.splitlines() if line.startswith(b"event:")] == [
        b"event: pending",
        b"event: finished",
    ]


def test_a_stream_that_is_not_read_counts_what_it_leaves_out(script, ledger):
    _, transport = script.connect(b"", b"Accept: text/event-stream\r\n")
    transport.producer.pauseProducing()  # as when the buffer is full
    for _ in range(3):
        enter(ledger)
    transport.producer.resumeProducing()
    enter(ledger)
    events = re.findall(rb"^event: (.*)$", transport.value(), re.MULTILINE)
    assert events == [b"missed", b"pending", b"finished"]
    assert b"event: missed\ndata: 6\n\n" in transport.value()


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_path_begins_with_a_slash(script, method):
    refused = script.get("?path=delayed.rpy", method)
    assert refused.code == 400
    assert refused.body == b"path='delayed.rpy' is not allowed: give one like /delayed.rpy\n"
