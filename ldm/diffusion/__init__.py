"""The mathematics of diffusion in torch alone: schedules, predictions, weightings, timesteps, denoiser and loss."""
