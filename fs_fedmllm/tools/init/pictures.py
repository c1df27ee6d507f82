"""Which column holds the picture of a row, where the files are, and what becomes of further columns of pictures."""

from __future__ import annotations

from collections.abc import Sequence

from fs_fedmllm.data.client_names import shown_name
from fs_fedmllm.data.column_words import words_of
from fs_fedmllm.quoting import shell_option
from fs_fedmllm.tools.init import headings
from fs_fedmllm.tools.init.looking import Column, Look
from fs_fedmllm.tools.init.places import images_below
from fs_fedmllm.tools.init.proposal import ROLES, Draft, Proposal


def choose_image(draft: Draft) -> None:
    """Take the column of images: the fullest that is called so, no mask, the first of those that are alike."""
    found, made = draft.found, draft.made
    if found.layout:
        name = "file_name" if found.layout == "metadata" else "image"
        draft.taken |= {name} if found.layout == "metadata" else {name, "id"}
        made.columns["image"] = name
        return made.say(ROLES["image"], name, "the folder holds images as Hugging Face's imagefolder does")
    if draft.said("image"):
        return
    likely = [column for column in draft.free() if column.pictures and column.mostly(column.pictures)]
    far = [column for column in likely if column.mostly(sum("://" in str(value) for value in column.sample))]
    draft.taken |= {column.name for column in far}
    for column in far:
        made.warnings.append(
            f"The column {shown_name(column.name)!r} holds addresses of images, which are not downloaded: bring "
            "the files, and give their paths."
        )
    likely = [column for column in likely if column not in far]
    if not likely:
        for column in [column for column in draft.free() if _called(column) and column not in far]:
            made.warnings.append(
                f"The column {shown_name(column.name)!r} is called like images, but its values, such as "
                f"{shown_name(str(column.sample[0]))!r}, are not names of image files, so it is not read. Give their "
                "paths, with their ending (.png)."
            )
        return made.say(ROLES["image"], "none", "no column holds names of image files")
    order = [column.name for column in likely]
    best = min(likely, key=lambda c: (_drawn(c), not _called(c), -c.seen, order.index(c.name)))
    why = "its values are images" if isinstance(best.sample[0], dict | bytes) else (
        f"its values are names of image files, such as {shown_name(str(best.sample[0]))}"
    )  # fmt: skip
    if len(likely) > 1:
        why += f"; {_chosen(best, [column for column in likely if column is not best])}"
    draft.take("image", best, why)


def _called(column: Column) -> bool:
    words = words_of(column.name)
    return bool(words & headings.IMAGE) and words <= headings.IMAGE | headings.PATH and not column.numbers


def _drawn(column: Column) -> bool:
    return headings.has(column.name, headings.DRAWN)


def _chosen(best: Column, others: Sequence[Column]) -> str:
    """Why this one of several."""
    if all(_drawn(column) and not _drawn(best) for column in others):
        return "the others are called like masks or previews" if len(others) > 1 else "the other is not a photograph"
    if _called(best) and not any(map(_called, others)):
        return "its name says so"
    if best.seen > max(column.seen for column in others):
        return f"of {len(others) + 1} columns of images the one with most values"
    return f"the first of {len(others) + 1} columns of images"


def say_left_out(draft: Draft) -> None:
    """In one line, which further columns of pictures are left out, and how they would be used."""
    made, image = draft.made, draft.made.columns.get("image")
    others = [c.name for c in draft.free() if c.pictures and c.mostly(c.pictures)]
    if not image or not others:
        return
    group = made.columns.get("group")
    together = f", kept together by {shown_name(group)}" if group else ""
    shown, are = ", ".join(map(shown_name, others)), "is" if len(others) == 1 else "are"
    made.warnings.append(
        f"A row shows one picture: that of {shown_name(image)} is taken, {shown} {are} not read. In its place: "
        f"{shell_option('image', others[0])}. Both: write a row for each picture{together}, or join them into one."
    )


def place_images(proposal: Proposal, found: Look) -> None:
    """Say in which folder the images lie, or that they are nowhere.

    Args:
        proposal: the folder goes into it, and what is to be said.
        found: whose rows.
    """
    column = found.columns.get(proposal.columns.get("image", ""))
    if column is None or found.layout:
        return
    below = images_below(found.root, column.sample)
    if below:
        proposal.image_root = below
        proposal.say("image folder", below, "the images are there")
    elif below is None:
        proposal.warnings.append(
            f"The images are not found: {column.sample[0]!r} is not a file in {found.root}, nor in a folder "
            "there. Put them there, or correct the column."
        )
