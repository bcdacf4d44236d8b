"""Files of weights that others made take no more memory than their own size."""

import gzip
import io
import struct
import tarfile
import zipfile

import pytest
import torch
from safetensors.torch import save

from ratgan.weights.weight_file import read_state_dict, read_weights

MIB = 2**20
STATE = {"weight": torch.arange(12.0).view(3, 4), "shared": torch.ones(5)}
PLAIN = dict(STATE)  # safetensors shares nothing
STATE["alias"] = STATE["shared"][1:3]
BOMB = {"weight": torch.zeros(16 * MIB)}  # 64 MiB of zeros


def saved(value: object, *, as_zip: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=as_zip)
    return buffer.getvalue()


def packed(content: bytes) -> bytes:
    """Compress the records of an archive; torch reads that as well."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as plain,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for record in plain.infolist():
            small.writestr(record.filename, plain.read(record))
    return buffer.getvalue()


def overlapping(content: bytes) -> bytes:
    """Let the directory of an archive name the bytes of one record many times."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        directory = content[archive.start_dir :]
        count = len(archive.infolist())
        start = archive.start_dir
    end = directory.index(b"PK\x06\x06") if b"PK\x06\x06" in directory else len(directory) - 22
    entries = directory[:end] * 20
    tail = struct.pack(
        "<4s4H2LH", b"PK\x05\x06", 0, 0, 20 * count, 20 * count, len(entries), start, 0
    )
    return content[:start] + entries + tail


def claiming(numbers: int) -> bytes:
    """Write the older format with one storage that claims more numbers than follow."""
    content = saved({"weight": torch.zeros(7)}, as_zip=False)
    large = b"J" + struct.pack("<i", numbers)
    # Its size where the storage is named and in the tensor's shape; no storage is said to follow.
    return content.replace(b"K\x07", large).replace(content[-(28 + 8) :], b"")


@pytest.mark.parametrize("as_zip", [True, False])
def test_a_state_dict_comes_back_as_it_was(tmp_path, as_zip):
    content = saved(STATE, as_zip=as_zip)
    (tmp_path / "w.pth").write_bytes(content)

    for found in (read_state_dict(content, "w.pth"), read_weights(tmp_path / "w.pth", "w").tensors):
        assert found.keys() == STATE.keys()
        assert all(torch.equal(found[name], STATE[name]) for name in STATE)
    assert read_state_dict(saved({"model": STATE}, as_zip=as_zip), "w.pth").keys() == STATE.keys()


def test_an_archive_with_compressed_records_is_refused():
    content = packed(saved(BOMB))
    assert len(content) < MIB / 4
    assert len(torch.load(io.BytesIO(content), weights_only=True)["weight"]) == 16 * MIB  # it works

    with pytest.raises(
        ValueError, match=r"bomb\.pth is refused: '.*' is compressed, so its .*anew"
    ):
        read_state_dict(content, "bomb.pth")


def test_an_archive_whose_records_share_their_bytes_is_refused():
    content = overlapping(saved({"weight": torch.ones(MIB)}))

    with pytest.raises(ValueError, match=r"bomb\.pth is refused: records overlap, so its .*"):
        read_state_dict(content, "bomb.pth")


@pytest.mark.parametrize("numbers", [2**28, 2**31 - 1])
def test_numbers_that_the_older_format_only_claims_are_refused(numbers):
    content = claiming(numbers)
    assert len(content) < 1000

    with pytest.raises(ValueError, match=r"bomb\.pth is (refused: its tensors have|not a file of)"):
        read_state_dict(content, "bomb.pth")


@pytest.mark.filterwarnings("ignore:.*[Ss]parse")
@pytest.mark.parametrize("as_zip", [True, False])
@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.ones(1).expand(2**40), r"weight of shape \[1099511627776\] repeats 4 bytes"),
        (torch.empty(2**40, device="meta"), "weight is no dense tensor"),
        (torch.eye(2).to_sparse(), "weight is no dense tensor|not a file of"),
    ],
    ids=["repeated", "without numbers", "sparse"],
)
def test_a_tensor_that_would_grow_is_refused(tensor, message, as_zip):
    with pytest.raises(ValueError, match=message):
        read_state_dict(saved({"weight": tensor}, as_zip=as_zip), "bomb.pth")


def zipped(names: list[str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"x" * 99)
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("netG.pth"))
    return buffer.getvalue()


class Network(torch.nn.Linear):
    """A network that was saved whole, which takes code to load."""


def scripted() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


