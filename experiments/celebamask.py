"""CelebAMask-HQ: faces, masks and attributes from each other (Hölder++, section 5.4).

python experiments/celebamask.py --out runs/celebamask --inception FILE [--smoke]

FID of images given attributes, and given mask and attributes; F1 of attributes and of masks given
the other two: the report has them beside the published ones. Sizes and steps are ours. Prepare the
data first: holderjax data prepare celebamask-hq --from DIR. Stopped, the same command with --resume
goes on.
"""

from pathlib import Path

from sweeps import RESIDUAL, command

from holderjax.training import SweepConfig

RECIPE = SweepConfig(
    **RESIDUAL,
    out=Path("runs/celebamask"),
    data="celebamask-hq",
    systems=("mmvae+", "cmvae", "holder+", "holder++"),
    latent_dim=64,
    private_dim=64,
    batch_size=64,
    # 200 epochs.
    steps=75_000,
    log_every=375,
    checkpoint_every=3750,
)

if __name__ == "__main__":
    command(RECIPE, __doc__)
