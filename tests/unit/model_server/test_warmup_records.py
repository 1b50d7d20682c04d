"""The record format of warm-up files."""

import io
import struct

import pytest

from tasks.model_server.status import Code, StatusError
from tasks.model_server.tf_records import masked_crc, records


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + masked_crc(length) + data + masked_crc(data)


def test_checksum() -> None:
    """The checksum is CRC-32C of the published test vector, masked as record files mask it."""
    crc = 0xE3069283  # CRC-32C of the customary check string
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert masked_crc(b"123456789") == struct.pack("<I", masked)


def test_records_are_read_in_order() -> None:
    """Records of any length, empty ones included, come back as they were written."""
    data = [b"one", b"", b"\x00" * 1000]
    assert list(records(io.BytesIO(b"".join(map(_record, data))))) == data


@pytest.mark.parametrize("stray", [1, 11])
def test_few_stray_bytes_are_the_end(stray: int) -> None:
    """What is too short for the head of a record ends the file, as record_reader.cc has it."""
    assert list(records(io.BytesIO(_record(b"one") + b"x" * stray))) == [b"one"]


def test_absurd_length() -> None:
    """A length beyond the file's end is an error, not an attempt to read as much."""
    length = struct.pack("<Q", 2**62)
    with pytest.raises(StatusError, match="corrupted record at 0"):
        list(records(io.BytesIO(length + masked_crc(length) + b"x")))


@pytest.mark.parametrize("cut", [1, 4, 5])
def test_cut_file(cut: int) -> None:
    """A file that ends within a record is an error at that record's place, after the whole ones."""
    found = records(io.BytesIO(_record(b"one") + _record(b"two")[:-cut]))
    assert next(found) == b"one"
    with pytest.raises(StatusError, match="corrupted record at 19") as raised:
        next(found)
    assert raised.value.code is Code.DATA_LOSS


@pytest.mark.parametrize("position", [0, 8, 12, 15])
def test_flipped_bit(position: int) -> None:
    """A changed length, byte or checksum is an error."""
    damaged = bytearray(_record(b"one"))
    damaged[position] ^= 1
    with pytest.raises(StatusError, match="corrupted record at 0"):
        list(records(io.BytesIO(bytes(damaged))))
