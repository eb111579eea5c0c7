"""Statistics of the bits of codes and of the latents behind them, as numbers and figures."""
