"""The superblock, and object headers as lists of messages."""

from __future__ import annotations

from dataclasses import dataclass

from sepcompile.frontend.hdf5.raw import Cursor, Raw

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_CONTINUATION = 0x10
_MAX_MESSAGES = 4096
_MAX_BLOCKS = 256


@dataclass(frozen=True)
class Message:
    """One header message."""

    kind: int
    flags: int
    body: memoryview

    @property
    def is_shared(self) -> bool:
        """Whether the body is only a reference to a message elsewhere."""
        return bool(self.flags & 2)


def root_address(raw: Raw) -> int:
    """The address of the root group's object header, from the superblock."""
    if raw.data[:8] != SIGNATURE:
        raise raw.fail("it does not begin with the HDF5 signature")
    cursor = Cursor(raw, raw.data[8 : 8 + 96], "superblock")
    version = cursor.number(1)
    if version in (0, 1):
        cursor.skip(4)
        _check_widths(raw, cursor)
        cursor.skip(1 + 4 + 4 + (4 if version == 1 else 0))
        base = cursor.number(8)
        cursor.skip(8 + 8 + 8 + 8)
    elif version in (2, 3):
        _check_widths(raw, cursor)
        cursor.skip(1)
        base = cursor.number(8)
        cursor.skip(8 + 8)
    else:
        raise raw.unsupported(f"a superblock of version {version}")
    if base != 0:
        raise raw.unsupported("a user block before the data")
    return cursor.number(8)


def _check_widths(raw: Raw, cursor: Cursor) -> None:
    widths = cursor.number(1), cursor.number(1)
    if widths != (8, 8):
        raise raw.unsupported(f"offsets and lengths of {widths} bytes")


def read_header(raw: Raw, address: int) -> list[Message]:
    """Every message of the object header at ``address``, continuation blocks included."""
    if bytes(raw.take(address, 4, "object header")) == b"OHDR":
        return _Version2(raw).read(address)
    return _Version1(raw).read(address)


class _Blocks:
    """What both versions share: messages are read block by block, as continuation messages lead on."""

    def __init__(self, raw: Raw) -> None:
        self.raw = raw
        self.messages: list[Message] = []
        self.waiting: list[tuple[int, int]] = []
        self.seen = 0

    def add(self, message: Message) -> None:
        self.raw.step()
        if len(self.messages) >= _MAX_MESSAGES:
            raise self.raw.fail(f"an object header of more than {_MAX_MESSAGES} messages")
        if message.kind == _CONTINUATION:
            cursor = Cursor(self.raw, message.body, "continuation message")
            self.waiting.append((cursor.number(8), cursor.number(8)))
        else:
            self.messages.append(message)

    def next_block(self) -> tuple[int, int] | None:
        if not self.waiting:
            return None
        self.seen += 1
        if self.seen > _MAX_BLOCKS:
            raise self.raw.fail(f"an object header of more than {_MAX_BLOCKS} blocks")
        return self.waiting.pop(0)


class _Version1(_Blocks):
    def read(self, address: int) -> list[Message]:
        cursor = Cursor(self.raw, self.raw.take(address, 16, "object header"), "object header")
        version = cursor.number(1)
        if version != 1:
            raise self.raw.fail(f"an object header of version {version} at byte {address}")
        cursor.skip(1 + 2 + 4)
        self._block(self.raw.take(address + 16, cursor.number(4), "object header"))
        while (place := self.next_block()) is not None:
            self._block(self.raw.take(*place, "object header continuation"))
        return self.messages

    def _block(self, block: memoryview) -> None:
        cursor = Cursor(self.raw, block, "object header")
        while cursor.left >= 8:
            kind, size, flags = cursor.number(2), cursor.number(2), cursor.number(1)
            cursor.skip(3)
            self.add(Message(kind, flags, cursor.take(size)))


class _Version2(_Blocks):
    def read(self, address: int) -> list[Message]:
        head = self.raw.take(address, min(64, len(self.raw.data) - address), "object header")
        start = Cursor(self.raw, head, "object header")
        start.skip(4)
        version, self.flags = start.number(1), start.number(1)
        if version != 2:
            raise self.raw.fail(f"an object header of version {version} at byte {address}")
        start.skip((16 if self.flags & 0x20 else 0) + (4 if self.flags & 0x10 else 0))
        size = start.number(1 << (self.flags & 3))
        self._block(self.raw.take(address + start.position, size, "object header"))
        while (place := self.next_block()) is not None:
            block = self.raw.signed(*place, b"OCHK", "object header continuation")
            if len(block) < 8:
                raise self.raw.fail("a short object header continuation")
            self._block(block[4:-4])
        return self.messages

    def _block(self, block: memoryview) -> None:
        cursor = Cursor(self.raw, block, "object header")
        prefix = 6 if self.flags & 4 else 4
        while cursor.left >= prefix:
            kind, size, flags = cursor.number(1), cursor.number(2), cursor.number(1)
            cursor.skip(prefix - 4)
            self.add(Message(kind, flags, cursor.take(size)))
