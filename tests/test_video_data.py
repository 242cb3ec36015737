"Clips as fastai data: moving shapes, arrays, folders, the lists of UCF101 and Kinetics"
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import Normalize, RandomSplitter
from fastai.learner import Learner, load_learner
from fastai.torch_core import set_seed
from fastai.vision.augment import Flip, RandomErasing, Resize, Warp
from fastai.vision.core import imagenet_stats
from fastai.vision.data import ImageBlock
from fastrobust.basics import RobustWarning
from fastrobust.systems.video.block import VideoBlock
from fastrobust.systems.video.clip import TensorVideo
from fastrobust.systems.video.folders import class_items, get_video_files, kinetics_items, recording_of, ucf101_items
from fastrobust.systems.video.loaders import video_dls
from fastrobust.systems.video.moving import moving_shapes, moving_shapes_dls
from fastrobust.systems.video.networks import tiny_c3d
from fastrobust.systems.video.reading import read_clip
from fastrobust.systems.video.noise import VideoNoise
from fastrobust.systems.video.splits import random_split
from fastrobust.systems.video.tfms import SameAfterwards, SameForFrames, video_aug
from fastrobust.systems.video.videoarrays import as_clips

CPU = dict(num_workers=0, device='cpu')
def plain(o): return o.as_subclass(Tensor)

def frames(folder, n=10, h=24, w=32):
    "A folder of frames, brighter from one to the next; left to right a ramp"
    folder.mkdir(parents=True)
    ramp = np.linspace(0, 100, w).astype(np.uint8)
    for i in range(n): Image.fromarray(np.tile(ramp + 10*i, (h, 1))).save(folder/f'f_{i}.png')
    return folder

# --- moving shapes -------------------------------------------------------------------------------------------------
def ridge(F, y, classes, lam=1.):
    "Share right of a linear classifier, trained on the first half"
    F = np.c_[F-F.mean(0), np.ones(len(F))]
    k = len(F)//2
    W = np.linalg.solve(F[:k].T@F[:k] + lam*np.eye(F.shape[1]), F[:k].T@np.eye(classes)[y[:k]])
    return ((F[k:]@W).argmax(1) == y[k:]).mean()

def flow(X):
    "How alike a frame is to the next, moved each way: enough for a linear classifier"
    x = X[..., 0].astype(float)
    x = x - x.mean(1, keepdims=True)        # what stands still goes
    def like(a, b): return (x[:, :-1]*np.roll(x[:, 1:], (-a, -b), (2, 3))).mean((1, 2, 3))
    return np.stack([like(a, b) for a,b in ((0, 1), (0, -1), (1, 0), (-1, 0))], 1)

def test_no_single_frame_tells_and_motion_does():
    X,y = moving_shapes(2000, size=12, seed=1)
    at_chance = 3*np.sqrt(.25*.75/1000)     # three standard errors of 1,000 guesses
    for t in (0, 4, 7):
        x = X[:, t, ..., 0].reshape(2000, -1)/255
        assert abs(ridge(x, y, 4, 100.)-.25) < at_chance
        assert abs(ridge(np.abs(x-.5), y, 4, 100.)-.25) < at_chance
        spectrum = np.abs(np.fft.fft2(X[:, t, ..., 0]/255))[:, :, :7].reshape(2000, -1)
        assert abs(ridge(np.log(spectrum+1e-3), y, 4, 100.)-.25) < at_chance
    f = flow(X)
    assert (f.argmax(1) == y).mean() > .95

@pytest.mark.slow
def test_a_network_learns_motion_and_nothing_from_one_frame():
    set_seed(0)
    dls = moving_shapes_dls(800, bs=16, device='cpu')
    learn = Learner(dls, tiny_c3d())
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(12, 3e-3)
    p,y = learn.get_preds()
    assert (p.argmax(1) == y).float().mean() > .95
    X,y = moving_shapes(800)
    still = np.repeat(X[:, 3:4], 8, 1)
    learn = Learner(video_dls((still, y), bs=16, **CPU), tiny_c3d())
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(12, 3e-3)
    p,y = learn.get_preds()
    assert abs((p.argmax(1) == y).float().mean().item()-.25) < 3*np.sqrt(.25*.75/160)

