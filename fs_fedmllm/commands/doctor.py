"""``fs-fedmllm doctor``."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

from fs_fedmllm.commands.output import print_document


def add(commands: Any) -> None:
    """Add ``doctor`` to the command line's grammar."""
    doctor = commands.add_parser("doctor", help="check the installation and the FederatedScope checkout")
    doctor.add_argument("checkout", nargs="?", default="", help="folder of FederatedScope; searched for if left out")
    doctor.add_argument("--outdir", default="exp", help="folder that runs write into")
    says = "also this site's workspace of NVFlare: class_allow_list, log streaming, its own settings"
    doctor.add_argument("--nvflare", default="", metavar="KIT", help=says)
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.set_defaults(function=_doctor)


def _doctor(args: argparse.Namespace) -> int:
    from fs_fedmllm.tools.doctor import BAD, examine_installation

    findings = examine_installation(args.checkout, args.outdir, args.nvflare)
    bad = [finding for finding in findings if finding.verdict == BAD]
    if args.json:
        print_document(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
        return 1 if bad else 0
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        print(f"{finding.verdict.ljust(7)}  {finding.subject.ljust(width)}  {finding.found}")
        if finding.remedy:
            print(f"{' ' * (width + 11)}-> {finding.remedy}")
    print(f"{len(bad)} problems" if bad else "This installation is ready.")
    return 1 if bad else 0
