"""Damage anywhere in a checkpoint is found before use: hundreds of random bytes, cuts and holes."""

import errno
import hashlib
import random
import shutil
from pathlib import Path

import pytest

from pipeline.checkpoint.gan_state import restore
from pipeline.checkpoint.store import FILES, MARKER, damage, newest_checkpoint
from pipeline.storage.folder import Folder
from tests.pipeline.checkpoint.checkpoints import new_gan, save, trained

SEED = 20260101
TRIALS = 600
HOLE = 4096  # bytes: a block of a disk


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A whole checkpoint, which each test leaves as it was."""
    root = tmp_path_factory.mktemp("damage")
    return Path(save(Folder(str(root)), trained(1), 1).path)


def flip(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def hole(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + bytes(len(content[at : at + HOLE])) + content[at + HOLE :]


def exchange(content: bytes, rng: random.Random) -> bytes:
    """Swap two blocks, as a disk does that loses its way."""
    size = max(1, min(HOLE, len(content) // 4))
    first, second = sorted(rng.sample(range(len(content) // size), 2))
    parts = [content[n * size : (n + 1) * size] for n in range(-(-len(content) // size))]
    parts[first], parts[second] = parts[second], parts[first]
    return b"".join(parts)


def grow(content: bytes, rng: random.Random) -> bytes:
    return content + rng.randbytes(rng.randrange(1, 20))


CORPUS = {
    "cut in half": lambda content, rng: content[: len(content) // 2],
    "without its last byte": lambda content, rng: content[:-1],
    "empty": lambda content, rng: b"",
    "zeros": lambda content, rng: bytes(len(content)),
    "noise": lambda content, rng: rng.randbytes(len(content)),
    "a bit": flip,
    "a hole": hole,
}


def files(checkpoint: Path) -> list[Path]:
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


def found(checkpoint: Path, path: Path, content: bytes) -> str | None:
    """Put other content into a file for as long as it is looked through."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        return damage(Folder(str(checkpoint)))
    finally:
        path.write_bytes(before)


def names(problem: str | None, checkpoint: Path, path: Path) -> bool:
    """Tell whether a problem names the file; a wrong marker shows in what it is the hash of."""
    name = path.relative_to(checkpoint).as_posix()
    return problem == f"{FILES if name == MARKER else name} is not what its hash says"


@pytest.mark.parametrize("kind", [flip, cut, hole, exchange, grow])
def test_random_damage_is_found_and_named(checkpoint, kind):
    rng = random.Random(f"{SEED} {kind.__name__}")
    paths, changed = files(checkpoint), 0

    for trial in range(TRIALS // 5):
        path = rng.choice(paths)
        content = path.read_bytes()
        other = kind(content, rng)
        if other == content:  # a hole where there were zeros
            continue
        changed += 1
        problem = found(checkpoint, path, other)
        assert names(problem, checkpoint, path), f"trial {trial}: {path.name}: {problem}"

    assert len(paths) == 10
    assert changed > TRIALS // 5 * 0.6
    assert damage(Folder(str(checkpoint))) is None


@pytest.mark.parametrize("case", CORPUS)
def test_the_usual_damage_is_found_in_every_file(checkpoint, case):
    rng = random.Random(f"{SEED} {case}")

    for path in files(checkpoint):
        problem = found(checkpoint, path, CORPUS[case](path.read_bytes(), rng))
        assert names(problem, checkpoint, path), f"{path.name}: {problem}"


@pytest.mark.parametrize("file", [MARKER, FILES])
def test_every_byte_of_the_marker_and_the_listing_counts(checkpoint, file):
    content = (checkpoint / file).read_bytes()

    for at in range(len(content)):
        other = content[:at] + bytes([content[at] ^ 0x20]) + content[at + 1 :]  # of letters, case
        assert found(checkpoint, checkpoint / file, other), at


def test_a_listing_of_nothing_whose_hash_fits_is_damage(checkpoint, tmp_path):
    copy = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    (copy / FILES).write_bytes(b"[]")
    (copy / MARKER).write_text(hashlib.sha256(b"[]").hexdigest())

    assert damage(Folder(str(copy))) == "files.json lists no files"


def test_a_missing_file_is_found_and_named(checkpoint, tmp_path):
    for path in files(checkpoint):
        copy = Path(shutil.copytree(checkpoint, tmp_path / path.name))
        name = path.relative_to(checkpoint)
        (copy / name).unlink()

        assert str(name) in damage(Folder(str(copy))), name


def flipped_and_not_found(checkpoint: Path, trials: int) -> list[str]:
    """Flip one bit of a checkpoint at a time; each byte of it is as likely as any other."""
    rng = random.Random(SEED)
    contents = {path: path.read_bytes() for path in files(checkpoint)}
    sizes = [len(content) for content in contents.values()]
    missed = []
    for trial in range(trials):
        (path,) = rng.choices(list(contents), sizes)
        if not found(checkpoint, path, flip(contents[path], rng)):
            missed.append(f"trial {trial}: {path.name}")
    return missed


@pytest.mark.parametrize(
    "trials",
    [200, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.thorough])],
    ids=["few", "many"],
)
def test_flipped_bits_are_all_found(checkpoint, trials, record_property):
    missed = flipped_and_not_found(checkpoint, trials)

    record_property("measured", f"{trials - len(missed):,} of {trials:,} flipped bits found")
    assert missed == []


def test_a_disk_that_does_not_give_a_file_back_is_damage_too(tmp_path, monkeypatch):
    root, gan = Folder(str(tmp_path)), trained(1)
    for step in (1, 2):
        save(root, gan, step)
    read = Folder.read

    def bad_sector(self, name):
        if self.location.endswith("step-00000002") and name == "generator.safetensors":
            raise OSError(errno.EIO, "Input/output error")
        return read(self, name)

    monkeypatch.setattr(Folder, "read", bad_sector)

    assert newest_checkpoint(root, set_aside=True)[1]["step"] == 1
    assert "damaged-step-00000002" in root.names()


def test_what_was_damaged_is_not_what_training_goes_on_from(tmp_path):
    root, gan = Folder(str(tmp_path)), trained(1)
    for step in (1, 2):
        save(root, gan, step)
    path = tmp_path / "step-00000002" / "generator.safetensors"
    path.write_bytes(hole(path.read_bytes(), random.Random(1)))

    folder, state = newest_checkpoint(root)
    restore(folder, new_gan())

    assert state["step"] == 1
