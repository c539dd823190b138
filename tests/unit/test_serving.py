"""Small parts of `tarry serve`: what it warns of, how it counts down, how its log looks."""

import io
import re
import sys

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.task import Clock
from twisted.web.test.requesthelper import DummyRequest

from tarry import serving, tap
from tarry.accesslog import AccessLog, quoted
from tarry.ledger import ABORTED, FINISHED, LEFT, Entry, Ledger
from tarry.stopping import Grace
from tarry.web import Limits, Site


class Port:
    def __init__(self, address):
        self.getHost = lambda: address


@pytest.mark.parametrize(("address", "only_here"), [
    (IPv4Address("TCP", "127.0.0.1", 80), True),
    (IPv4Address("TCP", "127.9.9.9", 80), True),
    (IPv6Address("TCP", "::1", 80), True),
    (UNIXAddress(b"/run/x"), True),
    (IPv4Address("TCP", "0.0.0.0", 80), False),
    (IPv4Address("TCP", "192.0.2.1", 80), False),
    (IPv6Address("TCP", "::", 80), False),
    (IPv6Address("TCP", "fe80::1%eth0", 80), False),
])  # fmt: skip
def test_it_warns_if_other_machines_can_reach_it(address, only_here, capsys):
    options = tap.Options()
    options.parseOptions([])

    class Service:
        def ports(self):
            return [Port(address)]

    serving._announce(options, Service())
    assert ("Other machines can reach it" in capsys.readouterr().out) == (not only_here)


def test_https_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "trustme", None)
    with pytest.raises(tap.UsageError, match=r"trustme is missing: pip install 'tarry\[tls\]'"):
        tap.Options().parseOptions(["--https"])


def test_options_may_stand_after_the_folder(tmp_path):
    options = tap.Options()
    options.parseOptions([str(tmp_path), "--port", "9", "-q", "--grace=3"])
    assert (options.folder(), options["ports"]) == (str(tmp_path), ["tcp:9:interface=127.0.0.1"])
    assert (options["grace"], options["quiet"]) == (3.0, 1)


@pytest.mark.parametrize(("option", "value", "allowed"), [
    ("grace", "-1", "seconds, from 0 to 3600"), ("grace", "nan", "seconds"), ("grace", "x", "seconds"),
    ("ledger", "1.5", "a whole number from 0 to 1000000"), ("workers", "0", "from 1 to 64"),
    ("head-seconds", "0", "from 0.1 to 3600"), ("idle-seconds", "inf", "from 0.1 to 86400"),
    ("head-bytes", "99", "from 100"), ("body-bytes", "-1", "from 0"), ("pending", "", "from 1"),
    ("connections", "0", "from 1"), ("collector", "loud", "quiet or plain"),
])  # fmt: skip
def test_what_is_not_allowed_is_said_in_one_line(option, value, allowed):
    with pytest.raises(tap.UsageError) as wrong:
        tap.Options().parseOptions([f"--{option}", value])
    line = str(wrong.value)
    assert line.startswith(f"--{option} {value!r} is not allowed: give ")
    assert allowed in line
    assert "\n" not in line


def test_a_person_who_watches_is_told_how_long_it_takes_to_stop(capsys):
    clock, ledger = Clock(), Ledger()
    site = Site(None, Limits(), ledger, reactor=clock)
    grace = Grace(site, 10, True, clock)
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


def entry(outcome, status, sent):
    made = Entry(100.0, 1_700_000_000.25)
    made.outcome, made.status, made.bytes, made.ended = outcome, status, sent, 101.5
    made.peer = "127.0.0.1:5000"
    return made


def request(uri=b"/x?a=1"):
    made = DummyRequest([b""])
    made.method, made.uri, made.clientproto = b"GET", uri, b"HTTP/1.1"
    return made


def test_lines_of_the_combined_format():
    file = io.StringIO()
    log = AccessLog(file)
    log.write(request(), entry(FINISHED, 200, 137))
    log.write(request(), entry(LEFT, 0, 0))
    log.write(request(), entry(ABORTED, 0, 0))
    log.write(request(b'/"\xff\\\n'), entry(FINISHED, 404, 3))
    assert file.getvalue() == ""  # they are written together
    log.flush()
    combined = r'127\.0\.0\.1 - - \[\d\d/\w{3}/2023:[\d:]{8} [+-]\d{4}\] "GET (\S+) HTTP/1\.1" (.*) "-" "-"'
    lines = [re.fullmatch(combined, line).groups() for line in file.getvalue().splitlines()]
    assert lines == [
        ("/x?a=1", "200 137"),
        ("/x?a=1", "499 -"),
        ("/x?a=1", "500 -"),
        (r"/\"\xff\\\n", "404 3"),
    ]


@pytest.mark.parametrize(("outcome", "status", "colour"), [
    (FINISHED, 200, "32"), (FINISHED, 404, "33"), (FINISHED, 503, "31"), (LEFT, 200, "31"),
])  # fmt: skip
def test_on_a_terminal_lines_come_at_once_and_in_colour(outcome, status, colour):
    file = io.StringIO()
    AccessLog(file, watched=True).write(request(), entry(outcome, status, 1))
    assert file.getvalue().startswith(f"\x1b[{colour}m127.0.0.1 - - ")
    assert file.getvalue().endswith(f"\x1b[0m \x1b[2m1.500 s {outcome}\x1b[0m\n")


def test_what_is_quoted_cannot_forge_a_line():
    assert quoted(b'a"b\\c\r\nd\xe9') == r"a\"b\\c\r\nd\xe9"
