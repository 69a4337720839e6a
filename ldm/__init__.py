"""Latent diffusion models from captioned images: train the autoencoder, train the U-Net, sample, evaluate."""
