"""What a server accepts, and where it listens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from nano_llada.config.checks import Count, CountOrZero, Range, Rows, Tokens
from nano_llada.config.kinds import check_values

Port = Annotated[int, Range(0, 65535)]
Seconds = Annotated[float, Range(0, 86400, above=True)]
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class ServingOptions:
    """Limits of a server, and what it does besides answering.

    Raises:
        ValueError: for a number outside its range.
    """

    max_rows: Rows = 16
    """Requests that a model writes at once."""
    max_waiting: CountOrZero = 64
    """Requests of a model that may wait for room; more get 429."""
    budget: Count | None = None
    """Most tokens whose keys and values a model's cache holds: memory; default: as many as the requests need."""
    max_tokens: Tokens = 2048
    """Most tokens that a request may ask for."""
    max_choices: Count = 8
    """Most texts that a request may ask for: n, times the prompts."""
    max_body: Count = 1_000_000
    """Most bytes of a request."""
    max_per_key: Count = 32
    """Requests of one key at the same time; more get 429."""
    max_connections: Count = 2048
    """Connections at the same time; more get 503."""
    request_seconds: Seconds = 600.0
    """A request that takes longer is cancelled."""
    body_seconds: Seconds = 30.0
    """Time in which the body of a request must have arrived."""
    drain_seconds: Seconds = 30.0
    """Time that running requests have to finish after SIGTERM; then they are cancelled."""
    cors: tuple[str, ...] = ()
    """Origins whose pages may use the server; default: none but its own page."""
    allow_host: tuple[str, ...] = ()
    """Names under which it may be addressed, besides localhost, where it needs no keys."""
    log_prompts: bool = False
    """Write prompts and answers to the log, too."""

    def __post_init__(self) -> None:
        check_values(self)
