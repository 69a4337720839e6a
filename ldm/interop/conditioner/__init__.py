"""Text encoders and other conditioners in the layouts of CompVis, OpenCLIP, transformers and diffusers."""