def test_moving_shapes_are_as_said():
    X,y = moving_shapes(12, 5, 16, 8, seed=2)
    assert X.shape == (12, 5, 16, 16, 1) and X.dtype == np.uint8
    assert np.bincount(y).tolist() == [2]*4 + [1]*4
    again,y2 = moving_shapes(12, 5, 16, 8, seed=2)
    assert np.array_equal(X, again) and np.array_equal(y, y2)
    assert not np.array_equal(X, moving_shapes(12, 5, 16, 8, seed=3)[0])
    changed = (np.abs(X[:, 4].astype(int)-X[:, 0]) > 70).mean()
    assert .01 < changed < .25      # the informative part is small
    for bad,says in ((dict(n=0), '`n`'), (dict(n=3, T=1), '`T`'), (dict(n=3, size=4), '`size`'),
                     (dict(n=3, classes=9), '`classes`'), (dict(n=3, seed=-1), '`seed`')):
        with pytest.raises(ValueError, match=says): moving_shapes(**bad)

def test_moving_shapes_dls():
    dls = moving_shapes_dls(100, bs=8, device='cpu')
    x,y = dls.one_batch()
    assert type(x) is TensorVideo and x.shape == (8, 1, 8, 24, 24) and x.dtype == torch.float32
    assert list(dls.vocab) == ['right', 'left', 'down', 'up'] and len(dls.valid_ds) == 20
    every = torch.cat([plain(b[0]) for b in dls.train])
    assert abs(every.mean()) < .02 and abs(every.std()-1) < .02

# --- arrays --------------------------------------------------------------------------------------------------------
def test_all_forms_of_arrays_are_one():
    x = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 7, 3), dtype=np.uint8)
    want = torch.from_numpy(x).permute(0, 1, 4, 2, 3)
    for form in (x, x.transpose(0, 1, 4, 2, 3), want, torch.from_numpy(x), x/255, want.float()/255):
        assert torch.equal(as_clips(form, 'X'), want)
    assert torch.equal(as_clips(x[..., 0], 'X'), want[:, :, :1])
    for bad in (x[0], x[..., :2], x[..., None]):
        with pytest.raises(ValueError, match='with 1 or 3 channels, got shape'): as_clips(bad, 'X')
    with pytest.raises(TypeError, match='uint8'): as_clips(x.astype(int), 'X')
    with pytest.raises(ValueError, match='expected clips'): as_clips(x[:0], 'X')

def test_loaders_of_arrays_keep_every_pixel_and_label():
    X,y = moving_shapes(30, 4, 8)
    dls = video_dls((X, y), bs=4, stats=None, **CPU)
    assert len(dls.train_ds) == 24 and len(dls.valid_ds) == 6
    rows = dls.valid_ds.items.rows.numpy()
    x,c = next(iter(dls.valid))
    assert np.array_equal((plain(x)*255).round().numpy()[:, 0], X[rows[:4], ..., 0])
    assert np.array_equal(c.numpy(), y[rows[:4]])
    own = video_dls((X, y), valid=(X[:5], y[:5]), bs=4, **CPU)
    assert len(own.train_ds) == 30 and len(own.valid_ds) == 5
    item = dls.valid_ds[1]
    assert type(item[0]) is TensorVideo and np.array_equal(item[0][:, 0], X[rows[1], ..., 0])

def test_new_clips_go_through_the_loaders():
    X,y = moving_shapes(30, 4, 8)
    dls = video_dls((X, y), bs=4, **CPU)
    learn = Learner(dls, tiny_c3d())
    with learn.no_bar():
        p,_ = learn.get_preds(dl=dls.test_dl(X))
        q,c = learn.get_preds(dl=dls.test_dl([(a, int(b)) for a,b in zip(X, y)], with_labels=True))
        one = learn.predict(X[3])[2]
    assert torch.allclose(p, q) and np.array_equal(c.numpy(), y) and torch.allclose(one, p[3], atol=1e-5)
    with pytest.raises(ValueError, match='channels, height, width'): dls.test_dl(np.repeat(X, 3, -1))

