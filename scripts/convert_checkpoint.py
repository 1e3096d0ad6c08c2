"""Weights as a new checkpoint: python scripts/convert_checkpoint.py WEIGHTS --config CONFIG --out DIR [--weights-only].

WEIGHTS is a state dict of the public SQG-ViT code: a .safetensors file, or one of torch.save (.pt, .pth, a Lightning
.ckpt). Nothing in it is run, and PyTorch is not needed. Or it is the folder of a training of ours, for another training
that starts from its best weights (other data, longer roll-outs), or to give the weights alone away. CONFIG is a
training file as of train_vit.py whose [vit] has the sizes of the weights; vit.num_heads must be right, because no
weight tells it. On another grid the position embeddings of PyTorch's are interpolated. DIR, which must be new, gets
checkpoints/ and config.toml, as if a training had written them, and `train_vit.py DIR/config.toml --out DIR` goes on
from there (not with --weights-only).

A model only works with the normalisation and the unit of lead time that it was trained with. For the public code's own
training that is `--statistics FOLDER`, where its normalize_mean.npz and normalize_std.npz are, and `--lead-time 0.01`.

Exit status: 0; 2 for bad input, said in one line, with nothing written.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from jaxda import config as configuration
from jaxda import conversion, surrogate
from jaxda.models import vit
from jaxda.output import record
from jaxda.output.progress import bar
from jaxda.parallel import launch
from jaxda.settings import Parser, place
from jaxda.training import dataset
from jaxda.training.dataset import Statistics


def parser() -> Parser:
    """The command line's own options; every other flag is a field of the configuration."""
    own = Parser("convert_checkpoint.py", __doc__, epilog="any field of CONFIG can be given too: --vit.depth 8, ...")
    text = "file of PyTorch: .safetensors, .pt, .pth or .ckpt; or folder of a training"
    own.add_argument("weights", type=place, metavar="WEIGHTS", help=text)
    own.add_argument("--config", required=True, help="training file with the sizes of the weights")
    own.add_argument("--out", type=place, required=True, help="folder to make")
    text = "mean and std of each variable [m/s]: .npz or NetCDF with mean and std, or the public code's folder"
    own.add_argument("--statistics", type=place, help=f"{text} (default: those of the configuration's series)")
    text = "keep the weights alone: enough for forecasts, a quarter of the size"
    own.add_argument("--weights-only", action="store_true", help=text)
    text = "what the model was given in its training for a lead of the first of data.lead_hours"
    own.add_argument("--lead-time", type=float, help=f"{text} [days] (default: that lead)")
    return own


def statistics(config: surrogate.SurrogateConfig, given: Path | None) -> Statistics:
    """Of the file, or of the training part of the series, as a training takes them."""
    if given is not None:
        return conversion.read_statistics(given, config.vit.variables)
    days = config.series.days + config.series.spinup_days if config.series.file is None else 1.0
    with bar("series", days, "days") as advance:
        series = surrogate.make_series(config, advance)
    return dataset.statistics(series, dataset.split(series, config.data).train)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    try:
        given, rest = parser().parse_known_args(arguments)
        config = configuration.read(given.config, configuration.parse_overrides(rest), surrogate.SurrogateConfig)
        conversion.require_new(given.out)
        launch.start("float32")
        if given.weights.is_dir():
            for flag, value in (("statistics", given.statistics), ("lead-time", given.lead_time)):
                if value is not None:
                    raise ValueError(f"--{flag} {value}: {given.weights} is a training and has its own; leave it out")
            trained = conversion.trained_weights(given.weights, config)
            params, side, own_statistics = trained.params, config.vit.side, trained.statistics
        else:
            params, side = conversion.read_weights(given.weights, config, given.lead_time)
            own_statistics = statistics(config, given.statistics)
        conversion.write(given.out, config, params, own_statistics, given.weights_only)
        if not given.weights_only:  # those are to be given away, and name no folder of this machine
            record.write(given.out, "convert_checkpoint.py", arguments, config)
        print(f"{vit.count_parameters(config.vit):,} parameters, with vit.num_heads = {config.vit.num_heads} as given")
        if side != config.vit.side:
            print(f"positions: from {side} x {side} patches to {config.vit.side} x {config.vit.side}")
        numbers = (np.array2string(values, precision=6) for values in own_statistics)
        print("mean {} m/s, standard deviation {} m/s".format(*numbers))
        hours = config.data.lead_hours[0]
        unit = hours / dataset.HOURS_PER_DAY if given.lead_time is None else given.lead_time
        print(f"lead time: {unit:g} in the model's training is {hours:g} h")
        print(f"written to {given.out}")
        return 0
    except (ValueError, OSError) as error:
        return launch.refuse("convert_checkpoint.py", error)


if __name__ == "__main__":
    sys.exit(main())
