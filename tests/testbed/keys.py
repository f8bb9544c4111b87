"""The bed's certificate authority and the key which signs its apt archives.

Both are throwaway keys of one state directory: hosts of the bed trust them, nothing else does.
The OpenPGP part is written out here (RFC 9580 version 4 packets, Ed25519 as gpg 2.2 knows it) because gpg would
bring an agent with it, whose socket path is too short for a state directory under a test's temporary directory.
"""

import base64
import datetime
import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.testbed import locked
from tests.testbed.hub_state import write_atomic

DAY = datetime.timedelta(days=1)
CA_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "metal2model test bed CA (throwaway)")])
# gpgv refuses a key which is newer than its signature, and signatures bear the date of the archive: 2020-01-01.
ARCHIVE_KEY_CREATED = 1577836800
ARCHIVE_USER = b"metal2model test bed archive (throwaway) <bed@example.org>"


def ca_certificate(state_dir: Path) -> Path:
    """Give the PEM file of the authority which hosts of the bed trust; made on first use."""
    path = state_dir / "keys" / "ca.pem"
    with locked(state_dir / "keys" / ".lock"):
        if not path.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            public = key.public_key()
            certificate = (
                _builder(CA_NAME, public, 3650)
                .issuer_name(CA_NAME)
                .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
                .add_extension(_usage(sign_certificates=True), critical=True)
                .sign(key, hashes.SHA256())
            )
            write_atomic(path.with_suffix(".key"), _pem_of(key), 0o600)
            write_atomic(path, certificate.public_bytes(serialization.Encoding.PEM))
    return path


def server_certificate(state_dir: Path, names: Iterable[str]) -> Path:
    """Give a PEM file (certificate, then key) for a server which answers as every one of `names`.

    A change of the names, a new authority and the approach of the end of its life make a new one.
    """
    ca_path = ca_certificate(state_dir)
    wanted = sorted(set(names))
    recipe = hashlib.sha256(ca_path.read_bytes() + "\n".join(wanted).encode()).hexdigest()[:16]
    path = state_dir / "keys" / f"server-{recipe}.pem"
    with locked(state_dir / "keys" / ".lock"):
        now = datetime.datetime.now(datetime.UTC)
        if path.exists():
            left = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc - now
            if left > 30 * DAY:
                return path
        ca = x509.load_pem_x509_certificate(ca_path.read_bytes())
        ca_key = serialization.load_pem_private_key(ca_path.with_suffix(".key").read_bytes(), None)
        assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hub")]), key.public_key(), 365)
            .issuer_name(ca.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(sign_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in wanted]), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        write_atomic(path, certificate.public_bytes(serialization.Encoding.PEM) + _pem_of(key), 0o600)
    return path


def _builder(subject: x509.Name, key: ec.EllipticCurvePublicKey, days: int) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        # A machine of the bed that resumes from a snapshot has a clock in the past.
        .not_valid_before(now - 30 * DAY)
        .not_valid_after(now + days * DAY)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


# --- the key which signs the apt archives -----------------------------------------------------------------------

_ED25519_OID = bytes.fromhex("2b06010401da470f01")
_EDDSA, _SHA256 = 22, 8


@dataclass(frozen=True)
class ArchiveKey:
    """An Ed25519 key as OpenPGP sees it: the time of its making is part of its identity."""

    secret: ed25519.Ed25519PrivateKey
    created: int

    @property
    def public_body(self) -> bytes:
        """Build the body of its public key packet."""
        point = self.secret.public_key().public_bytes_raw()
        return (
            struct.pack(">BIB", 4, self.created, _EDDSA)
            + bytes([len(_ED25519_OID)])
            + _ED25519_OID
            + _number(b"\x40" + point)
        )

    @property
    def fingerprint(self) -> bytes:
        """Compute what names the key."""
        return hashlib.sha1(_framed_key(self.public_body), usedforsecurity=False).digest()

    def signature(self, kind: int, signed: bytes, created: int, extra: bytes = b"") -> bytes:
        """Sign: `kind` 0 is a binary file, 1 a text with CRLF line ends, 0x13 a name that belongs to the key."""
        hashed_part = _subpacket(2, struct.pack(">I", created)) + _subpacket(33, b"\x04" + self.fingerprint) + extra
        head = struct.pack(">BBBBH", 4, kind, _EDDSA, _SHA256, len(hashed_part)) + hashed_part
        digest = hashlib.sha256(signed + head + struct.pack(">BBI", 4, 0xFF, len(head))).digest()
        raw = self.secret.sign(digest)
        unhashed = _subpacket(16, self.fingerprint[-8:])
        body = head + struct.pack(">H", len(unhashed)) + unhashed + digest[:2] + _number(raw[:32]) + _number(raw[32:])
        return _packet(2, body)


