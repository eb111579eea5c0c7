"""What a trained model is worth under a protocol: measures, and the results of a run."""
