"""Tar shards of samples: names, tar files, grouping of files into samples, and indexes."""
