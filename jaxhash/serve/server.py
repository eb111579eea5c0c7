"""Serve the application with uvicorn."""

import logging
from collections.abc import Callable
from typing import Any

import uvicorn

from jaxhash.serve import app
from jaxhash.serve.guard import LOOPBACK
from jaxhash.serve.service import Service

CONNECTIONS = 1024
"""Open connections, at most; further ones are told to come back."""
FINISHING = 30
"""Seconds that requests have to be finished in when the service is told to end."""


class _Server(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[Any] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()


def run(
    service: Service,
    *,
    host: str,
    port: int,
    token: str | None,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Answer until SIGTERM or SIGINT, and then finish what has begun.

    Args:
        service: what answers.
        host: name or address to listen on.
        port: to listen on.
        token: that clients must show; None for none.
        on_ready: called once it listens.

    Raises:
        ValueError: there is no token, and other machines can reach the host.
        SystemExit: the port is taken.

    Example:
        >>> run(service, host="127.0.0.1", port=8000, token=None)  # doctest: +SKIP
    """
    if token is None and host not in LOOPBACK:
        raise ValueError(f"{host} can be reached by other machines; give a token")
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.ERROR)
    # Of requests that are none a line each would fill the disk: they are counted, not logged.
    logging.getLogger("jaxhash.serve").setLevel(logging.INFO)
    config = uvicorn.Config(
        app.build(service, token=token),
        host=host,
        port=port,
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="on",
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=FINISHING,
    )
    _Server(config, on_ready).run()
