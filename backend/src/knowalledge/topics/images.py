"""The type and size of an image, read from its header. No decoder runs, so no image can exhaust memory here."""

from msgspec import Struct

from knowalledge.core.errors import InvalidRequest, PayloadTooLarge

MAX_BYTES = 5 * 1024 * 1024
MAX_SIDE = 16_384
MAX_PIXELS = 40_000_000


class Image(Struct, frozen=True):
    mime: str
    width: int
    height: int
    data: bytes


def recognise(data: bytes) -> Image:
    """A JPEG, PNG or WebP within the limits, recognised by its bytes.

    Raises ``InvalidRequest`` or ``PayloadTooLarge`` for anything else.
    """
    if len(data) > MAX_BYTES:
        raise PayloadTooLarge(f"the image is larger than {MAX_BYTES} bytes", param="image")
    for mime, magic, measure in (
        ("image/png", b"\x89PNG\r\n\x1a\n", _png),
        ("image/jpeg", b"\xff\xd8\xff", _jpeg),
        ("image/webp", b"RIFF", _webp),
    ):
        if data.startswith(magic):
            width, height = measure(data)
            if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
                raise InvalidRequest(
                    f"the image is empty or too large: at most {MAX_SIDE} a side and {MAX_PIXELS} pixels",
                    param="image",
                )
            return Image(mime, width, height, data)
    raise InvalidRequest("the image is neither JPEG, PNG nor WebP", param="image")


_BROKEN = (0, 0)


def _png(data: bytes) -> tuple[int, int]:
    if data[12:16] != b"IHDR" or len(data) < 33:
        return _BROKEN
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


# Start-of-frame markers (ITU T.81, table B.1) without the three codes of the range that are other markers.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def _jpeg(data: bytes) -> tuple[int, int]:
    position, end = 2, len(data)
    while position + 9 <= end:
        if data[position] != 0xFF:
            return _BROKEN
        marker = data[position + 1]
        if marker == 0xFF:  # padding
            position += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # without a length
            position += 2
            continue
        if marker in (0xD9, 0xDA):  # the picture begins, or ends, before its frame
            return _BROKEN
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if length < 2:
            return _BROKEN
        if marker in _FRAMES:
            height = int.from_bytes(data[position + 5 : position + 7], "big")
            return int.from_bytes(data[position + 7 : position + 9], "big"), height
        position += 2 + length
    return _BROKEN


def _webp(data: bytes) -> tuple[int, int]:
    if data[8:12] != b"WEBP" or len(data) < 30:
        return _BROKEN
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width = int.from_bytes(data[26:28], "little") & 0x3FFF
        return width, int.from_bytes(data[28:30], "little") & 0x3FFF
    return _BROKEN
