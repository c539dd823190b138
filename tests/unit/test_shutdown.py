"""How `tarry serve` counts down while requests end."""

from twisted.internet.task import Clock

from tarry.ledger import FINISHED, Entry, Ledger
from tarry.limits import Limits
from tarry.shutdown import GracefulShutdown
from tarry.site import Site


def test_a_person_who_watches_is_told_how_long_it_takes_to_stop(capsys):
    clock, ledger = Clock(), Ledger()
    site = Site(None, Limits(), ledger, reactor=clock)
    grace = GracefulShutdown(site, 10, True, clock)
    entry = Entry(0.0, 0.0)
    ledger.open(entry)
    ended = []
    grace.stopService().addCallback(ended.append)
    clock.advance(3)
    shown = capsys.readouterr().err
    assert "waiting for 1 request, 10 s at most" in shown
    assert shown.split("\r")[-1].startswith("waiting for 1 request, 7 s at most")
    ledger.close(entry, FINISHED, "", 1.0)
    clock.advance(0.1)
    clock.advance(0)
    assert ended == [None]
    assert capsys.readouterr().err.endswith("\r\x1b[K")
