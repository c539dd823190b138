"""Who may ask: protection of a server on the loopback interface from web pages of other sites.

A browser on the same machine can be made to ask for any URL. Two rules keep a page of another site from
reading a ledger or opening a gate:

- On a loopback interface, the Host must be a loopback name (or one given with --host). Otherwise a page
  could give its own name this machine's address ("DNS rebinding"), and read what the server answers: 421.
- A request that may change something (not GET, HEAD or OPTIONS; and a WebSocket's handshake) must not
  come from a page of another origin, as the browser's Sec-Fetch-Site and Origin headers tell: 403.
  Programs that are no browsers send neither. The rules are those of Go's net/http.CrossOriginProtection.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from tarry.errors import Refused

HOST = re.compile(rb"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._~-]{1,255})(?::[0-9]{1,5})?")
SAFE_METHODS = (b"GET", b"HEAD", b"OPTIONS")
MAX_KNOWN = 1000  # Host headers whose verdict is remembered


def is_loopback(host: str) -> bool:
    """Return whether *host*, a name or an address without a port, means this machine."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return False


class Origins:
    """The rules, for a server with these further *hosts* and trusted *origins*."""

    def __init__(self, hosts: Iterable[str] = (), origins: Iterable[str] = ()) -> None:
        self.hosts = {host.lower() for host in hosts}
        self.origins = {origin.lower().encode() for origin in origins}
        self._known: set[bytes] = set()  # Host headers that are allowed

    def check_host(self, host: bytes) -> None:
        """Raise Refused unless *host*, a Host header, may be asked for on a loopback interface."""
        if host in self._known:
            return
        match = HOST.fullmatch(host)
        name = match[1].decode().lower().rstrip(".") if match else ""
        if not (is_loopback(name) or name in self.hosts):
            shown = host[:80].decode("latin-1")
            line = f"invalid Host {shown!a}: this server answers to localhost; --host allows more names"
            raise Refused(421, line)
        if len(self._known) < MAX_KNOWN:
            self._known.add(host)

    def check_origin(self, host: bytes, origin: bytes | None, site: bytes | None) -> None:
        """Raise Refused if a browser says that a page of another origin asks for this.

        *host*, *origin* and *site* are the headers Host, Origin and Sec-Fetch-Site.
        """
        if origin is not None and origin.lower() in self.origins:
            return
        if site is not None:
            foreign = site not in (b"same-origin", b"none")
        else:
            foreign = origin is not None and origin.lower().partition(b"://")[2] != host.lower()
        if foreign:
            shown = (origin or b"another site")[:80].decode("latin-1")
            line = (
                f"cross-origin request from {shown!a}: --origin allows it for an origin you trust"
            )
            raise Refused(403, line)
