"""Which Host and which Origin may ask on a loopback interface."""

import pytest

from tarry.errors import Refused
from tarry.origins import Origins, is_loopback

from .test_http1 import Wire


@pytest.mark.parametrize(
    "name",
    [
        "localhost",
        "LOCALHOST",
        "localhost.",
        "app.localhost",
        "127.0.0.1",
        "127.9.9.9",
        "::1",
        "[::1]",
    ],
)
def test_names_of_this_machine(name):
    assert is_loopback(name)


@pytest.mark.parametrize(
    "name",
    ["", "evil.example", "localhost.evil.example", "notlocalhost", "10.0.0.1", "[::2]", "0.0.0.0"],
)
def test_names_of_others(name):
    assert not is_loopback(name)


@pytest.mark.parametrize(
    "host",
    [b"localhost", b"localhost:8080", b"127.0.0.1:1", b"[::1]:8080", b"dev.test:80", b"DEV.test"],
)
def test_a_host_that_is_allowed(host):
    origins = Origins(hosts=["dev.TEST"])
    for _ in range(2):  # the second time it is known
        origins.check_host(host)


@pytest.mark.parametrize(
    "host",
    [
        b"evil.example",
        b"evil.example:8080",
        b"localhost:x",
        b"localhost evil",
        b"",
        b"\xff",
        b"a" * 5000,
        b"user@localhost",
    ],
)
def test_a_host_that_is_not_allowed(host):
    with pytest.raises(Refused, match="--host allows more names") as refused:
        Origins().check_host(host)
    assert refused.value.code == 421
    assert len(refused.value.line) < 500


@pytest.mark.parametrize(("origin", "site", "allowed"), [
    (None, None, True),  # not a browser
    (b"http://localhost:8080", None, True),
    (b"http://localhost:8080", b"same-origin", True),
    (None, b"none", True),  # typed into the address bar
    (b"http://localhost:5173", b"same-site", False),
    (b"http://evil.example", b"cross-site", False),
    (b"http://evil.example", None, False),
    (b"null", None, False),
    (b"http://trusted.example", b"cross-site", True),
])  # fmt: skip
def test_cross_origin_requests(origin, site, allowed):
    origins = Origins(origins=["http://trusted.example"])
    if allowed:
        origins.check_origin(b"localhost:8080", origin, site)
        return
    with pytest.raises(Refused, match="--origin allows it") as refused:
        origins.check_origin(b"localhost:8080", origin, site)
    assert refused.value.code == 403


@pytest.mark.parametrize(("method", "headers", "status"), [
    ("GET", "Origin: http://evil.example\r\n", None),
    ("HEAD", "Sec-Fetch-Site: cross-site\r\n", None),
    ("OPTIONS", "Origin: http://evil.example\r\n", None),
    ("POST", "", None),
    ("POST", "Origin: http://evil.example\r\n", 403),
    ("DELETE", "Sec-Fetch-Site: cross-site\r\n", 403),
    ("GET", "Origin: http://evil.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n", 403),
])  # fmt: skip
def test_what_a_page_of_another_site_may_ask_for(method, headers, status):
    wire = Wire().send(f"{method} /a HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode())
    if method != "HEAD":
        assert (wire.bodies == [403]) == (status == 403)
    (entry,) = wire.site.ledger.ended
    assert (entry.outcome, entry.status) == (("refused", 403) if status else ("finished", 200))
