"""What `tarry serve` says at the start."""

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from tarry import serving
from tarry.options import Options


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
    options = Options()
    options.parseOptions([])

    class Service:
        def ports(self):
            return [Port(address)]

    serving._announce(options, Service())
    assert ("Other machines can reach it" in capsys.readouterr().out) == (not only_here)
