"Memory, asked for before it is taken: a large matrix is refused at the door, not by the system in the middle of a fit"
from pathlib import Path

__all__ = []

def free_memory():
    "Bytes that a process can still have on this machine; None where the system does not say (not Linux)"
    info,free = Path('/proc/meminfo'),None
    try:
        for line in info.read_text().splitlines():
            if line.startswith('MemAvailable:'): free = 1024*int(line.split()[1])
    except (OSError, ValueError): pass
    return free

def need_memory(
    n_bytes,    # What will be taken
    what,       # For the message, such as 'a matrix of 16384 x 16384 numbers'
    fix         # What to do instead, a sentence
):
    "Refuse what does not fit"
    free = free_memory()
    if free is None or n_bytes <= free: return
    raise ValueError(f"expected {n_bytes/2**30:.1f} GiB of free memory for {what}, got "
                     f"{free/2**30:.1f} GiB. {fix}")
