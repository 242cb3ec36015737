"Noisy Imagenette on a copy of its format with 20 images: who is labelled how, what is refused, the script"
import re, shutil, subprocess, sys
from pathlib import Path
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.transforms import ToTensor
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.vision.augment import Resize
from PIL import Image
from conftest import params
from fastrobust.noise.imagenette import IMAGENETTE_NOISE, noisy_imagenette
from fastrobust.noise.laws import NoisyLabels
from fastrobust.noise.block import add_label_noise
from fastrobust.labels.memorisation import measure_memorisation
from fastrobust.nets import small_cnn
from fastrobust.stripping import strip
from fastrobust.techniques.smallloss import SmallLoss

WNIDS = {'n01440764': 'tench', 'n02979186': 'cassette player', 'n03028079': 'church'}
GIVEN = {1: [0], 5: [3], 25: [1, 5, 7], 50: [0, 2, 4, 6, 8, 10, 12]}    # training rows with a wrong label
SCRIPT = Path(__file__).parents[1]/'nbs'/'examples'/'noisy_imagenette.py'

def write(path, csv='noisy_imagenette.csv'):
    "14 training and 6 validation images of three classes, and the CSV as fastai writes it: training rows first"
    ws,rows,g = list(WNIDS),[],np.random.default_rng(0)
    for i in range(20):
        valid,w = i >= 14,ws[i%3]
        rel = f"{'val' if valid else 'train'}/{w}/{w}_{100-i}.JPEG"
        (path/rel).parent.mkdir(parents=True, exist_ok=True)
        px = g.integers(0, 60, (36, 44, 3), dtype=np.uint8)
        px[..., i%3] += 180
        Image.fromarray(px).save(path/rel, format='JPEG')
        given = {f'noisy_labels_{p}': ws[(i+1+i%2)%3] if i in bad else w for p,bad in GIVEN.items()}
        rows.append(dict(path=rel, noisy_labels_0=w, **given, is_valid=valid))
    pd.DataFrame(rows).to_csv(path/csv, index=False)
    return path

@pytest.fixture(scope='module')
def nette(tmp_path_factory): return write(tmp_path_factory.mktemp('nette'))

@pytest.fixture
def copy(nette, tmp_path): return Path(shutil.copytree(nette, tmp_path/'nette'))

def load(path, pct=50, **kw): return noisy_imagenette(path, pct, 32, 4, num_workers=0, device='cpu', **kw)
def table(path): return pd.read_csv(path/'noisy_imagenette.csv')
def edit(path, f):
    t = table(path)
    f(t).to_csv(path/'noisy_imagenette.csv', index=False)

# --- the labels ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('pct', IMAGENETTE_NOISE)
def test_labels_are_those_of_the_column(nette, pct):
    dls,t = load(nette, pct),table(nette)
    assert list(dls.vocab) == ['cassette player', 'church', 'tench'] and dls.c == 3
    assert len(dls.train_ds) == 14 and len(dls.valid_ds) == 6
    for i,f in enumerate(dls.train_ds.items):
        r = t.iloc[i]
        assert f == nette/r.path
        assert dls.vocab[int(dls.train_ds[i][1])] == WNIDS[r[f'noisy_labels_{pct}']]
        assert dls.vocab[dls.noise.y_clean[i]] == WNIDS[f.parent.name]
    for i,f in enumerate(dls.valid_ds.items):
        assert f.parent.parent.name == 'val' and dls.vocab[int(dls.valid_ds[i][1])] == WNIDS[f.parent.name]
    assert np.flatnonzero(dls.noise.is_noisy).tolist() == GIVEN.get(pct, [])
    assert dls.noise.kind == 'symmetric' and dls.noise.nominal_rate == pct/100 and dls.noise.valid is None
    assert np.allclose(dls.noise.T, np.eye(3)*(1-pct/100) + (1-np.eye(3))*pct/200)