def archive_key(state_dir: Path) -> ArchiveKey:
    """Give the key that signs the bed's apt archives; made on first use."""
    path = state_dir / "keys" / "archive.key"
    with locked(state_dir / "keys" / ".lock"):
        if not path.exists():
            secret = ed25519.Ed25519PrivateKey.generate()
            write_atomic(path, struct.pack(">I", ARCHIVE_KEY_CREATED) + secret.private_bytes_raw(), 0o600)
        content = path.read_bytes()
    return ArchiveKey(ed25519.Ed25519PrivateKey.from_private_bytes(content[4:]), *struct.unpack(">I", content[:4]))


def archive_keyring(state_dir: Path) -> Path:
    """Give the binary OpenPGP keyring for `Signed-By` of the archives which the bed signs itself."""
    key = archive_key(state_dir)
    path = state_dir / "keys" / "archive-keyring.gpg"
    user = struct.pack(">BI", 0xB4, len(ARCHIVE_USER)) + ARCHIVE_USER
    certifies_and_signs = _subpacket(27, b"\x03")
    binding = key.signature(0x13, _framed_key(key.public_body) + user, key.created, certifies_and_signs)
    content = _packet(6, key.public_body) + _packet(13, ARCHIVE_USER) + binding
    if not path.exists() or path.read_bytes() != content:
        write_atomic(path, content)
    return path


def clear_sign(key: ArchiveKey, text: str, created: int) -> bytes:
    """Wrap `text` as an InRelease file: the text, then its signature (RFC 9580 section 7)."""
    lines = text.rstrip("\n").split("\n")
    signature = key.signature(1, "\r\n".join(line.rstrip(" \t\r") for line in lines).encode(), created)
    escaped = "\n".join("- " + line if line.startswith("-") else line for line in lines)
    return f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{escaped}\n".encode() + _armoured(signature)


def detached_signature(key: ArchiveKey, content: bytes, created: int) -> bytes:
    """Sign a file as Release.gpg does for Release."""
    return _armoured(key.signature(0, content, created))


def _armoured(signature: bytes) -> bytes:
    body = base64.encodebytes(signature).decode()
    # The checksum is optional in the standard, but gpgv 2.2 finds no end of the block without it.
    crc = base64.b64encode(_crc24(signature).to_bytes(3)).decode()
    return f"-----BEGIN PGP SIGNATURE-----\n\n{body}={crc}\n-----END PGP SIGNATURE-----\n".encode()


def _crc24(content: bytes) -> int:
    crc = 0xB704CE
    for byte in content:
        crc ^= byte << 16
        for _ in range(8):
            crc <<= 1
            if crc & 0x1000000:
                crc ^= 0x1864CFB
    return crc & 0xFFFFFF


def _packet(tag: int, body: bytes) -> bytes:
    return struct.pack(">BBI", 0xC0 | tag, 0xFF, len(body)) + body


def _subpacket(kind: int, content: bytes) -> bytes:
    return bytes([len(content) + 1, kind]) + content


def _number(content: bytes) -> bytes:
    value = int.from_bytes(content)
    return struct.pack(">H", value.bit_length()) + value.to_bytes((value.bit_length() + 7) // 8)


def _framed_key(body: bytes) -> bytes:
    return struct.pack(">BH", 0x99, len(body)) + body
