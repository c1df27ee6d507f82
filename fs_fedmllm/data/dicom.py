"""DICOM files as the picture that a viewer shows first; the rules stand in docs/own_data.md.

This module opens and decodes them; :mod:`fs_fedmllm.data.dicom_display` makes colours of their values. Of several
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

from fs_fedmllm.data.dicom_display import AGAIN, display_colours, number_in
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
            rows, columns = (number_in(self._head, name) for name in ("Rows", "Columns"))
            if not rows or not columns:
                raise UnusablePixels("it is a DICOM file without a picture, such as a report or a plan",
                                     "Leave the row out, or give the file with the image.")  # fmt: skip
            self.size = (columns, rows)
            self._frames = max(1, number_in(self._head, "NumberOfFrames"))
            self.is_animated = self._frames > 1

    def picture(self) -> Image:
        """The picture in RGB.

        Raises:
            UnusablePixels: the pixels are damaged, or of a kind that cannot be decoded here.
        """
        from PIL import Image as pil

        with _quiet():
            return pil.fromarray(display_colours(self._head, self._decoded())).convert("RGB")

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
            raise UnusablePixels("its pixels are not as many as it says", AGAIN)
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
        bits, samples = (max(1, number_in(self._head, name)) for name in ("BitsAllocated", "SamplesPerPixel"))
        frame = self.size[0] * self.size[1] * samples * (bits + 7) // 8
        if os.fstat(self._stream.fileno()).st_size > 2 * frame * self._frames + (16 << 20):
            raise UnusablePixels("it holds far more bytes than the pixels that it declares", AGAIN)


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
