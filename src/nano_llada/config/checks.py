"""Ranges of config values, refused with the name and the value."""

from __future__ import annotations


def at_least(config: object, low: float, *names: str) -> None:
    """Each named field is None or not below `low`. Raises ValueError."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < low:
            raise ValueError(f"{name} must be at least {low}, got {value}")


def positive(config: object, *names: str) -> None:
    """Each named field is above 0. Raises ValueError."""
    for name in names:
        if getattr(config, name) <= 0:
            raise ValueError(f"{name} must be positive, got {getattr(config, name)}")


def share(config: object, *names: str) -> None:
    """Each named field lies in [0, 1]. Raises ValueError."""
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name} is a share, in [0, 1]; got {getattr(config, name)}")


def below_one(config: object, *names: str) -> None:
    """Each named field lies in [0, 1). Raises ValueError."""
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"{name} must be in [0, 1), got {getattr(config, name)}")
