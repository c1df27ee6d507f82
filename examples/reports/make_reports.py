"""Make the rows of the river flood: images/ and reports.jsonl. Everything is made up and drawn by this file.

    python make_reports.py [FOLDER]

Four districts collect short reports after a flood. Some come with a picture and words, some with one of the two: a
drone sends pictures, a telephone line only words. Every picture says that it is synthetic. Rows, pictures and this
file are under the licence of the repository (Apache-2.0).
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw

#: District -> rows, share with a picture, share with words.
DISTRICTS = {
    "Upper Valley": (48, 0.9, 0.5),
    "Riverside": (36, 0.7, 0.9),
    "Old Town": (24, 0.2, 1.0),
    "Hills": (16, 0.6, 0.6),
}
PLACES = ("mill bridge", "station road", "school", "market", "north dam", "clinic", "bus depot", "chapel")
#: Class -> what people write.
TOPICS = {
    "damage": (
        "Water stands in the cellar of the {place}.",
        "The road at the {place} is gone.",
        "Walls cracked near the {place}.",
    ),
    "help offered": (
        "We have {n} beds free at the {place}.",
        "Boats with fuel wait at the {place}.",
        "Soup for {n} people at the {place}.",
    ),
    "help needed": (
        "{n} people wait on a roof by the {place}.",
        "No water at the {place} since noon.",
        "Please send medicine to the {place}.",
    ),
    "not relevant": (
        "Lovely sunset over the {place} today.",
        "Who won the match at the {place}?",
        "New opening hours at the {place}.",
    ),
}
SIZE = 96


def picture(draw: random.Random, topic: str) -> Image.Image:
    """A house, the water, and who is there; and the word that says what it is."""
    sky = (170, 190, 210) if topic != "not relevant" else (250, 190, 120)
    image = Image.new("RGB", (SIZE, SIZE), tuple(part + draw.randrange(-10, 6) for part in sky))
    pen = ImageDraw.Draw(image)
    x, ground = draw.randrange(10, 44), 66
    pen.rectangle((0, ground, SIZE, SIZE), fill=(96, 130, 80))
    pen.rectangle((x, 36, x + 34, ground), fill=(200, 180, 150))
    pen.polygon([(x - 4, 36), (x + 17, 18), (x + 38, 36)], fill=(140, 60, 50))
    if topic in ("damage", "help needed"):
        pen.rectangle((0, draw.randrange(48, 58), SIZE, SIZE), fill=(110, 110, 90))
    if topic == "damage":
        pen.line((x + 6, 36, x + 16, 48, x + 8, 58), fill=(20, 20, 20), width=2)
    if topic == "help needed":
        for i in range(draw.randrange(2, 5)):
            pen.ellipse((x + 5 + 8 * i, 20, x + 10 + 8 * i, 25), fill=(30, 30, 30))
    if topic == "help offered":
        pen.rectangle((58, 52, 84, 66), fill=(240, 240, 240))
        pen.line((71, 54, 71, 64), fill=(200, 0, 0), width=4)
        pen.line((66, 59, 76, 59), fill=(200, 0, 0), width=4)
    for _ in range(80):
        pen.point((draw.randrange(SIZE), draw.randrange(SIZE)), (draw.randrange(256),) * 3)
    pen.rectangle((0, SIZE - 13, SIZE, SIZE), fill="white")
    pen.text((20, SIZE - 13), "synthetic", fill="black")
    return image


def make(folder: Path, seed: int = 11) -> Path:
    """Write the pictures and the rows; the same ones for the same seed.

    Args:
        folder: made if it is not there.
        seed: of all that is drawn.

    Returns:
        The file of rows.
    """
    draw = random.Random(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for district, (count, pictured, written) in DISTRICTS.items():
        for _ in range(count):
            topic = draw.choice(list(TOPICS))
            shown, said = draw.random() < pictured, draw.random() < written
            if not shown and not said:
                said = True
            number = len(rows)
            name = f"images/{number:03d}.png" if shown else None
            if name:
                picture(draw, topic).save(folder / name)
            words = draw.choice(TOPICS[topic]).format(place=draw.choice(PLACES), n=draw.randrange(2, 60))
            rows.append({
                "id": f"r{number:03d}", "image": name, "report": words if said else None, "topic": topic,
                "district": district, "hour": number % 24,
            })  # fmt: skip
    draw.shuffle(rows)
    file = folder / "reports.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


if __name__ == "__main__":
    print(make(Path(sys.argv[1] if len(sys.argv) > 1 else "reports")))
