"""What all pictures share: matplotlib without a screen, colours, hatches and markers, and the two files of each.

Parts are told apart by luminance (dark to light, so that greyscale print keeps them) and by hatching or markers. The
same picture is the same file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fs_fedmllm.data.client_names import shown_name
from fs_fedmllm.extras import require_extra

#: Hatches in the order of the parts; neighbours differ even where the luminance is close.
HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---", "ooo", "|||", "++", "**")
#: The same for points.
MARKERS = "osD^vPX*<>"


def pyplot() -> Any:
    """``matplotlib.pyplot``, drawing into files.

    Raises:
        ConfigError: the extra ``plot`` is not installed.
    """
    require_extra("plot", "A plot (without curves: report --no-curves)")
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "fs-fedmllm"  # the same picture is the same file
    matplotlib.rcParams["hatch.linewidth"] = 0.6
    import matplotlib.pyplot

    return matplotlib.pyplot


def shades(count: int) -> list[Any]:
    """Colours from dark to light: luminance rises from each to the next."""
    pyplot()
    from matplotlib import colormaps

    span = [0.5] if count == 1 else [0.12 + 0.83 * i / (count - 1) for i in range(count)]
    return [colormaps["viridis"](place) for place in span]


def as_drawn(text: str, most: int = 160) -> str:
    """A text of the data in a picture: on one line, of a bearable length.

    A dollar begins no formula, and what begins with an underscore is not left out of a legend, as matplotlib has it.

    Args:
        text: such as a label.
        most: characters.
    """
    line = shown_name(text, most).replace("$", r"\$")
    return f" {line}" if line.startswith("_") else line


def count_axis(axis: Any) -> None:
    """Ticks of an axis that counts: whole numbers only, or a tick at 17.5 would be written as 18."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.set_major_formatter("{x:,.0f}")


def save(plt: Any, figure: Any, path: Path) -> list[Path]:
    """Write a picture as PNG and SVG, and close it; the files.

    Args:
        plt: :func:`pyplot`.
        figure: to write.
        path: without an ending.
    """
    written = []
    for ending, details in ((".png", {"Software": None}), (".svg", {"Date": None})):
        target = path.with_name(path.name + ending)
        figure.savefig(target, dpi=150, metadata=details)
        written.append(target)
    plt.close(figure)
    return written
