"""Training commands of the first Nano-LLaDA."""
