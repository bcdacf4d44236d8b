"""Nothing that is printed or logged gives an order to the terminal; text stays text."""

import io
import json
import logging
import sys
import traceback

import pytest

from pipeline.cli import main
from pipeline.common.console import Progress, print_line, printable
from pipeline.common.errors import show_error
from pipeline.common.redaction import RedactedStream, redact_logs
from pipeline.common.settings import Settings
from pipeline.common.terminal import escaped
from pipeline.evaluation.config import CompareConfig
from pipeline.evaluation.protocols import PROTOCOLS
from pipeline.evaluation.report import compare

TEXTS = [
    "a red bird, un café, 一只红色的鸟　飞",
    "cafe\u0301, ที่, नमस्ते, שָׁלוֹם, السَّلَام",
    "می\u200cخواهم و ه\u200d. ක්\u200dරි",
    "❤\ufe0f 👩\u200d👩\u200d👧 👍🏽 1\ufe0f\u20e3 🇫🇷 \U0001f3f4\U000e0067\U000e0062\U000e0065"
    "\U000e006e\U000e0067\U000e007f",
    "\u0600\u0661\u0662 \u06dd 5\u00a0% \u202f! \U0001fae8 \U000323b0",
    "two lines\n\tand a tab",
]
ORDERS = {
    "\x1b]0;title\x07\x1b[2J": r"\x1b]0;title\x07\x1b[2J",
    "\x1b[31mred\x1b[8mhidden": r"\x1b[31mred\x1b[8mhidden",
    "\x9b31mred": r"\x9b31mred",
    "good\rbad \x08\x7f": r"good\rbad \x08\x7f",
    "exe.\u202egpj \u2066x\u2069 \u200e\u061c": r"exe.\u202egpj \u2066x\u2069 \u200e\u061c",
    "pass\u200dword\u200c, a\u200bb\ufeff\u00ad": r"pass\u200dword\u200c, a\u200bb\ufeff\xad",
    "鸟\u200d\u200d\u200d": "鸟\u200d" + r"\u200d\u200d",
    "\U000e0068\U000e0069": r"\U000e0068\U000e0069",
    "\ud800 \ue000 \u2028 \U0010ffff": r"\ud800 \ue000 \u2028 \U0010ffff",
}


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_text_of_every_script_is_shown_as_it_is(text, capsys):
    print_line(text)

    assert capsys.readouterr().out == f"{text}\n"


@pytest.mark.parametrize("text", ORDERS, ids=ascii)
def test_orders_are_shown_and_not_given(text, capsys):
    print_line(text)
    show_error(ValueError(text))

    said = capsys.readouterr()
    assert said.out == f"{ORDERS[text]}\n"
    assert said.err == f"\nerror: {ORDERS[text]}\n"
    assert escaped(escaped(text)) == ORDERS[text]
    assert printable(text, 99) == ORDERS[text]


def test_no_logger_gives_an_order():
    written = io.StringIO()
    handler, before = logging.StreamHandler(written), logging.getLogRecordFactory()
    logger = logging.getLogger("somebody.else")
    logger.addHandler(handler)
    try:
        redact_logs()
        try:
            raise ValueError("\x1b[2Jgone")
        except ValueError:
            logger.exception("lost %s\n\x1b[1min colour\x1b[0m", "\x1b]0;t\x07")
    finally:
        logging.setLogRecordFactory(before)
        logger.removeHandler(handler)

    first, second, *rest = written.getvalue().splitlines()
    assert (first, second) == (r"lost \x1b]0;t\x07", "in colour")
    assert rest[-1] == r"ValueError: \x1b[2Jgone"


def test_what_libraries_print_has_colours_and_nothing_else():
    written = io.StringIO()
    stream = RedactedStream(written)

    stream.write("\x1b[36m(worker pid=1)\x1b[0m \x1b]0;t\x07 50%\r100%\n")

    assert written.getvalue() == "\x1b[36m(worker pid=1)\x1b[0m " + r"\x1b]0;t\x07" + " 50%\r100%\n"


class Config(Settings):
    """Nothing to choose."""


@pytest.mark.parametrize("fault", [ValueError, OSError, KeyError, UnicodeError])
@pytest.mark.parametrize("flags", [[], ["--debug"]], ids=["plain", "debug"])
def test_no_command_gives_an_order(fault, flags, capsys, monkeypatch):
    def job(config: Config) -> None:
        Progress("\x1b[2Jdrawn", 1, "pictures").add(1, "\x1b]0;t\x07")
        traceback.print_stack()
        raise fault("captions.pickle holds \x1b[2J\x1b[8m\u202e")

    monkeypatch.setattr(sys, "argv", ["job", *flags])
    with pytest.raises(SystemExit):
        main.run(lambda: (job, None), Config)

    said = "".join(capsys.readouterr())
    assert not {"\x1b", "\x07", "\u202e"} & set(said)
    assert r"\x1b[2J" in said


def test_a_report_of_a_stranger_gives_no_order(tmp_path, capsys):
    protocol = PROTOCOLS["builtin"].model_dump(mode="json") | {"count": 10, "image_size": 32}
    report = {
        "name": "run\x1b[2J",
        "model": {"step": 4},
        "protocol": protocol,
        "numbers": {"fd_x\x1b[8m\nfd[builtin]  0.0001": 1.0},
        "kinds": {"fd_x\x1b[8m\nfd[builtin]  0.0001": "distance"},
        "pair": None,
    }
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(report))

    compare(CompareConfig(reports=(str(tmp_path / "a"), str(tmp_path / "b"))))

    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert r"run\x1b[2J@4" in said
    assert len(said.splitlines()) == 3, "a name makes no line of its own"
