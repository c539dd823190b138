"""The access log: one line per request, also for those without a response."""

import os
import signal

import pytest_twisted

from tests.live.conftest import RPY, TARRY, ask, until
from tests.live.sockets import all_of, connect


@pytest_twisted.ensureDeferred
async def test_disconnects_are_logged_and_the_file_can_be_rotated(tmp_path, serve):
    file = tmp_path / "access.log"
    server = serve([*TARRY, "--access-log", file, RPY])
    await ask(
        server.url("delayed.rpy?delay=0"), headers={"User-Agent": 'me "q"', "Referer": "http://x/"}
    )
    connect(server, "delayed.rpy?delay=60").close()
    await until(lambda: "b'/delayed.rpy?delay=60': the client" in server.output)
    os.replace(file, tmp_path / "old.log")
    server.process.send_signal(signal.SIGHUP)
    await until(file.exists)
    await ask(server.url("delayed.rpy?delay=x"))
    assert server.process.poll() is None
    assert server.stop() == 0
    old, new = (tmp_path / "old.log").read_text().splitlines(), file.read_text().splitlines()
    assert old[0].startswith("127.0.0.1 - - [")
    assert old[0].endswith('"GET /delayed.rpy?delay=0 HTTP/1.1" 200 137 "http://x/" "me \\"q\\""')
    assert old[1].endswith('"GET /delayed.rpy?delay=60 HTTP/1.1" 499 - "-" "-"')
    assert '"GET /delayed.rpy?delay=x HTTP/1.1" 400 48 ' in new[0]
    assert (len(old), len(new)) == (2, 1)
    assert "GET /delayed" not in server.output.replace("b'/delayed", "")


def test_quiet_logs_no_request(serve):
    server = serve([*TARRY, "--quiet"])
    all_of(server, b"GET /delayed.rpy?delay=0 HTTP/1.0\r\n\r\n")
    assert server.stop() == 0
    assert server.output.endswith("Stop it with Ctrl-C.\n")
