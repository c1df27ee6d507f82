"""DICOM files as the picture that a viewer shows first; the rules stand in docs/own_data.md.

The file's own modality LUT or rescale slope comes first, then its VOI LUT, else its first window, else (without
either) the image's smallest to its largest value. MONOCHROME1 is inverted, palettes and YBR become RGB, of several
frames the first is shown.

Files of this kind name people. Nothing of what a file says is in a message of ours, and the parser's own warnings,
which quote values, are not passed on.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

from fs_fedmllm.data.pixels import UnusablePixels
from fs_fedmllm.extras import require_extra

if TYPE_CHECKING:
    from PIL.Image import Image

MARK, MARK_AT = b"DICM", 128
#: Endings that say DICOM, in lower case.
SUFFIXES = (".dcm", ".dicom")
#: A file whose whole content is deflated unpacks before anything can be asked of it: at most 1,032 times its size.
MAX_DEFLATED = (256 << 20) // 1032
_DEFLATED, _RLE = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"
#: Elements that say how pixels become a picture, beside those of the group 0028; no other is kept.
_SHARED_GROUPS, _FRAME_GROUPS = 0x52009229, 0x52009230
_AGAIN = "Write it again, or leave the row out."


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins so is DICOM."""
    return head[MARK_AT : MARK_AT + len(MARK)] == MARK


class DicomImage:
    """A DICOM file whose head is read and whose pixels are not.

    Attributes:
        size: width and height in pixels.
        is_animated: whether it holds frames after the first.
        format, mode, info: as images of Pillow have them.
    """

    format, mode = "DICOM", ""

    def __init__(self, stream: BinaryIO, path: str):
        require_extra("dicom", f"{path} is a DICOM file, and reading it")
        self.info: dict[str, Any] = {}
        with _quiet():
            self._stream, self._head = stream, _head(stream, path)
            rows, columns = (_number(self._head, name) for name in ("Rows", "Columns"))
            if not rows or not columns:
                raise UnusablePixels("it is a DICOM file without a picture, such as a report or a plan",
                                     "Leave the row out, or give the file with the image.")  # fmt: skip
            self.size = (columns, rows)
            self._frames = max(1, _number(self._head, "NumberOfFrames"))
            self.is_animated = self._frames > 1

    def picture(self) -> Image:
        """The picture in RGB.

        Raises:
            UnusablePixels: the pixels are damaged, or of a kind that cannot be decoded here.
        """
        from PIL import Image as pil

        with _quiet():
            return pil.fromarray(_colours(self._head, self._decoded())).convert("RGB")

    def _decoded(self) -> Any:
        """The first frame's values: (rows, columns) or (rows, columns, 3)."""
        from pydicom.pixels import get_decoder, pixel_array

        syntax = self._head.file_meta.get("TransferSyntaxUID")
        try:
            decoder = get_decoder(syntax)
        except Exception:
            problem = "its pixels are encoded in a way that is not known here (transfer syntax)"
            raise UnusablePixels(problem, "Save it uncompressed, such as with gdcmconv --raw.") from None
        if not decoder.is_available:
            raise _undecodable(decoder.UID.name, "no decoder for that is installed")
        if str(syntax) == _RLE:
            self._check_runs()
        try:
            values = pixel_array(self._source(str(syntax)), index=0)
        except RuntimeError:  # every decoder that is installed has refused it
            raise _undecodable(decoder.UID.name, "no decoder that is installed can read them") from None
        if values.shape[:2] != self.size[::-1] or values.shape[2:] not in ((), (3,)):
            raise UnusablePixels("its pixels are not as many as it says", _AGAIN)
        return values

    def _source(self, syntax: str) -> Any:
        """The file, of which one frame is then read, or all of it where it is deflated as a whole."""
        if syntax != _DEFLATED:
            return self._stream
        from pydicom import dcmread

        self._stream.seek(0)
        return dcmread(self._stream)

    def _check_runs(self) -> None:
        """Run lengths are never longer than the pixels; more of them would unpack into memory without a bound."""
        bits, samples = (max(1, _number(self._head, name)) for name in ("BitsAllocated", "SamplesPerPixel"))
        frame = self.size[0] * self.size[1] * samples * (bits + 7) // 8
        if os.fstat(self._stream.fileno()).st_size > 2 * frame * self._frames + (16 << 20):
            raise UnusablePixels("it holds far more bytes than the pixels that it declares", _AGAIN)


