"""`espalier serve`: the service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pruning.lazy_imports import lazy_modules
from search.commands.flags import options, overridden
from search.config.settings import from_mapping
from search.service.service_config import ServiceConfig

if TYPE_CHECKING:
    from search.service import server
else:
    (server,) = lazy_modules("search.service.server")


@click.command()
@options(ServiceConfig)
def serve(**flags: Any) -> None:
    """Offer searches over HTTP: an API under /v1 and a page at /.

    The API is described in /openapi.json. Searches are queued and go on after anything is killed,
    this service included.
    """
    config = from_mapping(ServiceConfig, overridden({}, flags), "the command line")
    server.serve(config, click.echo)