def test_batches_are_images_of_the_size(nette):
    dls = load(nette)
    x,y = dls.one_batch()
    assert x.shape == (4, 3, 32, 32) and y.shape == (4,) and x.min() < -1 and x.max() > 1     # ImageNet's statistics
    names = [type(f).__name__ for f in dls.train.after_item.fs]
    assert 'RandomResizedCrop' in names and 'FlipItem' in names
    passes = lambda dl: [torch.cat([x.as_subclass(torch.Tensor) for x,_ in dl]) for _ in range(2)]
    assert not torch.equal(*passes(dls.train.new(shuffle=False)))       # training images are cropped anew each time
    assert torch.equal(*passes(dls.valid))
    dls = load(nette, item_tfms=[Resize(16), ToTensor()], batch_tfms=[])
    x,_ = dls.one_batch()
    assert x.shape == (4, 3, 16, 16) and 0 <= x.min() and x.max() <= 1
    dls = noisy_imagenette(str(nette), num_workers=0, device='cpu', bs=2)
    assert dls.one_batch()[0].shape == (2, 3, 128, 128) and dls.noise.nominal_rate == .5

def test_the_truth_is_used_downstream(nette, tmp_path):
    dls = load(nette)
    learn = Learner(dls, small_cnn(3, 3, 8, norm=None, depth=3), loss_func=CrossEntropyLossFlat(), metrics=accuracy,
                    cbs=SmallLoss(.5, 0), path=tmp_path)
    learn.remove_cb(learn.progress)
    learn.logger = lambda *a: None
    before = params(learn).clone()
    learn.fit(2, 1e-3)
    names = list(learn.recorder.metric_names)
    assert 0 <= learn.recorder.values[-1][names.index('label_precision')-1] <= 1
    assert not torch.equal(before, params(learn)) and len(learn.get_preds()[0]) == 6
    m = measure_memorisation(learn)
    assert abs(m.memorised + m.recovered + m.other - 1) < 1e-6
    learn.export('x.pkl')
    strip(learn).export('plain.pkl')
    assert b'fastrobust' in (tmp_path/'x.pkl').read_bytes() and b'fastrobust' not in (tmp_path/'plain.pkl').read_bytes()
    back = load_learner(tmp_path/'x.pkl')
    with back.no_bar():
        assert back.predict(dls.train_ds.items[0])[0] in WNIDS.values()
    with pytest.raises(ValueError, match='expected dls with true labels'): add_label_noise(dls, NoisyLabels('pair', .2))
    clean = add_label_noise(load(nette, 0), NoisyLabels('pair', .2), compound=True)
    assert clean.noise.is_noisy.sum() == 2

def test_imagewoof_and_a_csv_from_elsewhere(copy, tmp_path):
    (copy/'noisy_imagenette.csv').rename(copy/'noisy_imagewoof.csv')
    assert load(copy, 25).noise.is_noisy.sum() == 3
    (copy/'noisy_imagewoof.csv').rename(tmp_path/'mine.csv')
    assert load(copy, 25, csv=tmp_path/'mine.csv').noise.is_noisy.sum() == 3
    with pytest.raises(ValueError, match='none.csv, which does not exist'): load(copy, csv=tmp_path/'none.csv')

def test_unknown_classes_keep_their_folders_name(copy):
    edit(copy, lambda t: t.replace('n03028079', 'n99', regex=True))
    for s in ('train', 'val'):
        (copy/s/'n03028079').rename(copy/s/'n99')
        for f in (copy/s/'n99').iterdir(): f.rename(f.with_name(f.name.replace('n03028079', 'n99')))
    assert list(load(copy).vocab) == ['cassette player', 'n99', 'tench']

# --- what is refused -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('pct', [2, .5, '50', -1, True, None])
def test_other_rates_are_refused(nette, pct):
    with pytest.raises(ValueError, match='must be one of 0, 1, 5, 25, 50'): load(nette, pct)

