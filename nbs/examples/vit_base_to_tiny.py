"A folder of images: a ViT-B teaches a ViT-Ti, without labels; what folders of classes are in it, tell how well"
# python nbs/examples/vit_base_to_tiny.py folder --minutes 10
# Weights of the teacher come from the hub (timm's vit_base_patch16_224.mae), or from a file:
# .. --weights mae_pretrain_vit_base.pth
# The same line again goes on where the last one stopped: a checkpoint is written after each epoch, and an epoch that
# was cut short is learned again. Where each image lies in the folder of its class, a fifth is held out from all of it,
# then a linear head is probed and a classifier fine-tuned and exported.
# On any CPU in seconds, with networks that are toys: .. --toy
import argparse, json, os, random, sys, time
from pathlib import Path
import torch
from fastai.callback import schedule    # noqa: F401 (gives Learner its fit_one_cycle)
from fastai.callback import fp16        # noqa: F401 (and to_bf16)
from fastai.callback.core import Callback, CancelFitException
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import IndexSplitter, get_image_files, parent_label
from fastai.metrics import accuracy
from fastai.torch_core import set_seed
from fastai.vision.augment import Resize
from fastai.vision.data import ImageBlock
sys.path.insert(0, str(Path(__file__).parents[2]))
from fastrobust.systems.tinymim.learner import tinymim_learner
from fastrobust.systems.tinymim.mimdata import mim_dls
from fastrobust.systems.tinymim.probe import linear_probe
from fastrobust.systems.tinymim.tinyvit import tiny_vit

# --- stop and go on ------------------------------------------------------------------------------------------------
class Checkpoint(Callback):
    "The learner after each epoch in one file, which is whole at any time"
    order = 70
    def __init__(self, folder, done): self.folder,self.done = folder,done

    def after_epoch(self):
        done = self.epoch+1
        if done <= self.done: return    # passed over
        new = self.learn.save((self.folder/'unfinished').absolute())
        os.replace(new, self.folder/f'epoch_{done}.pth')
        for n,p in saved(self.folder):
            if n < done: p.unlink()

class Until(Callback):
    "Ends the fit when the time is over"
    order = 75
    def __init__(self, end): self.end,self.reached = end,False
    def after_batch(self):
        if time.monotonic() < self.end: return
        self.reached = True
        raise CancelFitException

def saved(folder):
    "(epochs, file) of the checkpoints in a folder"
    return sorted((int(p.stem.split('_')[1]), p) for p in folder.glob('epoch_*.pth'))

def same_run(o):
    "The settings of the run in the folder; another run there would be mixed up with it"
    names = 'folder','size','student','teacher','epochs','lr','bs','toy'
    mine = {k: str(getattr(o, k)) for k in names}
    path = o.out/'run.json'
    if path.exists():
        theirs = json.loads(path.read_text())
        odd = [k for k in names if theirs.get(k) != mine[k]]
        if odd:
            k = odd[0]
            sys.exit(f'{o.out} has a run with --{k} {theirs.get(k)}, this one is with {mine[k]}. Give the same, or '
                     'another --out.')
    path.write_text(json.dumps(mine))

# --- images --------------------------------------------------------------------------------------------------------
def split(o):
    "(files to learn from, held-out files; none where the folders are no classes)"
    files = sorted(get_image_files(o.folder))
    classes = {p.parent for p in files}
    if len(classes) < 2 or any(p.parent != o.folder for p in classes): return files,[]
    random.Random(0).shuffle(files)
    n = len(files)//5
    return files[n:],files[:n]

def labelled(o, files, held):
    block = DataBlock((ImageBlock, CategoryBlock), splitter=IndexSplitter(range(len(files), len(files)+len(held))),
                      get_y=parent_label, item_tfms=Resize(o.size))
    return block.dataloaders([*files, *held], bs=o.bs, num_workers=o.workers, path=o.out)

# --- the three steps -----------------------------------------------------------------------------------------------
def learner(o, files):
    dls = mim_dls(files or o.folder, o.size, o.bs, num_workers=o.workers, path=o.out)
    student,teacher = o.student,o.teacher
    if o.toy:
        set_seed(0)
        student,teacher = tiny_vit(o.size, 4, 32, 3, 2),tiny_vit(o.size, 4, 64, 4, 4)
    learn = tinymim_learner(dls, student, teacher, teacher_weights=o.weights)
    if torch.cuda.is_available() and torch.cuda.is_bf16_supported(): learn.to_bf16()
    return learn

def pretrain(o, learn):
    "As many epochs as the time allows; whether all are done"
    done = 0
    if saved(o.out):
        done,path = saved(o.out)[-1]
        learn.load(path.with_suffix('').absolute())
        print(f'going on after epoch {done} of {o.epochs}')
    if done >= o.epochs: return True
    until = Until(time.monotonic() + 60*o.minutes)
    # warm-up over a twentieth of it, as in the paper
    learn.fit_one_cycle(o.epochs, o.lr, pct_start=.05, start_epoch=done, cbs=[Checkpoint(o.out, done), until])
    if not until.reached: return True
    n = saved(o.out)[-1][0] if saved(o.out) else 0
    print(f'time over after {n} of {o.epochs} epochs. The same line goes on.')
    if n == done: print('No epoch was finished in that time: give more --minutes, or a smaller folder.')
    return False

def judge(o, learn, files, held):
    "A linear probe, and a classifier fine-tuned and exported"
    dls = labelled(o, files, held)
    probe = linear_probe(learn.student, dls)
    print(probe)
    clf = learn.to_classifier(dls, metrics=accuracy)
    clf.fit_one_cycle(o.finetune, o.lr)
    clf.export((o.out/'classifier.pkl').absolute())
    size = (o.out/'classifier.pkl').stat().st_size/2**20
    print(f'fine-tuned: accuracy {clf.recorder.values[-1][-1]:.3f} of {len(held)} held-out images; '
          f'{o.out/"classifier.pkl"}: {size:.1f} MiB, no teacher in it')

def main(args=None):
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('folder', type=Path, help='of images, at any depth')
    p.add_argument('--out', type=Path, default=Path('vit_tiny'), help='folder for checkpoints')
    p.add_argument('--minutes', type=float, default=10, help='of learning from the teacher, in this call')
    p.add_argument('--epochs', type=int, default=100, help='in all, over as many calls as it takes')
    p.add_argument('--student', default='vit_tiny_patch16_224', help="a name of timm's or torchvision's")
    p.add_argument('--teacher', default='vit_base_patch16_224.mae', help='the same, with its weights')
    p.add_argument('--weights', help="a file for the teacher, MAE's too; else they are fetched")
    p.add_argument('--size', type=int, default=224, help='pixels')
    p.add_argument('--bs', type=int, default=128)
    p.add_argument('--lr', type=float, default=1e-3)
    p.add_argument('--workers', type=int, default=min(16, os.cpu_count()))
    p.add_argument('--finetune', type=int, default=10, help='epochs on the labels, where there are folders of classes')
    p.add_argument('--toy', action='store_true', help='toy networks on 32 pixels')
    o = p.parse_args(args)
    if o.toy: o.size,o.bs,o.workers = 32,8,0
    o.out.mkdir(parents=True, exist_ok=True)
    same_run(o)
    set_seed(0)
    files,held = split(o)
    learn = learner(o, files)
    done = pretrain(o, learn)
    if held and o.finetune: judge(o, learn, files, held)
    return done

if __name__ == '__main__': main()
