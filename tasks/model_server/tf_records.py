"""Reads TFRecord files without TensorFlow's libraries.

Source: tensorflow/core/lib/io/record_reader.cc.
"""

import os
import struct
from collections.abc import Iterator
from functools import cache
from typing import BinaryIO

from tasks.model_server.status import Code, StatusError


def records(file: BinaryIO) -> Iterator[bytes]:
    """Yield the records of a TFRecord file: length, its checksum, the bytes, their checksum.

    Raises:
        StatusError: the file is cut short or a checksum does not match.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    while len(header := file.read(12)) == 12:  # fewer bytes are the end of the file
        offset = file.tell() - len(header)
        length = int.from_bytes(header[:8], "little")
        record, checksum = b"", b""
        if header[8:] == masked_crc(header[:8]) and length <= size:
            record, checksum = file.read(length), file.read(4)
        if not checksum or checksum != masked_crc(record):
            raise StatusError(
                Code.DATA_LOSS,
                f"corrupted record at {offset}. Please verify your warmup data is in TFRecord format.",
            )
        yield record


@cache
def _crc_table() -> tuple[int, ...]:
    """Return CRC-32C (Castagnoli) of each byte, reflected."""
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


def masked_crc(data: bytes) -> bytes:
    """Return the checksum that a TFRecord file has of some bytes: CRC-32C, rotated and offset, little-endian."""
    table = _crc_table()
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ table[(value ^ byte) & 0xFF]
    value ^= 0xFFFFFFFF
    return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)
