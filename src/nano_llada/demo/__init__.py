"""The demo: an AR and a diffusion model trained from nothing on the small world, and compared."""