FOREIGN = {
    "empty": (b"", r"is an empty file\. Copy or download it again"),
    "web page": (
        b"\n<!-- x --><!DOCTYPE html><html><body>Quota exceeded</body></html>",
        r"is a web page, not weights\. Open the link in a browser, and download the file",
    ),
    "error of a bucket": (b'<?xml version="1.0"?><Error/>', "is a web page, not weights"),
    "pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "is a pointer of git-lfs, not the file. Run git lfs pull, or download",
    ),
    "text": (
        b'{"error": "Repository not found"}',
        "is text, not weights. It begins with '{\"error",
    ),
    "zip": (
        zipped(["netG.pth", "a", "b", "c"]),
        r"is a zip archive \(netG\.pth, a, b, …\), not one that torch\.save wrote\. Unpack it",
    ),
    "tar": (tarred(), "is a tar archive, not weights. Unpack it, and name the file in it"),
    "gzip": (gzip.compress(saved(STATE)), "is compressed with gzip, not weights. Unpack it"),
    "program": (scripted(), r"is a program \(TorchScript\), not tensors"),
    "whole network": (
        saved(Network(2, 2)),
        r"asks for [\w.]+Network, and code is never run here\. .* state_dict\(\) alone",
    ),
    "cut": (saved(STATE)[:-99], "is an archive that is cut short or damaged .*Download it again"),
    "cut, older": (saved(STATE, as_zip=False)[:-20], "torch cannot read it .*Download it again"),
    "cut safetensors": (save(PLAIN)[:-20], "safetensors file that is cut short or damaged"),
    "numbers": (saved({"epoch": 3, "lr": [0.1]}), "It holds 'epoch': int, 'lr': list"),
    "one tensor": (saved(torch.ones(2)), "is not a state dict: .* It holds Tensor"),
    "random": (bytes(range(256)) * 9, "torch cannot read it"),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_what_is_no_file_of_tensors_is_named_with_what_to_do(tmp_path, kind, ending):
    content, message = FOREIGN[kind]
    (tmp_path / f"w.{ending}").write_bytes(content)

    with pytest.raises(ValueError, match=message) as error:
        read_weights(tmp_path / f"w.{ending}", "the weights")

    assert str(error.value).startswith(f"{tmp_path}/w.{ending} is ")
    assert "weights_only" not in str(error.value)


def test_a_folder_or_nothing_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"are a folder\. Name the file in it"):
        read_weights(tmp_path, "the weights")
    with pytest.raises(FileNotFoundError, match="do not exist"):
        read_weights(tmp_path / "w.pth", "the weights")


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_the_content_counts_and_not_the_ending(tmp_path, ending):
    for name, content in (("torch", saved(STATE)), ("safe", save(PLAIN))):
        (tmp_path / f"{name}.{ending}").write_bytes(content)
        found = read_weights(tmp_path / f"{name}.{ending}", "w").tensors
        assert torch.equal(found["weight"], STATE["weight"])


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."]
)
def test_what_wrappers_put_before_all_names_is_taken_off(prefix):
    wrapped = {f"{prefix}{name}": tensor for name, tensor in PLAIN.items()}
    mixed = {"module.weight": STATE["weight"], "bias": STATE["shared"]}

    assert read_state_dict(saved(wrapped), "w.pth").keys() == PLAIN.keys()
    assert read_state_dict(saved({"state_dict": wrapped}), "w.pth").keys() == PLAIN.keys()
    assert read_state_dict(saved(mixed), "w.pth").keys() == mixed.keys()


def test_the_one_set_of_a_checkpoint_is_found_and_of_several_none_is_guessed(tmp_path):
    optimizer = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
    one = saved({"state_dict": PLAIN, "epoch": 3, "optimizer": optimizer})
    (tmp_path / "two.pth").write_bytes(saved({"model": {"netG": PLAIN, "netD": PLAIN}, "epoch": 1}))

    assert read_state_dict(one, "one.pth").keys() == PLAIN.keys()
    with pytest.raises(
        ValueError, match=r"several sets of tensors: model\.netG \(2 tensors\), model\.netD"
    ):
        read_weights(tmp_path / "two.pth", "w")


def test_a_file_that_holds_itself_ends():
    loop = {"a": PLAIN}
    loop["b"] = loop

    assert read_state_dict(saved(loop), "w.pth").keys() == PLAIN.keys()


def test_names_that_are_no_text_are_refused():
    with pytest.raises(ValueError, match="not a state dict"):
        read_state_dict(saved({("a", "b"): torch.ones(1), "b": torch.ones(1)}), "bomb.pth")