def test_strips_are_drawn():
    import matplotlib.pyplot as plt
    dls = moving_shapes_dls(40, bs=4, device='cpu')
    dls.show_batch(max_n=3)
    axes = [a for a in plt.gcf().axes if a.images]
    assert len(axes) == 3 and all(a.get_title() in dls.vocab for a in axes)
    assert axes[0].images[0].get_array().shape == (24, 8*24 + 7*2)
    plt.close('all')
    learn = Learner(dls, tiny_c3d())
    with learn.no_bar(): learn.show_results(max_n=2)
    assert all('→' in a.get_title() for a in plt.gcf().axes if a.images)
    plt.close('all')

# --- folders -------------------------------------------------------------------------------------------------------
@pytest.fixture
def ucf(tmp_path):
    "Two classes, three recordings of two clips each, as folders of frames, and the lists"
    root,lists = tmp_path/'UCF-101',tmp_path/'ucfTrainTestlist'
    lists.mkdir()
    rows = [f'{k}/v_{k}_g{g:02d}_c{c:02d}' for k in ('Archery', 'Biking') for g in (1, 2, 3) for c in (1, 2)]
    for o in rows: frames(root/o)
    (lists/'classInd.txt').write_text('2 Biking\r\n1 Archery\r\n')
    train = [f"{o}.avi {1 + o.startswith('B')}" for o in rows if '_g01_' not in o]
    (lists/'trainlist01.txt').write_text('\r\n'.join(train))
    (lists/'testlist01.txt').write_text('\n'.join(f'{o}.avi' for o in rows if '_g01_' in o))
    return root

def test_ucf101(ucf):
    train,valid,vocab = ucf101_items(ucf, 1)
    assert len(train) == 8 and len(valid) == 4 and vocab == ['Archery', 'Biking']
    assert all(o.parent.name == k for o,k in train+valid)
    assert not {recording_of(o) for o,_ in train} & {recording_of(o) for o,_ in valid}
    dls = video_dls(ucf, 4, .3, 16, split=1, bs=4, **CPU)
    x,y = dls.one_batch()
    assert x.shape == (4, 3, 4, 16, 16) and len(dls.valid_ds) == 4 and list(dls.vocab) == vocab

def test_lists_that_leak_or_lack(ucf):
    lists = ucf.parent/'ucfTrainTestlist'
    test = lists/'testlist01.txt'
    kept = test.read_text()
    test.write_text(kept + '\nBiking/v_Biking_g09_c01.avi')
    with pytest.warns(RobustWarning, match='1 of 13 videos'): ucf101_items(ucf, 1)
    test.write_text(kept + '\nArchery/v_Archery_g02_c01.avi')
    with pytest.raises(ValueError, match="no recording in both lists of split 1, got 1 such as 'v_Archery_g02'"):
        ucf101_items(ucf, 1)
    test.write_text('Chess/v_Chess_g01_c01.avi')
    with pytest.raises(ValueError, match="classes of classInd.txt.*Chess"): ucf101_items(ucf, 1)
    with pytest.raises(ValueError, match='trainlist02.txt'): ucf101_items(ucf, 2)
    with pytest.raises(ValueError, match='from 1 to 3'): ucf101_items(ucf, 4)

def test_lists_with_spaces_in_names(tmp_path):
    "A list of one's own in the form of UCF101's"
    for k in ('apply eye makeup', 'top 10'):
        for g in (1, 2): frames(tmp_path/k/f'v_{k}_g0{g}_c01')
    (tmp_path/'classInd.txt').write_text('1 top 10\n2\tapply eye makeup\n')
    for name,g in (('trainlist01.txt', 2), ('testlist01.txt', 1)):
        ends = (' 1', '  2') if g == 2 else ('', '')
        rows = [f'{k}/v_{k}_g0{g}_c01.avi{end}' for k,end in zip(('top 10', 'apply eye makeup'), ends)]
        (tmp_path/name).write_text('\n'.join(rows))
    train,valid,vocab = ucf101_items(tmp_path, 1)
    assert vocab == ['top 10', 'apply eye makeup'] and [k for _,k in train] == [k for _,k in valid] == vocab
    for bad in ('Archery 1\n2 Biking', '3', ''):
        (tmp_path/'classInd.txt').write_text(bad)
        with pytest.raises(ValueError, match="lines such as '1 ApplyEyeMakeup'.*got"): ucf101_items(tmp_path, 1)

