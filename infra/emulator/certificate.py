"""The stand-in's TLS identity: an authority of its own, and a certificate of that authority for loopback names.

The authority's private key is thrown away once it has signed, so that trusting its certificate trusts nothing else.
"""

from __future__ import annotations

import ipaddress
import ssl
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFE = timedelta(days=365)
_RENEW_BEFORE = timedelta(days=30)
_DNS_NAMES = ("localhost", "*.file.localhost", "*.file.core.localhost", "*.app.localhost")


def ensure_certificate(folder: Path) -> tuple[Path, Path, Path]:
    """The files (authority to trust, certificate chain, private key) in `folder`.

    They are made anew near their end, and when they are for other names.
    """
    authority, chain, key = folder / "authority.pem", folder / "certificate.pem", folder / "key.pem"
    if not (authority.exists() and chain.exists() and key.exists()) or _is_outdated(chain):
        folder.mkdir(parents=True, exist_ok=True)
        _write_new(authority, chain, key)
    return authority, chain, key


def server_context(chain: Path, key: Path) -> ssl.SSLContext:
    """What a listener needs to answer TLS with that certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain, key)
    return context


def _is_outdated(chain: Path) -> bool:
    certificate = x509.load_pem_x509_certificate(chain.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    ends_soon = certificate.not_valid_after_utc - datetime.now(timezone.utc) < _RENEW_BEFORE
    return ends_soon or set(names.get_values_for_type(x509.DNSName)) != set(_DNS_NAMES)


def _write_new(authority_path: Path, chain_path: Path, key_path: Path) -> None:
    """The chain goes first and comes last, at once and whole: as long as it is there, the other two belong to it."""
    chain_path.unlink(missing_ok=True)
    authority_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "inferops stand-in for Azure")])
    authority_id = x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key())
    authority = (
        _builder(authority_name, authority_name, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(authority_id, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in _DNS_NAMES]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", "::1")]
    server = (
        _builder(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), authority_name, server_key.public_key()
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(server_key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority_id), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    key_path.touch(mode=0o600)
    key_path.write_bytes(
        server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    authority_path.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    unfinished = chain_path.with_suffix(".new")
    unfinished.write_bytes(server.public_bytes(serialization.Encoding.PEM))
    unfinished.replace(chain_path)


def _builder(subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + _LIFE)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
