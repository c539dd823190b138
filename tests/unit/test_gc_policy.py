"""The garbage collector's policy, with the collector's own functions looked at."""

import gc

import pytest
from twisted.internet.task import Clock

from tarry.gc_policy import IDLE, THRESHOLDS, IdleCollector
from tarry.ledger import FINISHED, Entry, Ledger


@pytest.fixture
def done(monkeypatch):
    """What the policy has had the collector do."""
    calls = []
    for name in ("collect", "freeze", "set_threshold"):
        monkeypatch.setattr(gc, name, lambda *given, name=name: calls.append((name, *given)))
    return calls


def test_what_is_there_at_the_start_is_frozen_and_looks_become_few(done):
    IdleCollector(Ledger(), Clock()).start()
    assert done == [("collect",), ("freeze",), ("set_threshold", *THRESHOLDS)]


def test_it_collects_in_pauses_and_only_if_there_was_something_to_do(done):
    ledger, clock = Ledger(), Clock()
    IdleCollector(ledger, clock).start()
    done.clear()
    clock.advance(IDLE)
    assert done == []  # nothing was served
    entry = Entry(0.0, 0.0)
    ledger.open(entry)
    clock.advance(IDLE)
    assert done == []  # somebody waits
    ledger.close(entry, FINISHED, "", 1.0)
    clock.advance(IDLE)
    assert done == [("collect",)]
    clock.advance(IDLE)
    assert done == [("collect",)]  # nothing since then
