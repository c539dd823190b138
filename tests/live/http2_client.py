"""An HTTP/2 client on a real socket, that asks on many streams and may send any bytes.

Not httpx: that hands a response to whoever awaits it only when another one arrives, if three or more are
awaited on one connection.
"""

import socket
import ssl

import h2.connection
import h2.events

from tests.live.sockets import HANG, more

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


def connect(server, authority=None, alpn="h2"):
    """Return a socket, with TLS if the file *authority* says whom to trust."""
    plain = socket.create_connection(("127.0.0.1", server.port), timeout=HANG)
    if authority is None:
        return plain
    trust = ssl.create_default_context(cafile=authority)
    trust.set_alpn_protocols([alpn])
    return trust.wrap_socket(plain, server_hostname="localhost")


class Client:
    """One connection. `bodies` and `ends` are by stream: the bytes so far, and "end" or an error code."""

    def __init__(self, server, authority=None):
        self.socket = connect(server, authority)
        self.http = h2.connection.H2Connection()
        self.http.initiate_connection()
        self.scheme = "http" if authority is None else "https"
        self.statuses, self.bodies, self.ends, self.order = {}, {}, {}, []
        self.goaway = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def ask(self, path, method="GET", headers=(), end=True):
        """Send a request's headers; return its stream."""
        stream = self.http.get_next_available_stream_id()
        pseudo = [
            (":method", method),
            (":scheme", self.scheme),
            (":authority", "localhost"),
            (":path", f"/{path}"),
        ]
        self.http.send_headers(stream, [*pseudo, *headers], end_stream=end)
        self.bodies[stream] = b""
        self.send()
        return stream

    def send(self):
        self.socket.sendall(self.http.data_to_send())

    def read(self):
        """Take what comes next, and answer it."""
        for event in self.http.receive_data(more(self.socket)):
            if isinstance(event, h2.events.ResponseReceived):
                self.statuses[event.stream_id] = int(dict(event.headers)[b":status"])
            elif isinstance(event, h2.events.DataReceived):
                self.bodies[event.stream_id] += event.data
                self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self.ends[event.stream_id] = "end"
                self.order.append(event.stream_id)
            elif isinstance(event, h2.events.StreamReset):
                self.ends[event.stream_id] = event.error_code
            elif isinstance(event, h2.events.ConnectionTerminated):
                self.goaway = event.error_code
                return
        self.send()

    def until(self, fact):
        """Read until *fact*, a function, returns something true."""
        while not fact():
            self.read()

    def get(self, path):
        """Return the status and the body of a response."""
        stream = self.ask(path)
        self.until(lambda: stream in self.ends)
        assert self.ends[stream] == "end"
        return self.statuses[stream], self.bodies[stream]
