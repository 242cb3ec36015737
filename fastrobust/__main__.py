"`python -m fastrobust`: the demo on the embedded images; `python -m fastrobust audit DIR|CSV`: label audit of yours"
import argparse, sys, warnings
from pathlib import Path

_EPILOG = """Without options: plain fastai for 20 epochs, plain fastai for 5, and the recipe
'noisy_labels', each on the same 4,000 images of which 40 % have a wrong label; about a minute on two
idle cores. Prints a table; writes report.html, figures and CSV files. Another command: python -m
fastrobust audit DIR|CSV finds wrong labels among your own images; see its --help."""

_AUDIT = """DIR has a sub-folder of images per class (or train/ and valid/ with these inside); CSV
has columns path and label, paths relative to its own folder. Writes report.html (share of wrong labels
with interval where it can be told, the images to look at first), issues.csv (all images, the most
suspicious first) and, where the numbers hold, fixed.csv (path, label, action). Your files stay as they
are. After Ctrl-C the same command goes on where it was. On a machine without network give --weights;
where there are none, gradients and colours judge, which see less."""

def _number(kind, lo, hi, what):
    def parse(s):
        try: v = kind(s)
        except ValueError: raise argparse.ArgumentTypeError(f"expected {what}, got {s!r}") from None
        if not lo <= v <= hi: raise argparse.ArgumentTypeError(f"expected {what}, got {s}")
        return v
    return parse

def _whole(lo, hi): return _number(int, lo, hi, f'a whole number from {lo} on')

def _parser():
    p = argparse.ArgumentParser('python -m fastrobust', epilog=_EPILOG,
                                description='What wrong labels do to a network, and what helps.')
    p.add_argument('--out', metavar='DIR', default='./fastrobust-demo', type=Path,
                   help='folder to write to (%(default)s)')
    p.add_argument('--epochs', metavar='N', default=20, type=_whole(1, 10**4),
                   help='epochs of the long rows (%(default)s); the short ones never get more')
    p.add_argument('--seed', metavar='S', default=0, type=_whole(0, 2**32-1),
                   help='seed of noise, networks and batches (%(default)s)')
    rate = _number(float, 0, .9, 'a rate from 0 to 0.9')
    p.add_argument('--noise', metavar='RATE', default=.4, type=rate,
                   help='share of wrong training labels (%(default)s)')
    p.add_argument('--all', action='store_true',
                   help='more rows: label smoothing, MixUp, LogitClip, GCE, AugLoss, ODNL')
    return p

def _audit_parser():
    p = argparse.ArgumentParser('python -m fastrobust audit', epilog=_AUDIT,
                                description='Which labels of your images are wrong, and how many.')
    whole = lambda lo: _whole(lo, 10**6)
    p.add_argument('source', metavar='DIR|CSV', type=Path,
                   help='images in class folders, or a table of them')
    p.add_argument('--out', metavar='DIR', default='./fastrobust-audit', type=Path,
                   help='folder to write to (%(default)s)')
    p.add_argument('--arch', metavar='NAME',
                   help="pretrained network, frozen: a name of torchvision or timm (resnet18; where its "
                   "weights cannot be had, plain); 'plain': gradients and colours, no weights; 'small': "
                   "a small one, trained from scratch")
    p.add_argument('--weights', metavar='FILE', type=Path,
                   help='state dict of --arch, on machines without network')
    p.add_argument('--train', action='store_true',
                   help='train networks in folds instead, each judging what it has not seen: much slower')
    p.add_argument('--size', metavar='PX', type=whole(8),
                   help='pixels (224, plain and --train 128; small images: their own)')
    p.add_argument('--epochs', metavar='N', type=whole(1),
                   help='with --train: epochs of each fold (4; small: 8 to 20)')
    p.add_argument('--folds', metavar='K', type=whole(2), help='with --train: networks (3)')
    share = _number(float, .005, .3, 'a share from 0.005 to 0.3')
    p.add_argument('--plant', metavar='SHARE', default=.05, type=share,
                   help='share of labels changed on purpose, to measure by (%(default)s)')
    p.add_argument('--draws', metavar='N', type=_whole(1, 1000),
                   help='times that they are changed (5); not with --train')
    p.add_argument('--seed', metavar='S', default=0, type=_whole(0, 2**32-1),
                   help='seed of planted errors, folds and training (%(default)s)')
    p.add_argument('--bs', metavar='N', type=whole(2),
                   help='images at a time (64; with --train 8 to 64, by the number of images)')
    p.add_argument('--force', action='store_true',
                   help='write fixed.csv also where the judge is too weak to call labels wrong')
    return p

def _writable(out):
    "Find out before the training whether the report can be written after it"
    out.mkdir(parents=True, exist_ok=True)
    probe = out/'.fastrobust'
    probe.write_text('')
    probe.unlink()

def _cannot_write(out, e, example):
    print(f"fastrobust: cannot write to {str(out)!r} ({e.strerror}). Choose a folder of yours:\n"
          f"    {example}", file=sys.stderr)
    return 1

def _quiet():
    "Only our own words"
    for s in (sys.stdout, sys.stderr): s.reconfigure(errors='replace')      # terminals without ±
    warnings.simplefilter('ignore')                 # those of third parties, in this process only
    import matplotlib
    matplotlib.use('Agg')                           # works without a display
    from fastrobust.basics import RobustWarning
    warnings.simplefilter('always', RobustWarning)
    warnings.showwarning = lambda msg, *args, **kwargs: print(f'note: {msg}', flush=True)

def _audit(argv):
    args = _audit_parser().parse_args(argv)
    try: _writable(args.out)
    except OSError as e:
        return _cannot_write(args.out, e, f'python -m fastrobust audit {args.source} --out ~/audit')
    _quiet()
    try:
        from fastrobust.audit.command import audit
        audit(**vars(args))
    except KeyboardInterrupt as e:
        says = str(e) or 'Nothing was finished, nothing was written.'
        print(f'\nfastrobust: stopped. {says}', file=sys.stderr)
        return 130
    except (OSError, ValueError) as e:
        says = getattr(e, 'strerror', None) or e
        print(f'fastrobust: {says}', file=sys.stderr)
        return 1
    return 0

def main(argv=None):
    "Run the demo, or the audit; returns the exit code"
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv[:1] == ['audit']: return _audit(argv[1:])
    args = _parser().parse_args(argv)
    try: _writable(args.out)
    except OSError as e:
        return _cannot_write(args.out, e, 'python -m fastrobust --out ~/fastrobust-demo')
    _quiet()
    from fastrobust.demo import run_demo
    try:
        rep = run_demo(args.out, args.epochs, args.seed, args.noise, args.all)
        return 130 if rep.stopped else 0
    except KeyboardInterrupt:
        print('\nfastrobust: stopped before anything was finished; nothing was written.',
              file=sys.stderr)
        return 130
    except OSError as e:
        print(f'\nfastrobust: {e.strerror or e}', file=sys.stderr)
        return 1

if __name__ == '__main__': sys.exit(main())