def test_recordings_stay_together(ucf):
    for seed in range(4):
        dls = video_dls(ucf, 2, .3, 16, valid=.3, seed=seed, bs=2, **CPU)
        sides = [{recording_of(o) for o,_ in ds.items} for ds in (dls.train_ds, dls.valid_ds)]
        assert not sides[0] & sides[1] and len(dls.train_ds) + len(dls.valid_ds) == 12
    a,b = random_split(10, .3, 0)
    assert len(b) == 3 and sorted([*a, *b]) == list(range(10))
    for bad in (0, 1, -.5, 1.5):
        with pytest.raises(ValueError, match='`valid` in'): random_split(10, bad, 0)
    with pytest.raises(ValueError, match='of 1 recordings'): random_split(4, .5, 0, ['a']*4)

def test_kinetics(tmp_path):
    rows = ['label,youtube_id,time_start,time_end,split']
    for i in range(8):
        frames(tmp_path/'videos'/f'abcdefghij{i}_{i:06d}_{i+10:06d}')
        rows.append(f"{'arm wrestling' if i%2 else 'yoga'},abcdefghij{i},{i},{i+10},{'train' if i<6 else 'validate'}")
    csv = tmp_path/'k.csv'
    csv.write_text('\n'.join([*rows, 'yoga,gone,0,10,train']))
    with pytest.warns(RobustWarning, match='1 of 9 videos'): train,valid = kinetics_items(tmp_path/'videos', csv)
    assert len(train) == 6 and len(valid) == 2 and {k for _,k in train} == {'yoga', 'arm wrestling'}
    csv.write_text('\n'.join(o.rpartition(',')[0] for o in rows))
    both,none = kinetics_items(tmp_path/'videos', csv)
    assert len(both) == 8 and none is None
    dls = video_dls(tmp_path/'videos', 2, .2, 8, csv=csv, bs=2, **CPU)
    assert len(dls.valid_ds) == 2 and list(dls.vocab) == ['arm wrestling', 'yoga']
    csv.write_text('a,b\n1,2')
    with pytest.raises(ValueError, match='expected the columns label.*got a, b'): kinetics_items(tmp_path/'videos', csv)

def test_lists_of_kinetics_that_lack(tmp_path):
    head = 'label,youtube_id,time_start,time_end,split\n'
    for i in range(2): frames(tmp_path/'v'/f'0000000000{i}_000001_000011')
    csv = tmp_path/'k.csv'
    csv.write_text(head + 'a,00000000000,1,11,train\nb,00000000001,1,11,val')
    train,valid = kinetics_items(tmp_path/'v', csv)     # ids of digits keep their zeros
    assert [k for _,k in train] == ['a'] and [k for _,k in valid] == ['b']
    with pytest.raises(ValueError, match='no `valid` beside lists'): video_dls(tmp_path/'v', csv=csv, valid=.5, **CPU)
    for row in (',00000000001,1,11,val', 'b,,1,11,val', 'b,00000000001,,,val', 'b,00000000001,x,11,val'):
        csv.write_text(head + 'a,00000000000,1,11,train\n' + row)
        with pytest.raises(ValueError, match='1 rows without, the first number 2'): kinetics_items(tmp_path/'v', csv)
    csv.write_text('')
    with pytest.raises(ValueError, match='Kinetics as a csv .*k.csv'): kinetics_items(tmp_path/'v', csv)
    with pytest.raises(ValueError, match=r'Kinetics as a csv .*got \[\]'): kinetics_items(tmp_path/'v', [])

def test_links_are_followed_but_not_in_circles(tmp_path):
    frames(tmp_path/'elsewhere'/'one')
    root = tmp_path/'root'
    frames(root/'a'/'two')
    (root/'b').symlink_to(tmp_path/'elsewhere')
    (root/'a'/'up').symlink_to(root)
    (tmp_path/'elsewhere'/'back').symlink_to(root/'a')
    got = [str(o.relative_to(root)) for o in get_video_files(root)]
    assert got == ['a/two', 'b/back/two', 'b/one']

