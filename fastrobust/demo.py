"The demo: plain and robust training on really wrong labels, side by side, told in a table, four pictures and a page"
import platform, textwrap
from pathlib import Path
import numpy as np
import fastai, torch
from fastai.callback.mixup import MixUp
from fastai.losses import LabelSmoothingCrossEntropyFlat
from fastai.metrics import accuracy
from fastrobust import __version__
from fastrobust.compare.compare import compare
from fastrobust.data.openset import aux_images
from fastrobust.labels.memorisation import plot_memorisation
from fastrobust.learner import robust_learner
from fastrobust.losses import GCELoss
from fastrobust.nets import small_cnn
from fastrobust.noise.laws import NoisyLabels
from fastrobust.recipes import RECIPES
from fastrobust.reporting import page as html
from fastrobust.reporting.report import saving
from fastrobust.reporting.style import (BLUE, INK, ORANGE, VERMILION, bare, figure_legend,
                                        new_figure, save_figure)
from fastrobust.samples import sample_data, sample_dls
from fastrobust.shift.augmixpicture import show_augmix
from fastrobust.techniques.augloss import AugLoss
from fastrobust.techniques.logitclip import LogitClip
from fastrobust.techniques.odnl import ODNL

__all__ = []

# Epochs of the short row where there are 20 of the long one; learning rate
SHORT,LR = 5,3e-3
RECIPE = RECIPES['noisy_labels'].epochs   # Epochs the recipe suggests
_WRONG,_RIGHT,_SLATE = VERMILION,'#9aa3ab','#55606b'

