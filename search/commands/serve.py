"""`espalier serve`: the service."""

from __future__ import annotations

from typing import Any

import click

from search.commands.flags import options, overridden
from search.config.settings import from_mapping
from search.service.service_config import ServiceConfig


@click.command()
@options(ServiceConfig)
def serve(**flags: Any) -> None:
    """Offer searches over HTTP: an API under /v1, described in /openapi.json, and a page at /.

    Searches are queued and go on after anything is killed, this service included.
    """
    config = from_mapping(ServiceConfig, overridden({}, flags), "the command line")
    from search.service.server import serve  # noqa: PLC0415 - startup stays light

    serve(config, click.echo)
