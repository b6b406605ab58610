"""From a constraint to the automaton of a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, reduce

from nano_llada.config.decoding import Constraint
from nano_llada.core.errors import UserError
from nano_llada.decode.constraint.automaton import automaton
from nano_llada.decode.constraint.expression import TEXT, Both, Expression
from nano_llada.decode.constraint.regex import read_regex, read_template
from nano_llada.decode.constraint.schema import json_object, read_schema
from nano_llada.decode.constraint.tokens import TokenAutomaton, token_automaton

KEPT = 32  # automata of a tokenizer, the last used


class Compiler:
    """Makes the automata of a tokenizer, each once, and keeps the last `KEPT`.

    Args:
        tokens: (V,) the bytes of each token; None for special ones.
        ends: ids that end a text.
    """

    def __init__(self, tokens: Sequence[bytes | None], ends: Sequence[int]) -> None:
        self._tokens, self._ends = tokens, ends
        self.compile = lru_cache(KEPT)(self._compile)

    def _compile(self, constraint: Constraint) -> TokenAutomaton:
        """The automaton of a constraint.

        Raises:
            UserError: for what is wrong or not supported in it, by name; if no text satisfies it, or it is too large.
        """
        machine = automaton(reduce(Both, _forms(constraint) or [TEXT]), constraint.require, constraint.ban)
        if machine.empty:
            raise UserError("no text satisfies the constraint: its parts contradict each other")
        return token_automaton(machine, self._tokens, self._ends)


def _forms(constraint: Constraint) -> list[Expression]:
    """What the whole text must be, every one of these at once."""
    forms = [json_object()] if constraint.json_object else []
    forms += [read_schema(str(constraint.json_schema))] if constraint.json_schema is not None else []
    forms += [read_regex(constraint.regex)] if constraint.regex is not None else []
    return forms + ([read_template(constraint.template)] if constraint.template is not None else [])
