"""MNIST-SVHN: the Pareto frontier and what the latents know (Hölder++, sections 5.2 and 5.5).

python experiments/mnist_svhn.py --out runs/mnist_svhn --inception FILE [--smoke]

The report's table "Representation and clustering" has the linear accuracy of z and w; metrics.json
has it by modality. Sizes and steps are ours: the papers' notes give betas and seeds alone. Prepare
the data first: holderjax data prepare mnist-svhn. Stopped, the same command with --resume goes on.
"""

from pathlib import Path

from sweeps import command

from holderjax.training import SweepConfig

RECIPE = SweepConfig(
    out=Path("runs/mnist_svhn"),
    data="mnist-svhn",
    systems=("mmvae", "mopoe", "helvae", "mmvae+", "cmvae", "holder", "holder+", "holder++"),
    network="conv",
    latent_dim=20,
    private_dim=20,
    importance_samples=1,
    batch_size=128,
    # Ten epochs, in each of which every image occurs twenty times.
    steps=87_500,
    log_every=500,
    checkpoint_every=5000,
)

if __name__ == "__main__":
    command(RECIPE, __doc__)
