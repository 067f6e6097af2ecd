"""Dataset restoration: compressed frames to restored frames. The setups RO and RC use it."""
