"""The one judge of answers, for data, reinforcement learning and evaluation. Imports no torch."""
