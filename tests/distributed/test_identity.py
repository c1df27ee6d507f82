"""Certificates: made by the command, checked when they are loaded, and in the handshake."""

from __future__ import annotations

import datetime
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from waiting import LONG

from fs_fedmllm.cli import main
from fs_fedmllm.config.network import NetworkConfig
from fs_fedmllm.distributed.authority import create_authority, create_identity, revoke
from fs_fedmllm.distributed.client import RoundClient
from fs_fedmllm.distributed.contracts import NO_TENSORS, Contract
from fs_fedmllm.distributed.errors import CertificateError, IdentityError, RefusedError, UnreachableError
from fs_fedmllm.distributed.identity import (
    Identity,
    Role,
    load_certificate,
    load_key,
    pem,
    role_of,
)
from fs_fedmllm.distributed.journal import Journal, StatusFile
from fs_fedmllm.distributed.messages import Message
from fs_fedmllm.distributed.site_store import SiteStore
from fs_fedmllm.distributed.transport import Exchange, Peer, TransportServer
from fs_fedmllm.distributed.transport_client import TransportClient


def echo(peer: Peer, message: Message, exchange: Exchange) -> Message:
    return Message("echo", {"from": peer.client, "federation": peer.federation})


def certs(*words: str | Path) -> int:
    return main(["certs", *map(str, words)])


