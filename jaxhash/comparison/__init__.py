"""Methods and baselines beside each other, trained by one recipe and measured in one table."""
