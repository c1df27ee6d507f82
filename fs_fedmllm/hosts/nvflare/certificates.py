"""A site's certificate from NVFlare's startup kit, as the identity that its clients sign their keys with.

NVFlare's certificates name a site; which clients are there is in the job, which its submitter has signed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID

from fs_fedmllm.distributed.errors import IdentityError
from fs_fedmllm.distributed.identity import (
    UNREADABLE,
    Identity,
    Role,
    load_certificate,
    pem,
    read_file,
    require_current,
)
from fs_fedmllm.distributed.messages import shown


@dataclass(frozen=True)
class KitIdentity(Identity):
    """What a client at a site of NVFlare's shows and trusts.

    Attributes:
        sites: site by its certificate's name -> ids of its clients.
    """

    sites: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def belongs_to(self, certificate: x509.Certificate, client: int) -> bool:
        """Whether a certificate is that of the client's site."""
        return client in self.sites.get(self.owner_of(certificate), ())

    def owner_of(self, certificate: x509.Certificate) -> str:
        """The site that a certificate names."""
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return str(names[0].value) if len(names) == 1 else ""


def identity_of(workspace: Path, client: int, site: str, sites: Mapping[str, Sequence[int]]) -> Identity:
    """The identity of a client at a site.

    Args:
        workspace: of the site, with NVFlare's startup kit.
        client: id.
        site: as the job knows this site.
        sites: site -> ids of its clients.

    Returns:
        The kit's; where there is none, as in NVFlare's simulator, one that proves nothing.

    Raises:
        IdentityError: the kit is incomplete, has expired, or is another site's.
    """
    kit = workspace / "startup"
    if not (kit / "fed_client.json").is_file():
        return Identity.plaintext(client)
    path = kit / "client.crt"
    authority, certificate, key = load_certificate(kit / "rootCA.pem"), load_certificate(path), kit / "client.key"
    for owner, found in ((kit / "rootCA.pem", authority), (path, certificate)):
        try:
            require_current(found, owner)
        except IdentityError as error:
            raise error.telling(
                f"startup/{owner.name} has expired, or is not valid yet by this site's clock"
            ) from None
    try:
        certificate.verify_directly_issued_by(authority)
    except (*UNREADABLE, InvalidSignature):
        raise IdentityError(
            f"{path} was not issued by the authority in {kit / 'rootCA.pem'}. Take both from this site's own kit."
        ).telling("startup/client.crt was not issued by the authority in startup/rootCA.pem") from None
    made = KitIdentity(Role("nvflare", client), pem(authority), pem(certificate), read_file(key), sites=sites)
    if made.owner_of(certificate) != site:
        whose = made.owner_of(certificate)
        raise IdentityError(
            f"{path} is the certificate of {whose!r}, and this site is {site!r}. Take the kit that nvflare provision "
            f"made for {site!r}."
        ).telling(f"startup/client.crt is the certificate of {shown(whose)}, not of this site")
    return made
