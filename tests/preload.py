"""What the processes that tests fork have loaded and done before: the libraries, and Hydra's search for plugins."""

import gc

import ldm.data.pack.packer
import ldm.encode.program
import ldm.generation.sample
import ldm.training.run  # noqa: F401
from ldm.config import compose

compose("train")
gc.freeze()  # what is loaded is not garbage; looking at it again in each fork copies its memory, too
