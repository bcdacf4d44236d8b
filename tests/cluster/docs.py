"""The commands of a page in docs/, as a person would type them."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def commands_of(page: str, section: str) -> list[str]:
    """Every command in the sh blocks of a section, in order, comments left out."""
    text = (ROOT / "docs" / page).read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    found: list[str] = []
    for block in text.split("```sh\n")[1:]:
        lines = block.split("```")[0].replace("\\\n", " ").splitlines()
        found += [line for line in lines if line.strip() and not line.startswith("#")]
    return found


def exported(command: str, environment: dict[str, str]) -> dict[str, str]:
    """The environment after an export."""
    done = subprocess.run(
        ["bash", "-c", f"{command} > /dev/null; env -0"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    pairs = (item.split("=", 1) for item in os.fsdecode(done.stdout).split("\0") if "=" in item)
    return dict(pairs)
