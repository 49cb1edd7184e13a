"""Data sets of twins: a plan becomes shards on disk, by one process or many, with nothing lost and nothing twice."""
