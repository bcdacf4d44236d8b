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

WORD = "Ab1Cd2Ef3Gh4Ij5Kl6Mn7Op8"
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
    # In two parts, so that no scanner takes this file for a leak.
    "DB_PASS=hush FOO=1": "DB_PASS=*** FOO=1",
    "export GITHUB_PAT=hush; x": "export GITHUB_PAT=***; x",
    "with gh" + f"p_{WORD} as": "with ghp_*** as",
    "with github" + f"_pat_{WORD}_{WORD} as": "with github_pat_*** as",
    "with h" + f"f_{WORD}.": "with hf_***.",
    "with gl" + f"pat-{WORD}": "with glpat-***",
    "with s" + f"k-proj-{WORD}": "with sk-***",
    "with s" + f"k_live_{WORD}": "with sk_live_***",
    "with xo" + "xb-123-456-abcdef": "with xoxb-***",
    "with AI" + f"za{WORD}{WORD}": "with AIza***",
    f"with ey{'J'}{WORD}.{WORD}.{WORD}": "with ***",
    f"POST https://hooks.slack.com/services/T0/B0/{WORD} failed": (
        "POST https://hooks.slack.com/*** failed"
    ),
    f"https://discord.com/api/webhooks/123/{WORD}": "https://discord.com/api/webhooks/***",
    f"https://me.webhook.office.com/webhookb2/{WORD}/x": "https://me.webhook.office.com/***",
    "DefaultEndpointsProtocol=https;AccountName=me;AccountKey=a+b/c==;X=1": (
        "DefaultEndpointsProtocol=https;AccountName=me;AccountKey=***;X=1"
    ),
    "a:\n  password: hush\n  port: 1": "a:\n  password: ***\n  port: 1",
    '{"note": "a:\\n  password: hush\\n  port: 1"}': (
        '{"note": "a:\\n  password: ***\\n  port: 1"}'
    ),
    "given db_password: hush, port: 1": "given db_password: ***, port: 1",
    "mysql --password hush --port 1": "mysql --password *** --port 1",
    "mysql --db.password=hush": "mysql --db.password=***",
    "['mysql', '--password', 'hush', '--port']": "['mysql', '--password', '***', '--port']",
    "Authorization: token abc12345": "Authorization: token ***",
    "authorization: bearer abc12345": "authorization: bearer ***",
    "X-Api-Key: abc12345": "X-Api-Key: ***",
    "git clone me:hush@host.org:repo": "git clone me:***@host.org:repo",
    "X-Amz-Credential=a/b&X-Amz-Security-Token=c&Expires=9": (
        "X-Amz-Credential=***&X-Amz-Security-Token=***&Expires=9"
    ),
    f"a -----BEGIN RSA {'PRIVATE'} KEY-----\nabc\n-----END RSA {'PRIVATE'} KEY----- b": (
        f"a -----BEGIN RSA {'PRIVATE'} KEY-----***-----END RSA {'PRIVATE'} KEY----- b"
    ),
}
INNOCENT = [
    "http://host:5000/x@y",
    "sqlite:////runs/mlflow.db",
    "RAY_AUTH_MODE=token",
    "optim.mismatched=published, max_tokens=77",
    "a key on a keyboard, token: secret",
    "file:///C:/a@b",
    "a sign with the word password on it",
    "password",
    "a bass with a secret, and the key: a red one",
    "Basic furniture in a room, Bearer of good news",
    "a man at a disk-shaped table, risk-free, task-2 of 14",
    "first pass: 3 of 7, second_pass=2",
    "PWD=/home/me OLDPWD=/home",
    f"sha256 {'0123456789abcdef' * 4}, run {'ab01' * 8}, commit {'9f' * 20}",
    "--optim.generator-lr 0.0001 --optim.discriminator-lr=0.0004 --seed 7",
    "--data.path s3://bucket/data --caption-key text --keep-tokens 3",
    "optim:\n  generator_lr: 0.0001\n  betas: [0.0, 0.9]\nkey: 3",
    "docker.io/me/image:tag@sha256:0123456789abcdef",
    "me@host.org at 12:30@noon, step 40:100@rank0",
    "with hf_hub_download, npm_config_cache and skip-sk-learn",
    "pad_token: <pad>, monkey: 3, keyboard: qwerty-12345",
    "authorization: required",
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


@pytest.mark.parametrize(
    "name", ["DB_PASS", "GITHUB_PAT", "SLACK_WEBHOOK_URL", "AZURE_STORAGE_CONNECTION_STRING"]
)
def test_variables_of_each_name_for_a_secret_are_hidden(monkeypatch, name):
    monkeypatch.setenv(name, "hush-hush")
    monkeypatch.setenv("OLDPWD", "/home/somebody")

    assert redacted("it is hush-hush in /home/somebody") == "it is *** in /home/somebody"


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
        main.run(lambda: (job, None), TrainConfig)
    else:
        with pytest.raises(SystemExit):
            main.run(lambda: (job, None), TrainConfig)

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


@pytest.mark.parametrize(
    "part", ["--", "_key: ", "x-", "a:", "sk-", "A_", "\n- ", "eyJ-", "a-", "password: ", "a@"]
)
def test_a_long_text_that_is_nearly_a_secret_is_read_in_one_pass(part):
    ends = ["", "_PASS", "key:", "@", ".", "secret", "hf_", "authorization"]

    for end in ends:
        redacted(part * 5_000 + end)  # a rule that starts anew at each place would take hours
