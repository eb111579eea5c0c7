"""Evaluation of a trained model under a protocol: measures, typed results and figures."""
