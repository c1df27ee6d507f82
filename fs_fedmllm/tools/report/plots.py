"""Pictures of the heterogeneity: who holds which labels, modalities and kinds of rows.

Counts are stacked bars, one bar a client, always in ascending order of the clients' ids; labels by modality are a grid
for each client. Every picture is written as PNG and SVG.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fs_fedmllm.data.client_names import called, shown_name
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.tools.report.canvas import HATCHES, MARKERS, as_drawn, count_axis, pyplot, save, shades
from fs_fedmllm.tools.report.tallies import ASKING, CASES, categories, labels_by_modality, labels_of, modalities_of

if TYPE_CHECKING:
    from fs_fedmllm.scenarios.federated_data import FederatedData
    from fs_fedmllm.tools.report.embedding import Features

#: More parts than this are summed up as ``REST``.
MOST_PARTS = 10
REST = "other"


def draw_all(data: FederatedData, folder: Path, *, features: Features | None = None, seed: int = 0) -> list[Path]:
    """Draw every picture that the data has something for.

    Args:
        data: after the scenario.
        folder: where to write; made if it is not there.
        features: of the clients' rows, for the embedding.
        seed: of the embedding.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    title = f"{data.dataset.called}, {data.manifest.scenario}"
    written: list[Path] = []
    labels = list(data.template.options)
    if labels:
        written += draw_counts(labels_of(data.clients, labels), f"{title}: labels", folder / "labels", order=labels,
                               names=data.names)  # fmt: skip
        grids = labels_by_modality(data.clients, labels)
        written += draw_grids(grids, f"{title}: labels by modality", folder / "labels_by_modality", order=labels,
                              names=data.names)  # fmt: skip
    written += draw_counts(modalities_of(data.clients), f"{title}: modalities", folder / "modalities",
                           order=[*CASES.values(), *ASKING.values()], names=data.names)  # fmt: skip
    for name, rows in categories(data):
        part = name.rpartition(", ")[2].replace(" ", "_")
        written += draw_bars(rows, f"{data.dataset.called}: {name}", folder / f"{part}")
    if features is not None:
        written += draw_embedding(features, f"{title}: features", folder / "embedding", seed, names=data.names)
    return written


def _parts(counts: Mapping[Any, Counter[str]], order: Sequence[str]) -> tuple[list[str], dict[Any, Counter[str]]]:
    """The parts that occur, in order; beyond ``MOST_PARTS`` the rarest are summed up."""
    total: Counter[str] = sum(counts.values(), Counter())
    names = [name for name in order if total[name]] or sorted(total, key=lambda n: (-total[n], n))
    names += sorted((name for name in total if name not in names), key=lambda n: (-total[n], n))
    if len(names) <= MOST_PARTS:
        return names, dict(counts)
    kept = set(sorted((name for name in names if name != REST), key=lambda n: (-total[n], n))[: MOST_PARTS - 1])
    merged = {}
    for key, own in counts.items():
        merged[key] = Counter({name: count for name, count in own.items() if name in kept})
        merged[key][REST] = own.total() - merged[key].total()
    return [*(name for name in names if name in kept), REST], merged


#: Clients whose bars have a number on top and a name below; of more, the bars alone are drawn.
MOST_NUMBERED = 80
#: Clients in a picture of grids; of more, those with the most rows.
MOST_GRIDS = 50


def label_of(client: int, names: Mapping[int, str]) -> str:
    """A client on an axis: its id and, where it has one, its name."""
    return as_drawn(called(client, {client: shown_name(names[client], 24)} if client in names else {}))


