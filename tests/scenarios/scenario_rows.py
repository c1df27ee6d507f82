"""Rows for the scenario tests."""

from fs_fedmllm.data.sample import Sample

#: Hateful Memes as the authors have it: 5,481 rows of label 0, 3,019 of label 1, the first row label 0.
HATEFUL = [0, *([1, 0] * 3019), *([0] * 2461)]


def paired(labels, per_tweet=1):
    """Rows with both modalities, ``per_tweet`` successive rows to a tweet."""
    return [
        Sample(
            id=f"r{index}",
            image=f"/img/{index}.png",
            text=f"text {index}",
            answer=str(label),
            label=label,
            keys={"tweet_id": f"t{index // per_tweet}"},
            source=f"train.jsonl:{index + 1}",
        )
        for index, label in enumerate(labels)
    ]


def hateful():
    assert (HATEFUL.count(0), HATEFUL.count(1)) == (5481, 3019)
    return paired(HATEFUL)


def medical(images=1797, texts=33951):
    """Open questions on images, and flashcards in words."""
    rad = [Sample(f"rad{i}", f"/img/{i}.jpg", None, "yes", question=f"q{i}", kind="open") for i in range(images)]
    cards = [Sample(f"card{i}", None, f"what is {i}", "that", question=f"what is {i}") for i in range(texts)]
    return rad + cards


def ids(clients):
    return {client: [row.id for row in rows] for client, rows in clients.items()}


def presence(rows):
    return {name: sum(row.presence == name for row in rows) for name in ("both", "image", "text", "neither")}
