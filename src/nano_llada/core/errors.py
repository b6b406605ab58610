"""The one exception for mistakes a user can mend: the CLI prints it without a traceback."""

from __future__ import annotations


class UserError(Exception):
    """What was wrong, where, and what to do about it, in words for the person at the terminal."""


class ReportedElsewhere(UserError):
    """Ends this process of a run of several; another one says what was wrong."""
