"""Remove secrets from everything that is printed, logged or stored.

What is printed or logged passes here, so orders to the terminal are taken out too.

What is taken for one: user and password in an address; the value of an environment variable that
is named for a secret, and the password in one that is an address; what follows `password=`,
`"token": `, `--password` or `Bearer`; private keys; and what a service marks as its own (`hf_…`,
`ghp_…`, `AKIA…`). Text that looks like none of these is not known for a secret: give secrets by
the environment.
"""

import contextlib
import json
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import Any, TextIO
from urllib.parse import quote, unquote

from pipeline.common import screen
from pipeline.common.screen import put
from pipeline.common.terminal import escaped_but_colours, without_colours

HIDDEN = "***"
MIN_LENGTH = 8  # characters; a shorter value of a variable would be found in innocent words

_NAME = (
    r"(?:password|passwd|passphrase|secret|token|signature|credentials?|\bsig"
    r"|(?:api|access|account|secret|private)[_-]?key)"
)
_VALUE = r"[^\s\"'\\&;,)]+"
# No part of a rule may grow without bound behind another, or a long text would take for ever.
# Each rule with what a text must hold, in lower case, to need it; most texts hold none of it.
_RULES = tuple(
    (tuple(hints.split()), re.compile(pattern), replacement)
    for hints, pattern, replacement in (
        # A password with a slash in it is no port.
        ("://", r"(?<=://)([^/\s\"'<>]*|[^/\s\"'<>:]*:(?!\d+[/?#])[^\s\"'<>]*)@", ""),
        # user:password@host.name without a scheme; `image:tag@sha256` is none.
        (
            "@",
            r"(?<![\w/.:])([\w.+-]{1,64}:)[^\s:@/\"'<>]{4,256}@(?=[\w-]+\.[\w.-]|localhost)",
            r"\1***@",
        ),
        (
            "hooks.slack.com discord webhook.office.com",
            r"(?i)((?:hooks\.slack\.com|discord(?:app)?\.com/api/webhooks|webhook\.office\.com)/)"
            r"[^\s\"'<>]+",
            r"\1***",
        ),
        ("pass secret token sig cred key", rf"(?i)({_NAME}=){_VALUE}", r"\1***"),
        # Variables; in lower case such words count things.
        (
            "_pass= _pat= _pw= _pwd=",
            rf"\b([A-Z0-9_]{{1,64}}_(?:PASS|PAT|PW|PWD)=){_VALUE}",
            r"\1***",
        ),
        (
            # Each character is read in one way only, or a quote that never comes would take for
            # ever.
            "pass secret token sig cred key",
            rf"(?i)({_NAME}(\\?[\"'])\s*:\s*)(\\?[\"'])(?:(?!\3)(?:\\.|[^\\\n]))+\3",
            r"\1\3***\3",
        ),
        (  # YAML: a line of its own, or a name that is no word of a sentence
            "pass secret token cred key",
            rf"(?im)((?:^|\\n)[ \t-]{{0,64}}[\w.-]{{0,64}}{_NAME}:[ \t]+)"
            r"[^\s\"'\[{<|>*#\\][^\s\\]*(?=[ \t]*(?:$|\\n|#))",
            r"\1***",
        ),
        (
            "_pass _secret _key",
            r"(?i)(\b\w{1,64}_(?:password|passwd|passphrase|secret|key):[ \t]+)"
            r"[^\s\"'\[{<\\,;]{4,}",
            r"\1***",
        ),
        (  # on a command line, or in a list of its words
            "--",
            rf"(?i)(?<![\w-])(--[\w.-]{{0,64}}{_NAME}(?: +|=|\\?[\"'], *\\?[\"']))(?!-){_VALUE}",
            r"\1***",
        ),
        (
            "basic bearer",
            r"\b(Basic|Bearer) +(?=\S*(?:[\d=+/]|[a-z][A-Z]))[\w+/=.~-]{8,}",
            r"\1 ***",
        ),
        (
            "authorization cookie x-",
            r"(?i)\b((?:authorization|cookie|x-[\w-]{0,64}(?:key|token))[\"']?: *[\"']?"
            r"(?:[\w-]+ +)?)(?=\S*\d)[^\s\"',]{8,}",
            r"\1***",
        ),
        ("akia asia", r"\b(AKIA|ASIA)[A-Z0-9]{16}\b", r"\1***"),
        ("aiza ya29", r"\b(AIza|ya29\.)[\w-]{30,}", r"\1***"),
        ("ghp_ gho_ ghu_ ghs_ ghr_ github_pat_", r"\b(gh[opusr]_|github_pat_)\w{20,}", r"\1***"),
        ("hf_ npm_ pypi-", r"\b(hf_|npm_|pypi-)(?=\w{0,64}[A-Z\d])[A-Za-z0-9-]{20,}", r"\1***"),
        ("glpat- xox xapp-", r"\b(glpat-|xox[a-z]-|xapp-)[\w-]{10,}", r"\1***"),
        (
            "sk- k_live_ k_test_",
            r"\b(sk-|[sr]k_(?:live|test)_)(?=[\w-]{0,64}\d)[\w-]{16,}",
            r"\1***",
        ),
        ("eyj", r"\beyJ[\w-]{8,2048}\.[\w-]{8,4096}\.[\w-]*", HIDDEN),
        (
            "private key",
            r"(?s)(-----BEGIN [A-Z ]*PRIVATE KEY-----)(?!\*\*\*).*?(?=-----END|\Z)",
            r"\1***",
        ),
    )
)
_SECRET_NAME = re.compile(
    r"(PASSWORD|PASSWD|PASSPHRASE|(^|_)(SECRET|TOKEN|KEY|APIKEY|CREDENTIALS?|WEBHOOK"
    r"|CONNECTION_STRING)|_(PASS|PAT|PW|PWD|SAS))(_|$)",
    re.IGNORECASE,
)
_NO_SECRET = re.compile(r"_(ID|PATH|FILE|DIR|MODE|NAME)$", re.IGNORECASE)
_PASSWORD = re.compile(r"://[^/\s:@]*:([^/\s]+)@")


