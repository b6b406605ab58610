"""The nouns every other room shares; imports nothing of ours."""
