"""Evaluation commands of the first Nano-LLaDA."""