@pytest.fixture
def site(certificates: Path, tmp_path: Path) -> Path:
    """What lies at client 3."""
    for name in ("ca.crt", "client-3.crt", "client-3.key"):
        shutil.copy2(certificates / name, tmp_path / name)
    return tmp_path


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another federation with the same name and ids."""
    folder = tmp_path_factory.mktemp("foreign")
    create_authority(folder, "ward-study")
    create_identity(folder, 0, ["127.0.0.1"])
    create_identity(folder, 3)
    return folder


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_makes_a_federation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, site = tmp_path / "certs", tmp_path / "site"
    at = ("--folder", folder)
    assert certs("init", "--name", "ward-study", *at) == 0
    assert certs("server", "--host", "fl.example.org", "--host", "127.0.0.1", *at) == 0
    assert certs("client", "--id", "3", "--days", "30", "--out", tmp_path / "three", *at) == 0
    assert certs("request", "--name", "ward-study", "--id", "4", "--folder", site) == 0
    asked = capsys.readouterr().out
    shutil.copy(site / "client-4.csr", tmp_path)  # all that travels
    assert certs("sign", tmp_path / "client-4.csr", "--id", "4", *at) == 0
    told = capsys.readouterr().out
    assert asked.splitlines()[-1] == told.splitlines()[-1] and "sha256" in told  # to compare by telephone
    for file in (tmp_path / "client-4.crt", folder / "ca.crt"):
        shutil.copy(file, site)
    for made, client in ((folder, 0), (tmp_path / "three", 3), (site, 4)):
        assert Identity.load(made, client).role == Role("ward-study", client)
    for key in tmp_path.rglob("*.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert sorted(file.name for file in site.iterdir()) == ["ca.crt", "client-4.crt", "client-4.csr", "client-4.key"]
    until = load_certificate(tmp_path / "three" / "client-3.crt").not_valid_after_utc
    assert datetime.timedelta(29) < until - datetime.datetime.now(datetime.UTC) < datetime.timedelta(31)
    assert certs("show", *at) == 0
    shown = capsys.readouterr().out
    assert "server.crt and key" in shown and "valid until" in shown
    assert "PRIVATE" not in asked + told + shown


@pytest.mark.parametrize("name", ["ca", "server", "client-3"])
@pytest.mark.parametrize("suffix", [".key", ".crt"])
def test_nothing_is_overwritten(name: str, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither half of a pair: a lost certificate must not cost the key."""
    if name != "ca":
        create_authority(tmp_path, "ward-study")
    (tmp_path / f"{name}{suffix}").write_text("mine")
    words = {"ca": ("init", "--name", "x"), "server": ("server", "--host", "h"), "client-3": ("client", "--id", "3")}
    assert certs(*words[name], "--folder", tmp_path) == 2
    assert "there already" in capsys.readouterr().err
    assert (tmp_path / f"{name}{suffix}").read_text() == "mine"
    assert not (tmp_path / f"{name}{'.crt' if suffix == '.key' else '.key'}").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("client", "--id", "0"), "begin with 1"),
        (("client", "--id", "3", "--days", "0"), "--days"),
        (("server",), "--host"),
        (("server", "--host", "*.example.org"), "host name"),
        (("server", "--host", "h:50"), "host name"),
        (("init", "--name", "Ward Study"), "federation's name"),
        (("sign", "nothing.csr", "--id", "3"), "nothing.csr"),
        (("request", "--id", "3", "--name", "x/y"), "federation's name"),
        (("request", "--id", "3", "--name", "x", "--host", "h"), "--host"),
        (("revoke", "nothing.crt"), "nothing.crt"),
        (("show",), "no certificates"),
    ],
)
def test_words_that_are_refused(
    words: tuple[str, ...], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "certs"
    if words[0] not in ("init", "show", "request"):
        create_authority(folder, "ward-study")
    assert certs(*words, "--folder", folder) == 2
    assert says in capsys.readouterr().err


def test_requests_are_signed_for_whom_the_authority_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    create_authority(tmp_path / "a", "ward-study")
    at = ("--folder", tmp_path / "a")
    site = tmp_path / "site"
    assert certs("request", "--name", "ward-study", "--id", "4", "--folder", site) == 0
    assert certs("request", "--name", "other-study", "--id", "5", "--folder", site) == 0
    assert certs("request", "--name", "ward-study", "--host", "evil.example.org", "--folder", site) == 0
    broken = site / "client-6.csr"
    body = (site / "client-4.csr").read_text().splitlines()
    body[3] = body[3][:20] + ("A" if body[3][20] != "A" else "B") + body[3][21:]
    broken.write_text("\n".join(body))
    for file, who, says in (
        ("client-4.csr", ("--id", "3"), "asks for client-4"),
        ("client-4.csr", ("--host", "h"), "asks for client-4"),
        ("client-5.csr", ("--id", "5"), "other-study"),
        ("server.csr", ("--host", "fl.example.org"), "evil.example.org"),
        ("server.csr", ("--id", "4"), "asks for server"),
        ("client-6.csr", ("--id", "4"), "client-6.csr"),
    ):
        assert certs("sign", site / file, *who, *at) == 2
        assert says in capsys.readouterr().err
    assert not list(site.glob("*.crt"))


# --- loading --------------------------------------------------------------------------------------------------------


def _remove(name: str) -> Callable[[Path, Path, Path], object]:
    return lambda site, own, foreign: (site / name).unlink()


def _expire(site: Path, own: Path, foreign: Path) -> None:
    for name in ("client-3.crt", "client-3.key"):
        (site / name).unlink()
    create_identity(own, 3, days=0, out=site)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_remove("ca.crt"), "ca.crt cannot be read"),
        (_remove("client-3.crt"), "client-3.crt cannot be read"),
        (_remove("client-3.key"), "client-3.key cannot be read"),
        (lambda site, own, foreign: (site / "client-3.key").chmod(0o640), "chmod 600"),
        (lambda site, own, foreign: (site / "client-3.crt").write_text("x"), "not a readable PEM certificate"),
        (lambda site, own, foreign: (site / "client-3.key").write_text("x"), "not a private key"),
        (lambda site, own, foreign: shutil.copy2(foreign / "ca.crt", site), "not issued by"),
        (lambda site, own, foreign: shutil.copy2(foreign / "client-3.crt", site), "not issued by"),
        (lambda site, own, foreign: shutil.copy2(foreign / "client-3.key", site), "not the key of"),
        (lambda site, own, foreign: [shutil.copy2(own / f"client-4.{end}", site / f"client-3.{end}")
                                     for end in ("crt", "key")], "certificate of client-4, not of client-3"),
        (lambda site, own, foreign: [shutil.copy2(own / f"ca.{end}", site / f"client-3.{end}")
                                     for end in ("crt", "key")], "does not say which client"),
        (_expire, "expired on"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_sites_files(
    change: Callable[[Path, Path, Path], object], says: str, site: Path, certificates: Path, foreign: Path
) -> None:
    assert Identity.load(site, 3).role.client == 3
    change(site, certificates, foreign)
    with pytest.raises(IdentityError, match=says):
        Identity.load(site, 3)


def test_a_key_is_not_printed(certificates: Path) -> None:
    identity = Identity.load(certificates, 3)
    assert b"PRIVATE KEY" in identity.key and "PRIVATE" not in repr(identity)


def test_a_certificate_says_one_thing(certificates: Path) -> None:
    for client, uri in ((0, "fedmllm://ward-study/server"), (3, "fedmllm://ward-study/client/3")):
        certificate = load_certificate(certificates / f"{Role('', client).name}.crt")
        assert role_of(certificate) == Role("ward-study", client) and role_of(certificate).uri == uri
        assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


# --- handshakes -----------------------------------------------------------------------------------------------------


def show(folder: Path, name: str, authority: Path, client: int) -> Identity:
    """What a liar shows: any certificate and key, and trust in any authority."""
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    load_key(key)
    return Identity(
        Role("ward-study", client), (authority / "ca.crt").read_bytes(), pem(load_certificate(certificate)),
        key.read_bytes(),
    )  # fmt: skip


def ask(server: Identity, client: Identity) -> Message:
    with (
        TransportServer("127.0.0.1:0", echo, server) as running,
        TransportClient(f"127.0.0.1:{running.port}", client) as connection,
    ):
        return connection.exchange(Message("hello"), LONG)


def test_clients_that_the_server_does_not_know(certificates: Path, foreign: Path, tmp_path: Path) -> None:
    server = Identity.load(certificates)
    assert ask(server, Identity.load(certificates, 3)).header == {"from": 3, "federation": "ward-study"}
    create_identity(certificates, 7, days=0, out=tmp_path)
    for liar in (
        show(foreign, "client-3", certificates, 3),
        show(tmp_path, "client-7", certificates, 7),  # expired
        show(certificates, "server", certificates, 3),  # not a client's
        Identity(Role("ward-study", 3), (certificates / "ca.crt").read_bytes(), None, None),  # type: ignore[arg-type]
        Identity.plaintext(3),
    ):
        with pytest.raises((UnreachableError, CertificateError)):
            ask(server, liar)


def test_servers_that_a_client_does_not_know(certificates: Path, foreign: Path, tmp_path: Path) -> None:
    client = Identity.load(certificates, 3)
    create_identity(certificates, 0, ["other.example.org"], out=tmp_path / "elsewhere")
    create_identity(certificates, 0, ["127.0.0.1"], days=0, out=tmp_path / "old")
    for liar, says in (
        (show(foreign, "server", certificates, 0), "another authority"),
        (show(certificates, "client-4", certificates, 0), "unsuitable"),
        (show(tmp_path / "elsewhere", "server", certificates, 0), "for other.example.org, not for 127.0.0.1"),
        (show(tmp_path / "old", "server", certificates, 0), "expired"),
    ):
        with pytest.raises(CertificateError, match=rf"was not accepted: .*{says}"):
            ask(liar, client)
    with pytest.raises(UnreachableError):
        ask(Identity.plaintext(), client)


def test_a_site_does_not_call_on_and_on_where_certificates_do_not_fit(certificates: Path, tmp_path: Path) -> None:
    """Six hours of give_up, and no pause: it ends with the first call, whichever error gRPC makes of it."""
    create_identity(certificates, 0, ["other.example.org"], out=tmp_path / "elsewhere")
    create_identity(certificates, 9, days=0, out=tmp_path / "old")
    mine = Identity.load(certificates, 3)
    expired = show(tmp_path / "old", "client-9", certificates, 3)
    journal, pauses = Journal(tmp_path, "client 3"), []

    def join(server: Identity, who: Identity, host: str) -> None:
        with (
            TransportServer("127.0.0.1:0", echo, server) as running,
            TransportClient(f"{host}:{running.port}", who) as channel,
        ):
            store = SiteStore(tmp_path / "state", "nobody")
            site = RoundClient(
                channel, 3, {}, {}, store, NetworkConfig(), journal, StatusFile(tmp_path), sleep=pauses.append
            )  # fmt: skip
            site.run()

    elsewhere = show(tmp_path / "elsewhere", "server", certificates, 0)
    for host in ("127.0.0.1", "localhost"):  # the second has an address that nobody listens on
        with pytest.raises(CertificateError, match=r"fedmllm\.network\.address"):
            join(elsewhere, mine, host)
    with pytest.raises(CertificateError, match="certificate of client-3 expired"):
        join(Identity.load(certificates), expired, "127.0.0.1")
    for file in (*certificates.glob("ca.*"), *certificates.glob("server.*")):
        shutil.copy2(file, tmp_path)
    revoke(tmp_path, certificates / "client-3.crt")
    with pytest.raises(CertificateError, match="revoked"):
        join(Identity.load(tmp_path), mine, "127.0.0.1")
    assert not pauses


def test_an_outsider_is_refused_before_a_byte_is_read(certificates: Path) -> None:
    asked = []

    def admits(peer: Peer) -> None:
        if peer.client != 3:
            raise RefusedError("not in this run")

    def contract(peer: Peer, kind: str, header: object) -> Contract:
        asked.append(peer.client)
        return NO_TENSORS

    with TransportServer("127.0.0.1:0", echo, Identity.load(certificates), None, contract, admits) as running:
        for client in (3, 4):
            with TransportClient(f"127.0.0.1:{running.port}", Identity.load(certificates, client)) as connection:
                if client == 3:
                    assert connection.exchange(Message("status"), LONG).header["from"] == 3
                    continue
                for _ in range(3):
                    with pytest.raises(RefusedError, match="not in this run"):
                        connection.exchange(Message("status"), LONG)
        assert asked == [3]


def test_a_certificate_says_who_speaks_whatever_the_client_believes(certificates: Path) -> None:
    """Client 4's key in the hands of somebody who calls himself client 3: he is client 4."""
    assert ask(Identity.load(certificates), show(certificates, "client-4", certificates, 3)).header["from"] == 4


def test_a_revoked_certificate_is_refused_by_a_running_server(certificates: Path, tmp_path: Path) -> None:
    for file in (*certificates.glob("ca.*"), *certificates.glob("server.*"), *certificates.glob("client-3.*")):
        shutil.copy2(file, tmp_path)
    with (
        TransportServer("127.0.0.1:0", echo, Identity.load(tmp_path)) as running,
        TransportClient(f"127.0.0.1:{running.port}", Identity.load(tmp_path, 3)) as three,
        TransportClient(f"127.0.0.1:{running.port}", Identity.load(certificates, 4)) as four,
    ):
        assert three.exchange(Message("hello"), LONG).header["from"] == 3
        assert revoke(tmp_path, tmp_path / "client-3.crt") == revoke(tmp_path, tmp_path / "client-3.crt")
        with pytest.raises(IdentityError, match="revoked"):
            three.exchange(Message("hello"), LONG)
        assert four.exchange(Message("hello"), LONG).header["from"] == 4
    assert len((tmp_path / "revoked.txt").read_text().splitlines()) == 1
