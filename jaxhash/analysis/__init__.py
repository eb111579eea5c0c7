"""What the bits of codes and the latents behind them do, as numbers and figures."""
