"""Serve an index: a page to drop a picture on, and an HTTP API.

    jaxhash serve --run R --index photos.index

Open http://127.0.0.1:8000 once it says so, some seconds after its start; it ends with Ctrl+C. The
API is described at /openapi.json. A new index file in the place of the old one is taken up without
a restart. With a --host that other machines can reach, a token is asked for: the one in the
environment variable JAXHASH_TOKEN, or else a new one, which is printed. Needs the extra:
pip install "jaxhash[serve]".

    jaxhash serve --run R --index photos.index/ --ray auto --parts 4 --replicas 2

has a folder of shards searched in parts on a Ray cluster, each of them in several places.
"""

from dataclasses import dataclass
from pathlib import Path

from jaxhash.cli.command import Command


@dataclass(frozen=True)
class Serve:
    """Options of `jaxhash serve`."""

    run: Path
    """Folder of the trained run that made the index."""
    index: Path
    """The index, from jaxhash encode: a file, or a folder of shards. With --ray also a file that
    names such a folder by its whole path: when it names another one, that is searched."""
    host: str = "127.0.0.1"
    """Name or address to listen on. Other machines reach 0.0.0.0, with a token."""
    port: int = 8000
    """Port to listen on."""
    writable: bool = False
    """Let clients add files of that folder to the index, and remove items."""
    images: Path | None = None
    """Folder of the images, which alone is shown from. Default: the one that was encoded."""
    max_upload: float = 20.0
    """Largest request, in MiB."""
    max_megapixels: float = 50.0
    """Largest image that is decoded, in millions of pixels."""
    timeout: float = 30.0
    """Seconds that a request may take."""
    waiting: int = 256
    """Queries that may wait for others; further ones are told to come back."""
    ray: str | None = None
    """Address of a Ray cluster that searches a folder of shards in parts: auto for the one that
    runs here, local to start one of this machine alone. Needs the extra ray."""
    parts: int | None = None
    """With --ray: into how many parts the shards are divided. Default: ask those that another
    service has started there."""
    replicas: int | None = None
    """With --parts: places that each part is in. Default: 2."""
    threads: int | None = None
    """With --parts: threads of a search in each place, and processors kept for it. Default: 1."""


def serve(options: Serve) -> None:
    """Serve as the options say."""
    import contextlib
    import os
    import secrets

    if not 1 <= options.port <= 65535:
        raise ValueError(f"--port is {options.port}; give 1 to 65535")
    for name in ("max_upload", "max_megapixels", "timeout", "waiting"):
        if not getattr(options, name) > 0:
            dashed = name.replace("_", "-")
            raise ValueError(f"--{dashed} is {getattr(options, name)}; give a number above 0")
    for needed, names in (("ray", ("parts",)), ("parts", ("replicas", "threads"))):
        for name in names:
            value = getattr(options, name)
            if value is not None and getattr(options, needed) is None:
                raise ValueError(f"--{name} is for an index in parts; give --{needed} too")
            if value is not None and value < 1:
                raise ValueError(f"--{name} is {value}; give at least 1")
    if options.ray is not None and options.writable:
        raise ValueError("--writable is for one index file; leave --ray out")
    if options.ray == "local" and options.parts is None:
        raise ValueError("--ray local starts a cluster that has no parts yet; give --parts too")
    if options.images is not None and not options.images.is_dir():
        raise FileNotFoundError(f"{options.images}: no such folder")
    try:
        from jaxhash.serve import server
        from jaxhash.serve.guard import LOOPBACK
        from jaxhash.serve.limits import Limits
        from jaxhash.serve.service import Service, described
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'{error.name} is not installed; pip install "jaxhash[serve]"'
        ) from None
    token = os.environ.get("JAXHASH_TOKEN") or None
    if token is None and options.host not in LOOPBACK:
        token = secrets.token_urlsafe(24)
    with contextlib.ExitStack() as stack:
        ask = None
        if options.ray is not None:
            from jaxhash.serve import on_ray

            ask = stack.enter_context(
                on_ray.asking(
                    options.ray,
                    options.index,
                    parts=options.parts,
                    replicas=options.replicas or 2,
                    threads=options.threads or 1,
                    seconds=options.timeout,
                )
            )
        service = Service(
            options.run,
            options.index,
            folder=options.images,
            limits=Limits(
                upload=int(options.max_upload * (1 << 20)),
                pixels=int(options.max_megapixels * 1_000_000),
                seconds=options.timeout,
                waiting=options.waiting,
            ),
            writable=options.writable,
            ask=ask,
        )
        print(f"{options.index}: {len(service.snapshot)} images, {described(service.model)}")
        service.warm()
        query = "" if token is None else f"/?token={token}"
        name = f"[{options.host}]" if ":" in options.host else options.host
        server.run(
            service,
            host=options.host,
            port=options.port,
            token=token,
            on_ready=lambda: print(f"http://{name}:{options.port}{query}", flush=True),
        )


COMMAND = Command("jaxhash serve", __doc__, Serve, serve)
