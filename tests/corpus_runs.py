"""Run folders that a stranger made: what they hold to be written, read or sent elsewhere."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

SECRET = b"-----BEGIN OPENSSH PRIVATE KEY-----"

Record = dict[str, Any]


def lay_run(run: Path, records: list[Record], *, uri: str, experiment: str = "theirs") -> None:
    """Lay out a run with some records in its spool."""
    writer = run / "spool" / "records" / "000001-5f3a9c21"
    writer.mkdir(parents=True)
    lines = [json.dumps({"time": 1, **record}) + "\n" for record in records]
    (writer / "00000000.jsonl").write_text("".join(lines))
    start = {"id": run.name, "experiment": experiment, "name": "theirs", "tags": {}}
    (run / "spool" / "start.json").write_text(json.dumps({**start, "parent": None, "time": 1}))
    (run / "run.json").write_text(json.dumps({"mlflow_uri": uri}))


def of_file(file: str, content: bytes) -> Record:
    """The record of a file, as runs hold it."""
    return {"kind": "file", "file": file, "sha256": hashlib.sha256(content).hexdigest()}


def of_image(file: str, key: str = "samples") -> Record:
    return {"kind": "image", "key": key, "step": 1, "file": file}


def of_model(files: dict[str, str]) -> Record:
    more = {"example": ["a bird"], "text_encoder": "minilm", "step": 1, "name": "", "time": 1}
    return {"kind": "model", "files": files, **more}


def _mirrored(run: Path, target: Path, content: bytes) -> str:
    """Put content into a run where an absolute name leads to if it is taken for a relative one."""
    place = Path(f"{run}/{target}")
    place.parent.mkdir(parents=True)
    place.write_bytes(content)
    return str(target)


def _overwrite(run: Path, home: Path) -> Record:
    return of_file(_mirrored(run, home / ".bashrc", b"evil"), b"evil")


def _overwrite_by_model(run: Path, home: Path) -> Record:
    name = _mirrored(run / "model", home / ".bashrc", b"evil")
    return of_model({name: hashlib.sha256(b"evil").hexdigest()})


def _write_picture(run: Path, home: Path) -> Record:
    Image.new("RGB", (8, 8)).save(run / "a.png")
    return of_image("a.png", key=f"{home}/picture")


def _send_above(run: Path, home: Path) -> Record:
    (run.parent / "id_rsa").write_bytes(SECRET)
    return {"kind": "file", "file": "../id_rsa", "sha256": ""}


def _send_picture_above(run: Path, home: Path) -> Record:
    Image.new("RGB", (8, 8)).save(home / "private.png")
    return of_image("../../home/private.png")


def _send_linked(run: Path, home: Path) -> Record:
    (run / "notes").symlink_to(home / "id_rsa")
    return {"kind": "file", "file": "notes", "sha256": ""}


def _send_linked_with_hash(run: Path, home: Path) -> Record:
    (run / "notes").symlink_to(home / "id_rsa")
    return of_file("notes", SECRET)


def _send_from_linked_folder(run: Path, home: Path) -> Record:
    (run / "model").symlink_to(home)
    return of_model({"id_rsa": hashlib.sha256(SECRET).hexdigest()})


def _write_json_above(run: Path, home: Path) -> Record:
    return {"kind": "json", "value": {"evil": 1}, "file": "../../../../evil.json"}


# Each lays traps in a run beside somebody's home, and returns the record that leads into it.
ATTACKS: list[Callable[[Path, Path], Record]] = [
    _overwrite,
    _overwrite_by_model,
    _write_picture,
    _send_above,
    _send_picture_above,
    _send_linked,
    _send_linked_with_hash,
    _send_from_linked_folder,
    _write_json_above,
]
