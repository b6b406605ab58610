"""A run from its config to a trained model: data, model, trainer, and what it leaves in its folder."""
