"""Secrets in texts, logs and on the screen: hidden where known, and nothing else is touched."""

import io
import json
import logging
import os
import sys
import threading

import pytest

from pipeline.cli import main
from pipeline.common.console import print_line
from pipeline.common.redaction import RedactedStream, redact_logs, redacted
from pipeline.config import TrainConfig
from tests.screen import own

SECRET = 'hush/hush+"1'

HIDDEN = {
    "http://me:pass@host/a and http://host/b@c": "http://host/a and http://host/b@c",
    "http://me:pa/ss@host/a": "http://host/a",
    "postgresql://me:pass@db:5432/x?sslpassword=pass&a=1": "postgresql://db:5432/x?sslpassword=***&a=1",
    "https://h/x?X-Amz-Signature=abc&y=1": "https://h/x?X-Amz-Signature=***&y=1",
    "https://h/x?sig=abc": "https://h/x?sig=***",
    "aws_secret_access_key=abc, next": "aws_secret_access_key=***, next",
    '{"token": "a b", "step": 1}': '{"token": "***", "step": 1}',
    "{'api_key': 'abc'}": "{'api_key': '***'}",
    "Authorization: Basic bWU6aHVzaA==": "Authorization: Basic ***",
    "for AKIAIOSFODNN7EXAMPLE": "for AKIA***",
}
INNOCENT = [
    "http://host:5000/x@y",
    "sqlite:////runs/mlflow.db",
    "RAY_AUTH_MODE=token",
    "optim.mismatched=published, max_tokens=77",
    "a key on a keyboard, token: secret",
    "file:///C:/a@b",
]


@pytest.mark.parametrize("text", HIDDEN)
def test_what_is_known_for_a_secret_is_hidden(text):
    assert redacted(text) == HIDDEN[text]
    assert redacted(redacted(text)) == redacted(text)


@pytest.mark.parametrize("text", INNOCENT)
def test_innocent_text_stays_as_it_is(text):
    assert redacted(text) == text


def test_values_of_variables_named_for_secrets_are_hidden_in_every_spelling(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:p%40ssw0rd@host")
    monkeypatch.setenv("PGPASSWORD", "hush-hush")
    texts = [f"it is {SECRET}", json.dumps({"a": SECRET}), "hush%2Fhush%2B%221", "p@ssw0rd"]

    shown = [redacted(text) for text in (*texts, "hush-hush")]

    assert shown == ["it is ***", '{"a": "***"}', "***", "***", "***"]


def test_variables_may_come_and_go_meanwhile(monkeypatch):
    over = threading.Event()

    def come_and_go() -> None:
        while not over.is_set():
            os.environ["COMES_AND_GOES"] = "1"
            os.environ.pop("COMES_AND_GOES")

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        for _ in range(2000):
            redacted("text")
    finally:
        over.set()
        other.join()


def test_short_values_and_names_that_only_look_alike_hide_nothing(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/home/me/token")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "disabled")

    assert redacted("test of /home/me/token disabled") == "test of /home/me/token disabled"


def test_a_redacted_record_is_json_still(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", SECRET)
    record = {"note": f'said "password=a\\b" {SECRET}', "place": 'x://u:p@h/"', "n": [1.5, None]}

    shown = json.loads(redacted(json.dumps(record)))
    quoted = json.loads(redacted(json.dumps({"token": 'a"b\\', "step": 1})))

    within = json.dumps({"a": json.dumps({"token": ""}), "b": json.dumps({"x": 1})})

    assert redacted(within) == within
    endless = '{"token": "' + "\\n" * 5000
    assert redacted(endless) == endless
    assert quoted == {"token": "***", "step": 1}
    assert shown == {"note": 'said "password=***\\b" ***', "place": 'x://h/"', "n": [1.5, None]}


@pytest.fixture
def logs(monkeypatch):
    """What a handler writes that was there before."""
    written = io.StringIO()
    handler, before = logging.StreamHandler(written), logging.getLogRecordFactory()
    logging.getLogger("somebody").addHandler(handler)
    monkeypatch.setenv("MY_TOKEN", SECRET)
    redact_logs()
    redact_logs()
    yield written
    logging.setLogRecordFactory(before)
    logging.getLogger("somebody").removeHandler(handler)


def test_no_logger_tells_a_secret(logs):
    logger = logging.getLogger("somebody.deep")
    try:
        raise ConnectionError(f"no answer from http://me:pass@host with {SECRET}")
    except ConnectionError:
        logger.exception("%s failed", "http://me:pass@host")

    assert "http://host failed" in logs.getvalue()
    assert "no answer from http://host with ***" in logs.getvalue()
    assert SECRET not in logs.getvalue()
    assert "pass@" not in logs.getvalue()


def test_the_screen_shows_no_secret(capsys, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", SECRET)

    print_line(f"at http://me:pass@host {SECRET}")
    stream = RedactedStream(sys.stderr)
    stream.writelines(iter([f"{SECRET}\n", "rest\n"]))

    said = tuple(own(each) for each in capsys.readouterr())
    assert said == ("at http://host ***\n", "***\nrest\n")
    assert stream.isatty() == sys.stderr.isatty()


URI = "http://me:hush-hush@host"
COMMANDS = {
    "an option that does not exist": ["--traking.uri", URI],
    "a value that is refused": ["--total-steps", URI],
    "the config, printed": ["--print-config", "--tracking.uri", URI],
    "an address with a password": ["--output", "s3://AKIAX:hush-hush@lake/runs"],
    "an error, in full": ["--debug", "--data.path", "ftp://me:hush-hush@host/x"],
    "a fault of ours": ["--name", "fault", "--tracking.uri", URI],
}


@pytest.mark.parametrize("case", COMMANDS)
def test_no_command_repeats_a_secret(case, capsys, monkeypatch, tmp_path):
    def job(config):
        if config.name == "fault":
            raise KeyError(f"in {config.tracking.uri}")
        from pipeline.storage.folder import absolute

        absolute(config.output, "output")
        absolute(config.data.path, "data.path")

    flags = [f"--output={tmp_path}", "--total-steps=1", *COMMANDS[case]]
    monkeypatch.setattr(sys, "argv", ["train", *flags])

    if case == "the config, printed":
        main.run(job, TrainConfig)
    else:
        with pytest.raises(SystemExit):
            main.run(job, TrainConfig)

    said = "".join(capsys.readouterr())
    assert "hush" not in said
    assert {
        "an option that does not exist": "traking",
        "a value that is refused": "total-steps",
        "the config, printed": "uri: http://host",
        "an address with a password": "output: the address s3://",
        "an error, in full": "Traceback",
        "a fault of ours": "KeyError: 'in http://host'",
    }[case] in said
