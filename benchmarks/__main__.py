"""Benchmarks on simulated data of full size, which are made on first use.

python -m benchmarks         the table: time, memory and size against their limits
python -m benchmarks peer    beside a script of pandas, tarfile and h5py
python -m benchmarks scale   cost against the numbers of cells and of sounds
python -m benchmarks realism distributions over the simulated cells beside what they aim at
python -m benchmarks bias    scores, ceilings and powers of cells whose rates are known
"""

import click

from . import bias, peer, realism, scale, table

COMMANDS = {
    "table": table.run,
    "peer": peer.run,
    "scale": scale.run,
    "realism": realism.run,
    "bias": bias.run,
}


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n"))
@click.argument("command", type=click.Choice(list(COMMANDS)), default="table")
@click.option("--rounds", default=3, show_default=True, help="How often each is measured.")
def main(command: str, rounds: int) -> None:
    COMMANDS[command](rounds)


main()
