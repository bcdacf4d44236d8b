"""The S3 backend: retries transient faults, and explains the others.

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
import contextlib
import errno
import io
import logging
import random
import time
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any, TypeVar

import aiohttp
import fsspec
from botocore import exceptions as boto  # type: ignore[import-untyped]
from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]
from s3fs import S3FileSystem  # type: ignore[import-untyped]
from urllib3.exceptions import IncompleteRead

from pipeline.common.redaction import redacted
from pipeline.storage.backend import Backend

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

logger = logging.getLogger(__name__)

T = TypeVar("T")

ATTEMPTS = 10  # of a request; a storm of SlowDown that lasts half a minute is survived
UNREACHABLE_ATTEMPTS = 4  # where nobody listens: mostly a wrong endpoint, said within 2 s
PAUSE_S = 0.2  # longest first pause; doubles with each attempt
LONGEST_PAUSE_S = 20.0
CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 30
# Content of twice this size goes up in parts: a fault costs one part, not all of it.
PART_BYTES = 16 * 2**20
MAX_PARTS = 10_000  # https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html

TRANSIENT_STATUS = {429, 500, 502, 503, 504}
TRANSIENT_CODES = {
    "BadDigest",  # damaged on its way, as the next two
    "IncompleteBody",
    "XAmzContentSHA256Mismatch",
    "ConditionalRequestConflict",  # of conditional writes at the same moment
    "InternalError",
    "OperationAborted",
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

_REFUSED = {"403", "AccessDenied", "AllAccessDisabled", "AccountProblem", "Forbidden"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"}
_UNKNOWN_KEY = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidSecurity", "NotSignedUp"}
_ELSEWHERE = {"301", "307", "PermanentRedirect", "AuthorizationHeaderMalformed"}
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


class StillThereError(PermissionError):
    """S3 says that it deleted, and has not."""


class S3(Backend):
    """Objects in S3, or in a store that speaks its language; a folder is a prefix of names."""

    def __init__(self) -> None:
        self.fs = open_s3()

    def path_of(self, location: str) -> str:
        """Return bucket and key."""
        return str(self.fs._strip_protocol(location))

    def exists(self, path: str) -> bool:
        """Tell whether an object or a prefix is there."""
        patiently(lambda: self.fs.info(path))  # `exists` takes every error on a bucket for "no"
        return True

    def is_file(self, path: str) -> bool:
        """Tell whether an object is there."""
        return patiently(lambda: bool(self.fs.isfile(path)))

    def names(self, path: str) -> list[str]:
        """List what is directly below a prefix."""
        # `ls` of s3fs lists the whole folder above when it finds nothing.
        return [entry.rstrip("/") for entry, _ in self._entries(path, Delimiter="/")]

    def walk(self, path: str) -> Iterator[tuple[str, int]]:
        """Yield every object below a prefix, a page at a time."""
        return ((name, size) for name, size in self._entries(path) if name[-1:] != "/")

    def _entries(self, path: str, **options: Any) -> Iterator[tuple[str, int]]:
        """Yield names below a prefix with their sizes; prefixes end with a slash."""
        prefix = len(path.partition("/")[2])
        prefix += bool(prefix)
        for page in pages(self.fs, path, **options):
            for folder in page.get("CommonPrefixes", ()):
                yield folder["Prefix"][prefix:], 0
            for entry in page.get("Contents", ()):
                if entry["Key"][prefix:]:  # the empty object that some tools make as a folder
                    yield entry["Key"][prefix:], int(entry["Size"])

    def size(self, path: str) -> int:
        """Return the size of an object in bytes."""
        return patiently(lambda: int(self.fs.size(path)))

    def read(self, path: str, start: int | None, end: int | None) -> bytes:
        """Read the bytes from `start` up to `end`."""
        # One request for all of it, which also lets S3's checksum be verified.
        options = {"max_concurrency": 1} if start is None and end is None else {}
        try:
            return patiently(lambda: bytes(self.fs.cat_file(path, start=start, end=end, **options)))
        except OSError as error:
            if answer_code(error) == "InvalidRange":
                return b""  # past the end, as on a disk
            raise

    def open(self, path: str) -> IO[bytes]:
        """Open an object; each read is as patient as `read`."""

        def read(start: int, end: int) -> bytes:
            try:
                return self.read(path, start, end)
            except Exception as error:
                raise self.explained(error, "reading", f"s3://{path}", path, 0) from error

        return io.BufferedReader(ByteRanges(read, self.size(path)), 2**16)

    def write(self, path: str, content: bytes) -> None:
        """Write an object."""
        upload(self.fs, path, content)

    def create(self, path: str, content: bytes) -> bool:
        """Write an object if there is none of that name (`If-None-Match`)."""
        try:
            patiently(lambda: self.fs.pipe_file(path, content, mode="create"))
        except FileExistsError:
            return False
        return True

    def delete(self, path: str) -> None:
        """Delete an object."""
        patiently(lambda: self.fs.rm_file(path))

    def remove(self, path: str) -> None:
        """Delete all objects below a prefix."""
        patiently(lambda: self.fs.rm(path, recursive=True))
        # s3fs passes over what S3 refuses to delete one by one.
        with contextlib.suppress(FileNotFoundError):
            patiently(lambda: self.fs.info(path))
            raise StillThereError(
                f"deleting s3://{path}: some of it is there still. Allow s3:DeleteObject, or see "
                "whether something writes to it."
            )

    def rename(self, path: str, to: str) -> None:
        """Move each object below a prefix by itself."""
        self.fs.mv(path, to, recursive=True)

    def explained(
        self, error: Exception, doing: str, address: str, path: str, size: int
    ) -> Exception:
        """Say what S3 answered, and what to do."""
        missing = isinstance(error, FileNotFoundError) and not size
        if missing and answer_code(error) != "NoSuchBucket":
            return FileNotFoundError(errno.ENOENT, "no such file", address)
        if isinstance(error, FileExistsError | StillThereError):
            return error
        return explained(error, doing, address)

    def last_fault(self, *, forget: bool = False) -> str:
        """Return what S3 answered last that was worth another attempt."""
        found = self.fs.last_fault
        if forget:
            self.fs.last_fault = ""
        return found


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


def upload(filesystem: PatientS3, path: str, content: bytes) -> None:
    """Write an object: all of it appears or nothing, and no part of it is left behind."""
    part = max(PART_BYTES, -(-len(content) // MAX_PARTS))
    in_parts = len(content) >= 2 * part  # as s3fs decides it
    if in_parts:
        _abort_uploads(filesystem, path)  # of earlier writers that were killed
    try:
        patiently(lambda: filesystem.pipe_file(path, content, chunksize=part))
    finally:
        # Ctrl-C leaves s3fs at work in its own thread: without its upload it gives up. And where
        # the answer to its beginning was lost, an upload was begun twice and one is over.
        if in_parts:
            _abort_uploads(filesystem, path)


def pages(filesystem: PatientS3, path: str, **options: Any) -> Iterator[dict[str, Any]]:
    """Yield what is below a path, a page of up to 1,000 objects at a time.

    Args:
        filesystem: Where to look.
        path: Bucket and prefix without the last slash.
        options: More of what `list_objects_v2` takes.
    """
    bucket, _, key = path.partition("/")
    request = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", **options}
    while True:
        page = patiently(lambda: filesystem.call_s3("list_objects_v2", **request))
        yield page
        if not page.get("IsTruncated"):
            return
        request["ContinuationToken"] = page["NextContinuationToken"]


def answer_code(error: BaseException) -> str:
    """Return the code S3 gave for an error, as `NoSuchKey`; empty if it is not from S3."""
    found = _client_error(error)
    return str(found.response.get("Error", {}).get("Code", "")) if found else ""


def explained(error: Exception, doing: str, address: str) -> OSError:
    """Turn what s3fs raised into an error that says where, why, and what to do.

    Args:
        error: From s3fs, aiobotocore or aiohttp.
        doing: What was tried, as a noun: "writing".
        address: What it was tried on.
    """
    where = f"{doing} {address} failed"
    bucket = address.partition("://")[2].partition("/")[0]
    code = answer_code(error)
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
    if code in _REFUSED or isinstance(error, PermissionError):
        return PermissionError(
            f"{where}: S3 refuses it ({said}). Allow these credentials s3:ListBucket, "
            f"s3:GetObject, s3:PutObject and s3:DeleteObject in bucket {bucket!r}, or use others."
        )
    if isinstance(error, _NO_CREDENTIALS):
        return PermissionError(
            f"{where}: no usable credentials ({said}). Set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
        )
    if code in _ELSEWHERE:
        return OSError(
            f"{where}: bucket {bucket!r} is not in this region or at this endpoint ({said}). "
            "Set AWS_DEFAULT_REGION or AWS_ENDPOINT_URL to where it is."
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
        if status in TRANSIENT_STATUS or code in TRANSIENT_CODES:
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


def _abort_uploads(filesystem: PatientS3, path: str) -> None:
    """Abort the pending uploads of an object, where that is allowed."""
    bucket, _, key = path.partition("/")
    # Not worth an error: what was to be written is written, or its own error is raised.
    with contextlib.suppress(Exception):
        found = filesystem.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=key)
        for each in found.get("Uploads", []):
            if each["Key"] == key:
                filesystem.call_s3(
                    "abort_multipart_upload", Bucket=bucket, Key=key, UploadId=each["UploadId"]
                )


class ByteRanges(io.RawIOBase):
    """Makes a seekable file of a way to read ranges.

    Args:
        read: Returns the bytes from the first number up to the second.
        size: Of the file in bytes.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        super().__init__()
        self._read, self.size, self.position = read, size, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place; returns it."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        self.position = max(0, start + offset)
        return self.position

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fill a buffer as far as the file goes; returns the number of bytes."""
        view = memoryview(buffer).cast("B")
        end = min(self.position + len(view), self.size)
        if end <= self.position:
            return 0
        content = self._read(self.position, end)
        view[: len(content)] = content
        self.position += len(content)
        return len(content)
