"""How tests share the machine: in two processes, each on one thread of torch's; those of a file in one of them."""

import os

# Before torch is imported: two processes with all threads each would wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
