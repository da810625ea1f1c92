"""Noise, timesteps, targets and losses: one function for each formula, one value for each sample.

Shape letters: B samples, C latent channels, H and W latent height and width.
"""
