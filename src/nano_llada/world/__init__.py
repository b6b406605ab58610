"""The simulated worlds that documents, stories and questions come from."""
