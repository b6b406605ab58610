"""Experiments that are recorded: grids of runs that can be interrupted and go on."""
