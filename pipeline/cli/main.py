"""Parse a command line, call the job, and show errors that tell the user what to do."""

import argparse
import contextlib
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import tyro
import yaml
from pydantic import ValidationError

from pipeline.common import own_home
from pipeline.common.console import print_line, print_result
from pipeline.common.environment import ROOT, refuse_unsafe_loading
from pipeline.common.errors import USER_ERRORS, root_cause, show_error
from pipeline.common.redaction import redacted, redacted_output
from pipeline.common.screen import say
from pipeline.common.settings import Settings, explain
from pipeline.common.terminal import escaped

Config = TypeVar("Config", bound=Settings)
Work = tuple[Callable[[Config], Any], Callable[[Config], Any] | None]  # a job, its --dry-run
MAX_VALUES = 10_000  # of a preset; the longest here has 30
PRESETS = ROOT / "jobs" / "presets"


def run(
    load: Callable[[], Work[Config]],
    config_type: type[Config],
    preset: str | None = None,
    *,
    words: Mapping[str, tuple[Callable[[], Work[Any]], Any]] | None = None,
) -> None:
    """Run a job with the options of the command line, and exit with its status.

    Args:
        load: Imports the functions that take the resolved config, the job and its `--dry-run`,
            which prints what the job would do. Called when the flags are known to be right: torch,
            Ray and MLflow take seconds to import.
        config_type: Type of the config.
        preset: Name of the default preset in `jobs/presets`.
        words: Other jobs with the types of their configs, by the first word of the command line;
            they change nothing, with or without `--dry-run`.
    """
    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    common.add_argument("--preset", default=preset)
    common.add_argument("--print-config", action="store_true")
    common.add_argument("--dry-run", action="store_true")
    common.add_argument("--debug", action="store_true")
    with redacted_output(), ended_by_signals():
        options, flags = common.parse_known_args()
        about = [f"{word}: {kind.__doc__}" for word, (_, kind) in (words or {}).items()]
        if words and flags and flags[0] in words:
            load, config_type = words[flags[0]]
            flags, about, options.preset = flags[1:], [], None
        if own_home.note:
            say(f"note: {own_home.note}\n", "stderr")
        try:
            refuse_unsafe_loading()
            config = parse(config_type, flags, options.preset, about)
            if options.print_config:
                print_line(difference(config, options.preset))
                print_result(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
                return
            job, plan = load()
            if not options.dry_run:
                job(config)
            elif plan is None:
                raise ValueError("this job has no --dry-run; --print-config shows its options.")
            else:
                print_line(difference(config, options.preset))
                plan(config)
        except KeyboardInterrupt as error:
            print_line("stopped. The same command resumes from the last complete state.")
            sys.exit(error.args[0] if error.args else 128 + signal.SIGINT)
        except Exception as error:
            cause = root_cause(error)
            if options.debug or not isinstance(cause, USER_ERRORS):
                say(escaped("".join(traceback.format_exception(error))), "stderr")
            show_error(cause)
            sys.exit(2 if isinstance(cause, USER_ERRORS) else 1)


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM, and SIGHUP of a terminal that closes, end the work inside ``with`` in order.

    One that is ignored, as under `nohup`, stays ignored.
    """

    def end(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            signal.signal(number, signal.SIG_IGN)  # several come
        sys.exit(128 + number)

    main_thread = threading.current_thread() is threading.main_thread()
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) == signal.SIG_DFL]
    for number in numbers if main_thread else ():
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in numbers if main_thread else ():
            if signal.getsignal(number) is end:
                signal.signal(number, signal.SIG_DFL)


def parse(
    config_type: type[Config],
    flags: list[str],
    preset: str | None = None,
    about: Sequence[str] = (),
) -> Config:
    """Resolve a config: defaults, then the preset, then flags.

    Args:
        config_type: Type of the config.
        flags: Command line without the program's name.
        preset: Name of a preset, or path of a YAML file.
        about: Further paragraphs of the description.

    Raises:
        ValueError: If the preset cannot be read or has invalid options.
        SystemExit: If a flag is refused (2), or for --help (0).
    """
    common = (
        "\n\ncommon options:\n  --preset NAME|FILE  start from another preset\n"
        "  --print-config      print the resolved options, and stop\n"
        "  --dry-run           check everything, print what the job would do, and stop\n"
        "  --debug             show the traceback of an error"
    )
    default = None if preset is None else load_preset(config_type, preset)
    keywords: dict[str, Any] = {} if default is None else {"default": default}
    return tyro.cli(
        config_type,
        args=flags,
        description="\n\n".join([config_type.__doc__ or "", *about]) + common,
        config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.CascadeSubcommandArgs),
        **keywords,
    )


def load_preset(config_type: type[Config], preset: str) -> Config:
    """Read a preset.

    Raises:
        ValueError: If it does not exist, is not YAML, or has invalid options.
    """
    path = Path(preset) if preset.endswith((".yaml", ".yml")) else PRESETS / f"{preset}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in PRESETS.glob("*.yaml")))
        raise ValueError(f"preset {preset!r} does not exist ({path}). Presets: {known}.")
    try:
        found = yaml.safe_load(path.read_text()) or {}
        if next(islice(_values([found]), MAX_VALUES, None), None) is not None:
            raise ValueError(
                f"preset {path} holds over {MAX_VALUES:,} values: names of YAML (*name) may stand "
                "for many. Write out what they stand for."
            )
        return config_type.model_validate(found)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"preset {path} is not valid YAML: {error}") from error
    except ValidationError as error:
        jobs = re.findall(r"^#.*python (jobs/\w+\.py)", path.read_text(), re.MULTILINE)
        hint = f"\nIt is written for {jobs[-1]}." if jobs else ""  # the one before prepares
        raise ValueError(f"preset {path}:\n{explain(error)}{hint}") from error


def _values(value: Any) -> Iterator[object]:
    """Yield each value in a preset, as often as it is named; a dot for those that hold others."""
    yield "."
    for each in value.values() if isinstance(value, dict) else value:
        if isinstance(each, dict | list):
            yield from _values(each)
        else:
            yield "."


def difference(config: Settings, preset: str | None) -> str:
    """Return the differences to the preset, or to the defaults, as comments in YAML."""
    before = None if preset is None else load_preset(type(config), preset)
    changes = [f"#   {line}" for line in _changes(config, before)]
    if preset is None:
        first = "# different from the defaults:" if changes else "# all options have their defaults"
    else:
        first = f"# preset {preset} with changes:" if changes else f"# as in preset {preset}"
    return redacted("\n".join([first, *changes]))


def _changes(now: Settings, before: Settings | None) -> Iterator[str]:
    """Yield the changes from earlier options, or from the defaults."""
    for name, field in type(now).model_fields.items():
        new = getattr(now, name)
        if before is not None:
            old = getattr(before, name)
        else:
            old = None if field.is_required() else field.get_default(call_default_factory=True)
        if isinstance(new, Settings):
            same_kind = old if type(old) is type(new) else None
            yield from (f"{name}.{line}" for line in _changes(new, same_kind))
        elif new != old:
            before_after = ("not set" if value is None else str(value) for value in (old, new))
            yield f"{name}: {' → '.join(before_after)}"
