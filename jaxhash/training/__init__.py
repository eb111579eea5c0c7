"""From a configuration to a trained model: plan, batches, steps, checkpoints and the loop."""