# --- what is compared -----------------------------------------------------------------------------
def _rows(epochs, everything, seed):
    "Row names and settings; the first three are the story"
    short = min(SHORT, max(1, epochs//4))
    rec = min(RECIPE, epochs)
    name = lambda what, n: f"{what}, {n} epoch{'s' if n > 1 else ''}"
    rows = {name('plain fastai', epochs): dict(epochs=epochs),
            name('plain, stopped early', short): dict(epochs=short),
            name("recipe 'noisy_labels'", rec): dict(recipe='noisy_labels', epochs=rec)}
    story = list(rows)
    if everything:
        aux = aux_images('gaussian', 2000, 28, channels=1, seed=seed)
        more = {'label smoothing': dict(loss_func=LabelSmoothingCrossEntropyFlat()),
                'MixUp': dict(cbs=MixUp()),
                'LogitClip': dict(techniques=LogitClip(1.)),
                'GCE': dict(loss_func=GCELoss()),
                'AugLoss (GCE)': dict(techniques=AugLoss(GCELoss())),
                'ODNL': dict(techniques=ODNL(aux))}
        rows.update({name(k, epochs): dict(v, epochs=epochs) for k,v in more.items()})
    return rows,story

# --- pictures -------------------------------------------------------------------------------------
def _samples(rec, seed, n=21):
    "Training images with their labels; the wrong ones framed"
    X,*_,vocab = sample_data('fashion')
    # not the stream that chose the wrong ones
    idxs = np.random.RandomState([seed, 1]).permutation(len(X))[:n]
    fig = new_figure((11, 6.1))
    axs = fig.subplots(3, 7)
    for ax,i in zip(axs.flat, idxs):
        given,true = vocab[rec.y_noisy[i]],vocab[rec.y_clean[i]]
        ax.imshow(X[i], cmap='gray_r', vmin=0, vmax=255)
        bare(ax)
        if rec.is_noisy[i]:
            ax.spines[:].set(color=_WRONG, linewidth=4)
            ax.set_title(f'✗ {given}', fontsize=11, color=_WRONG, fontweight='bold')
            ax.set_xlabel(f'is: {true}', fontsize=9.5, color=_SLATE)
        else:
            ax.spines[:].set(color=_RIGHT, linewidth=1)
            ax.set_title(given, fontsize=11, color='black', fontweight='normal')
            ax.set_xlabel(' ', fontsize=9.5, color=_SLATE)
    wrong = int(rec.is_noisy[idxs].sum())
    fig.suptitle(f'Labels as the network is given them: {wrong} of these {n} are wrong (framed)')
    return fig

def _memorisation(rep, names):
    "The first and the last of `names` beside each other"
    fig = new_figure((6*len(names), 5.2))
    axs = fig.subplots(1, len(names), sharey=True, squeeze=False)
    for ax,o in zip(axs[0], names):
        curve = rep.curve(o, rep.runs.seed.iloc[0])
        plot_memorisation(curve, metric=rep.metric, ax=ax, title=o, legend=False)
    for ax in axs[0, 1:]: ax.set_ylabel('')
    figure_legend(fig, axs[0, 0], ncols=3)
    return fig

def _figures(rep, rec, names, out, seed):
    "Draw everything into `out`"
    import matplotlib.pyplot as plt
    img = sample_data('fashion')[0][7]
    with plt.rc_context({'font.size': 11}), saving(out):
        save_figure(_samples(rec, seed), out/'samples.png', 110)
        save_figure(_memorisation(rep, names), out/'memorisation.png', 110)
        augmix = show_augmix(img, generator=torch.Generator().manual_seed(seed))
        save_figure(augmix, out/'augmix.png', 110)

# --- words ----------------------------------------------------------------------------------------
def _early(rep, story):
    "The sentence on stopping early, as the numbers have it"
    if not {story[0], story[1]} <= set(rep.table.index): return ''
    a,b = (rep.table.loc[o] for o in story[:2])
    how = ':' if b['last'] > a['last'] else ', though not in this run:'
    return (f"Stopping early is the first robust method{how} plain fastai ends at {b['last']:.3f} "
            f"on a schedule of {b.epochs:.0f}, at {a['last']:.3f} on one of {a.epochs:.0f} epochs.")

def _verdict(rep, name):
    "What happened to one row, in a sentence"
    r = rep.table.loc[name]
    right = f"{name}: right on {r['last']:.1%} of the test images"
    if np.isnan(r.memorised): return f"{right}."
    return f"{right}, repeats {r.memorised:.0%} of the wrong training labels."

def _what(acts):
    "Loss and techniques of a run, without fastai's wrapping"
    acts = acts.replace('FlattenedLoss of CrossEntropyLoss()', 'cross-entropy')
    return acts.replace(", reduction='mean'", '')

_NEXT = '''from fastai.vision.all import *
from fastrobust.all import *

dls   = ImageDataLoaders.from_folder('my_images', valid_pct=.2, item_tfms=Resize(224))
learn = robust_learner(dls, resnet18, recipe='noisy_labels', metrics=accuracy)
learn.fine_tune(5)'''

_COMPARE = '''make = lambda **kw: robust_learner(dls, resnet18, metrics=accuracy, **kw)
rows = {'plain': None, 'recipe': 'noisy_labels', 'clip': LogitClip(1.)}
compare(make, rows, epochs=5, seeds=3, fit=lambda learn, n: learn.fine_tune(n)).plot()'''

def _lead(rec):
    "The first sentences of the page"
    if not rec.is_noisy.sum(): return 'All labels are right here: the control to compare with.'
    return (f"{rec.realised_rate:.0%} of the {len(rec):,} labels a network is trained on here are "
            "wrong, on purpose. It first learns what the right labels have in common; trained on, "
            "it learns the wrong ones by heart. See it happen, and see what helps.")

def _captions(rec):
    "Picture -> (caption, what it shows for those who do not see it)"
    wrong = int(rec.is_noisy.sum())
    return dict(
        samples=(f"{rec.kind.capitalize()} noise: a share of the labels is replaced by another "
                 f"class, each with the same chance. Nominal rate {rec.nominal_rate:.3f}, realised "
                 f"{rec.realised_rate:.4f}: {wrong:,} of {len(rec):,} labels. The test images keep "
                 "their true labels.",
                 'Images of clothes with the labels given to the network, wrong ones framed'),
        compare=("Left: accuracy on the test images, whose labels are true, after each epoch. "
                 "Right: where each row ends. Nothing is left out: rows that do not help are shown "
                 "as they are.",
                 'Accuracy by epoch and at the end'),
        memorisation=("Orange: the share of wrongly labelled training images for which the network "
                      "repeats the wrong label. Green: the share it sees through, answering what "
                      "they truly show. Both are counted in the training batches as they go by. "
                      "Watch test accuracy (black) as orange rises. The star marks the best epoch, "
                      "which nobody could have chosen without true test labels.",
                      'Memorisation curves of plain fastai and of the recipe'),
        augmix=("Wrong labels are one trouble; blur, fog and odd cameras are another. AugMix mixes "
                "chains of harmless distortions, and the network must answer all versions of an "
                "image alike. It combines with what you saw above: AugLoss is AugMix with a robust "
                "loss.",
                'AugMix on one image, chain by chain'))

def _page(rep, rec, story, out, settings):
    "The report as HTML"
    t = rep.table
    have = [o for o in story if o in t.index]
    colors = dict(zip(story, (INK, ORANGE, BLUE)))        # those of the rows in compare.png
    tiles = [(f"{t['last'][o]:.1%}", f"of the test images right: {o}", colors[o]) for o in have]
    pics = {k: html.figure(out/f'{k}.png', *v) for k,v in _captions(rec).items()}
    acts = rep.runs.drop_duplicates('row').set_index('row').acts
    rows = [f'{o}: {_what(a)}.' for o,a in acts.items()]

    parts = [html.para(_lead(rec), 'lead'),
             html.tiles(tiles),
             html.heading('What the network is told'),
             pics['samples'],
             html.heading('Side by side'),
             html.table(rep.formatted()),
             html.para(_early(rep, story)),
             pics['compare'],
             html.heading('What became of the wrong labels'),
             pics['memorisation'],
             html.bullets([_verdict(rep, o) for o in have]),
             html.heading('When the images themselves change'),
             pics['augmix'],
             html.heading('Try it on your own images'),
             html.code(_NEXT),
             html.para('Do not believe one run, nor tables made on data that is not yours. A '
                       'comparison is one call:'),
             html.code(_COMPARE),
             html.heading('How this was measured'),
             html.bullets([settings, *rep.notes, *rows])]
    foot = (f'fastrobust {__version__}, fastai {fastai.__version__}, torch {torch.__version__}, '
            f'Python {platform.python_version()}. Images: Fashion-MNIST, Zalando Research, MIT '
            'licence.')
    return html.page('Wrong labels, and what to do about them', parts, foot)

# --- the demo -------------------------------------------------------------------------------------
def run_demo(
    out='./fastrobust-demo',# Folder for report.html, pictures and CSV files
    epochs:int=20,          # Of the long rows; the short ones never get more
    seed:int=0,             # Of noise, networks and batches
    noise:float=.4,         # Rate of symmetric noise on the training labels
    everything:bool=False   # More rows
):
    "Train, print the table, write the page; returns the `Comparison`"
    out = Path(out)
    dls = sample_dls(noise=NoisyLabels('symmetric', noise, seed=seed))
    rec = dls.noise
    rows,story = _rows(epochs, everything, seed)
    settings = ('Network: four convolutions of width 32 with batch norm; Adam, one-cycle schedule, '
                f"learning rate {LR:g},\nbatches of {dls.bs}, seed {seed}, device {dls.device}, "
                f"torch threads: {torch.get_num_threads()}.")
    print(f"fastrobust {__version__}: what wrong labels do to a network, and what helps\n\n"
          f"{len(rec):,} images of clothes (Fashion-MNIST) to learn from, "
          f"{len(dls.valid_ds):,} to test on.\n"
          f"Symmetric label noise: nominal rate {rec.nominal_rate:.3f}, realised "
          f"{rec.realised_rate:.4f}, so {int(rec.is_noisy.sum()):,} training labels are wrong; "
          f"the test labels are true.\n{settings}\n", flush=True)
    make = lambda **kw: robust_learner(dls, small_cnn(10), metrics=accuracy, lr=LR, **kw)
    rep = compare(make, rows, seeds=[seed])
    columns = ['last', 'oracle best', 'memorised', 'epochs', 'seconds']
    table = rep.formatted()[columns].rename_axis(None)
    print(f"\n{table.to_string()}\n\n"
          "last: accuracy on the test images after the last epoch. "
          "oracle best: after the best epoch, chosen on the test images.\n"
          "memorised: share of the wrong training labels that the trained network repeats.\n")
    if s := _early(rep, story): print(textwrap.fill(s, 118))
    names = [o for o in (story[0], story[2]) if o in rep.table.index]
    if not names: names = list(rep.table.index[:1])
    _figures(rep, rec, names, out, seed)
    rep.save(out)
    with saving(out):
        (out/'report.html').write_text(_page(rep, rec, story, out, settings), encoding='utf-8')
    print(f"\nThe whole story with pictures: {out/'report.html'}   (open it in a browser)")
    if not everything: print('More techniques: python -m fastrobust --all')
    return rep
