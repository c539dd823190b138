"""TLS: the certificate that is made for one run, its key, and clients that do not speak TLS."""

import json
import os
import re
import signal
import socket
import ssl

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.live.conftest import RPY, TARRY, Server
from tests.live.http2_client import Client, connect
from tests.live.sockets import raw, request, rest


@pytest.fixture
def secure(request):
    server = Server([*TARRY, "--https", *getattr(request, "param", []), RPY])
    server.authority = re.search(r"--cacert (\S+)", server.output)[1]
    yield server
    server.stop(signal.SIGKILL)


def test_plain_http_on_the_tls_port_gets_one_line(secure):
    with raw(secure, request("/delayed.rpy") + b"more" * 1000) as asking:
        got, end = rest(asking)
    assert got.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert got.endswith(b"\r\n\r\nthis port speaks TLS: use https:// in place of http://\n")
    assert end == "FIN"
    with Client(secure, secure.authority) as reading:
        (entry,) = json.loads(reading.get("ledger.rpy?outcome=refused")[1])
    assert (entry["status"], entry["detail"]) == (
        400,
        "this port speaks TLS: use https:// in place of http://",
    )


def test_the_certificate_is_for_this_machine_a_short_time_and_servers_only(secure):
    with connect(secure, secure.authority) as asking:
        issued = x509.load_der_x509_certificate(asking.getpeercert(binary_form=True))
    with open(secure.authority, "rb") as file:
        authority = x509.load_pem_x509_certificate(file.read())
    for each in (issued, authority):
        assert (each.not_valid_after_utc - each.not_valid_before_utc).days <= 31
    usage = issued.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    allowed = authority.extensions.get_extension_for_class(x509.NameConstraints).value
    assert len(allowed.permitted_subtrees) == 3
    issued.verify_directly_issued_by(authority)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_the_certificate_is_trusted_by_its_names_also_strictly(secure, host):
    trust = ssl.create_default_context(cafile=secure.authority)
    trust.verify_flags |= ssl.VERIFY_X509_STRICT
    plain = socket.create_connection(("127.0.0.1", secure.port))
    with trust.wrap_socket(plain, server_hostname=host) as asking:
        assert asking.version() == "TLSv1.3"


def test_the_key_is_in_no_file(secure):
    folder = os.path.dirname(secure.authority)
    assert sorted(os.listdir(folder)) == ["authority.pem", "chain.pem"]
    for name in os.listdir(folder):
        with open(os.path.join(folder, name)) as file:
            assert "PRIVATE" not in file.read()


@pytest.mark.parametrize("secure", [["--workers", "2"]], indirect=True)
def test_workers_have_the_key_too(secure):
    for _ in range(4):
        with Client(secure, secure.authority) as asking:
            assert asking.get("delayed.rpy?delay=0")[0] == 200
