"""Stories from a simulated world, in Chinese and English, whose coherence a program can check."""
