"How far the pass is: fastai's bar in a terminal or notebook, a line now and then in a log"
import sys, threading, time
from contextlib import contextmanager
from fastcore.imports import IN_NOTEBOOK

__all__ = []

EVERY = 20      # Seconds between two lines at the least; later a twentieth of the time so far

def images_done(folder):
    "Images whose features are in `folder`: each has a digest of eight bytes there"
    try: return (folder/'features.u64').stat().st_size//8
    except OSError: return 0

def in_words(seconds):
    "A time no finer than needed"
    if seconds < 90: return f'{max(round(seconds), 1)} s'
    if seconds < 5400: return f'{round(seconds/60)} min'
    return f'{seconds/3600:.1f} h'

class Lines(threading.Thread):
    "Says now and then how many images are done, by the files in a folder"
    def __init__(self,
        folder,         # Where the features are
        n,              # Images
        every=EVERY     # Seconds
    ):
        super().__init__(daemon=True)
        self.folder,self.n,self.every = folder,n,every
        self.halt = threading.Event()

    def run(self):
        begin = said = time.monotonic()
        first = images_done(self.folder)
        while not self.halt.wait(min(self.every, 1)):
            now,done = time.monotonic(),images_done(self.folder)
            # files of other images, which were deleted
            first = min(first, done)
            if now-said < max(self.every, (now-begin)/20) or done <= first: continue
            said = now
            left = (self.n-done)*(now-begin)/(done-first)
            print(f'features: {done:,} of {self.n:,} images, {in_words(left)} left', flush=True)

@contextmanager
def watched(
    folder, # Where the features are
    n       # Images
):
    "Within `with` progress is told; gives whether fastai's bar does it"
    if IN_NOTEBOOK or sys.stdout.isatty():
        yield True
        return
    lines = Lines(folder, n)
    lines.start()
    try: yield False
    finally:
        lines.halt.set()
        lines.join()
