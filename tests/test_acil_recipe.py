"The example scripts of ACIL run end to end: the published setting on a folder as CIFAR-100 is, and two folders"
import importlib.util
from pathlib import Path
import numpy as np
import pytest, torch
from PIL import Image
from fastai.learner import load_learner
from fastai.vision.core import PILImage
from test_acil import NAMES, jpegs

def script(name):
    path = Path(__file__).parents[1]/f'nbs/examples/{name}.py'
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

@pytest.fixture(scope='module')
def recipe(): return script('acil_cifar100')

def test_the_network(recipe):
    "He et al.: .27 M and .46 M parameters with 10 classes"
    net = recipe.cifar_resnet()
    n = [sum(p.numel() for p in recipe.cifar_resnet(d).parameters()) - 65*90 for d in (20, 32)]
    assert n == [269_722, 464_154]
    assert net.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 100)

def test_the_schedule(recipe):
    lr = recipe.schedule(.5, 300).scheds['lr']
    assert [lr(p) for p in (0., 10/300, 1.)] == pytest.approx([.0005, .5, 1e-6])
    assert lr(5/300) == pytest.approx(.25025) and lr(10/300 + .5*290/300) == pytest.approx(.25, rel=1e-3)

def test_the_augmentation_is_for_training(recipe):
    im = PILImage.create(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    t = recipe.Trivial()
    assert isinstance(t(im, split_idx=0), PILImage) and t(im, split_idx=0).size == (32, 32)
    assert any(np.asarray(t(im, split_idx=0)).tobytes() != np.asarray(im).tobytes() for _ in range(3))
    assert t(im, split_idx=1) is im

@pytest.mark.slow
def test_end_to_end(recipe, tmp_path, capsys):
    g = np.random.default_rng(0)
    for part,n in (('train', 8), ('test', 3)):
        for i,k in enumerate(['fish/ray', 'fish/shark', 'fruit/apple', 'fruit/pear', 'fruit/orange']):
            folder = tmp_path/'cifar100'/part/k
            folder.mkdir(parents=True)
            for j in range(n):
                x = g.integers(0, 60, (32, 32, 3)) + 40*i
                Image.fromarray(x.astype(np.uint8)).save(folder/f'{j}.png')
    out = tmp_path/'out'
    rep = recipe.main(['--path', str(tmp_path/'cifar100'), '--phases', '2', '--epochs', '2', '--lr', '.01', '--bs', '8',
                       '--m', '128', '--out', str(out)])
    assert rep.table.classes.tolist() == [3, 4, 5] and rep.table['items'].sum() == 40 and rep.summary.joint_gap < 1e-6
    assert (out/'phases.csv').exists() and 'phases' in capsys.readouterr().out

# --- two folders of a user's -----------------------------------------------------------------------------------------
@pytest.mark.slow
def test_two_folders(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    jpegs(tmp_path/'first', range(4), 10)
    jpegs(tmp_path/'later', [4, 5], 10, seed=3)
    args = 'first later --no-pretrained --size 32 --bs 8 --m 64 --phases 1 --epochs 1 --workers 0'
    table = script('new_classes_folder').main(args.split())
    assert table.index.tolist() == NAMES[:6] and table.learned.sum() + table.held_out.sum() == 60
    out = capsys.readouterr().out
    assert 'classes.pkl' in out and 'later: 16 items, 2 new classes, 6 in all' in out and 'held-out files' in out
    assert load_learner('classes.pkl').dls.vocab == NAMES[:6]
