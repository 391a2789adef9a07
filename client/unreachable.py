"""Why a server cannot be reached, in one sentence that says what to do.

gRPC tells its causes apart in text for its own makers only, so whoever was not answered looks once more, with Python's
own TLS: is somebody there, and is he who he has to be?
"""

from __future__ import annotations

import socket
import ssl
import time
from typing import Final

from federation.addresses import split

# OpenSSL's numbers: X509_V_ERR_CERT_NOT_YET_VALID, ..._HAS_EXPIRED, ..._HOSTNAME_MISMATCH, ..._IP_ADDRESS_MISMATCH
_NOT_YET, _EXPIRED, _OTHER_NAMES = 9, 10, (62, 64)
_PIECE: Final = 1 << 14
_LEAST_SECONDS: Final = 0.001
"""A wait of none would be no wait, and an error of another kind."""
_WHAT_TO_DO: Final = "ask the operator for the ca.pem of this server"


def why_unreachable(target: str, authority: bytes, *, timeout_seconds: float) -> str:
    """Looks who is at an address. Sends nothing but the beginning of TLS.

    Args:
        target: HOST:PORT.
        authority: PEM, who has to have signed the server's certificate.
        timeout_seconds: longest wait.
    """
    host, port = split(target)
    try:
        context = ssl.create_default_context(cadata=authority.decode("ascii"))
    except (ssl.SSLError, ValueError):
        return f"ca.pem holds no certificate; {_WHAT_TO_DO}"
    context.set_alpn_protocols(["h2"])
    try:
        with socket.create_connection((host, port), timeout_seconds) as connection:
            return _beginning(connection, context, target, host, timeout_seconds)
    except ssl.SSLCertVerificationError as error:
        return _fault_of_certificate(error.verify_code, target, host)
    except OSError as error:
        return _fault(error, target, host)


def _beginning(
    connection: socket.socket, context: ssl.SSLContext, target: str, host: str, timeout_seconds: float
) -> str:
    """What comes of the beginning of TLS when no error does.

    It goes through buffers: nobody closes a socket of the module `ssl` whose other end breaks off while it is made.
    """
    ends = time.monotonic() + timeout_seconds
    received, to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(received, to_send, server_hostname=host)
    try:
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                connection.settimeout(max(ends - time.monotonic(), _LEAST_SECONDS))
                connection.sendall(to_send.read())
                if data := connection.recv(_PIECE):
                    received.write(data)
                else:
                    received.write_eof()
            else:
                return f"{target} broke off; if it does so again, it does not take this device's certificate"
    except TimeoutError:
        return f"something takes connections at {target} and says nothing: is it busy, or what stands before it?"


def _fault_of_certificate(code: int, target: str, host: str) -> str:
    if code == _NOT_YET:
        return f"the certificate of {target} is not yet valid: is this machine's clock right?"
    if code == _EXPIRED:
        return f"the certificate of {target} has expired: the operator renews it with `intaglio-server pki renew`"
    if code in _OTHER_NAMES:
        return (
            f"the certificate of {target} is for another name than {host}: use the name that the operator gave to "
            "`intaglio-server pki init --host`"
        )
    return f"the certificate of {target} is not signed by ca.pem; {_WHAT_TO_DO}"


def _fault(error: OSError, target: str, host: str) -> str:
    match error:
        case ssl.SSLError():
            return f"what listens at {target} does not speak TLS: is that the server's port?"
        case socket.gaierror():
            return f"nobody knows the name {host}: is it spelt right, and is this machine connected?"
        case ConnectionRefusedError():
            return f"nobody listens at {target}: is the server running, and is that its port?"
        case _:
            return f"{target} cannot be reached: {error.strerror or 'no answer came'}"
