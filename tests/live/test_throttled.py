"""throttled.rpy over real sockets: resumed downloads, and a large one."""

import os
import shutil
import subprocess
import time

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from tests.live.conftest import HANG, ask, more, until
from tests.live.test_leaving import connect, resident

WHOLE = b"".join(b"%015d\n" % offset for offset in range(0, 1_000_000, 16))


@pytest_twisted.ensureDeferred
async def test_parts_make_up_the_whole(server):
    url = server.url("throttled.rpy?size=1000000&rate=0")
    whole = await ask(url)
    assert (whole.code, whole.body) == (200, WHOLE)
    parts = [
        await ask(url, headers={"Range": wanted, "If-Range": whole.header("ETag")})
        for wanted in ("bytes=0-333332", "bytes=333333-700000", "bytes=-299999")
    ]
    assert [part.code for part in parts] == [206] * 3
    assert b"".join(part.body for part in parts) == WHOLE


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
@pytest_twisted.ensureDeferred
async def test_curl_resumes_a_download(server, tmp_path):
    file, url = tmp_path / "whole", server.url("throttled.rpy?size=1000000&rate=0")

    async def curl(*arguments):
        command = ["curl", "-sS", "-m", str(HANG), *arguments]
        done = await deferToThread(subprocess.run, command, capture_output=True, check=True)
        return done.stdout

    assert await curl("-r", "16-47", url) == b"000000000000016\n000000000000032\n"
    file.write_bytes(WHOLE[:123_456])
    await curl("-C", "-", "-o", str(file), url)
    assert file.read_bytes() == WHOLE
    assert await curl("-r", "1000000-", "-o", os.devnull, "-w", "%{http_code}", url) == b"416"


@pytest_twisted.ensureDeferred
async def test_it_is_never_ahead_of_its_rate(server):
    """How late it is depends on the machine, and is not tested."""
    out = []

    def received(piece):
        out.append((len(piece), time.monotonic()))

    began = time.monotonic()
    await ask(server.url("throttled.rpy?size=300000&rate=500000"), received=received)
    total = 0
    for length, at in out:
        total += length
        assert total <= (at - began) * 500_000
    assert total == 300_000


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads memory from /proc")
@pytest_twisted.ensureDeferred
async def test_memory_is_flat_however_large_the_download(server):
    def download(size):
        """Return the last 16 bytes, and the most memory that the server used meanwhile."""
        with connect(server, f"throttled.rpy?size={size}&rate=0") as client:
            client.settimeout(HANG)
            head = b""
            while b"\r\n\r\n" not in head:
                head += more(client, 1)
            got, last, most = 0, b"", 0
            while got < size:
                piece = more(client, 1 << 20)
                got, last = got + len(piece), (last + piece)[-16:]
                most = max(most, resident(server.process))
        return last, most

    _, before = await deferToThread(download, 1_000_000)
    last, most = await deferToThread(download, 400_000_000)
    assert last == b"000000399999984\n"
    assert most - before < 4 * 2**20


@pytest_twisted.ensureDeferred
async def test_a_disconnect_ends_the_download(server):
    path = "throttled.rpy?size=10000000000&rate=0"
    with connect(server, path) as client:
        client.settimeout(HANG)
        assert (await deferToThread(client.recv, 65536)).startswith(b"HTTP/1.1 200 OK")
    await until(lambda: f"/{path}': the client disconnected" in server.output)
