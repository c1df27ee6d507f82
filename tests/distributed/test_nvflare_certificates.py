"""Under NVFlare clients sign their keys with the site's certificate of its startup kit, and know each other by it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from secure_game import Game, Refused

pytest.importorskip("nvflare", reason="NOT RUN: the extra nvflare is not installed")

from nvflare_kits import certified

from fs_fedmllm.distributed.errors import IdentityError
from fs_fedmllm.distributed.identity import Identity
from fs_fedmllm.distributed.secure_client import KEYS, SHARES
from fs_fedmllm.distributed.secure_keys import prove
from fs_fedmllm.hosts.nvflare.certificates import identity_of
from fs_fedmllm.privacy.secure_aggregation.client import SecureClient

ALL = (1, 2, 3, 4)
SITES = {"hospital-1": [1, 3], "hospital-2": [2], "hospital-3": [4]}


@pytest.fixture(scope="module")
def kits(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Startup kits by the name in their certificates, as provisioning makes them; ``server`` has the server's."""
    return certified(tmp_path_factory.mktemp("provisioned"), (*SITES, "server"))


@pytest.fixture(scope="module")
def identities(kits: Mapping[str, Path]) -> dict[int, Identity]:
    return {client: identity_of(kits[site], client, site, SITES) for site, own in SITES.items() for client in own}


def test_sites_know_each_other(tmp_path: Path, identities: dict[int, Identity]) -> None:
    assert len(Game(tmp_path, who=identities).play(ALL)) == 2


@pytest.mark.parametrize("trick", ["unsigned", "the server's", "another site's", "another round's"])
def test_a_server_cannot_put_keys_of_its_own_under_a_sites_name(
    tmp_path: Path, kits: Mapping[str, Path], identities: dict[int, Identity], trick: str
) -> None:
    game = Game(tmp_path, who=identities)
    about = {"session": "5" * 64, "start": "5" * 64, "round": 0}
    entries = {str(client): dict(game.ask(client, KEYS, about).header) for client in ALL}
    session, made = bytes.fromhex(about["session"]), SecureClient(2).keys()
    server = identity_of(kits["server"], 2, "server", {"server": [2]})
    proof = {
        "unsigned": {},
        "the server's": prove(server, session, 0, made),
        "another site's": prove(identities[3], session, 0, made),
        "another round's": prove(identities[2], session, 1, made),
    }[trick]
    entries["2"] = {**{kind: key.hex() for kind, key in made.items()}, **proof}
    said = {"unsigned": "no certificate vouches for", "the server's": "under the certificate of server",
            "another site's": "under the certificate of hospital-1", "another round's": "did not sign"}  # fmt: skip
    with pytest.raises(Refused, match=said[trick]):
        game.ask(1, SHARES, {**about, "roster": entries, "threshold": 3})


def test_a_kit_that_is_another_sites_or_none_is_an_error(kits: Mapping[str, Path], tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="certificate of 'hospital-2', and this site is 'hospital-1'"):
        identity_of(kits["hospital-2"], 1, "hospital-1", SITES)
    assert not identity_of(tmp_path, 1, "site-1", {"site-1": [1]}).encrypted  # the simulator has no kits
    (tmp_path / "startup").mkdir()
    (tmp_path / "startup" / "fed_client.json").write_text("{}")
    with pytest.raises(IdentityError, match=r"rootCA\.pem cannot be read"):
        identity_of(tmp_path, 1, "site-1", {"site-1": [1]})
