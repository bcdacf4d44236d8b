"""Backends keep one promise; another one is a class and a call of `register`."""

import hashlib
import io

import fsspec
import pyarrow.fs
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.checkpoint.load_model import load_from
from pipeline.storage.backend import OPENERS, Backend, register
from pipeline.storage.folder import Folder
from pipeline.training.train import train
from tests.pipeline.training.test_train import config


class Shelf(Backend):
    """Files in the memory of this process."""

    files: dict[str, bytes] = {}  # noqa: RUF012

    def path_of(self, location):
        return location.partition("://")[2].rstrip("/")

    def exists(self, path):
        return path in self.files or any(name.startswith(f"{path}/") for name in self.files)

    def is_file(self, path):
        return path in self.files

    def names(self, path):
        return [name.split("/")[0] for name, _ in self.walk(path)]

    def walk(self, path):
        for name, content in list(self.files.items()):
            if name.startswith(f"{path}/"):
                yield name.removeprefix(f"{path}/"), len(content)

    def size(self, path):
        return len(self.read(path, None, None))

    def read(self, path, start, end):
        if path not in self.files:
            raise FileNotFoundError(2, "no such file", path)
        return self.files[path][start:end]

    def open(self, path):
        return io.BytesIO(self.read(path, None, None))

    def write(self, path, content):
        self.files[path] = content

    def create(self, path, content):
        return self.files.setdefault(path, content) is content

    def delete(self, path):
        self.files.pop(path, None)

    def remove(self, path):
        for name in [name for name in self.files if f"{name}/".startswith(f"{path}/")]:
            del self.files[name]

    def rename(self, path, to):
        for name in [name for name in self.files if name.startswith(f"{path}/")]:
            self.files[to + name.removeprefix(path)] = self.files.pop(name)


class RaysShelf(MemoryFileSystem):
    """Ray Train keeps its own records, for a while, through fsspec."""

    protocol = "shelf"
    store: dict = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012


@pytest.fixture(autouse=True)
def shelf(monkeypatch):
    monkeypatch.setattr(Shelf, "files", {})
    monkeypatch.setitem(OPENERS, "shelf", None)  # as before when the test is over
    register("shelf", Shelf)
    fsspec.register_implementation("shelf", RaysShelf, clobber=True)


@pytest.fixture(params=["local", "fsspec", "registered"])
def folder(request, tmp_path):
    """A folder of each kind but S3, whose tests have a server."""
    places = {
        "local": str(tmp_path / "a"),
        "fsspec": f"memory://{tmp_path.name}/{request.param}",
        "registered": "shelf://a",
    }
    return Folder(places[request.param])


def test_every_backend_keeps_files_alike(folder):
    assert (folder.exists(), folder.names(), list(folder.walk())) == (False, [], [])
    assert (folder.size("x"), folder.exists("x")) == (None, False)
    with pytest.raises(FileNotFoundError):
        folder.read("x")
    folder.delete("x")

    folder.write("deep/x", b"0123456789")
    assert folder.create("y", b"first") is True
    assert folder.create("y", b"second") is False
    folder.write("deep/x", b"0123456780")

    assert folder.read("y") == b"first"
    assert folder.read("deep/x", 2, 5) == b"234"
    assert folder.read("deep/x", 8, 50) == b"80"
    assert folder.size("deep/x") == 10
    assert folder.names() == ["deep", "y"]
    assert sorted(folder.entries(9)) == [("deep", True), ("y", False)]
    assert len(folder.entries(1)) == 1
    assert sorted(folder.walk()) == [("deep/x", 10), ("y", 5)]
    assert folder.exists("deep")
    assert not folder.is_file()
    assert Folder(f"{folder}/y").is_file()
    with folder.open("deep/x") as stream:
        stream.seek(7)
        assert stream.read(2) == b"78"

    moved = Folder(f"{folder}-moved")
    folder.rename(moved)
    assert (folder.exists("y"), moved.read("y")) == (False, b"first")
    moved.delete("y")
    moved.remove()
    assert not moved.exists()


@pytest.mark.parametrize("name", ["a?", "[ab]", "a*", "my%20runs", "with # hash", "{a,b}", "ü'\""])
def test_a_folder_of_any_name_is_itself_and_no_pattern(name, folder):
    odd, others = folder / name, [folder / each for each in ("ab", "a", "b", "my runs", "with ")]
    for each in (odd, *others):
        each.write("deep/x", each.location.encode())

    odd.rename(folder / f"{name}-moved")
    moved = folder / f"{name}-moved"
    moved.rename(odd)
    assert odd.read("deep/x") == odd.location.encode()
    odd.remove()

    assert not odd.exists()
    assert [each.read("deep/x") for each in others] == [o.location.encode() for o in others]
    assert len(folder.names()) == len(others)


@pytest.mark.parametrize("name", ["bucket/runs", "bucket/my%20runs/#1/a?b/[v2] {c} ü"])
def test_arrow_and_ray_find_the_same_place_in_a_bucket(name, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # or it asks where the bucket is
    for scheme in ("s3", "s3a"):
        _, path = pyarrow.fs.FileSystem.from_uri(Folder(f"{scheme}://{name}").uri)
        assert path == name


def test_arrow_and_ray_find_the_same_place_on_this_machine(tmp_path):
    for location in (f"{tmp_path}/a%20b?c#d", f"file://{tmp_path}/a%20b?c#d"):
        assert pyarrow.fs.FileSystem.from_uri(Folder(location).uri)[1] == f"{tmp_path}/a%20b?c#d"


@pytest.mark.parametrize("name", ["a", "50%25 of it", "with space"])
def test_an_address_of_a_local_folder_is_that_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Folder(f"{tmp_path}/{name}").write("x", b"here")

    for address in (f"file://{tmp_path}/{name}", f"local://{tmp_path}/{name}", f"file://{name}"):
        assert Folder(address).local_path == f"{tmp_path}/{name}"
        assert Folder(address).read("x") == b"here"


@pytest.mark.rest
@pytest.mark.slow
def test_a_run_trains_to_a_backend_that_was_registered_and_goes_on_from_it(shapes, tmp_path):
    tracking = {"uri": f"sqlite:///{tmp_path}/mlflow.db"}

    of_8_steps = config(shapes, tmp_path, total_steps=8, tracking=tracking)
    on_the_shelf = of_8_steps.model_copy(update={"output": "shelf://runs"})
    run = train(on_the_shelf)
    (run / "checkpoints/step-00000008").remove()
    run = train(on_the_shelf)  # from step 4
    whole = train(of_8_steps)

    assert (run.location, run.local_path) == ("shelf://runs/run", None)
    of_both = [
        {name: sha256(each.read(name)) for name, _ in each.walk() if name.endswith(".safetensors")}
        for each in (run / "model", whole / "model")
    ]
    assert of_both[0] == of_both[1] != {}
    drawn = load_from("shelf://runs/run/model").draw(["a large red circle"])
    assert drawn.shape == (1, 3, 32, 32)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
