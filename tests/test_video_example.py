"nbs/examples/attack_ucf101.py on a folder of its own: it goes on where it stopped, and attacks a state dict from disk"
import importlib.util
from pathlib import Path
import pytest, torch
from fastrobust.systems.video.folders import recording_of, ucf101_items

pytestmark = pytest.mark.slow

@pytest.fixture(scope='module')
def script():
    path = Path(__file__).parents[1]/'nbs/examples/attack_ucf101.py'
    spec = importlib.util.spec_from_file_location('attack_ucf101', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

def test_the_folder_is_as_ucf101(script, tmp_path):
    root = script.toy_folder(tmp_path, a_class=16)
    train,held,vocab = ucf101_items(root, 1)
    assert vocab == ['GoRight', 'GoLeft', 'GoDown', 'GoUp'] and (len(train), len(held)) == (48, 16)
    both = [{recording_of(o) for o,_ in part} for part in (train, held)]
    assert both[0] and not both[0] & both[1]
    assert all(k == o.parent.name for o,k in train+held)

def test_end_to_end(script, tmp_path, capsys):
    out = tmp_path/'out'
    table = script.main(['--toy', '--out', str(out)])
    said = capsys.readouterr().out
    assert said.index('clean accuracy') < said.index('AstFocus on 6 clips')
    assert table.attack.tolist() == ['AstFocus', 'random masks', 'dense NES', 'centre box', 'motion mask', 'sign noise',
                                     'white-box PGD']
    assert table.queries.iloc[:-1].max() <= 200
    made = {o.name for o in (out/'report').iterdir()}
    assert {'video.csv', 'video_clips.csv', 'video_curve.csv', 'video.png', 'video_strips.png'} <= made

    before = (out/'victim.pth').stat().st_mtime_ns
    again = script.main(['--toy', '--out', str(out)])
    said = capsys.readouterr().out
    assert 'epoch, loss' not in said and 'report is there' in said and again.equals(table)
    assert (out/'victim.pth').stat().st_mtime_ns == before
    with pytest.raises(SystemExit, match='begun with --eps 0.05, this is --eps 0.02.*another --report'):
        script.main(['--toy', '--out', str(out), '--eps', '.02'])

    # the network of this run as a file of somebody's, on the folder as such
    folder = out/'toy'/'UCF-101'
    call = (f'{folder} --arch tiny_c3d --weights {out/"victim.pth"} --epochs 0 --n 8 --span .32 --size 24 --workers 0 '
            f'--clips 2 --samples 20 --budget 43 --out {tmp_path/"other"}')
    other = script.main(call.split())
    said = capsys.readouterr().out
    assert 'epoch, loss' not in said and other.clips.tolist() == [2]*7
    mine,theirs = (torch.load(o/'victim.pth') for o in (out, tmp_path/'other'))
    assert all(torch.equal(v, theirs[k]) for k,v in mine.items())

def test_a_folder_is_asked_for(script, capsys):
    with pytest.raises(SystemExit): script.main([])
    assert 'give the folder of the videos, or --toy' in capsys.readouterr().err
