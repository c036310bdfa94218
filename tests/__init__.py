"""The tests; this is read before any of them imports torch."""

import os

# Workers go side by side, and so do the processes that tests start. Threads that spin for a core which is not free made the
# training of a tiny network ten times as long. A test that is about threads says how many.
for _each in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_each] = "1"
