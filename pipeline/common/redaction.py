"""Remove secrets from everything that is printed, logged or stored.

What is printed or logged passes here, so orders to the terminal are taken out too.

What is taken for one: user and password in an address; the value of an environment variable that
is named for a secret, and the password in one that is an address; what follows `password=`,
`"token": ` or `Bearer`; and ids of AWS keys. Text that looks like none of these is not known for
a secret: give secrets by the environment.
"""

import contextlib
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator
from typing import Any, TextIO
from urllib.parse import quote, unquote

from pipeline.common.terminal import escaped_but_colours, without_colours

HIDDEN = "***"
MIN_LENGTH = 8  # characters; a shorter value of a variable would be found in innocent words

_NAME = (
    r"(?:password|passwd|passphrase|secret|token|signature|credentials?|\bsig"
    r"|(?:api|access|secret|private)[_-]?key)"
)
_RULES = (
    # A password with a slash in it is no port.
    (re.compile(r"(?<=://)([^/\s\"'<>]*|[^/\s\"'<>:]*:(?!\d+[/?#])[^\s\"'<>]*)@"), ""),
    (re.compile(rf"(?i)({_NAME}=)[^\s\"'\\&;,)]+"), rf"\1{HIDDEN}"),
    (
        # Each character is read in one way only, or a quote that never comes would take for ever.
        re.compile(rf"(?i)({_NAME}(\\?[\"'])\s*:\s*)(\\?[\"'])(?:(?!\3)(?:\\.|[^\\\n]))+\3"),
        rf"\1\3{HIDDEN}\3",
    ),
    (re.compile(r"\b(Basic|Bearer) +[\w+/=.~-]{8,}"), rf"\1 {HIDDEN}"),
    (re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{16}\b"), rf"\1{HIDDEN}"),
)
# Without any of these in lower case, no rule has anything to do; most texts have none.
_HINTS = ("://", "pass", "secret", "token", "sig", "cred", "key", "basic", "bear", "akia", "asia")
_SECRET_NAME = re.compile(
    r"(PASSWORD|PASSWD|PASSPHRASE|(^|_)(SECRET|TOKEN|KEY|APIKEY|CREDENTIALS?))(_|$)", re.IGNORECASE
)
_NO_SECRET = re.compile(r"_(ID|PATH|FILE|DIR|MODE|NAME)$", re.IGNORECASE)
_PASSWORD = re.compile(r"://[^/\s:@]*:([^/\s]+)@")


def redacted(text: str) -> str:
    """Take what is known for a secret out of a text; doing it again changes nothing."""
    for value in _of_the_environment():
        text = text.replace(value, HIDDEN)
    lowered = text.lower()
    if any(hint in lowered for hint in _HINTS):
        for pattern, replacement in _RULES:
            text = pattern.sub(replacement, text)
    return text


def refuse_password(address: str, option: str) -> None:
    """Refuse the address of a place for files that holds a password.

    Args:
        address: With `://`.
        option: What the user calls it.

    Raises:
        ValueError: If it does: records, manifests and errors would repeat it.
    """
    scheme, _, rest = address.partition("://")
    place = re.split(r"[/?#]", rest)[0]
    # A key of S3 may hold a slash; no bucket has a colon, but for the long names of Amazon.
    in_bucket = scheme in ("s3", "s3a") and ":" in place and not place.startswith("arn:")
    if in_bucket or ":" in place.rpartition("@")[0]:
        raise ValueError(
            f"{option}: the address {scheme}://… came with a password in it, which records and "
            "errors would repeat. Leave it out: keys of buckets are taken from AWS_ACCESS_KEY_ID "
            "and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, others from the configuration of fsspec, "
            "for example FSSPEC_FTP_PASSWORD."
        )


def redact_logs() -> None:
    """Let no logger of this process tell a secret, nor orders to a terminal, wherever it writes."""
    make = logging.getLogRecordFactory()
    if getattr(make, "redacts", False):
        return

    def make_redacted(*arguments: Any, **keywords: Any) -> logging.LogRecord:
        record = make(*arguments, **keywords)
        with contextlib.suppress(Exception):  # a record that cannot be worded is its handler's
            record.msg, record.args = without_colours(redacted(record.getMessage())), ()
        if record.exc_info and record.exc_info[1]:
            lines = traceback.format_exception(record.exc_info[1])
            record.exc_text = without_colours(redacted("".join(lines))).rstrip(
                "\n"
            )  # which handlers use as it is
        return record

    make_redacted.redacts = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make_redacted)


class RedactedStream:
    """Standard output or error that tells no secret and gives no order but colours."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text without what is known for a secret, or a terminal would obey."""
        self._stream.write(escaped_but_colours(redacted(text)))
        return len(text)

    def writelines(self, lines: Iterator[str]) -> None:
        """Write several."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def redacted_output() -> Iterator[None]:
    """Take secrets and orders out of what this process prints and logs, tracebacks included."""
    redact_logs()
    with (
        contextlib.redirect_stdout(RedactedStream(sys.stdout)),
        contextlib.redirect_stderr(RedactedStream(sys.stderr)),
    ):
        yield


def _of_the_environment() -> list[str]:
    """Return the secrets in this process's environment, in each spelling; the longest first."""
    found: set[str] = set()
    for name in list(os.environ):  # which other threads change meanwhile, as MLflow's client does
        value = os.environ.get(name, "")
        if _SECRET_NAME.search(name) and not _NO_SECRET.search(name):
            found.add(value)
        elif "://" in value:
            found.update(unquote(part) for part in _PASSWORD.findall(value))
    spelled = {
        spelling
        for value in found
        if len(value) >= MIN_LENGTH
        for spelling in (value, quote(value, safe=""), json.dumps(value)[1:-1])
    }
    return sorted(spelled, key=len, reverse=True)
