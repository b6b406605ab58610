"""nano-llada: one small Transformer, trained as an autoregressive and as a masked-diffusion language model."""

__version__ = "0.1.0"
