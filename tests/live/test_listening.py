"""The listening socket, and TCP options of accepted connections."""

import shutil
import subprocess
from pathlib import Path

import pytest
import pytest_twisted

from tests.live.conftest import entries, until
from tests.live.sockets import HANG, connect

needs_ss = pytest.mark.skipif(not shutil.which("ss"), reason="asks ss, of iproute2, for sockets")


@needs_ss
def test_the_backlog_is_long(site):
    """As far as the kernel lets it be, the listening socket's queue takes 4,096."""
    shown = subprocess.run(
        ["ss", "-tlnH", f"sport = :{site.port}"], capture_output=True, text=True, timeout=HANG
    )
    most = int(Path("/proc/sys/net/core/somaxconn").read_text())
    assert int(shown.stdout.split()[2]) == min(4096, most)


@needs_ss
@pytest_twisted.ensureDeferred
async def test_connections_are_kept_alive_by_tcp(site):
    """The kernel's timer for an accepted connection is the keep-alive timer."""
    with connect(site, "delayed.rpy?delay=600") as client:

        async def there():
            return await entries(site, outcome="pending")

        await until(there)
        port = client.getsockname()[1]
        shown = subprocess.run(
            ["ss", "-tnoH", f"dport = :{port}"], capture_output=True, text=True, timeout=HANG
        )
        assert "timer:(keepalive," in shown.stdout
