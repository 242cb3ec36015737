"`python -m fastrobust`: the demo on the embedded images; see `--help`"
import argparse, sys, warnings
from pathlib import Path

_EPILOG = """Without options: plain fastai for 20 epochs, plain fastai for 5, and the recipe 'noisy_labels', each on the
same 4,000 images of which 40 % have a wrong label; two or three minutes on two cores. Prints a table; writes
report.html, figures and CSV files."""

def _number(kind, lo, hi, what):
    def parse(s):
        try: v = kind(s)
        except ValueError: raise argparse.ArgumentTypeError(f"expected {what}, got {s!r}")
        if not lo <= v <= hi: raise argparse.ArgumentTypeError(f"expected {what}, got {s}")
        return v
    return parse

def _parser():
    p = argparse.ArgumentParser('python -m fastrobust', epilog=_EPILOG,
                                description='What wrong labels do to a network, and what helps.')
    p.add_argument('--out', metavar='DIR', default='./fastrobust-demo', type=Path,
                   help='folder to write to (%(default)s)')
    p.add_argument('--epochs', metavar='N', default=20, type=_number(int, 1, 10**4, 'a whole number from 1 on'),
                   help='epochs of the long rows (%(default)s); the short ones never get more')
    p.add_argument('--seed', metavar='S', default=0, type=_number(int, 0, 2**32-1, 'a whole number from 0 on'),
                   help='seed of noise, networks and batches (%(default)s)')
    p.add_argument('--noise', metavar='RATE', default=.4, type=_number(float, 0, .9, 'a rate from 0 to 0.9'),
                   help='share of wrong training labels (%(default)s)')
    p.add_argument('--all', action='store_true',
                   help='more rows: label smoothing, MixUp, LogitClip, GCE, AugLoss, ODNL')
    return p

def _writable(out):
    "Find out before the training whether the report can be written after it"
    out.mkdir(parents=True, exist_ok=True)
    probe = out/'.fastrobust'
    probe.write_text('')
    probe.unlink()

def main(argv=None):
    "Run the demo; returns the exit code"
    args = _parser().parse_args(argv)
    try: _writable(args.out)
    except OSError as e:
        print(f"fastrobust: cannot write to {str(args.out)!r} ({e.strerror}). Choose a folder of yours:\n"
              "    python -m fastrobust --out ~/fastrobust-demo", file=sys.stderr)
        return 1
    for s in (sys.stdout, sys.stderr): s.reconfigure(errors='replace')      # terminals without ±
    warnings.simplefilter('ignore')                 # those of third parties, in this process only
    import matplotlib
    matplotlib.use('Agg')                           # works without a display
    from fastrobust.basics import RobustWarning
    from fastrobust.demo import run_demo
    warnings.simplefilter('always', RobustWarning)
    warnings.showwarning = lambda msg, *args, **kwargs: print(f'note: {msg}')
    try: return 130 if run_demo(args.out, args.epochs, args.seed, args.noise, args.all).stopped else 0
    except KeyboardInterrupt:
        print('\nfastrobust: stopped before anything was finished; nothing was written.', file=sys.stderr)
        return 130
    except OSError as e:
        print(f'\nfastrobust: {e.strerror or e}', file=sys.stderr)
        return 1

if __name__ == '__main__': sys.exit(main())
