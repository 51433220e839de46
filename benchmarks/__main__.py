"""Benchmarks on simulated data of full size, which are made on first use.

python -m benchmarks         a table of time, memory and size, with their limits
python -m benchmarks peer    comparison with a script of pandas, tarfile and h5py
python -m benchmarks scale   time and memory for different numbers of cells and sounds
python -m benchmarks realism distributions over simulated cells, with their targets
python -m benchmarks bias    bias of scores, ceilings and powers of cells with known rates
python -m benchmarks analyses time and memory of the analyses of populations, on both areas
"""

import click

from . import analyses, bias, peer, realism, scale, table

COMMANDS = {
    "table": table.run,
    "peer": peer.run,
    "scale": scale.run,
    "realism": realism.run,
    "bias": bias.run,
    "analyses": analyses.run,
}


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n"))
@click.argument("command", type=click.Choice(list(COMMANDS)), default="table")
@click.option("--rounds", default=3, show_default=True, help="Number of measurements.")
def main(command: str, rounds: int) -> None:
    COMMANDS[command](rounds)


main()
