"The recipe `noisy_labels` as shipped against plain fastai, long and short, at 40, 20 and 0 % wrong labels"
import sys
from fastai.vision.all import accuracy
from fastrobust.all import RECIPES, NoisyLabels, compare, robust_learner, sample_dls, small_cnn

def main(seeds=5):
    n = RECIPES['noisy_labels'].epochs
    for rate in (.4, .2, 0.):
        def make(seed, rate=rate, **kw):
            dls = sample_dls(noise=NoisyLabels('symmetric', rate, seed=seed)) if rate else sample_dls()
            return robust_learner(dls, small_cnn(10), metrics=accuracy, **kw)
        rows = {'plain, 20 epochs': dict(epochs=20), 'plain, 5 epochs': dict(epochs=5),
                f'plain, {n} epochs': dict(epochs=n),
                'recipe': dict(recipe='noisy_labels', epochs=n),
                "recipe's loss, 20 epochs": dict(recipe='noisy_labels', epochs=20)}
        fit = lambda learn, epochs: learn.fit_one_cycle(epochs, 3e-3)
        rep = compare(make, rows, seeds=seeds, fit=fit, baseline='plain, 5 epochs')
        print(f'\n### symmetric (exclusive) noise, nominal rate {rate}\n')
        print(rep.table.to_string()); print(rep)
        print(rep.runs.pivot(index='seed', columns='row', values='last').to_string())

if __name__ == '__main__': main(*map(int, sys.argv[1:]))