def redacted(text: str) -> str:
    """Take what is known for a secret out of a text; doing it again changes nothing."""
    for value in _of_the_environment():
        text = text.replace(value, HIDDEN)
    lowered = text.lower()
    for hints, pattern, replacement in _RULES:
        if any(hint in lowered for hint in hints):
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
    """Standard output or error that tells no secret, gives no order but colours, and cannot fail.

    Args:
        stream: None if there is none.
        name: What a person calls it: stdout or stderr.
    """

    def __init__(self, stream: TextIO | None, name: str = "stdout") -> None:
        self._stream, self._name = put(stream, "", name), name
        # A thread whose write went through must not undo what another's has found out.
        self._lock = threading.RLock()

    def write(self, text: str) -> int:
        """Write a text without what is known for a secret, or a terminal would obey."""
        shown = escaped_but_colours(redacted(text))
        with self._lock:
            self._stream = put(self._stream, shown, self._name)
        return len(text)

    def flush(self) -> None:
        """Write what waits."""
        with self._lock:
            self._stream = put(self._stream, "", self._name)

    def writelines(self, lines: Iterator[str]) -> None:
        """Write several."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def redact_process() -> None:
    """Take secrets and orders out of what this process prints and logs, for good: in a worker."""
    redact_logs()
    for name in ("stdout", "stderr"):
        if not isinstance(stream := getattr(sys, name), RedactedStream):
            setattr(sys, name, RedactedStream(stream, name))


@contextlib.contextmanager
def redacted_output() -> Iterator[None]:
    """Take secrets and orders out of what this process prints and logs, tracebacks included."""
    redact_logs()
    with (
        contextlib.redirect_stdout(RedactedStream(sys.stdout, "stdout")),
        contextlib.redirect_stderr(RedactedStream(sys.stderr, "stderr")),
    ):
        try:
            yield
        finally:
            screen.end()


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
