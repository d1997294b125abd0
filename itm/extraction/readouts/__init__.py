"""Readouts: functions from a network and a batch of images to rows of features."""
