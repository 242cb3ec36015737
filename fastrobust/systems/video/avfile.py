"Videos read with PyAV: from the keyframe before a clip on, no further than needed"
# https://pyav.basswood-io.com
from fractions import Fraction
from functools import cached_property
from itertools import chain
import numpy as np
from fastrobust.systems.video.videofile import LATE, VideoFile

__all__ = []

_FAR = 2.       # seconds ahead for which to seek where the file has no list of its keyframes
# Open in the process that this one was forked from. Never closed here: a decoder waits at its end for
# threads of its own, which a fork does not have
INHERITED:list = []
_FEW = 4        # frames that are decoded sooner than sought for
# swscale's BILINEAR with FULL_CHR_H_INT, every pixel its own colour; without, pairs share one and
# all are 1.5 of 255 too dark. As a number: PyAV has no name for the second before 18
_HOW = 2 | 0x2000

def need_av():
    "The package"
    try: import av
    except ImportError as e:
        raise ImportError("expected PyAV, which reads videos, got none. pip install "
                          '"fastrobust[video]", or give a folder of images.') from e
    return av

def _opened(path):
    "A container; texts that are no UTF-8 are left out, which is no setting from PyAV 19 on"
    av = need_av()
    old = int(av.__version__.split('.')[0]) < 19
    return av.open(path, metadata_errors='ignore') if old else av.open(path)

def _fraction(v):
    "Of a Fraction or PyAV's own; None where there is none"
    return Fraction(v.numerator, v.denominator) if v else None

def _listed(stream):
    "The file's own list of its frames or keyframes, empty before PyAV 17"
    return getattr(stream, 'index_entries', ())

def _moving(box):
    "Streams of pictures that move; a cover is none"
    cover = need_av().stream.Disposition.attached_pic
    return [o for o in box.streams.video if not o.disposition & cover]

def _quarters(frame):
    "Quarter turns to the left that set a frame upright"
    return round(frame.rotation/90) % 4

