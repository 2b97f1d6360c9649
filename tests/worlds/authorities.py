"""A time-stamping authority (RFC 3161) on loopback, which can be made to fail in many ways."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from asn1crypto import tsp
from asn1crypto.keys import PrivateKeyInfo
from asn1crypto.x509 import Certificate
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pyhanko.sign.timestamps.dummy_client import DummyTimeStamper

PATH = "/tsa"


@dataclass
class Authority:
    """An authority with a certificate of its own making.

    Attributes:
        mood: how it answers: `right`, or one of the ways to fail below.
        moment: its clock; None: the machine's.
        asked: how many requests came.
    """

    pem: bytes
    stamper: Any
    url: str = ""
    mood: str = "right"
    moment: datetime | None = None
    asked: int = 0

    def answer(self, body: bytes) -> bytes:
        """The answer to a request, DER."""
        request = tsp.TimeStampReq.load(body)
        self.stamper.fixed_dt = self.moment
        if self.mood == "another imprint":
            request["message_imprint"]["hashed_message"] = bytes(32)
        if self.mood == "another nonce":
            request["nonce"] = 1
        if self.mood == "refuses":
            return bytes.fromhex("3005 3003 020102")  # a rejection; asn1crypto writes none
        return self.stamper.request_tsa_response(request).dump()


def make(name: str = "Test TSA", *, stamping: bool = True) -> Authority:
    """An authority. `stamping`: whether its certificate is for time stamps."""
    private = rsa.generate_private_key(65537, 2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    purpose = ExtendedKeyUsageOID.TIME_STAMPING if stamping else ExtendedKeyUsageOID.CODE_SIGNING
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2040, 1, 1, tzinfo=UTC))
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    secret = private.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    der = certificate.public_bytes(serialization.Encoding.DER)
    stamper: Any = DummyTimeStamper
    return Authority(
        certificate.public_bytes(serialization.Encoding.PEM),
        stamper(Certificate.load(der), PrivateKeyInfo.load(secret)),
    )


@contextlib.contextmanager
def serving(authority: Authority) -> Iterator[Authority]:
    """The authority at an address of its own, `authority.url`."""
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            authority.asked += 1
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if authority.mood == "silent":
                ended.wait()
                return
            if authority.mood == "redirects":
                self.send_response(307)
                self.send_header("Location", "http://169.254.169.254/latest/meta-data")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(500 if authority.mood == "is broken" else 200)
            self.send_header("Content-Type", "application/timestamp-reply")
            self.end_headers()
            with contextlib.suppress(OSError):
                if authority.mood == "drips":
                    while not ended.wait(0.05):
                        self.wfile.write(b"\0")
                        self.wfile.flush()
                elif authority.mood == "talks without end":
                    while not ended.is_set():
                        self.wfile.write(bytes(65536))
                elif authority.mood == "talks nonsense":
                    self.wfile.write(b"\x30\x82\x01\x00<html>no time stamp</html>")
                elif authority.mood == "says nothing":
                    pass
                else:
                    self.wfile.write(authority.answer(body))

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    authority.url = f"http://127.0.0.1:{server.server_address[1]}{PATH}"
    try:
        yield authority
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


def ago(**span: float) -> datetime:
    """A moment before now."""
    return (datetime.now(UTC) - timedelta(**span)).replace(microsecond=0)
