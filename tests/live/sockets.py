"""Raw sockets: requests sent byte for byte, ways to disconnect, and all that comes until the end.

One `recv` may return any part of what was sent. Read with `read_until` or `rest`, never with a single
`recv`.
"""

import socket
import struct

HANG = 30  # seconds after which something that should happen is taken to never happen


def request(target, *headers, method="GET"):
    """Return a request as bytes, without a body."""
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", *headers]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()


def raw(server, data=b"", room=None):
    """Connect and send *data*. *room* is the size of the receive buffer, in bytes."""
    client = socket.socket()
    try:
        client.settimeout(HANG)
        if room:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        client.connect(("127.0.0.1", server.port))
        client.sendall(data)
    except OSError:
        client.close()
        raise
    return client


def connect(server, path, room=None):
    """Connect and request *path*, which begins without a slash."""
    return raw(server, request(f"/{path}"), room)


def more(client, size=65536):
    """Return what comes next on the socket *client*, which must not be its end."""
    piece = client.recv(size)
    assert piece, "the connection ended"
    return piece


def read_until(client, mark):
    """Return all that comes up to *mark*, and what came with it."""
    got = b""
    while mark not in got:
        got += more(client)
    return got


def status(client):
    """Return the status code of the response that comes next."""
    return int(read_until(client, b"\r\n").split()[1])


def rest(client, patience=HANG):
    """Return all that comes on the socket *client*, and how it ends: FIN, RST, or silence."""
    client.settimeout(patience)
    got = b""
    try:
        while piece := client.recv(65536):
            got += piece
    except ConnectionResetError:
        return got, "RST"
    except TimeoutError:
        return got, "silence"
    return got, "FIN"


def all_of(server, data):
    """Send *data* on a connection of its own; return all that comes until the server closes it."""
    with raw(server, data) as client:
        got, end = rest(client)
    assert end != "silence", f"neither closed nor reset in {HANG} s, after {got[-200:]}"
    return got


def listening(server):
    """Return whether the server accepts connections."""
    try:
        raw(server).close()
    except ConnectionRefusedError:
        return False
    return True


def close(client):
    client.close()


def half_close(client):
    client.shutdown(socket.SHUT_WR)


def reset(client):
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


WAYS = [close, half_close, reset]  # how a client may disconnect
