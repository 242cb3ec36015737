"Videos read with torchcodec, where its libraries load"
# https://meta-pytorch.org/torchcodec
import numpy as np
from torch.nn import functional as F
from fastrobust.systems.video.videofile import LATE, VideoFile

__all__ = []

_MISSING = ("expected torchcodec with the libraries of FFmpeg that it needs, got {}. Take another "
            'backend: pip install "fastrobust[video]".')

def _decoder():
    "Its class of decoders"
    try: from torchcodec.decoders import VideoDecoder
    except (ImportError, OSError, RuntimeError) as e:
        raise ImportError(_MISSING.format(type(e).__name__)) from e
    return VideoDecoder

class CodecFile(VideoFile):
    "A video file. Time 0 is its first frame, wherever the file counts from"
    backend = 'torchcodec'
    def __init__(self, path):
        super().__init__(path)
        facts = self.handle().metadata
        self.first,self._end = facts.begin_stream_seconds,facts.end_stream_seconds
        self.duration = self._end - self.first
        self.rate,self._frames = float(facts.average_fps),facts.num_frames
        if self._frames < 2:
            raise self._bad('a file of one frame', "A picture is no video: take it from the list.")

    def _open(self):
        make = _decoder()
        try: return make(str(self.path))
        except (RuntimeError, ValueError, TypeError) as e:
            if 'load libtorchcodec' in str(e): raise ImportError(_MISSING.format('none that loads')) from e
            words = str(e).splitlines()[0]
            raise self._bad(f"a file that cannot be read as one ({words})",
                            "Is it cut off, or without pictures?") from e

    @property
    def frames(self): return self._frames
    @property
    def size(self):
        return tuple(self.handle()[0].shape[-2:])

    def _shown(self, times, size):
        seconds = np.minimum(times + self.first + LATE, self._end - LATE)
        try: x = self.handle().get_frames_played_at(seconds.tolist()).data
        except RuntimeError as e:
            raise self._bad(f"a file that is damaged ({str(e).splitlines()[0]})", "Copy it again.") from e
        if size is not None: x = F.interpolate(x, size, mode='bilinear', antialias=True)
        return list(x.permute(0, 2, 3, 1).contiguous().numpy())
