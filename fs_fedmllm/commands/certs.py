"""``fs-fedmllm certs``: the keys and certificates of a federation."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fs_fedmllm.errors import ConfigError
from fs_fedmllm.extras import require_extra


def add(commands: Any) -> None:
    """Add ``certs`` to the command line's grammar."""
    certs = commands.add_parser("certs", help="make and show the certificates of a distributed federation")
    verbs = certs.add_subparsers(dest="verb", required=True, metavar="VERB")

    init = _verb(verbs, "init", "make the federation's authority; its ca.key stays where it is", _init, days=3650)
    init.add_argument("--name", required=True, help="the federation's name: lower-case letters, digits, hyphens")

    server = _verb(verbs, "server", "make the server's key and certificate", _issue, days=365)
    _hosts(server)
    server.add_argument("--out", help="another folder for the key and the certificate, to be carried to the server")

    client = _verb(verbs, "client", "make a site's key and certificate", _issue, days=365)
    client.add_argument("--id", type=int, required=True, help="client id, from 1")
    client.add_argument("--out", help="another folder for the key and the certificate, to be carried to the site")

    request = _verb(verbs, "request", "at a site: make a key that never leaves it, and a request to sign", _ask)
    request.add_argument("--name", required=True, help="the federation's name")
    _whose(request)

    sign = _verb(verbs, "sign", "at the authority: sign a site's request", _sign, days=365)
    sign.add_argument("request", help="the .csr that the site sent")
    _whose(sign)

    revoke = _verb(verbs, "revoke", "put a certificate on revoked.txt, which the server reads", _revoke)
    revoke.add_argument("certificate", help="the .crt")

    _verb(verbs, "show", "list the certificates of a folder, their owners and expiry", _show)


def _verb(verbs: Any, name: str, says: str, function: Any, days: int = 0) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=says, description=says)
    parser.add_argument("--folder", default="certs", help="folder of the certificates (default certs)")
    if days:
        parser.add_argument("--days", type=int, default=days, help=f"how long it is valid (default {days})")
    parser.set_defaults(function=function)
    return parser


def _hosts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--host", action="append", default=[], help="host name or address of the server, as clients write it; repeat"
    )


def _whose(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--id", type=int, help="client id, from 1; leave it out for the server")
    _hosts(parser)


def _client(args: argparse.Namespace) -> int:
    """The client id; 0 for the server."""
    number = getattr(args, "id", None)
    if number is not None and not 1 <= number < 10**9:
        raise ConfigError(f"--id is {number}; client ids begin with 1.")
    if hasattr(args, "days") and not 1 <= args.days <= 36500:
        raise ConfigError(f"--days is {args.days}; it must be from 1 to 36500.")
    return int(number or 0)


def _authority() -> Any:
    require_extra("distributed", "fs-fedmllm certs", "cryptography")
    from fs_fedmllm.distributed import authority

    return authority


def _init(args: argparse.Namespace) -> int:
    _client(args)
    made = _authority().create_authority(Path(args.folder), args.name, args.days)
    print(f"{args.folder}/ca.crt  valid until {made.not_valid_after_utc:%Y-%m-%d}; give it to every site")
    print(f"{args.folder}/ca.key  whoever has it can make clients: keep it off the server and off every site")
    return 0


def _issue(args: argparse.Namespace) -> int:
    client, out = _client(args), Path(args.out or args.folder)
    made = _authority().create_identity(Path(args.folder), client, getattr(args, "host", ()), args.days, out)
    name = f"client-{client}" if client else "server"
    print(f"{out / name}.crt  valid until {made.not_valid_after_utc:%Y-%m-%d}")
    print(f"{out / name}.key  secret; it belongs on {name} only, with {name}.crt and ca.crt beside it")
    return 0


def _ask(args: argparse.Namespace) -> int:
    authority = _authority()
    path = authority.create_request(Path(args.folder), args.name, _client(args), args.host)
    print(f"{path}  send it to the federation's authority; what comes back goes beside it, with ca.crt")
    print(f"sha256 of the key, to compare by telephone: {authority.key_fingerprint(path)}")
    return 0


def _sign(args: argparse.Namespace) -> int:
    authority = _authority()
    request = Path(args.request)
    path, made = authority.sign_request(Path(args.folder), request, _client(args), args.host, args.days)
    print(f"{path}  valid until {made.not_valid_after_utc:%Y-%m-%d}; send it back, with {args.folder}/ca.crt")
    print(f"sha256 of the key, to compare by telephone: {authority.key_fingerprint(request)}")
    return 0


def _revoke(args: argparse.Namespace) -> int:
    serial = _authority().revoke(Path(args.folder), Path(args.certificate))
    print(f"{args.folder}/revoked.txt now has {serial:x}; it must lie beside the server's certificate")
    return 0


def _show(args: argparse.Namespace) -> int:
    authority = _authority()
    from fs_fedmllm.distributed.identity import REVOKED, Revoked, load_certificate

    folder = Path(args.folder)
    found = sorted(folder.glob("*.crt"))
    if not found:
        raise ConfigError(f"There are no certificates in {folder}.")
    revoked = Revoked(folder / REVOKED)
    for path in found:
        certificate = load_certificate(path)
        said = f"valid until {certificate.not_valid_after_utc:%Y-%m-%d}"
        if certificate.serial_number in revoked:
            said += ", REVOKED"
        key = " and key" if path.with_suffix(".key").exists() else ""
        print(f"{path}{key}  {said}, sha256 {authority.fingerprint(certificate)}")
    return 0
