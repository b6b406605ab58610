"""The first Nano-LLaDA's commands, kept working: each names, prints and runs the `nano-llada` command of today."""
