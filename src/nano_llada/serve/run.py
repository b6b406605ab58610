"""The process of a server: it listens, and on SIGTERM or Ctrl-C it ends cleanly."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable, Mapping
from types import FrameType

import uvicorn

from nano_llada.config.serving import LOOPBACK, ServingOptions
from nano_llada.core.errors import UserError
from nano_llada.language_model import LanguageModel
from nano_llada.serve.app import Server, make_server
from nano_llada.serve.keys import Keys
from nano_llada.serve.models import Models
from nano_llada.serve.note import JsonLines

log = logging.getLogger("nano_llada.serve")
# seconds for which one thread may make the others wait: a pass gives way to the event loop hundreds of times, and each
# time would wait up to Python's default of 0.005 for it
SWITCH = 0.0005
LAST = 5.0  # seconds that connections have to take their last bytes, once everything has been cancelled


class Listener(uvicorn.Server):
    """Serves until it is told to stop; then nothing new is begun, and what runs has a while to finish."""

    def __init__(self, config: uvicorn.Config, server: Server, options: ServingOptions) -> None:
        super().__init__(config)
        self._server, self._options = server, options

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal asks for a clean end, a second one for the end."""
        self.force_exit = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening; wait for what runs; at the deadline cancel it, so that every stream ends with an error."""
        self._server.guard.draining = True
        log.info("stopping: running requests have %g seconds", self._options.drain_seconds)
        deadline = asyncio.create_task(self._cut_off())
        await super().shutdown(sockets)
        deadline.cancel()

    async def _cut_off(self) -> None:
        await asyncio.sleep(self._options.drain_seconds)
        log.warning("the deadline has passed: running requests are cancelled")
        await asyncio.to_thread(self._server.models.stop)


def serve(
    writers: Mapping[str, LanguageModel],
    options: ServingOptions,
    keys: Keys,
    *,
    host: str,
    port: int,
    listening: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve models until a signal ends it.

    Args:
        listening: called with the address once the socket is open.

    Raises:
        UserError: if the address cannot be used.
    """
    sockets = [open_socket(host, port)]
    address = f"http://{f'[{host}]' if ':' in host else host}:{sockets[0].getsockname()[1]}"
    hosts = None if keys or "*" in options.allow_host or host not in LOOPBACK else {*LOOPBACK, *options.allow_host}
    sys.setswitchinterval(SWITCH)
    with Models(writers, options) as models:
        listener = make_listener(make_server(models, options, keys, hosts), options)
        listening(address)
        listener.run(sockets)
    log.info("stopped")


def make_listener(server: Server, options: ServingOptions) -> Listener:
    """What serves an application on sockets that are open."""
    config = uvicorn.Config(
        server.application,
        access_log=False,
        log_config=None,
        server_header=False,
        ws="none",
        lifespan="off",
        limit_concurrency=options.max_connections,
        timeout_graceful_shutdown=int(options.drain_seconds + LAST) + 1,
    )
    return Listener(config, server, options)


def open_socket(host: str, port: int) -> socket.socket:
    """A socket that listens on an address; port 0 takes any free one. Raises UserError if that is impossible."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
        found.listen(1024)  # whoever reads that it listens may connect at once
    except (OSError, OverflowError) as error:
        found.close()
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"cannot listen on {host} port {port}: {reason}") from error
    return found


def log_to_stderr() -> None:
    """Write the log as JSON lines to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("nano_llada.serve", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO if name == "nano_llada.serve" else logging.WARNING)
