"""Parse a command line, call the job, and show errors a person can act on."""

import argparse
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import tyro
import yaml
from pydantic import ValidationError

from pipeline.common.console import print_line
from pipeline.common.environment import ROOT, refuse_unsafe_loading
from pipeline.common.errors import USER_ERRORS, root_cause, show_error
from pipeline.common.redaction import redacted, redacted_output
from pipeline.common.settings import Settings, explain
from pipeline.common.terminal import escaped

Config = TypeVar("Config", bound=Settings)
PRESETS = ROOT / "jobs" / "presets"


def run(
    job: Callable[[Config], Any],
    config_type: type[Config],
    preset: str | None = None,
    *,
    plan: Callable[[Config], Any] | None = None,
) -> None:
    """Run a job as its command line says, and exit with its status.

    Args:
        job: Takes the resolved config.
        config_type: Its options.
        preset: Name of the preset in `jobs/presets` that the flags start from.
        plan: Takes the config too, and says what the job would do: `--dry-run`.
    """
    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    common.add_argument("--preset", default=preset)
    common.add_argument("--print-config", action="store_true")
    common.add_argument("--dry-run", action="store_true")
    common.add_argument("--debug", action="store_true")
    options, flags = common.parse_known_args()
    with redacted_output():
        _run(job, config_type, options, flags, plan)


def _run(
    job: Callable[[Config], Any],
    config_type: type[Config],
    options: argparse.Namespace,
    flags: list[str],
    plan: Callable[[Config], Any] | None,
) -> None:
    try:
        refuse_unsafe_loading()
        config = parse(config_type, flags, options.preset)
        if options.print_config:
            print_line(difference(config, options.preset))
            print_line(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        elif options.dry_run:
            if plan is None:
                raise ValueError("this job has no --dry-run; --print-config shows its options.")
            print_line(difference(config, options.preset))
            plan(config)
        else:
            job(config)
    except KeyboardInterrupt:
        print_line("stopped. The same command goes on from what was complete.")
        sys.exit(130)
    except Exception as error:
        cause = root_cause(error)
        if options.debug or not isinstance(cause, USER_ERRORS):
            sys.stderr.write(escaped("".join(traceback.format_exception(error))))
        show_error(cause)
        sys.exit(2 if isinstance(cause, USER_ERRORS) else 1)


def parse(config_type: type[Config], flags: list[str], preset: str | None = None) -> Config:
    """Resolve a config: defaults, then the preset, then flags.

    Args:
        config_type: Its options.
        flags: Command line without the program's name.
        preset: Name of a preset, or path of a YAML file.

    Raises:
        ValueError: If the preset cannot be read or holds what the config refuses.
        SystemExit: If a flag is refused (2), or help was asked for (0).
    """
    common = (
        "\n\ncommon options:\n  --preset NAME|FILE  start from another preset\n"
        "  --print-config      print what the job would run with, and stop\n"
        "  --dry-run           check everything, say what the job would do, and stop\n"
        "  --debug             show where in the code an error arose"
    )
    default = None if preset is None else load_preset(config_type, preset)
    keywords: dict[str, Any] = {} if default is None else {"default": default}
    return tyro.cli(
        config_type,
        args=flags,
        description=(config_type.__doc__ or "") + common,
        config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.CascadeSubcommandArgs),
        **keywords,
    )


def load_preset(config_type: type[Config], preset: str) -> Config:
    """Read a preset.

    Raises:
        ValueError: If it does not exist, is not YAML, or holds what the config refuses.
    """
    path = Path(preset) if preset.endswith((".yaml", ".yml")) else PRESETS / f"{preset}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in PRESETS.glob("*.yaml")))
        raise ValueError(f"preset {preset!r} does not exist ({path}). Presets: {known}.")
    try:
        return config_type.model_validate(yaml.safe_load(path.read_text()) or {})
    except yaml.YAMLError as error:
        raise ValueError(f"preset {path} is not valid YAML: {error}") from error
    except ValidationError as error:
        raise ValueError(f"preset {path}:\n{explain(error)}") from error


def difference(config: Settings, preset: str | None) -> str:
    """Name the options that are other than in the preset, or without one than by default.

    Returns:
        Lines that are comments in YAML.
    """
    before = None if preset is None else load_preset(type(config), preset)
    changes = [f"#   {line}" for line in _changes(config, before)]
    if preset is None:
        first = "# other than by default:" if changes else "# all as by default"
    else:
        first = f"# preset {preset}, other than in it:" if changes else f"# as in preset {preset}"
    return redacted("\n".join([first, *changes]))


def _changes(now: Settings, before: Settings | None) -> Iterator[str]:
    """Yield what changed from other options, or from the defaults."""
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
