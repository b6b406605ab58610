"""Speed, always against a plain reference in the same run, as ratios with their spread."""