def draw_counts(
    counts: Mapping[int, Counter[str]],
    title: str,
    path: Path,
    *,
    order: Sequence[str],
    names: Mapping[int, str] = MappingProxyType({}),
) -> list[Path]:
    """Stacked bars, one a client.

    Args:
        counts: client -> rows by part.
        title: of the picture.
        path: without an ending.
        order: parts from bottom to top; what occurs beyond them follows.
        names: of the clients, where they have some.
    """
    plt = pyplot()
    parts, counts = _parts(counts, order)
    clients = sorted(counts)
    few = len(clients) <= MOST_NUMBERED
    width = max(6.0, 2.2 + 0.45 * min(len(clients), MOST_NUMBERED))
    figure, axes = plt.subplots(figsize=(width, 4.6), layout="constrained")
    bottom = [0] * len(clients)
    for name, colour, hatch in zip(parts, shades(len(parts)), HATCHES if few else [""] * len(HATCHES), strict=False):
        heights = [counts[client][name] for client in clients]
        edge = "white" if sum(colour[:3]) < 1.4 else "black"
        axes.bar(range(len(clients)), heights, bottom=bottom, label=as_drawn(name, LONGEST_PART), color=colour,
                 hatch=hatch, edgecolor=edge, linewidth=0.4 if few else 0)  # fmt: skip
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    for place, total in enumerate(bottom if few else ()):
        axes.annotate(f"{total:,}", (place, total), ha="center", va="bottom", fontsize=8, xytext=(0, 2),
                      textcoords="offset points", rotation=90 if len(clients) > 14 else 0)  # fmt: skip
    axes.set_ylim(0, 1.12 * max(bottom))  # room for the numbers
    count_axis(axes.yaxis)
    if few:
        shown = [label_of(client, names) for client in clients]
        slanted = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if max(map(len, shown)) > 4 else {}
        axes.set_xticks(range(len(clients)), shown, **slanted)
    axes.set(title=as_drawn(title), xlabel="client", ylabel="training rows")
    axes.spines[["top", "right"]].set_visible(False)
    columns = 2 if max(len(name) for name in parts) > LONGEST else 3
    handles, said = axes.get_legend_handles_labels()
    figure.legend(handles, said, loc="outside lower center", ncols=min(columns, len(parts)), fontsize=9,
                  frameon=False, handlelength=2.4, handleheight=1.4)  # fmt: skip
    return save(plt, figure, path)


#: Clients side by side in a picture of grids.
ACROSS = 5
#: Longest name of a label on an axis, and beside its colour.
LONGEST, LONGEST_PART = 24, 60


def draw_grids(
    grids: Mapping[int, Counter[tuple[str, str]]],
    title: str,
    path: Path,
    *,
    order: Sequence[str],
    names: Mapping[int, str] = MappingProxyType({}),
) -> list[Path]:
    """A grid for each client: labels down, what rows show across, a number in every cell (the paper's Figures 8, 10).

    A cell's shade is its share of the client's rows, by one scale for all clients, so a client with few rows can be
    read as well as one with many; the numbers say how many rows there are.

    Args:
        grids: client -> rows by (label, what they show).
        title: of the picture.
        path: without an ending.
        order: labels from top to bottom; what occurs beyond them follows.
        names: of the clients, where they have some.
    """
    plt = pyplot()
    if len(grids) > MOST_GRIDS:
        most = sorted(grids, key=lambda client: (-grids[client].total(), client))[:MOST_GRIDS]
        title = f"{title} ({MOST_GRIDS} of {len(grids):,} clients, those with the most rows)"
        grids = {client: grids[client] for client in most}
    total: Counter[tuple[str, str]] = sum(grids.values(), Counter())
    labels = [*order, *sorted({label for label, _ in total} - set(order))]
    shown = [case for case in (*CASES.values(), *ASKING.values()) if any(name == case for _, name in total)]
    clients = sorted(grids)
    columns = min(ACROSS, len(clients))
    lines = -(-len(clients) // columns)
    wide, high = 0.5 + 0.62 * len(shown), 0.75 + 0.3 * len(labels)
    told = [as_drawn(label, LONGEST) for label in labels]
    margin = 0.3 + 0.085 * max(len(name) for name in told)
    size = (max(5.0, margin + columns * wide), 1.9 + lines * high)
    densest = max(count / own.total() for own in grids.values() for count in own.values())
    figure, axes = plt.subplots(lines, columns, figsize=size, layout="constrained", squeeze=False)
    colours = plt.get_cmap("Greys")
    for place, axis in enumerate(axes.flat):
        if place >= len(clients):
            axis.set_visible(False)
            continue
        own = grids[clients[place]]
        rows = max(1, own.total())
        shares = [[own[label, case] / rows for case in shown] for label in labels]
        axis.imshow(shares, cmap=colours, vmin=0, vmax=1.25 * densest, aspect="auto")
        for down, label in enumerate(labels):
            for across, case in enumerate(shown):
                if own[label, case]:
                    axis.text(across, down, f"{own[label, case]:,}", ha="center", va="center", fontsize=7,
                              color="white" if shares[down][across] > 0.7 * densest else "black")  # fmt: skip
        below = place + columns >= len(clients)  # nothing stands under it
        axis.set_xticks(range(len(shown)), shown if below else [], rotation=90, fontsize=8)
        axis.set_yticks(range(len(labels)), told if place % columns == 0 else [], fontsize=8)
        axis.set_xticks([edge + 0.5 for edge in range(len(shown) - 1)], minor=True)
        axis.set_yticks([edge + 0.5 for edge in range(len(labels) - 1)], minor=True)
        axis.grid(which="minor", color="0.8", linewidth=0.5)
        axis.tick_params(which="both", length=0)
        called_so = label_of(clients[place], {c: shown_name(name, 14) for c, name in names.items()})
        axis.set_title(f"{'' if names else 'client '}{called_so}: {own.total():,}", fontsize=7 if names else 9)
    figure.suptitle(as_drawn(title))
    return save(plt, figure, path)


def draw_bars(counts: Mapping[str, Counter[str]], title: str, path: Path) -> list[Path]:
    """Horizontal bars of a category, a bar for each split."""
    plt = pyplot()
    names, counts = _parts(counts, ())
    splits = list(counts)
    figure, axes = plt.subplots(figsize=(7.0, 1.6 + 0.42 * len(names)), layout="constrained")
    height = 0.8 / len(splits)
    for i, (split, colour, hatch) in enumerate(zip(splits, shades(len(splits)), HATCHES, strict=False)):
        places = [place + (i - (len(splits) - 1) / 2) * height for place in range(len(names))]
        bars = axes.barh(places, [counts[split][name] for name in names], height, label=as_drawn(split), color=colour,
                         hatch=hatch, edgecolor="white" if sum(colour[:3]) < 1.4 else "black",
                         linewidth=0.4)  # fmt: skip
        axes.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=8)
    axes.set_yticks(range(len(names)), [as_drawn(name, LONGEST_PART) for name in names])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * max(count for own in counts.values() for count in own.values()))
    count_axis(axes.xaxis)
    axes.set(title=as_drawn(title), xlabel="rows")
    axes.spines[["top", "right"]].set_visible(False)
    if len(splits) > 1:
        figure.legend(loc="outside lower center", ncols=2, frameon=False, handlelength=2.4, handleheight=1.4)
    return save(plt, figure, path)


