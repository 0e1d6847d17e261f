"""Two sides on the same machine in one job: interleaved blocks until it is decided."""
