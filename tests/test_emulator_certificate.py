"""The stand-in's certificate: kept while it is good, made anew when it lacks a name."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from infra.emulator.certificate import ensure_certificate, server_context


def _names(chain: Path) -> set[str]:
    certificate = x509.load_pem_x509_certificate(chain.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return set(names.get_values_for_type(x509.DNSName))


def test_a_good_certificate_is_kept(tmp_path: Path) -> None:
    first = [file.read_bytes() for file in ensure_certificate(tmp_path)]
    assert [file.read_bytes() for file in ensure_certificate(tmp_path)] == first


def test_a_certificate_without_a_name_that_is_served_is_replaced(tmp_path: Path) -> None:
    _, chain, _ = ensure_certificate(tmp_path)
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "old")])
    now = datetime.now(timezone.utc)
    old = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=365))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    chain.write_bytes(old.public_bytes(Encoding.PEM))
    assert ensure_certificate(tmp_path)[1] == chain
    assert {"localhost", "*.file.core.localhost"} <= _names(chain)


@pytest.mark.parametrize("stops_at", ["key.pem", "certificate.new"])
def test_what_ends_while_it_makes_one_leaves_nothing_that_does_not_fit(tmp_path: Path, stops_at: str) -> None:
    """It ends where something stands in its way; once that is gone, all three are made anew."""
    authority, chain, key = ensure_certificate(tmp_path)
    authority.unlink()
    (tmp_path / stops_at).unlink(missing_ok=True)
    (tmp_path / stops_at).mkdir()
    with pytest.raises(OSError, match=stops_at):
        ensure_certificate(tmp_path)
    (tmp_path / stops_at).rmdir()
    ensure_certificate(tmp_path)
    server_context(chain, key)
    issuer, issued = (x509.load_pem_x509_certificate(file.read_bytes()) for file in (authority, chain))
    issued.verify_directly_issued_by(issuer)