def test_what_counts_as_a_video(tmp_path):
    frames(tmp_path/'a'/'one')
    (tmp_path/'b').mkdir()
    for k in ('x.MP4', 'y.avi', '.hidden.mp4', 'note.txt', 'thumb.png'): (tmp_path/'b'/k).write_text('')
    assert [str(o.relative_to(tmp_path)) for o in get_video_files(tmp_path)] == ['a/one', 'b/x.MP4', 'b/y.avi']
    assert [k for _,k in class_items(tmp_path)] == ['a', 'b', 'b']
    (tmp_path/'loose.mp4').write_text('')
    with pytest.raises(ValueError, match="1 videos beside them such as 'loose.mp4'"): class_items(tmp_path)
    with pytest.raises(ValueError, match='which is none'): get_video_files(tmp_path/'c')
    empty = tmp_path/'d'
    empty.mkdir()
    (empty/'a.txt').write_text('')
    with pytest.raises(ValueError, match=r'none among 1 files \(.txt\)'): video_dls(empty, **CPU)

def test_folders_without_classes(tmp_path):
    frames(tmp_path/'UCF-101'/'a'/'one')
    with pytest.raises(ValueError, match='the frames of one video'): class_items(tmp_path/'UCF-101'/'a'/'one')
    frames(tmp_path/'UCF-101'/'b'/'two')
    with pytest.raises(ValueError, match=r"two classes or more, got \['UCF-101'\]"): video_dls(tmp_path, **CPU)
    assert len(video_dls(tmp_path, 2, .2, 8, vocab=['UCF-101', 'other'], bs=1, **CPU).vocab) == 2

def test_paths_in_any_list(ucf):
    files = get_video_files(ucf)
    labels = [o.parent.name for o in files]
    for form in (np.array([str(o) for o in files]), np.array(files, dtype=object), iter(files), tuple(files)):
        dls = video_dls((form, labels), 2, .2, 8, bs=2, **CPU)
        assert sorted([*dls.train_ds.items, *dls.valid_ds.items]) == list(zip(files, labels))
    gone = [*files[:-1], ucf/'gone.mp4']
    with pytest.raises(ValueError, match="got 1 of 12 paths that are not, .*gone.mp4"): video_dls((gone, labels))
    with pytest.raises(TypeError, match="got 3 for the files"): video_dls((3, labels))

def test_folders_for_both_sides(tmp_path):
    for side,n in (('train', 3), ('val', 1)):
        for k in 'ab':
            for i in range(n): frames(tmp_path/side/k/f'{i}')
    dls = video_dls(tmp_path, 2, .2, 8, bs=2, **CPU)
    assert len(dls.train_ds) == 6 and len(dls.valid_ds) == 2 and list(dls.vocab) == ['a', 'b']
    assert len(video_dls(tmp_path, 2, .2, 8, valid=.5, bs=2, **CPU).valid_ds) == 3
    with pytest.raises(ValueError, match="'train' and 'mine'"): video_dls(tmp_path, valid='mine', **CPU)

# --- the block -----------------------------------------------------------------------------------------------------
def test_moment_and_crop_are_random_in_training_alone(ucf):
    "Frame i is 10 brighter than the one before, and the ramp says where the crop is"
    files = get_video_files(ucf)
    block = DataBlock((VideoBlock(2, .2, 12, fps=10.), CategoryBlock), get_y=lambda o: o.parent.name,
                      splitter=RandomSplitter(.5, seed=0))
    dls = block.dataloaders(files, bs=6, **CPU)
    def seen(dl): return [round(float(o.mean()), 4) for _ in range(4) for o in plain(next(iter(dl))[0])]
    set_seed(0)
    assert len(set(seen(dls.train))) > 12 and len(set(seen(dls.valid))) == 1
    x = plain(dls.valid.one_batch()[0])[0, 0]*255
    ramp = np.linspace(0, 100, 32)
    # the middle: frames 4 and 5 of 10, the middle 12 of the columns after the frame was brought from 24x32 to 14x18
    assert abs(x[0].mean().item() - (ramp.mean()+40)) < 3 and abs((x[1]-x[0]).mean().item()-10) < .5
    assert torch.equal(*(plain(dls.valid.one_batch()[0]) for _ in range(2)))