def test_what_is_not_there(copy, tmp_path):
    with pytest.raises(ValueError, match='no such folder.*untar_data'): load(tmp_path/'nowhere')
    lost = next((copy/'train'/'n03028079').iterdir())
    lost.unlink()
    with pytest.raises(ValueError, match=f'20 images of the CSV, got 19: .*{lost.name} is missing'): load(copy)
    shutil.copy(copy/'noisy_imagenette.csv', copy/'noisy_imagewoof.csv')
    with pytest.raises(ValueError, match='got both'): load(copy)
    for f in copy.glob('*.csv'): f.unlink()
    with pytest.raises(ValueError, match='expected noisy_imagenette.csv or noisy_imagewoof.csv .* got none'): load(copy)

@pytest.mark.parametrize('col', ['path', 'noisy_labels_0', 'noisy_labels_50', 'is_valid'])
def test_missing_columns(copy, col):
    edit(copy, lambda t: t.drop(columns=col))
    with pytest.raises(ValueError, match=f"expected the column '{col}'"): load(copy)

def test_files_that_say_something_else(copy):
    good = table(copy)
    def bad(match, **cols):
        t = good.copy()
        for k,(i,v) in cols.items(): t[k] = t[k].astype(object); t.loc[i, k] = v
        t.to_csv(copy/'noisy_imagenette.csv', index=False)
        with pytest.raises(ValueError, match=match): load(copy)
    bad('row 3: expected the folder as true label', noisy_labels_0=(1, 'n01440764'))
    bad('row 6: expected a class that has images, got n123', noisy_labels_50=(4, 'n123'))
    bad('row 17: expected right validation labels', noisy_labels_50=(15, 'n02979186'))
    bad('`is_valid` as True or False', is_valid=(3, 'maybe'))
    bad('`is_valid` as True or False', is_valid=(slice(None), False))

# --- the script ------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_the_script_prints_its_row(nette):
    cmd = [sys.executable, str(SCRIPT), '--path', str(nette), '--size', '32', '--epochs', '1', '--arch', 'xresnet18',
           '--bs', '4', '--workers', '0', '--device', 'cpu', '--method', 'jocor', '--runs', '2']
    r = subprocess.run(cmd, capture_output=True, text=True, timeout=200)
    assert r.returncode == 0, r.stderr[-3000:]
    assert '14 labels, 3 classes: nominal rate 0.5, realised 0.5000 (7 wrong)' in r.stdout
    assert 'JoCoR(tau=0.5' in r.stdout and 'memorised' in r.stdout
    head,line,row = r.stdout[r.stdout.index('| Noise'):].splitlines()[:3]
    assert head.count('|') == line.count('|') == row.count('|') == 7
    m = re.fullmatch(r'\|50\|32\|1\|jocor, xresnet18\|(\d+\.\d\d)% ± \d+\.\d\d\|2, mean\|', row)
    assert m and 0 <= float(m[1]) <= 100
    assert 'Not a row of the leaderboard: size 32, epochs 1' in r.stdout

def script():
    import importlib.util
    spec = importlib.util.spec_from_file_location('nette_script', SCRIPT)
    m = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(m)
    return m

def test_the_script_offers_what_it_says(nette, monkeypatch, capsys):
    m = script()
    for make in m.METHODS.values():
        loss,techniques = make(.5)
        assert callable(loss) and isinstance(techniques, list)
    got = []
    monkeypatch.setattr(m, 'untar_data', lambda url: got.append(url) or nette)
    monkeypatch.setattr(m, 'train', lambda o, seed: (got.append((o.path, seed)), .5+seed/10)[1])
    assert m.main(['--woof', '--size', '192', '--epochs', '20', '--runs', '3']) == [.5, .6, .7]
    assert got[0] == m.URLs.IMAGEWOOF_320 and got[1:] == [(nette, 0), (nette, 1), (nette, 2)]
    out = capsys.readouterr().out
    assert '|50|192|20|jocor, xresnet50|60.00% ± 10.00|3, mean|' in out and 'Not a row' not in out
    m.main(['--size', '256', '--pct', '5', '--method', 'gce'])
    assert got[4] == m.URLs.IMAGENETTE and '|5|256|5|gce, xresnet50|50.00%|1|' in capsys.readouterr().out
    with pytest.raises(SystemExit): m.main(['--pct', '40'])
