"""`tidemill keys`: who may ask the service."""

from typing import Annotated

import typer

from deployments.cli.output import AsJson, report_json

keys_app = typer.Typer(
    help="Keys of the service's callers: create, list, revoke. TIDEMILL_AUTH=on asks for them.",
    no_args_is_help=True,
)


def add_key_commands(app: typer.Typer) -> None:
    """Put the commands on *app*."""
    app.add_typer(keys_app, name="keys")


@keys_app.command()
def create(
    name: Annotated[str, typer.Argument(help="Who will use it; shown in lists, limits and records.")],
    scope: Annotated[
        list[str],
        typer.Option(help="read, predict, write, operate or admin (all); several are possible."),
    ],
    dataset: Annotated[list[str], typer.Option(help="A dataset that the key sees; `*` is all of them.")],
    tenant: Annotated[str, typer.Option(help="Whose it is; its keys share a rate.")] = "operators",
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, once: it is nowhere kept."""
    # Imported here, as in every command: `--help` stays fast
    from tasks.edges.api_keys import create_key

    key = create_key(name, tenant, scope, dataset)
    if as_json:
        report_json({"key": key, "id": key.split("_")[1], "name": name, "tenant": tenant})
        return
    print(key)
    typer.echo("Keep it now: only its HMAC is stored. Send it as the header X-API-Key.", err=True)


@keys_app.command("list")
def list_(as_json: AsJson = False) -> None:
    """Show all keys, without their secrets."""
    from tasks.edges.api_keys import list_keys

    keys = [key._asdict() for key in list_keys()]
    if as_json:
        report_json(keys)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("id", "name", "tenant", "scopes", "datasets", "created", "revoked")
    for key in list_keys():
        table.add_row(
            key.id,
            key.name,
            key.tenant,
            " ".join(key.scopes),
            " ".join(key.datasets),
            key.created_at,
            key.revoked_at or "",
        )
    Console().print(table)


@keys_app.command("webhook-secret")
def make_webhook_secret(
    tenant: Annotated[str, typer.Argument(help="Whose webhooks it signs.")],
    as_json: AsJson = False,
) -> None:
    """Make the secret that signs a tenant's webhooks and print it, once; the one before ends."""
    from tasks.edges.api_keys import make_webhook_secret

    secret = make_webhook_secret(tenant)
    if as_json:
        report_json({"tenant": tenant, "secret": secret})
        return
    print(secret)
    typer.echo("Keep it now. The receiver verifies the header webhook-signature with it.", err=True)


@keys_app.command()
def revoke(
    identity: Annotated[str, typer.Argument(help="The key's id, of `tidemill keys list`.", metavar="ID")],
    as_json: AsJson = False,
) -> None:
    """Make a key invalid; a running service refuses it within two seconds."""
    from tasks.edges.api_keys import revoke_key

    key = revoke_key(identity)
    if as_json:
        report_json(key._asdict())
        return
    print(f"{key.id} ({key.name}) is revoked since {key.revoked_at}.")
