"""The Pareto frontier on PolyMNIST: seven systems, four betas, three seeds (Hölder++, section 5.1).

python experiments/polymnist_frontier.py --out runs/polymnist_frontier --inception FILE [--smoke]

The recipe is MMVAE+'s (Palumbo et al. 2023, appendix): 150 epochs of residual networks for each of
84 runs, for accelerators. Prepare the data first: holderjax data prepare polymnist --from DIR.
Stopped, the same command with --resume goes on.
"""

from pathlib import Path

from sweeps import command

from holderjax.training import SweepConfig

EPOCH = 60_000 // 32
RECIPE = SweepConfig(
    out=Path("runs/polymnist_frontier"),
    data="polymnist",
    systems=("mmvae+", "cmvae", "helvae", "mopoe", "holder", "holder+", "holder++"),
    betas=(1.0, 2.5, 5.0, 10.0),
    seeds=(0, 1, 2),
    network="resnet",
    latent_dim=32,
    private_dim=32,
    importance_samples=1,
    batch_size=32,
    amsgrad=True,
    steps=150 * EPOCH,
    log_every=EPOCH,
    checkpoint_every=10 * EPOCH,
    # One run at a time: residual networks fill an accelerator.
    together=1,
)

if __name__ == "__main__":
    command(RECIPE, __doc__)
