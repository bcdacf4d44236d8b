"""Files of weights that others made take no more memory than their own size."""

import io
import struct
import zipfile

import pytest
import torch

from ratgan.weights.weight_file import read_state_dict, read_weights

MIB = 2**20
STATE = {"weight": torch.arange(12.0).view(3, 4), "shared": torch.ones(5)}
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


def test_names_that_are_no_text_are_refused():
    with pytest.raises(ValueError, match="not a state dict"):
        read_state_dict(saved({("a", "b"): torch.ones(1), "b": torch.ones(1)}), "bomb.pth")
