"""Image files that Pillow does not write, and those it does, as bytes."""

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vggnet.images import Pixels


def picture(height: int, width: int) -> Pixels:
    """Linear in x and y, so that the same picture of another size is the same function."""
    y, x = np.mgrid[0:height, 0:width] + 0.5
    across, down = x / width, y / height
    planes = 20 + 200 * across, 30 + 190 * down, 230 - 100 * across - 90 * down
    found: Pixels = np.rint(np.stack(planes, axis=2)).astype(np.uint8)
    return found


def encoded(image: Image.Image | Pixels, kind: str, **options: object) -> bytes:
    """What Pillow writes."""
    buffer = io.BytesIO()
    made = image if isinstance(image, Image.Image) else Image.fromarray(image)
    made.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(pixels: Pixels, **options: object) -> bytes:
    return encoded(pixels, "JPEG", **{"quality": 95, **options})


def with_exif(content: bytes, exif: bytes) -> bytes:
    """A JPEG with a block of EXIF behind its first marker."""
    payload = b"Exif\0\0" + exif
    return content[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + content[2:]


def orientation(value: int) -> bytes:
    """The shortest EXIF that has one, little-endian: a directory of one entry."""
    return b"II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 0x0112, 3, 1, value, 0)


def stored(upright: Pixels, turned: int) -> Pixels:
    """How a camera stores what is seen upright, by EXIF 2.3: where its row 0, column 0 lie."""
    ways = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }
    return np.ascontiguousarray(ways[turned])


def png(
    samples: NDArray[np.uint8] | NDArray[np.uint16],
    colour: int,
    *,
    interlaced: bool = False,
    extra: bytes = b"",
) -> bytes:
    """A PNG of H×W×C samples, 8 or 16 bits; `colour` is 0 grey, 2 RGB, 6 RGBA."""
    height, width, _ = samples.shape
    bits = 8 * samples.dtype.itemsize
    whole = ((0, 0, 1, 1),)
    adam7 = (
        (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
        (1, 0, 2, 1),
    )  # fmt: skip
    rows = b""
    for top, left, down, across in adam7 if interlaced else whole:
        for row in samples[top::down, left::across]:
            rows += b"\0" + row.astype(">u2" if bits == 16 else np.uint8).tobytes()
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    return png_of(header, zlib.compress(rows), extra)


def png_of(header: bytes, data: bytes, extra: bytes = b"") -> bytes:
    """From the header's content and the compressed rows."""
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


def on_white(colour: Pixels, alpha: NDArray[np.uint8]) -> Pixels:
    share = alpha[..., None] / 255
    return np.rint(colour * share + 255 * (1 - share)).astype(np.uint8)


def ycck(cmyk: Pixels) -> bytes:
    """Pillow writes no YCCK: what it writes as CMYK, with Adobe's marker saying YCCK instead."""
    red, green, blue = (cmyk[..., i].astype(float) for i in range(3))
    y = 0.299 * red + 0.587 * green + 0.114 * blue
    planes = y, 128 + (blue - y) / 1.772, 128 + (red - y) / 1.402
    ycc = np.rint(np.stack(planes, axis=2)).astype(np.uint8)
    turned = np.dstack([255 - ycc, cmyk[..., 3]])  # Pillow stores 255 less each sample
    content = bytearray(encoded(Image.fromarray(turned, "CMYK"), "JPEG", quality=95))
    content[content.index(b"Adobe") + 11] = 2  # the transform
    return bytes(content)
