"""Texts that must have a form: from a constraint to an automaton of bytes, then of tokens, then to a choice."""
