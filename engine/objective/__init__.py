"""Noise, timesteps, targets, losses and weights: one function a formula, one value a sample.

Shape letters: B samples, C latent channels, H and W latent height and width, S timesteps of the
schedule.
"""