class AVFile(VideoFile):
    "A video file. Time 0 is its first frame, wherever the file counts from"
    backend = 'av'
    def __init__(self, path):
        super().__init__(path)
        stream,box = self._stream(),self.handle()
        # seconds of a tick, in which frames are stamped
        self.tick = _fraction(stream.time_base)
        # AVI has stamps in the order of decoding only: frames come later by the decoder's delay
        self.avi = box.format.name == 'avi'
        self._header = stream.duration or int((box.duration or 0)/1e6/self.tick)
        self._counted,start = stream.frames,stream.start_time
        rate = _fraction(stream.average_rate) or _fraction(stream.guessed_rate)
        # a frame whose packet does not say for how long it is shown
        self._usual = round(1/rate/self.tick) if rate else 1
        self.first = self._peek[0] if start is None or self.avi else start
        self.duration = float(self._length(start or 0)*self.tick)
        if self._counted or not rate: rate = self.frames/self.duration
        self.rate = float(rate)

    # --- the file ---------------------------------------------------------------------------------
    def _open(self):
        av = need_av()
        if self._handle is not None: INHERITED.append(self._handle)
        try: box = _opened(str(self.path))
        except av.FFmpegError as e:
            raise self._bad(f"a file that cannot be read as one ({e.strerror})",
                            "Is it cut off, or of another kind?") from e
        if not _moving(box):
            kinds = sorted({o.type for o in box.streams})
            box.close()
            got = ', '.join(kinds) or 'nothing'
            raise self._bad(f"{got} without moving pictures", "Take it from the list.")
        self._fresh = True
        return box

    def close(self):
        if self._handle is not None: self._handle.close()
        super().close()

    def _stream(self): return _moving(self.handle())[0]

    def _damaged(self, what):
        return self._bad(f"a file that is damaged ({what})",
                         "Copy it again, or write it anew: ffmpeg -i FILE NEW.mp4.")

    def _rewind(self):
        "To the very beginning, which seeking does not reach in every file"
        self.handle()
        if not self._fresh: self.close()

    def _seek(self, stamp):
        "To the keyframe before a stamp, if the file lets us"
        av = need_av()
        try: self.handle().seek(int(stamp), stream=self._stream())
        except av.FFmpegError: self._rewind()
        else: self._fresh = False

    def _stamp(self, o): return o.dts if self.avi else o.pts

    def _packets(self):
        "(stamp, ticks) of all packets from here on; nothing is decoded"
        av,stream = need_av(),self._stream()
        self._fresh = False
        ticks = lambda o: o.duration or self._usual
        try: return [(self._stamp(o), ticks(o)) for o in self.handle().demux(stream) if o.size]
        except av.FFmpegError as e: raise self._damaged(e.strerror) from e

    def _all_packets(self):
        self._rewind()
        return self._packets()

    # --- facts ------------------------------------------------------------------------------------
    def _length(self, start):
        "Ticks from first frame to end of last, as packets say; headers err where rates vary"
        self._seek(start+self._header)
        tail = self._packets() or self._all_packets()
        tail = [(a, b) for a,b in tail if a is not None]
        if not tail: raise self._damaged('no frames')
        listed = _listed(self._stream())
        last = max(a for a,_ in tail)
        if len(listed) and last < listed[-1].timestamp: raise self._damaged('it is cut off')
        zero = start if self.avi else self.first
        if last <= zero:
            raise self._bad('a file of one frame', "A picture is no video: take it from the list.")
        return max(a+b for a,b in tail) - zero

    @cached_property
    def _peek(self):
        "Stamp and (height, width) of the first frame"
        self._rewind()
        stamp,frame = next(self._decoded(), (None, None))
        if frame is None: raise self._damaged('no frame says when it is shown')
        size = frame.height,frame.width
        return stamp,size[::-1] if _quarters(frame) % 2 else size

    @property
    def size(self): return self._peek[1]

    @cached_property
    def frames(self): return self._counted or len(self._all_packets())

    # --- decoding ---------------------------------------------------------------------------------
    def _decoded(self):
        "(stamp, frame) from here on, in order of showing; none where the first has no stamp"
        av,stream = need_av(),self._stream()
        self._fresh,last = False,None
        try:
            for o in self.handle().decode(stream):
                stamp = self._stamp(o)
                if stamp is None and last is None: return
                if stamp is None: stamp = last + max(o.duration, 1)
                last = stamp
                yield stamp,o
        except av.FFmpegError as e: raise self._damaged(e.strerror) from e

    def _from(self, stamp):
        "As `_decoded`, from a keyframe no later than `stamp`, or from the beginning"
        back,second = 0,max(1, round(1/self.tick))
        while stamp-back >= self.first:
            self._seek(stamp-back)
            frames = self._decoded()
            one = next(frames, None)
            if one is not None and one[0] <= stamp and one[1].key_frame: return chain([one], frames)
            back = 2*back or second
        self._rewind()
        return self._decoded()

    def _worth(self, now, stamp):
        "Seek, to get from the frame at `now` to the one at `stamp`?"
        few = _FEW/self.rate/self.tick
        if stamp-now <= few: return False
        listed = _listed(self._stream())
        if len(listed) < 2: return stamp-now > _FAR/self.tick
        i = listed.search_timestamp(stamp)
        return i >= 0 and listed[i].timestamp > now+few

    def _shown(self, times, size):
        stamps = np.floor((times+LATE)/float(self.tick)).astype(np.int64) + self.first
        paint,pics = _Painter(size),[]
        frames = self._from(stamps[0])
        now,later = next(frames, None),next(frames, None)
        for stamp in stamps.tolist():
            if later is not None and self._worth(later[0], stamp):
                frames = self._from(stamp)
                now,later = next(frames, None),next(frames, None)
            while later is not None and later[0] <= stamp: now,later = later,next(frames, None)
            if now is None: raise self._damaged('no frame says when it is shown')
            pics.append(paint(*now))
        return pics

class _Painter:
    "Frames as RGB pixels (h,w,3), upright; one that is asked for twice is converted once"
    def __init__(self, size):
        self.size,self.last,self.pixels = size,None,None
        self.convert = need_av().video.reformatter.VideoReformatter()

    def __call__(self, stamp, frame):
        if stamp == self.last: return self.pixels
        turns = _quarters(frame)
        h,w = self.size or (None, None)
        if turns % 2: h,w = w,h
        rgb = self.convert.reformat(frame, w, h, 'rgb24', interpolation=_HOW).to_ndarray()
        self.last,self.pixels = stamp,np.ascontiguousarray(np.rot90(rgb, turns))
        return self.pixels