def test_folders_of_frames_at_another_rate(ucf):
    "Two frames half a second apart: of 4 a second every second one, each 10 brighter than the one before"
    dls = video_dls(ucf, 2, 1., 12, fps=4, stats=None, bs=2, **CPU)
    x = plain(dls.valid.one_batch()[0])*255
    assert (x[:, :, 1]-x[:, :, 0]-20).abs().max() < .6
    clip = read_clip(get_video_files(ucf)[0], 2, 1., fps=4).int()
    assert (clip[1]-clip[0] == 20).all()
    with pytest.raises(ValueError, match='`fps` must be'): video_dls(ucf, fps=0)

def test_the_seed_gives_the_same_clips_again(ucf):
    def seen(workers):
        dls = video_dls(ucf, 2, .2, 12, bs=4, num_workers=workers, device='cpu')
        set_seed(1)
        return [torch.cat([plain(b[0]) for b in dl]) for dl in (dls.train, dls.valid, dls.train, dls.valid)]
    for workers in (0, 1):
        a,b = seen(workers),seen(workers)
        assert all(torch.equal(*o) for o in zip(a, b))
        assert not torch.equal(a[0], a[2])
        assert torch.equal(a[1], a[3])

@pytest.mark.slow
def test_a_worker_names_the_file_that_is_broken(ucf):
    bad = get_video_files(ucf)[3]
    for o in bad.iterdir(): o.write_bytes(b'none')
    dls = video_dls(ucf, 2, .2, 8, bs=4, num_workers=1, device='cpu')
    with pytest.raises(ValueError, match=f"expected a video in '{bad}', got f_"): list(dls.train) + list(dls.valid)

def test_transforms_of_images_are_refused_beside_clips_alone(ucf):
    def block(*blocks, **kw):
        get_x = [lambda o: o]*(len(blocks)-2) + [lambda o: sorted(o.iterdir())[0]]
        get_x = get_x if len(blocks) == 3 else None
        data = DataBlock(blocks, n_inp=len(blocks)-1, get_x=get_x, get_y=lambda o: o.parent.name,
                         splitter=RandomSplitter(.5, seed=0), **kw)
        return data.dataloaders(get_video_files(ucf), bs=2, **CPU)
    clips = VideoBlock(2, .2, 12),CategoryBlock
    for bad in (Flip(), Normalize.from_stats(*imagenet_stats)):
        with pytest.raises(TypeError, match=f'clips, got {type(bad).__name__}, which'): block(*clips, batch_tfms=[bad])
        with pytest.raises(TypeError, match=f'clips, got {type(bad).__name__}'): video_dls(ucf, batch_tfms=[bad], **CPU)
    with pytest.raises(TypeError, match="item transforms of clips, got Resize"): block(*clips, item_tfms=Resize(8))
    dls = block(VideoBlock(2, .2, 12), ImageBlock, CategoryBlock, item_tfms=Resize(8), batch_tfms=[Flip()])
    assert [o.shape[2:] for o in dls.one_batch()[:2]] == [(2, 12, 12), (8, 8)]

def test_several_augmentations_are_one(ucf):
    "A DataBlock would keep the last of a class alone"
    X,y = moving_shapes(10, 4, 8)
    given = [video_aug(Flip()), video_aug(Warp()), *video_aug(RandomErasing()), VideoNoise()]
    for dls in (video_dls(ucf, 2, .2, 8, batch_tfms=given, bs=2, **CPU), moving_shapes_dls(20, batch_tfms=given),
                video_dls((X, y), batch_tfms=given, bs=2, **CPU)):
        fs = dls.train.after_batch.fs
        first,last = (next(f for f in fs if type(f) is k) for k in (SameForFrames, SameAfterwards))
        assert [type(t) for t in first.tfms] == [Flip, Warp] and [type(t) for t in last.tfms] == [RandomErasing]
        assert sum(isinstance(f, SameForFrames) for f in fs) == 2 and any(isinstance(f, VideoNoise) for f in fs)

