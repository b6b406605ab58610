"""The recorded experiments: grids of runs that can be interrupted and resumed."""
