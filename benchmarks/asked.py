"""What an adapter says of pictures, as a figure: each picture and the probabilities of ``predict`` beside it.

python benchmarks/asked.py RUN_OR_ADAPTER figure.png a.jpg b.jpg c.jpg [--base FOLDER] [--template FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path

HEIGHT = 2.1


def main() -> None:
    """Ask, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter")
    parser.add_argument("out", type=Path)
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--base", default="", help="folder of the base")
    parser.add_argument("--template", default="", help="name or path of a template; otherwise the training's")
    chosen = parser.parse_args()
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from PIL import Image

    from fs_fedmllm.commands.merge import chosen_adapter
    from fs_fedmllm.tools.adapters.opening import open_adapter
    from fs_fedmllm.tools.adapters.predict import one_row, predict

    opened = open_adapter(chosen_adapter(chosen.adapter, "last"), base=chosen.base)
    answers = predict(opened, [one_row(str(image), "", "") for image in chosen.images], template=chosen.template)
    count = len(answers)
    figure, axes = pyplot.subplots(
        1, 2 * count, figsize=(3.3 * count, HEIGHT), width_ratios=[1.1, 1] * count, layout="constrained"
    )
    for place, (path, answer) in enumerate(zip(chosen.images, answers, strict=True)):
        shown, bars = axes[2 * place], axes[2 * place + 1]
        picture = Image.open(path).convert("L")
        picture.thumbnail((220, 220))
        shown.imshow(picture, cmap="gray")
        shown.set_axis_off()
        shown.set_title(path.name, fontsize=7)
        told = answer.probabilities or {}
        print(path.name, answer.answer, told)
        names = list(told)[::-1]
        drawn = bars.barh(names, [told[name] for name in names], color="#4878a8")
        bars.bar_label(drawn, [f"{told[name]:.0%}" for name in names], fontsize=7, padding=2)
        bars.set_xlim(0, 1.25)
        bars.set_xticks([])
        bars.tick_params(labelsize=7, length=0)
        for side in ("top", "right", "bottom"):
            bars.spines[side].set_visible(False)
    figure.savefig(chosen.out, dpi=100)
    print(f"{chosen.out}: {chosen.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