def _undecodable(syntax: str, why: str) -> UnusablePixels:
    return UnusablePixels(
        f"its pixels are compressed ({syntax}), and {why}",
        "Run pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg (or python-gdcm), or save it uncompressed, "
        "such as with gdcmconv --raw.",
    )


def _head(stream: BinaryIO, path: str) -> Any:
    """The elements that say how pixels become a picture."""
    from pydicom import dcmread
    from pydicom.filereader import read_file_meta_info

    size = os.fstat(stream.fileno()).st_size
    if str(read_file_meta_info(path).get("TransferSyntaxUID", "")) == _DEFLATED and size > MAX_DEFLATED:
        raise UnusablePixels(f"it is deflated as a whole, and has more than {MAX_DEFLATED:,} bytes",
                             "Save it otherwise, such as with dcmtk's dcmconv +te.")  # fmt: skip
    stream.seek(0)
    kept = [0x00280000 | element for element in _PIXEL_ELEMENTS]
    return dcmread(stream, stop_before_pixels=True, specific_tags=[*kept, _SHARED_GROUPS, _FRAME_GROUPS])


#: Elements of the group 0028 that are read.
_PIXEL_ELEMENTS = {
    *(0x0002, 0x0004, 0x0006, 0x0008, 0x0010, 0x0011, 0x0100, 0x0101, 0x0102, 0x0103, 0x0120, 0x0121, 0x1050, 0x1051),
    *(0x1052, 0x1053, 0x1056, 0x1101, 0x1102, 0x1103, 0x1199, 0x1201, 0x1202, 0x1203, 0x1221, 0x1222, 0x1223, 0x3000),
    0x3010,
}


def _number(head: Any, name: str) -> int:
    value = head.get(name)
    return int(value) if value is not None and str(value).strip() else 0


def _said(head: Any, name: str) -> Any:
    """A value, of the file or (enhanced files) of its first frame; the first where there are several."""
    value = head.get(name)
    for groups in () if value is not None else ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        for group in list(head.get(groups) or [])[:1]:
            for inner in ("FrameVOILUTSequence", "PixelValueTransformationSequence"):
                for item in list(group.get(inner) or [])[:1]:
                    value = item.get(name) if value is None else value
    if isinstance(value, str | bytes) or not hasattr(value, "__getitem__"):
        return value
    return value[0] if len(value) else None


def _float(head: Any, name: str) -> float | None:
    import math

    value = _said(head, name)
    if value is None or not str(value).strip():
        return None
    number = float(value)
    if not math.isfinite(number):
        raise UnusablePixels("a number of its window or its scale is none", _AGAIN)
    return number


def _colours(head: Any, values: Any) -> Any:
    """Values as shades or colours of 8 bits."""
    import numpy as np
    from pydicom.pixels import apply_color_lut

    kind = str(head.get("PhotometricInterpretation", "")).strip().upper()
    bits = max(1, _number(head, "BitsStored") or _number(head, "BitsAllocated"))
    if kind == "PALETTE COLOR":
        values = apply_color_lut(values, head)
        bits = 8 * values.dtype.itemsize
    if values.ndim == 3:
        if values.dtype.kind not in "iu":
            raise UnusablePixels("its colours are no whole numbers", "Save it with 8 bits.")
        return np.clip(np.rint(values.astype(np.float32) * (255.0 / (2**bits - 1))), 0, 255).astype(np.uint8) \
            if bits != 8 else values.astype(np.uint8)  # fmt: skip
    if kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise UnusablePixels("its colours are of a kind that is not known here (photometric interpretation)",
                             "Save it as RGB or grey.")  # fmt: skip
    return _grey(head, values, bits, inverted=kind == "MONOCHROME1")


def _grey(head: Any, values: Any, bits: int, inverted: bool) -> Any:
    """Shades of grey values; each value's shade is worked out once where they are whole numbers of 16 bits."""
    import numpy as np

    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise UnusablePixels("some of its grey values are not finite", "Write a number in their place.")
        return _shades(head, values.astype(np.float64), np.ones(values.shape, bool), bits, inverted, plain=False)
    signed = values.dtype.kind == "i"
    if not signed and bits < 8 * values.dtype.itemsize:
        values = values & np.array((1 << bits) - 1, values.dtype)  # overlays of old files lie in the bits above
    low, high = int(values.min()), int(values.max())
    if high - low >= 1 << 16:
        seen = _seen(head, values)
        return _shades(head, values.astype(np.float64), seen, bits, inverted, plain=not signed)
    codes = np.arange(low, high + 1)
    places = values.astype(np.int32 if values.dtype.itemsize <= 2 else np.int64) - low
    there = np.bincount(places.ravel(), minlength=len(codes)) > 0
    shades = _shades(head, codes.astype(np.float64), there & _seen(head, codes), bits, inverted, plain=not signed)
    return shades[places]


