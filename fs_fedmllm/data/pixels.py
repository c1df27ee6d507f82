"""From what an image file holds to the RGB picture that a person sees; the rules stand in docs/own_data.md.

Each rule reads one image alone, so a row's picture does not depend on the rows beside it:

- the camera's orientation (EXIF) is applied, and what is transparent shows white;
- whole grey numbers of more than 8 bits are divided by the largest number of their depth: that which the file
  declares, else the smallest of 8, 10, 12, 14 and 16 bits that holds the image's own largest value (a 12-bit
  radiograph in a 16-bit PNG would be all but black otherwise);
- grey values that have no depth (below 0 or above 65,535, as in CT, and floating-point numbers) are spread from the
  image's smallest to its largest; floating-point numbers within 0 and 1 are taken as shares of white;
- where the file says that its lowest value is white, so it is.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

#: Goes up when a file's picture changes, so that features which were kept of the older picture are not used.
DECODING = 2
DEPTHS = (8, 10, 12, 14, 16)
#: Numbers of TIFF tags.
_BITS, _PHOTOMETRIC, _LARGEST, _FORMAT = 258, 262, 281, 339
_ORIENTATION = 0x0112


class UnusablePixels(Exception):
    """Pixels that are whole, and cannot be shown with 8 bits.

    Args:
        problem: what is wrong with them, without a full stop.
        remedy: what to do about it, one sentence.
    """

    def __init__(self, problem: str, remedy: str):
        super().__init__(f"{problem}. {remedy}")
        self.problem, self.remedy = problem, remedy


def to_rgb(image: Any) -> Image:
    """The picture of an opened image file, its first frame.

    Args:
        image: as Pillow opened it, pixels not yet decoded.

    Raises:
        UnusablePixels: the pixels cannot be brought to 8 bits without losing what is in them.
        Exception: whatever Pillow raises on damaged pixels.
    """
    deep_colour = _deep_colour(image)
    declared = _declared(image)
    image.load()
    if image.mode == "F" or image.mode.startswith("I"):
        picture = _grey(image, declared)
    elif image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        picture = _on_white(image)
    else:
        picture = image.convert("RGB")
    if deep_colour and not any(picture.convert("L").histogram()[64:]):
        raise UnusablePixels("its 16-bit colours use 14 bits or fewer, and only the upper 8 of 16 are read",
                             "Save it as 16-bit grey, or with 8 bits.")  # fmt: skip
    return _upright(image, picture)


def _tags(image: Any) -> Any:
    return getattr(image, "tag_v2", {})


def _deep_colour(image: Any) -> bool:
    """Whether Pillow keeps the high byte of 16-bit colours (it has no mode for the whole)."""
    if image.mode not in ("RGB", "RGBA", "LA"):
        return False
    bits = _tags(image).get(_BITS, 8)
    raw = str(image.tile[0][3]) if image.tile else ""
    return max(bits if isinstance(bits, tuple) else (bits,)) > 8 or (image.format == "PNG" and ";16" in raw)


def _declared(image: Any) -> int:
    """The value of white as the file declares it; 0 if it does not."""
    if image.format == "PPM":  # Pillow has spread a lower maximum over 16 bits
        return 0xFFFF if image.tile and image.tile[0][0] != "raw" else 0
    largest, bits = _tags(image).get(_LARGEST), _tags(image).get(_BITS)
    if isinstance(largest, tuple):
        largest = max(largest, default=0)
    if isinstance(largest, int) and largest > 0:
        return largest
    bits = bits[0] if isinstance(bits, tuple) and bits else bits
    return (1 << bits) - 1 if isinstance(bits, int) and 8 < bits < 16 else 0


def _grey(image: Any, declared: int) -> Image:
    import numpy as np
    from PIL import Image as pil

    values = np.asarray(image)
    if values.dtype == np.int32 and _tags(image).get(_FORMAT, (1,))[0] == 1 and image.format == "TIFF":
        values = values.view(np.uint32)
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UnusablePixels("some of its grey values are not finite", "Write a number in their place.")
    if values.dtype.kind != "f" and low >= 0 and high <= 0xFFFF:
        white = declared if declared >= high else (1 << next(d for d in DEPTHS if high < 1 << d)) - 1
        shades = np.minimum(np.rint(np.arange(0x10000) * (255.0 / white)), 255).astype(np.uint8)
        grey = shades[values]
    else:
        if values.dtype.kind == "f" and low >= 0 and high <= 1:
            low, high = 0.0, 1.0
        span = float(high) - float(low)
        scale = 255.0 / span if span else 0.0
        grey = np.rint((values.astype(np.float64) - float(low)) * scale).astype(np.uint8)
    if _tags(image).get(_PHOTOMETRIC) == 0:
        grey = 255 - grey
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey = np.where(values == clear, np.uint8(255), grey)
    return pil.fromarray(grey).convert("RGB")


def _on_white(image: Any) -> Image:
    from PIL import Image as pil

    seen = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return pil.alpha_composite(pil.new("RGBA", seen.size, "white"), seen).convert("RGB")


def _upright(image: Any, picture: Image) -> Image:
    """Turned as the camera was held; a damaged EXIF block turns nothing."""
    from PIL import Image as pil

    turns = {
        2: pil.Transpose.FLIP_LEFT_RIGHT,
        3: pil.Transpose.ROTATE_180,
        4: pil.Transpose.FLIP_TOP_BOTTOM,
        5: pil.Transpose.TRANSPOSE,
        6: pil.Transpose.ROTATE_270,
        7: pil.Transpose.TRANSVERSE,
        8: pil.Transpose.ROTATE_90,
    }
    try:
        with warnings.catch_warnings(action="ignore"):
            orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # a parser that is fed garbage may raise anything, and the pixels are good
        return picture
    turn = turns.get(orientation) if isinstance(orientation, int) else None
    return picture if turn is None else picture.transpose(turn)


def has_more_frames(image: Any) -> bool:
    """Whether a file holds further frames or pages; asked before its pixels are decoded."""
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # the frames behind the first may be damaged
        return True