def draw_embedding(
    features: Features, title: str, path: Path, seed: int, *, names: Mapping[int, str] = MappingProxyType({})
) -> list[Path]:
    """Vision and text features, each embedded in two dimensions by t-SNE; a colour and a marker for each client."""
    plt = pyplot()
    parts = {name: part for name, part in (("vision", features.vision), ("text", features.text)) if len(part[0]) > 3}
    if not parts:
        raise ConfigError("There are too few rows to embed; raise --rows.")
    clients = sorted({client for _, owners in parts.values() for client in owners})
    colours = shades(len(clients))
    figure, grid = plt.subplots(1, len(parts), figsize=(5.2 * len(parts), 5.4), layout="constrained", squeeze=False)
    for axes, (name, (vectors, owners)) in zip(grid[0], parts.items(), strict=True):
        places = embed(vectors, seed)
        for index, client in enumerate(clients):
            chosen = [i for i, owner in enumerate(owners) if owner == client]
            axes.scatter(places[chosen, 0], places[chosen, 1], s=22, color=colours[index],
                         marker=MARKERS[index % len(MARKERS)], edgecolor="black", linewidth=0.3)  # fmt: skip
        axes.set(title=f"{name} features", xticks=[], yticks=[])
    figure.suptitle(as_drawn(title))
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="", marker=MARKERS[i % len(MARKERS)], color=colours[i], markeredgecolor="black",
               markeredgewidth=0.3, label=f"client {label_of(client, names)}")
        for i, client in enumerate(clients)
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4 if names else 10, len(clients)),
                  frameon=False, fontsize=9, columnspacing=1.0, handletextpad=0.2)  # fmt: skip
    return save(plt, figure, path)


def embed(vectors: Any, seed: int) -> Any:
    """(rows, 2) places of t-SNE (van der Maaten and Hinton 2008); the same for the same seed."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(vectors) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(vectors)
