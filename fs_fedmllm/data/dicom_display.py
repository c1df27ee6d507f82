"""From the values that a DICOM file stores to the colours that a viewer shows first (PS3.3, C.11).

The file's own modality LUT or rescale slope comes first, then its VOI LUT, else its first window, else (without
either) the image's smallest to its largest value. MONOCHROME1 is inverted, palettes and YBR become RGB.
"""

from __future__ import annotations

import math
from typing import Any

from fs_fedmllm.data.pixels import UnusablePixels

#: What to do about pixels that do not fit what the file says of them.
AGAIN = "Write it again, or leave the row out."


def number_in(head: Any, name: str) -> int:
    """A whole number of the head; 0 where it has none."""
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
    value = _said(head, name)
    if value is None or not str(value).strip():
        return None
    number = float(value)
    if not math.isfinite(number):
        raise UnusablePixels("a number of its window or its scale is none", AGAIN)
    return number


def display_colours(head: Any, values: Any) -> Any:
    """Values as shades or colours of 8 bits."""
    import numpy as np
    from pydicom.pixels import apply_color_lut

    kind = str(head.get("PhotometricInterpretation", "")).strip().upper()
    bits = max(1, number_in(head, "BitsStored") or number_in(head, "BitsAllocated"))
    if kind == "PALETTE COLOR":
        values = apply_color_lut(values, head)
        bits = 8 * values.dtype.itemsize
    if values.ndim == 3:
        if values.dtype.kind not in "iu":
            raise UnusablePixels("its colours are not whole numbers", "Save it with 8 bits.")
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
        raise UnusablePixels("a table of its grey values is not as long as it says", AGAIN)
    if first >= 1 << 15 and float(np.min(values)) < 0:
        first -= 1 << 16  # written without its sign
    places = np.clip(np.floor(values) - first, 0, count - 1).astype(np.int64)
    return table[places].astype(np.float64), depth
