"""Predictions of a trained model, metrics, calibration and thresholds."""
