"Videos read by time: files and folders of images, one clip of them, and what a file says of itself"
from pathlib import Path
from fastrobust.basics import nearest, shown
from fastrobust.systems.video.avfile import AVFile
from fastrobust.systems.video.codecfile import CodecFile
from fastrobust.systems.video.picking import clip_times
from fastrobust.systems.video.stills import Stills

__all__ = ['read_clip']

_FILES = dict(av=AVFile, torchcodec=CodecFile)
BACKENDS = *_FILES,'frames'

def _of_file(path):
    "PyAV, and where there is none torchcodec"
    try: return AVFile(path)
    except ImportError as missing:
        try: return CodecFile(path)
        except ImportError: raise missing from None

def open_video(
    path,           # Video file, or folder of images
    backend=None,   # 'av' (PyAV), 'torchcodec', or 'frames' of a folder; None: the first that fits
    rate=25.        # Images a second of a folder, > 0; files know their own
):                  # Has `duration` (s), `rate`, `size` (h,w), `frames`, and `at(times, size)`
    "A video to be read by time, as in `with open_video(path) as v: v.at([0, .5, 1])`"
    if not isinstance(path, (str, Path)):
        raise TypeError("expected the path of a video or of a folder of images, got "
                        f"{shown(path)}. Arrays are clips already.")
    if backend is not None and backend not in BACKENDS:
        raise ValueError(f"expected a backend for videos, got {backend!r}. "
                         f"{nearest(backend, BACKENDS)}")
    path = Path(path)
    if not path.exists():
        raise ValueError("expected a video file or a folder of images, got "
                         f"{str(path)!r}, which is none. Look at the path.")
    folder = path.is_dir()
    if backend is not None and folder != (backend == 'frames'):
        kind = 'a folder' if folder else 'a file'
        raise ValueError(f"expected what the backend {backend!r} reads, got {kind}, "
                         f"{str(path)!r}. Leave `backend` out.")
    if folder: return Stills(path, rate)
    if backend is None: return _of_file(path)
    return _FILES[backend](path)

def read_clip(
    path,           # Video file, or folder of images
    n=16,           # Frames, from 1 on; 16 is what video networks were trained with
    span=2.,        # Seconds that they cover, > 0
    start='middle', # When the clip begins: 'middle', 'random', or seconds
    size=None,      # (height, width) or one number for both; None: as in the file
    rate=None,      # Frames a second, > 0, in place of `span`; None: `span`
    backend=None,   # As of `open_video`; None: by what it is
    fps=25.         # Images a second of a folder, > 0; 25 is UCF101's
):                  # TensorVideo (n,3,h,w), uint8
    "One clip of a video, its frames evenly apart in time"
    with open_video(path, backend, fps) as v:
        times = clip_times(v.duration, n, span, start, rate)
        return v.at(times, size)

def video_info(
    path,           # Video file, or folder of images
    backend=None,   # As of `open_video`; None: by what it is
    rate=25.        # Images a second of a folder, > 0
):                  # Dict of path, backend, duration (s), rate (a second), frames, size (h,w)
    "What a video says of itself"
    with open_video(path, backend, rate) as v:
        facts = 'path','backend','duration','rate','frames','size'
        return {k: getattr(v, k) for k in facts}
