"""The Pareto frontier on PolyMNIST: seven systems, four betas, three seeds (Hölder++, section 5.1).

python experiments/polymnist_frontier.py --out runs/polymnist_frontier --inception FILE [--smoke]

The recipe is MMVAE+'s (Palumbo et al. 2023, appendix): 150 epochs of residual networks for each of
84 runs, for accelerators. Prepare the data first: holderjax data prepare polymnist --from DIR.
Stopped, the same command with --resume goes on.
"""

from pathlib import Path

from sweeps import RESIDUAL, command

from holderjax.training import SweepConfig

EPOCH = 60_000 // 32
RECIPE = SweepConfig(
    **RESIDUAL,
    out=Path("runs/polymnist_frontier"),
    data="polymnist",
    systems=("mmvae+", "cmvae", "helvae", "mopoe", "holder", "holder+", "holder++"),
    latent_dim=32,
    private_dim=32,
    batch_size=32,
    steps=150 * EPOCH,
    log_every=EPOCH,
    checkpoint_every=10 * EPOCH,
)

if __name__ == "__main__":
    command(RECIPE, __doc__)
