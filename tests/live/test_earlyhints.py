"""earlyhints.rpy over real sockets: hints are sent before the page, on HTTP/1.1 and HTTP/2."""

import re
import shutil
import signal
import socket
import ssl

import h2.connection
import h2.events
import pytest_twisted

from tests.live.conftest import HANG, RPY, TARRY, Server, ask, until
from tests.live.sockets import connect, read_until

LINK = b"</style.css>; rel=preload; as=style"


@pytest_twisted.ensureDeferred
async def test_a_hint_is_read_long_before_the_page(server):
    path = "earlyhints.rpy?delay=3600"
    with connect(server, path) as client:
        hint = b"HTTP/1.1 103 Early Hints\r\nLink: %s\r\n\r\n" % LINK
        assert read_until(client, b"\r\n\r\n") == hint
    await until(lambda: f"/{path}': the client disconnected" in server.output)


@pytest_twisted.ensureDeferred
async def test_a_client_that_ignores_hints_gets_the_page(server):
    answer = await ask(server.url("earlyhints.rpy?count=10&delay=0"))
    assert (answer.code, answer.header("Link")) == (200, LINK.decode())
    assert answer.body.count(b"<html") == 1


def test_on_http2_hints_are_informational_responses():
    server = Server([*TARRY, "--https", RPY])
    authority = re.search(r"--cacert (\S+)", server.output)[1]
    try:
        trust = ssl.create_default_context(cafile=authority)
        trust.set_alpn_protocols(["h2"])
        plain = socket.create_connection(("127.0.0.1", server.port), timeout=HANG)
        with plain, trust.wrap_socket(plain, server_hostname="localhost") as connection:
            assert list(responses(connection, b"/earlyhints.rpy?count=2&delay=0.1")) == [
                (b"103", LINK),
                (b"103", LINK),
                (b"200", LINK),
            ]
    finally:
        server.stop(signal.SIGKILL)
        shutil.rmtree(authority.rpartition("/")[0], ignore_errors=True)


def responses(connection, path):
    """Yield the status and Link of each response on a stream, until its end."""
    http = h2.connection.H2Connection()
    http.initiate_connection()
    head = [(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", path)]
    http.send_headers(1, head, end_stream=True)
    while True:
        connection.sendall(http.data_to_send())
        for event in http.receive_data(connection.recv(65536)):
            if isinstance(
                event, h2.events.InformationalResponseReceived | h2.events.ResponseReceived
            ):
                headers = dict(event.headers)
                yield headers[b":status"], headers[b"link"]
            if isinstance(event, h2.events.StreamEnded):
                return
