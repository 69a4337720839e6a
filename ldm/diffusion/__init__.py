"""The mathematics: schedules, predictions, weightings, times, the denoiser and its loss. torch only."""
