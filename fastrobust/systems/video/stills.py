"A folder of images, read as a video"
import re
from contextlib import contextmanager
import numpy as np
from PIL import Image
from fastai.vision.core import image_extensions
from fastrobust.systems.video.picking import need_seconds
from fastrobust.systems.video.videofile import LATE, VideoFile

__all__ = []

def _by_number(path):
    "So that frame_2 comes before frame_10"
    parts = re.split(r'(\d+)', path.name)
    return [int(o) if o.isdecimal() else o for o in parts]

class Stills(VideoFile):
    "Images of a folder in the order of their numbers, `rate` of them a second"
    backend = 'frames'
    def __init__(self,
        path,       # Folder of images
        rate=25.    # Images a second, > 0; 25 is UCF101's
    ):
        super().__init__(path)
        self.rate = need_seconds('rate', rate, 'frames a second')
        inside = self.path.iterdir()
        files = [o for o in inside if o.suffix.lower() in image_extensions and o.name[0] != '.']
        self.files = sorted(files, key=_by_number)
        if len(self.files) < 2:
            got = 'a folder with one image' if self.files else 'a folder without images'
            raise self._bad(got, f"Two or more make a video ({', '.join(sorted(image_extensions)[:4])}, ..).")
        self.duration = self.frames/self.rate

    @property
    def frames(self): return len(self.files)
    @property
    def size(self):
        with self._opened(0) as im: return im.height,im.width

    @contextmanager
    def _opened(self, i):
        "Image `i`; what cannot be read of it is named"
        path = self.files[i]
        try:
            with Image.open(path) as im: yield im
        except (OSError, ValueError, SyntaxError) as e:
            raise self._bad(f"{path.name}, which cannot be read as an image ({e})",
                            "Remove it, or copy it again.") from e

    def _image(self, i, size):
        "Pixels (h,w,3) of image `i`"
        with self._opened(i) as im:
            # a JPEG is decoded at half or a quarter where that is enough
            if size is not None: im.draft('RGB', (2*size[1], 2*size[0]))
            im = im.convert('RGB')
            if size is not None: im = im.resize((size[1], size[0]), Image.Resampling.BILINEAR)
            return np.array(im)

    def _shown(self, times, size):
        numbers = np.floor((times+LATE)*self.rate).astype(int)
        numbers = np.minimum(numbers, self.frames-1)
        images = {i: self._image(i, size) for i in np.unique(numbers)}
        return [images[i] for i in numbers]
