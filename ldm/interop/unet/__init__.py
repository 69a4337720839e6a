"""The U-Net in the layouts of CompVis and of diffusers."""
