"""A signal stops the server: requests in flight may finish within the grace period."""

import signal
import socket

import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred, gatherResults

from tests.live.conftest import ask, entries, put, until
from tests.live.sockets import connect, listening, read_until, rest, status


@pytest_twisted.ensureDeferred
async def test_requests_in_flight_finish(site):
    waiting = [ensureDeferred(ask(site.url("delayed.rpy?delay=1"))) for _ in range(20)]
    idle = connect(site, "delayed.rpy?delay=0")
    read_until(idle, b"</html>\n")

    async def all_there():
        return len(await entries(site, outcome="pending")) == 20

    await until(all_there)
    site.process.send_signal(signal.SIGTERM)
    assert rest(idle) == (b"", "FIN")  # closed at once: there was nothing to wait for
    idle.close()
    answers = await gatherResults(waiting)
    assert {answer.code for answer in answers} == {200}
    assert site.end() == 0
    assert not listening(site)


@pytest.mark.parametrize("site", [["--grace", "300"]], indirect=True)
@pytest_twisted.ensureDeferred
async def test_a_response_that_is_not_read_yet_is_in_flight_too(site):
    put(site, "big.rpy", "return bytes(6_000_000)")
    with connect(site, "big.rpy", room=65536) as client:
        await until(lambda: client.recv(1, socket.MSG_PEEK))
        site.process.send_signal(signal.SIGTERM)

        await until(lambda: not listening(site))
        got, _ = rest(client)
    assert len(got.partition(b"\r\n\r\n")[2]) == 6_000_000
    assert site.end() == 0
    assert "broken off" not in site.output


@pytest.mark.parametrize("site", [["--grace", "0.5"]], indirect=True)
@pytest_twisted.ensureDeferred
async def test_what_outlasts_the_grace_period_is_reset(site):
    with connect(site, "streamed.rpy?interval=0.1&count=100000") as client:
        assert status(client) == 200
        site.process.send_signal(signal.SIGINT)
        assert rest(client)[1] == "RST"
    assert site.end() == 0
    assert "aborted in flight: 1 request" in site.output


@pytest_twisted.ensureDeferred
async def test_a_second_signal_ends_the_server_at_once(site):
    with connect(site, "delayed.rpy?delay=600"):

        async def there():
            return await entries(site, outcome="pending")

        await until(there)
        site.process.send_signal(signal.SIGTERM)

        await until(lambda: not listening(site))
        assert site.process.poll() is None
        assert site.stop(signal.SIGTERM) == 128 + signal.SIGTERM
