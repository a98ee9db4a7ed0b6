"""``mtunnel certs``: create a certificate authority and host certificates, and show certificate files."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunnel.certs.subject_names import split_sans

if TYPE_CHECKING:
    from tunnel.certs.facts import Facts

# Importing cryptography takes about 80 ms and 13 MiB: only commands that need it do, never the daemon.

app = typer.Typer(name="certs", no_args_is_help=True, help="Create and inspect host certificates.")

_DIRECTORY = typer.Argument(metavar="DIR", help="Directory of the CA.", file_okay=False)
_FORCE = typer.Option("--force", help="Overwrite existing files.")
_MAX_DAYS = 36500

_KEY_WORDS = {
    "matches": "{file} matches",
    "missing": "no private key next to it",
    "mismatch": "{file} does NOT match this certificate",
    "of another": "{file} matches another certificate in this file: put that first, followed by its issuers",
    "encrypted": "{file} is encrypted: the daemon cannot use it",
    "unreadable": "cannot read {file}",
}


@app.command()
def init(
    directory: Annotated[Path, _DIRECTORY],
    days: Annotated[int, typer.Option(min=1, max=_MAX_DAYS, help="Days until the authority expires.")] = 3650,
    force: Annotated[bool, _FORCE] = False,
) -> None:
    """Create a certificate authority for all hosts."""
    from tunnel.certs.authority import Authority  # noqa: PLC0415  loads cryptography
    from tunnel.certs.profile import Validity  # noqa: PLC0415  loads cryptography

    authority = Authority.create(directory, validity=Validity.lasting(days), force=force)
    files = authority.files
    typer.echo(
        f"Created a certificate authority, valid until {_day(authority.certificate.not_valid_after_utc)}:"
    )
    _list_files([files.cert, files.key])
    typer.echo(f"Keep {files.key} secret and on this machine: anyone who has it can impersonate any host.")
    typer.echo(f"Next, for each host: mtunnel certs issue {directory} NAME")


@app.command()
def issue(
    directory: Annotated[Path, _DIRECTORY],
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="DNS name of the host, as in its configuration.")
    ],
    san: Annotated[
        list[str] | None, typer.Option(help="Additional DNS name or IP address; may be repeated.")
    ] = None,
    days: Annotated[
        int, typer.Option(min=1, max=_MAX_DAYS, help="Days until the certificate expires.")
    ] = 365,
    force: Annotated[bool, _FORCE] = False,
) -> None:
    """Create a key and a certificate for one host."""
    dns, ips = split_sans(san or [])
    from tunnel.certs.authority import Authority  # noqa: PLC0415  loads cryptography
    from tunnel.certs.profile import Validity  # noqa: PLC0415  loads cryptography

    authority = Authority.load(directory)
    validity = Validity.lasting(days)
    pair = authority.issue(name, dns=dns, ips=ips, validity=validity, force=force)
    host, ca = pair.cert.stem, authority.files
    typer.echo(f"Created a certificate for {host}, valid until {_day(validity.not_after)}:")
    _list_files([pair.cert, pair.key])
    typer.echo(f"Next, copy these three files to {host}, next to its configuration, keeping the key's mode:")
    typer.echo(f"  {ca.cert} {pair.cert} {pair.key}")
    typer.echo(f'  [tls]\n  ca = "{ca.cert.name}"\n  cert = "{pair.cert.name}"\n  key = "{pair.key.name}"')
    typer.echo(f"Do not copy {ca.key}.")


@app.command()
def show(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Certificate files, PEM.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON array, one object for each certificate.")
    ] = False,
) -> None:
    """Show certificate files: names, validity, usages, and whether the private key next to them matches."""
    from tunnel.certs.facts import read  # noqa: PLC0415  loads cryptography

    certificates = [facts for file in files for facts in read(file)]
    if as_json:
        typer.echo(json.dumps([facts.as_json() for facts in certificates], indent=2))
    else:
        typer.echo("\n\n".join(map(_describe, certificates)))


def _describe(facts: Facts) -> str:
    rows = {
        "subject": facts.subject or "(empty)",
        "names": ", ".join([*facts.dns_names, *facts.ip_addresses]) or "none",
        "issuer": facts.issuer,
        "serial": facts.serial,
        "valid": f"{_day(facts.not_before)} to {_day(facts.not_after)}, {_state(facts)}",
        "used for": "signing certificates" if facts.is_ca else ", ".join(facts.usages) or "anything",
        "key": f"{facts.key_type}, {_KEY_WORDS[facts.key].format(file=facts.key_file)}",
        "SHA-256": facts.sha256,
    }
    return "\n".join([str(facts.file), *(f"  {label:<9}{value}" for label, value in rows.items())])


def _state(facts: Facts) -> str:
    now = datetime.now(UTC)
    if now < facts.not_before:
        return "NOT VALID YET"
    if facts.not_after < now:
        return f"EXPIRED {(now - facts.not_after).days} days ago"
    return f"{facts.days_left(now)} days left"


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _list_files(paths: Iterable[Path]) -> None:
    for path in paths:
        typer.echo(f"  {path}  mode {stat.S_IMODE(path.stat().st_mode):04o}")
