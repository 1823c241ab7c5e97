"""CUBICC: unsupervised clustering of captioned birds (CMVAE, section 5.2; Hölder++, section 5.3).

python experiments/cubicc.py --out runs/cubicc --inception FILE [--smoke]

Eight families, ten seeds; the report's table "Representation and clustering" has accuracy, NMI and
ARI of the clusters that the prior learned. Sizes and steps are ours. Prepare the data first:
holderjax data prepare cubicc --from DIR. Stopped, the same command with --resume goes on.
"""

from pathlib import Path

from sweeps import RESIDUAL, command

from holderjax.training import SweepConfig

RECIPE = SweepConfig(
    **RESIDUAL,
    out=Path("runs/cubicc"),
    data="cubicc",
    systems=("cmvae", "cholder+", "cholder++"),
    betas=(1.0,),
    seeds=tuple(range(10)),
    latent_dim=48,
    private_dim=16,
    clusters=8,
    batch_size=32,
    steps=40_000,
    fit_clusters=20_000,
    log_every=200,
    checkpoint_every=2000,
)

if __name__ == "__main__":
    command(RECIPE, __doc__)
