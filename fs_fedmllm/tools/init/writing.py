"""A proposal as a commented configuration and a short template. Nothing is read or written here."""

from __future__ import annotations

from fs_fedmllm.data.client_names import shown_name
from fs_fedmllm.quoting import shell_word, yaml_list, yaml_word
from fs_fedmllm.tools.init.looking import Look
from fs_fedmllm.tools.init.proposal import Proposal

#: Fields of a row that ``columns`` maps, in the order to write them.
_FIELDS = ("image", "text", "question", "label", "answer", "id")
#: Rounds and steps of a first run, learning rate for the embedded model and for others.
_ROUNDS, _STEPS = 10, 4


def _line(text: str, why: str = "") -> str:
    return f"{text.ljust(46)}  # {why}" if why else text


def template_yaml(proposal: Proposal, about: str) -> str:
    """The short template."""
    lines = [f"# What rows are asked. Written by fs-fedmllm init from {shown_name(about, 80)}."]
    if proposal.task == "choice":
        lines += [
            "# The question in your own words; the prompts for rows with image, text or both follow from it.",
            f"question: {yaml_word(proposal.ask)}",
            "options:",
            *(f"  - {yaml_word(option)}" for option in proposal.options),
            "metric: macro_f1  # or accuracy; or auc of two options, with positive: the index of the one looked for",
        ]
    elif proposal.ask:
        lines += ["# Answered in words.", f"question: {yaml_word(proposal.ask)}"]
    else:
        lines += ["# Each row's own question, answered in words.", "task: vqa"]
    return "\n".join(lines) + "\n"


def config_yaml(proposal: Proposal, found: Look, *, root: str, template: str, about: str) -> str:
    """The configuration, commented.

    Args:
        proposal: what is what.
        found: what was seen.
        root: of the data, as it is to be written.
        template: path of the template, as it is to be written.
        about: what it was made from.
    """
    columns, site = proposal.columns, proposal.columns.get("site", "")
    lines = [
        f"# Written by fs-fedmllm init from {shown_name(about, 80)} ({found.total:,} rows"
        f"{'' if found.whole else ' looked at, there are more'}).",
        "# Every line can be changed. fs-fedmllm config explains every key.",
        "data:",
        "  type: own",
        f"  root: {yaml_word(root)}",
    ]
    if site:
        why = f"one client for each value of {shown_name(site)}"
        lines += [_line("  splitter: fedmllm_given", why), f"  splitter_args: [{{client: {yaml_word(site)}}}]"]
    else:
        args = ["alpha: 0.5", *(["by: kind"] if proposal.task == "vqa" else [])]
        if "group" in columns:
            args.append(f"keep_together: {yaml_word(columns['group'])}")
        lines += [
            _line("  splitter: fedmllm_aligned", "at random; fedmllm_missing and others remove modalities"),
            _line(f"  splitter_args: [{{{', '.join(args)}}}]", "a smaller alpha makes clients less alike"),
        ]
    lines += ["federate:", "  method: fedavg"]
    if proposal.clients:
        lines.append(f"  client_num: {proposal.clients}")
    judge = f"{proposal.judged}_{'macro_f1' if proposal.task == 'choice' else 'acc'}"
    lines += [
        f"  total_round_num: {_ROUNDS}",
        "model:",
        _line("  fedmllm: {path: tiny}", "embedded, for a first try on a CPU; docs/models.md names others"),
        "train:",
        _line(f"  local_update_steps: {_STEPS}", "optimizer steps of a client in a round"),
        _line("  optimizer: {type: AdamW, lr: 3.0e-3}", "for the embedded model; 2.0e-5 to 2.0e-4 for larger ones"),
        "eval:",
        "  freq: 5",
        _line(f"  best_res_update_round_wise_key: {judge}", "what picks the best round"),
        "fedmllm:",
        _line(f"  template: {yaml_word(template)}", "the question, its options, and the metric"),
        "  data:",
    ]
    if found.file:
        lines.append(f"    file: {yaml_word(found.file)}")
    if found.form.encoding:
        lines.append(_line(f"    encoding: {yaml_word(found.form.encoding)}", "of the table; --encoding said so"))
    if found.form.delimiter:
        mark = yaml_word(found.form.delimiter)
        lines.append(_line(f"    delimiter: {mark}", "between two cells; --delimiter said so"))
    title = found.file.partition(".")[0] or found.root.resolve().name
    lines.append(_line(f"    title: {yaml_word(title)}", "what results and plots call the data"))
    mapped = [(field, columns.get(field, "")) for field in _FIELDS]
    if found.layout == "classes":
        mapped = []
    # Said of image and text where there is none: a column that only looks like one is then no mistake.
    told = [(field, column) for field, column in mapped if (column or field in ("image", "text")) and column != field]
    if found.layout == "metadata":
        told = [(field, column) for field, column in told if field != "image"]
    turns = proposal.task == "vqa" and "answer" not in columns
    if told and not turns:
        lines.append("    columns:")
        for field, column in told:
            why = proposal.reasons.get(field, "") if column else f"there is no {field}"
            lines.append(_line(f"      {field}: {yaml_word(column)}", shown_name(why, 56)))
    if proposal.image_root:
        lines.append(_line(f"    image_root: {yaml_word(proposal.image_root)}", "where image paths begin"))
    if "split" in columns and columns["split"] != "split":
        lines.append(f"    split_column: {yaml_word(columns['split'])}")
    group = columns.get("group", "")
    if proposal.shares:
        shares = [f"{part}: {share:g}" for part, share in proposal.shares.items()]
        if group:
            shares.append(f"together: {yaml_word(group)}")
        why = f"rows of one {shown_name(group)} stay in one split" if group else "shares of the rows; the rest trains"
        lines.append(_line(f"    split: {{{', '.join(shares)}}}", why))
    elif group:
        lines.append(_line(f"    groups: {yaml_list([group])}", "data check says whether splits share one"))
    if proposal.absent:
        lines.append(_line(f"    absent: {yaml_list(proposal.absent)}", "texts that mean that nothing is there"))
    lines.append("  train: {batch_size: 4}")
    return "\n".join(lines) + "\n"


def next_steps(config: str) -> list[str]:
    """Command lines to run next, each with what it does as a comment of the shell."""
    named = shell_word(config)
    return [
        f"fs-fedmllm data check {named}  # looks at every row and image",
        f"fs-fedmllm data show {named}  # rows with the prompt that the model sees",
        f"fs-fedmllm data plot {named}  # who holds what, as pictures",
        f"fs-fedmllm plan {named}  # sizes, traffic and steps of the run",
        f"fs-fedmllm run {named}  # the run; it names its folder, exp/NAME",
        f"fs-fedmllm evaluate exp/NAME {named}  # the score, with intervals, by client and by what is shown",
        'fs-fedmllm predict exp/NAME --image FILE --text "..."  # or --file with rows as they are here',
    ]
