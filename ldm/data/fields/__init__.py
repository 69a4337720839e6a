"""The fields of a sample: how each is read from the files of a shard, and how resize, crop and flip move it."""
