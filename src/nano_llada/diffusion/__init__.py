"""The forward process: noise schedules and corruption."""
