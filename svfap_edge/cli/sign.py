"""`svfap-edge sign`: who made a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import print_json, reporting
from .options import Json


def sign(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    key: Annotated[Path, typer.Option(metavar="PRIVATE.pem", help="Ed25519 private key in PEM.")],
    as_json: Json = False,
) -> None:
    """Sign a bundle with a key.

    Others can then refuse all that this key did not sign, with --require-signature. All files are
    verified first: the signature is of the manifest, which holds their digests. Example:

    svfap-edge sign dfew-bundle --key PRIVATE.pem
    """
    with reporting(as_json):
        from svfap_edge.bundle import Bundle
        from svfap_edge.signature import sign as sign_manifest

        opened = Bundle.open(bundle)
        opened.verify_all()
        path = sign_manifest(bundle, key, lambda: _passphrase(key))
        if as_json:
            print_json({"signature": path, "artifacts": list(opened.manifest.artifacts)})
        else:
            print(f"wrote {path}")


def _passphrase(key: Path) -> str:
    found: str = typer.prompt(f"Passphrase of {key}", hide_input=True, err=True)
    return found
