"""The mathematics of diffusion: schedules, predictions, loss weightings, timesteps, the denoiser and its loss. torch only."""
