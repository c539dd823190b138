"""The certificate of `tarry serve --https`: for this machine's own names, made for one run.

Its authority may vouch for nothing else (name constraints), and its key is gone once the certificate is
made, so a browser that trusts it for longer than intended trusts no more than a past run. The server's key
is in memory, not in a file; workers inherit the descriptor.
"""

from __future__ import annotations

import atexit
import datetime
import os
import tempfile
from ipaddress import ip_address, ip_network
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAYS = 30  # that it is valid
EARLIER = datetime.timedelta(hours=1)  # for clients whose clock is behind
NAME = "localhost"
ADDRESSES = ("127.0.0.1", "::1")


class Certificate:
    """A certificate and the authority that issued it.

    `authority` and `chain` are files that go with the process; `key` is a path to the server's key, and
    `descriptors` are those that a child process needs to open it.
    """

    def __init__(self) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="tarry-")
        atexit.register(temporary.cleanup)
        folder = Path(temporary.name)
        authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        authority = _authority(authority_key)
        self.authority, self.chain = folder / "authority.pem", folder / "chain.pem"
        self.authority.write_bytes(_pem(authority))
        self.chain.write_bytes(_pem(_issued(key, authority, authority_key)))
        secret = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        self.descriptors: tuple[int, ...] = ()
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("tarry-key")
            self.descriptors, self.key = (descriptor,), Path(f"/dev/fd/{descriptor}")
            os.write(descriptor, secret)
        else:
            self.key = folder / "key.pem"
            with os.fdopen(os.open(self.key, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
                file.write(secret)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _unsigned(name: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(now + datetime.timedelta(days=DAYS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _authority(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = f"tarry, made for one run on {datetime.date.today().isoformat()}"
    allowed = [
        x509.DNSName(NAME),
        *(x509.IPAddress(ip_network(address)) for address in ADDRESSES),
    ]
    unsigned = _unsigned(name, key)
    return (
        unsigned.issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True), critical=True)
        .add_extension(x509.NameConstraints(allowed, None), critical=True)
        .sign(key, hashes.SHA256())
    )


def _issued(
    key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    names = [
        x509.DNSName(NAME),
        *(x509.IPAddress(ip_address(address)) for address in ADDRESSES),
    ]
    issuer_key = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return (
        _unsigned(NAME, key)
        .issuer_name(authority.subject)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )


def _usage(digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature, key_cert_sign=key_cert_sign, crl_sign=key_cert_sign,
        content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