def _seen(head: Any, codes: Any) -> Any:
    """Which values are not those that fill the space around a picture."""
    import numpy as np

    first, last = (_said(head, name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit"))
    if not isinstance(first, int):
        return np.ones(codes.shape, bool)
    ends = (first, last if isinstance(last, int) else first)
    return (codes < min(ends)) | (codes > max(ends))


def _shades(head: Any, codes: Any, there: Any, bits: int, inverted: bool, plain: bool) -> Any:
    """The shade of each stored value.

    Args:
        head: says how.
        codes: stored values.
        there: which of them the picture has.
        bits: that are stored.
        inverted: whether the lowest value is white.
        plain: whether they are whole numbers from 0.
    """
    import numpy as np

    tables = head.get("ModalityLUTSequence")
    slope, intercept = _float(head, "RescaleSlope"), _float(head, "RescaleIntercept")
    values = codes
    if tables:
        values, depth = _looked_up(codes, tables[0], head)
        plain, bits = True, depth
    elif slope is not None or intercept is not None:
        values = codes * (1.0 if slope is None else slope) + (intercept or 0.0)
        plain = plain and slope in (None, 1.0) and not intercept
    centre, width = _float(head, "WindowCenter"), _float(head, "WindowWidth")
    if (tables := head.get("VOILUTSequence")) and tables[0].get("LUTData") is not None:
        values, depth = _looked_up(values, tables[0], head)
        shares = values / (2.0**depth - 1)
    elif centre is not None and width is not None and width > 0:
        shares = _windowed(values, centre, width, str(_said(head, "VOILUTFunction") or "LINEAR").strip().upper())
    elif plain and bits <= 8:
        shares = values / (2.0**bits - 1)
    else:
        present = values[there] if there.any() else values
        low, high = float(present.min()), float(present.max())
        shares = (values - low) / (high - low) if high > low else np.zeros(values.shape)
    shares = np.clip(shares, 0.0, 1.0)
    return np.rint(255.0 * (1.0 - shares if inverted else shares)).astype(np.uint8)


def _windowed(values: Any, centre: float, width: float, function: str) -> Any:
    """Shares of white by PS3.3 C.11.2.1.2 and C.11.2.1.3."""
    import numpy as np

    if function == "SIGMOID":
        with np.errstate(over="ignore"):
            return 1.0 / (1.0 + np.exp(-4.0 * (values - centre) / width))
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1.0
        if width <= 0:
            return (values > centre).astype(np.float64)
    return (values - centre) / width + 0.5


def _looked_up(values: Any, item: Any, head: Any) -> tuple[Any, int]:
    """Values by a table of the file, and the bits of what it holds (PS3.3 C.11.1.1 and C.11.2.1.1)."""
    import numpy as np

    count, first, depth = (int(number) for number in item.LUTDescriptor)
    data = item.LUTData
    count = count or 1 << 16
    if isinstance(data, bytes):
        order = "<" if head.original_encoding[1] is not False else ">"
        table = np.frombuffer(data, np.uint8 if len(data) < 2 * count else f"{order}u2")
    else:
        table = np.asarray(data)
    if not 1 <= depth <= 16 or len(table) < count or table.ndim != 1:
        raise UnusablePixels("a table of its grey values is not as long as it says", _AGAIN)
    if first >= 1 << 15 and float(np.min(values)) < 0:
        first -= 1 << 16  # written without its sign
    places = np.clip(np.floor(values) - first, 0, count - 1).astype(np.int64)
    return table[places].astype(np.float64), depth


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing that the parser says comes out, for it may quote what the file says of a person.

    Raises:
        UnusablePixels: in the place of whatever else is raised inside.
    """
    import pydicom  # noqa: F401 - which sets its logger's level

    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except UnusablePixels:
        raise
    except Exception as error:  # a parser that is fed a hostile file may raise anything
        kind = type(error).__name__
    else:
        return
    raise UnusablePixels(f"it is a damaged DICOM file ({kind})", "Export or copy it again.") from None
