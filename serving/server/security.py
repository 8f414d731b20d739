"""Who may ask: tokens, and the certificates of TLS."""

import hmac
import re
import ssl
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import grpc

from ...errors import InputError, one_line
from ...files import check_regular, read_small
from ..requests import RequestError
from .logs import log

TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{16,4096}=*", re.ASCII)  # as RFC 6750 has it


@dataclass(frozen=True)
class Tls:
    """The server's certificate, and whom it trusts.

    Args:
        cert: PEM file of the server's certificate, those between it and its authority after it.
        key: PEM file of its key, which has no password.
        client_ca: PEM file of the authorities whose certificates clients have to show; None, they need none.

    Raises:
        InputError: these files cannot be used.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None

    def __post_init__(self) -> None:
        def no_password() -> str:
            raise InputError(f"{self.key}: expected a key without a password")

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            for file in filter(None, vars(self).values()):
                check_regular(file)
            what = f"{self.cert}, {self.key}: expected a certificate and its key, in PEM"
            context.load_cert_chain(self.cert, self.key, no_password)
            what = f"{self.client_ca}: expected certificates, in PEM"
            if self.client_ca:
                context.load_verify_locations(self.client_ca)
        except ssl.SSLError as error:
            raise InputError(f"{what}. Received: {error.reason or one_line(error)}") from None
        except OSError as error:
            missing = next((file for file in vars(self).values() if file and not file.is_file()), self.key)
            raise InputError(f"{missing}: cannot be read ({error.strerror})") from None

    def uvicorn(self) -> dict:
        """Return the options of `uvicorn.Config`."""
        wanted = ssl.CERT_REQUIRED if self.client_ca else ssl.CERT_NONE
        return {
            "ssl_certfile": self.cert,
            "ssl_keyfile": self.key,
            "ssl_ca_certs": self.client_ca,
            "ssl_cert_reqs": wanted,
        }

    def grpc(self) -> grpc.ServerCredentials:
        """Return what gRPC takes."""
        pair = (self.key.read_bytes(), self.cert.read_bytes())
        trusted = self.client_ca and self.client_ca.read_bytes()
        return grpc.ssl_server_credentials([pair], trusted, require_client_auth=bool(trusted))


def read_tokens(path: Path) -> tuple[str, ...]:
    """Return the tokens in a file, one a line; the log warns where everybody may read the file.

    Raises:
        InputError: it cannot be read, is large, has none, or has a line that is none.
    """
    expected = f"{path}: expected tokens of 16 to 4096 letters, digits and -._~+/, one a line"
    try:
        lines = read_small(path).splitlines()
        tokens = tuple(line.decode("ascii") for line in lines if line)
        open_to_all = path.stat().st_mode & 0o004
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{expected}. Received: other characters") from None
    if not tokens:
        raise InputError(f"{expected}. Received: none")
    for number, token in enumerate(tokens, 1):
        if not TOKEN.fullmatch(token):  # which is not shown: it may be one that was mistyped
            raise InputError(f"{expected}. Received: another one, number {number}")
    if open_to_all:
        log.warning(f"{path}: everybody on this machine can read its tokens")
    return tokens


def check_token(authorization: str, tokens: Collection[str]) -> None:
    """Let pass who sends one of the tokens, if there are any; it takes as long whichever it is.

    Raises:
        RequestError: 401, it is none of them.
    """
    if not tokens:
        return
    scheme, _, sent = authorization.partition(" ")
    secret = sent.strip().encode("latin-1", "replace")
    found = [hmac.compare_digest(secret, token.encode()) for token in tokens]
    if scheme.lower() != "bearer" or not any(found):
        raise RequestError("authorization: expected Bearer and a token of this server", 401)
