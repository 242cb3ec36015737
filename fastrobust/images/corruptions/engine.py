"Who computes a corruption on the CPU: compiled loops where numba is installed, torch elsewhere; in how many threads"
# As AugMix does it (images/engine.py): FASTROBUST_NUMBA=0 in the environment leaves the work to
# torch. Both make the same numbers.
import os
from concurrent.futures import ThreadPoolExecutor
import torch
from fastrobust.images.engine import compiled_loops

__all__ = []

def loops_for(device):
    "The module of the compiled loops if they work on tensors of this device, else None"
    if device.type != 'cpu' or os.environ.get('FASTROBUST_NUMBA') == '0': return None
    if compiled_loops() is None: return None
    # not before images come: numba takes its time
    from fastrobust.images.corruptions import loops
    return loops

def in_threads(
    f,      # Function of the number of an image, most of whose work leaves Python's lock
    n,      # Images
    worth   # Whether there is enough work for several
):
    "`f(i)` for i in range(n), in as many threads as torch takes"
    threads = min(torch.get_num_threads(), n) if worth else 1
    if threads < 2:
        for i in range(n): f(i)
        return
    # of this call only: none to be missing in a forked loader worker
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(f, range(n)): pass
