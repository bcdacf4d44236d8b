"""The S3 client: it retries transient faults, and explains the others.

One layer retries: each request is tried up to `ATTEMPTS` times, with growing random
pauses between. botocore's own retries and those of s3fs are off, or a fault that
stays would be asked about attempts × attempts × attempts times. What that layer
cannot see, an answer that breaks off while its body is read, `patiently` asks for
again.

What the user configures for fsspec (`FSSPEC_S3_…`, `~/.config/fsspec`) wins over
what is set here; who sets `retries` in `config_kwargs` has botocore's retries instead.

Every request that carries content has a checksum which S3 verifies before it keeps
anything (botocore's default), so nothing is asked again after a write.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

import aiohttp
import fsspec
from botocore import exceptions as boto  # type: ignore[import-untyped]
from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]
from s3fs import S3FileSystem  # type: ignore[import-untyped]
from urllib3.exceptions import IncompleteRead

from pipeline.common.redaction import redacted

logger = logging.getLogger(__name__)

T = TypeVar("T")

ATTEMPTS = 10  # of a request; a storm of SlowDown that lasts half a minute is survived
UNREACHABLE_ATTEMPTS = 4  # where nobody listens: mostly a wrong endpoint, said within 2 s
PAUSE_S = 0.2  # longest first pause; doubles with each attempt
LONGEST_PAUSE_S = 20.0
CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 30

TRANSIENT_STATUS = {429, 500, 502, 503, 504}
TRANSIENT_CODES = {
    "BadDigest",  # damaged on its way, as the next two
    "IncompleteBody",
    "XAmzContentSHA256Mismatch",
    "InternalError",
    "PriorRequestNotComplete",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
}
# What reading the body of an answer raises when the answer breaks off or is damaged.
# A time-out of the body has a class of its own, so a time-out that was waited for
# ATTEMPTS times already is not among them.
BROKEN_ANSWER = (
    aiohttp.ClientError,
    boto.FlexibleChecksumError,
    boto.IncompleteReadError,
    boto.ResponseStreamingError,
    IncompleteRead,
    ResponseParserError,
)

_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"}
_UNKNOWN_KEY = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidSecurity", "NotSignedUp"}
_NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.ProfileNotFound,
    boto.SSOError,
)


class PatientS3(S3FileSystem):  # type: ignore[misc]
    """The S3 of s3fs, with the retries of this file in the place of all others."""

    retries = 1
    last_fault = ""  # what S3 answered last that was worth another attempt

    async def get_s3(self, bucket: str | None = None) -> Any:
        """Return the client, with the retries of this file if it has no others."""
        client = await super().get_s3(bucket)
        if client.meta.config.retries.get("total_max_attempts") == 1:
            events = client.meta.events  # one registration per id, however often this runs
            events.register("needs-retry.s3", self._pause, unique_id="ratgan-patience")
        return client

    def _pause(
        self, response: Any, caught_exception: Exception | None, attempts: int, **_: Any
    ) -> float | None:
        """Return the seconds to wait before the next attempt, or None for no other."""
        fault, limit = _transient(response, caught_exception)
        if not fault:
            return None
        self.last_fault = fault
        if attempts >= limit:
            return None
        if attempts >= 3:
            logger.warning("S3: %s; attempt %d of %d follows", fault, attempts + 1, limit)
        return pause_s(attempts)


def pause_s(attempts: int) -> float:
    """Return a random pause after so many attempts in seconds: together, many clients spread."""
    return random.uniform(0, min(PAUSE_S * 2 ** (attempts - 1), LONGEST_PAUSE_S))


def open_s3() -> PatientS3:
    """Return the file system of `s3://` addresses, as the user configured it."""
    configured = {**fsspec.config.conf.get("s3", {}), **fsspec.config.conf.get("s3a", {})}
    client = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "read_timeout": READ_TIMEOUT_S,
        "retries": {"mode": "standard", "total_max_attempts": 1},
        **configured.get("config_kwargs", {}),
    }
    # Listings change under our feet: other workers write to the same folder.
    options = {"use_listings_cache": False, **configured, "config_kwargs": client}
    return PatientS3(**options)


def patiently(operation: Callable[[], T]) -> T:
    """Run an operation again while its answer breaks off, up to `ATTEMPTS` times."""
    for attempts in range(1, ATTEMPTS):
        try:
            return operation()
        except Exception as error:
            if not _broke_off(error):
                raise
            logger.info("S3: an answer broke off (%s); asking again", _short(error))
            time.sleep(pause_s(attempts))
    return operation()


def answer_code(error: BaseException) -> str:
    """Return the code S3 gave for an error, as `NoSuchKey`; empty if it is not from S3."""
    found = _client_error(error)
    return str(found.response.get("Error", {}).get("Code", "")) if found else ""


def answer_status(error: BaseException) -> int:
    """Return the HTTP status S3 gave for an error, as 404; 0 if it is not from S3."""
    found = _client_error(error)
    return int(found.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) if found else 0


def explained(error: Exception, doing: str, address: str) -> OSError:
    """Turn what s3fs raised into an error that says where, why, and what to do.

    Args:
        error: From s3fs, aiobotocore or aiohttp.
        doing: What was tried, as a noun: "writing".
        address: What it was tried on.
    """
    where = f"{doing} {address} failed"
    bucket = address.partition("://")[2].partition("/")[0]
    # Servers have words of their own; the status means the same with all.
    code, status = answer_code(error), answer_status(error)
    said = _short(error)
    if code == "NoSuchBucket":
        return OSError(f"{where}: there is no bucket {bucket!r}. Create it or correct the address.")
    if code in _EXPIRED:
        return PermissionError(f"{where}: the credentials have expired ({code}). Renew them.")
    if code in _UNKNOWN_KEY:
        return PermissionError(
            f"{where}: S3 does not take these credentials ({code}). See to AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or to AWS_PROFILE, and to the endpoint they are for."
        )
    if code == "RequestTimeTooSkewed":
        return PermissionError(f"{where}: the clock of this machine is wrong ({said}). Set it.")
    if status in (401, 403) or isinstance(error, PermissionError):
        return PermissionError(
            f"{where}: S3 refuses it ({said}). Allow these credentials s3:ListBucket, "
            f"s3:GetObject, s3:PutObject and s3:DeleteObject in bucket {bucket!r}, or use others."
        )
    if isinstance(error, _NO_CREDENTIALS):
        return PermissionError(
            f"{where}: no usable credentials ({said}). Set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
        )
    if status in (301, 307) or code == "AuthorizationHeaderMalformed":
        return OSError(
            f"{where}: bucket {bucket!r} is not in this region or at this endpoint ({said}). "
            "Set AWS_DEFAULT_REGION or AWS_ENDPOINT_URL to where it is."
        )
    if status == 501:
        return OSError(
            f"{where}: this S3 server does not know what is asked of it ({said}). A lock needs "
            "conditional writes (If-None-Match): use a server, or a version of it, that has them."
        )
    if isinstance(error, boto.SSLError):
        return OSError(
            f"{where}: no secure connection ({said}). See to AWS_ENDPOINT_URL (http or https?) "
            "and AWS_CA_BUNDLE."
        )
    if isinstance(error, boto.EndpointConnectionError | boto.ProxyConnectionError):
        return OSError(
            f"{where}: nothing answers there ({said}). See to AWS_ENDPOINT_URL and the network."
        )
    if _transient(_response(error), error)[0] or _broke_off(error):
        return OSError(
            f"{where}, and failed again when tried again ({said}). S3 or the network has trouble: "
            "start again later."
        )
    return OSError(f"{where}: {said}. See to the address and the settings of S3.")


def _transient(response: Any, error: BaseException | None) -> tuple[str, int]:
    """Return what is wrong and how many attempts it is worth; ("", 0) for what stays."""
    if response is not None:
        http, parsed = response
        code = str(parsed.get("Error", {}).get("Code", ""))
        status = getattr(http, "status_code", http)
        # A conflict of two writers passes, and has a name of its own at each kind of server; one
        # about a whole bucket stays.
        conflict = status == 409 and "Bucket" not in code
        if status in TRANSIENT_STATUS or conflict or code in TRANSIENT_CODES:
            return f"it answers {status} {code}", ATTEMPTS
        return "", 0
    if isinstance(error, boto.EndpointConnectionError | boto.ProxyConnectionError):
        # The same class stands for connections that were reset.
        refused = isinstance(error.kwargs.get("error"), aiohttp.ClientConnectorError)
        return "it cannot be reached", UNREACHABLE_ATTEMPTS if refused else ATTEMPTS
    if isinstance(error, boto.SSLError):
        return "", 0
    if isinstance(error, boto.HTTPClientError | aiohttp.ClientError | asyncio.TimeoutError):
        return f"{type(error).__name__}", ATTEMPTS
    return "", 0


def _broke_off(error: BaseException) -> bool:
    # An upload that was completed, but whose answer was lost, is gone when it is asked again.
    body_timeout = isinstance(error, boto.ReadTimeoutError) and isinstance(error, TimeoutError)
    return isinstance(error, BROKEN_ANSWER) or body_timeout or answer_code(error) == "NoSuchUpload"


def _client_error(error: BaseException | None) -> Any:
    """Find the answer of S3 behind an error of s3fs."""
    while error is not None and not isinstance(error, boto.ClientError):
        error = error.__cause__
    return error


def _response(error: BaseException) -> Any:
    found = _client_error(error)
    if found is None:
        return None
    metadata = found.response.get("ResponseMetadata", {})
    return metadata.get("HTTPStatusCode"), found.response


def _short(error: BaseException) -> str:
    """Say an error in a line: the code and words of S3, or those of the exception."""
    found = _client_error(error)
    if found is None:
        return redacted(str(error) or type(error).__name__).rstrip(".")
    said = found.response.get("Error", {})
    status = found.response.get("ResponseMetadata", {}).get("HTTPStatusCode", "")
    words = [status, said.get("Code", ""), said.get("Message", "")]
    return " ".join(dict.fromkeys(str(word) for word in words if word)).rstrip(".")
