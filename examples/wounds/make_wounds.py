"""Make the rows of the wound clinic: photos/ and wounds.csv. Everything is drawn by this file; no person is shown.

    python make_wounds.py [FOLDER]

Three hospitals follow patients over several visits. One of them has no camera, another writes few notes. The picture
shows how a wound looks, the note says what the nurse measured; the class follows from both. Every picture says that it
is synthetic. Rows, pictures and this file are under the licence of the repository (Apache-2.0).
"""

from __future__ import annotations

import csv
import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw

#: Hospital -> patients, share of visits with a photo, share with a note.
HOSPITALS = {"Klinikum Nord": (16, 1.0, 0.9), "St. Anna": (9, 0.95, 0.3), "Ambulanz West": (5, 0.0, 1.0)}
#: Class -> colour of the wound, what notes say.
CLASSES = {
    "healing": ((214, 120, 120), "granulating well, margins {dry}, {temperature} C, no smell"),
    "infected": ((178, 30, 34), "margins {warm} and swollen, {temperature} C, {pain} pain"),
    "necrotic": ((52, 40, 38), "{black} tissue on {share} percent, {temperature} C, {pain} pain"),
}
SIZE = 96


def photo(draw: random.Random, colour: tuple[int, int, int]) -> Image.Image:
    """A wound on skin, and the word that says what it is."""
    skin = draw.choice([(236, 200, 176), (198, 150, 118), (120, 82, 62)])
    picture = Image.new("RGB", (SIZE, SIZE), skin)
    pen = ImageDraw.Draw(picture)
    for _ in range(120):  # pores
        x, y, shade = draw.randrange(SIZE), draw.randrange(SIZE), draw.randrange(-14, 15)
        pen.point((x, y), tuple(max(0, min(255, part + shade)) for part in skin))
    x, y = draw.randrange(26, 64), draw.randrange(24, 52)
    for _ in range(9):
        dx, dy, r = draw.randrange(-9, 10), draw.randrange(-7, 8), draw.randrange(8, 15)
        tint = tuple(max(0, min(255, part + draw.randrange(-16, 17))) for part in colour)
        pen.ellipse((x + dx - r, y + dy - r, x + dx + r, y + dy + r), fill=tint)
    pen.rectangle((0, SIZE - 13, SIZE, SIZE), fill="white")
    pen.text((20, SIZE - 13), "synthetic", fill="black")
    return picture


def note(draw: random.Random, name: str) -> str:
    """What the nurse wrote."""
    words = {
        "dry": draw.choice(["dry", "clean", "pink"]),
        "warm": draw.choice(["warm", "red", "shiny"]),
        "black": draw.choice(["black", "grey", "leathery"]),
        "pain": draw.choice(["strong", "throbbing", "new"]),
        "share": draw.randrange(20, 80),
        "temperature": f"{draw.uniform(36.2, 37.2) if name == 'healing' else draw.uniform(37.4, 39.4):.1f}",
    }
    return CLASSES[name][1].format(**words)


def make(folder: Path, seed: int = 7) -> Path:
    """Write the photos and the table; the same ones for the same seed.

    Args:
        folder: made if it is not there.
        seed: of all that is drawn.

    Returns:
        The table.
    """
    draw = random.Random(seed)
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    rows = []
    for hospital, (patients, pictured, written) in HOSPITALS.items():
        for patient in range(patients):
            state = draw.choice(list(CLASSES))
            for visit in range(draw.randrange(2, 6)):
                if draw.random() < 0.3:
                    state = draw.choice(list(CLASSES))
                shown, said = draw.random() < pictured, draw.random() < written
                if not shown and not said:
                    said = True
                name = f"photos/{len(rows):03d}.png" if shown else ""
                if name:
                    photo(draw, CLASSES[state][0]).save(folder / name)
                case = f"{hospital.split()[-1][0]}{patient:02d}"
                rows.append({
                    "photo": name, "nurse_note": note(draw, state) if said else "", "state": state,
                    "patient": case, "visit": visit + 1, "hospital": hospital,
                })  # fmt: skip
    table = folder / "wounds.csv"
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return table


if __name__ == "__main__":
    print(make(Path(sys.argv[1] if len(sys.argv) > 1 else "wounds")))