def test_squish_sees_all_of_a_frame(ucf):
    def ends(method):
        dls = video_dls(ucf, 2, .2, 16, method=method, stats=None, bs=2, **CPU)
        x = plain(dls.valid.one_batch()[0])[0, 0, 0, 8]*255
        return float(x[-1]-x[0])
    assert ends('squish') > 90 > 75 > ends('crop')

def test_a_learner_goes_out_and_comes_back(ucf, tmp_path):
    dls = video_dls(ucf, 4, .3, 16, split=1, bs=4, **CPU)
    learn = Learner(dls, tiny_c3d(channels=3, n_out=2))
    path = get_video_files(ucf)[0]
    learn.path = tmp_path
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        a = learn.predict(path)
        learn.export('a.pkl')
        back = load_learner(tmp_path/'a.pkl')
        with back.no_bar(): b = back.predict(path)
    assert a[0] == b[0] and torch.equal(a[2], b[2])

def test_workers_give_clips(ucf):
    dls = video_dls(ucf, 2, .2, 8, bs=4, num_workers=1, device='cpu')
    x,_ = next(iter(dls.valid))
    assert type(x) is TensorVideo and x.shape[1:] == (3, 2, 8, 8)

def test_several_clips_of_a_file(ucf):
    dls = video_dls(ucf, 2, .2, 8, bs=4, **CPU)
    reader = dls.train_ds.tls[0].tfms.fs[-1]
    a,b,c = reader.several(get_video_files(ucf)[0], 3)
    assert a.float().mean() < b.float().mean() < c.float().mean() and a.shape == b.shape
    assert torch.equal(b, reader.read(get_video_files(ucf)[0]))

# --- bad input -----------------------------------------------------------------------------------------------------
def test_other_things_are_refused(ucf):
    X,y = moving_shapes(10, 4, 8)
    def refused(err, says, *args, **kw):
        with pytest.raises(err, match=says): video_dls(*args, **kw)
    refused(TypeError, "expected a folder of videos, .files, labels. or .X, y., got 3", 3)
    refused(TypeError, "n, size beside files alone", (X, y), n=4, size=8)
    refused(TypeError, "unknown 'valid_pct'. The share held out is `valid`", ucf, valid_pct=.3)
    refused(TypeError, "unknown 'sise'. Did you mean 'size'", ucf, sise=3)
    refused(TypeError, "unknown 'after_batch'. It is `batch_tfms`", ucf, after_batch=[])
    refused(TypeError, "unknown 'after_item'. The size", ucf, after_item=[])
    refused(ValueError, "`num_workers` must be", ucf, num_workers=-1)
    refused(ValueError, "standard deviations above 0", ucf, stats=([.5]*3, [0.]*3))
    refused(ValueError, "standard deviations above 0", ucf, stats=([.5]*3, [.5]))
    refused(TypeError, "each channel as numbers", ucf, stats=('a', 'b'))
    refused(ValueError, "clips of the 3 channels .* got 1", (X, y), stats=([.5]*3, [.2]*3), bs=2)
    with pytest.raises(TypeError, match="unknown 'lr'"): moving_shapes_dls(10, lr=3)
    refused(ValueError, "got both. Leave one out", ucf, split=1, csv='a.csv')
    refused(ValueError, "no `valid` beside lists", ucf, split=1, valid=.2)
    refused(ValueError, "`bs` must be", (X, y), bs=0)
    refused(ValueError, "`stats` must be", (X, y), stats='mine')
    refused(ValueError, "an empty list", ([], []))
    refused(TypeError, "list of paths of videos, got 3", ([3], ['a']))
    refused(ValueError, "one label per image", (X, y[:3]))
    refused(ValueError, "`size` must be", ucf, size=0)
    refused(ValueError, "labels of the vocab", ucf, vocab=['Archery'])
    refused(TypeError, r"a share in \(0,1\) or as a pair", (X, y), valid='x')
    refused(ValueError, "clips of 4 frames in `Xv`", (X, y), valid=(X[:, :2], y))
    for kw,says in ((dict(n=0), '`n`'), (dict(span=0), '`span`'), (dict(method='x'), '`method`'),
                    (dict(scale=.5), '`scale`'), (dict(backend='x'), 'a backend'), (dict(rate=-1), '`rate`')):
        with pytest.raises(ValueError, match=says): VideoBlock(**kw)
