"""The command line, thin: each command is a few calls of the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import __version__
from .errors import DownloadError, ReleaseError

AREA = click.Choice(["A1", "PEG"], case_sensitive=False)
data_path = click.option(
    "--path",
    type=click.Path(path_type=Path),
    help="Folder of the data. Default: $NAT4XR_DATA_DIR, or else the user's cache folder.",
)
subset_option = click.option(
    "--subset", type=click.Choice(["all", "est", "val"]), default="all", show_default=True
)


class _Commands(click.Group):
    """Commands whose expected errors are one line, not a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ReleaseError, DownloadError, OSError, ImportError, ValueError) as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Commands)
@click.version_option(__version__, prog_name="nat4xr")
def main() -> None:
    """NAT4: ferret auditory-cortex responses to natural sounds, as labelled xarray objects."""


@main.command()
@click.argument("part", metavar="A1|PEG|wav", type=click.Choice(["A1", "PEG", "wav"], False))
@data_path
def fetch(part: str, path: Path | None) -> None:
    """Download an area's files (or the sounds, wav) from Zenodo, and verify them."""
    from .registry import fetch

    for file in fetch(part, path):
        click.echo(file)


@main.command()
@click.argument("area", type=AREA)
@data_path
def info(area: str, path: Path | None) -> None:
    """Tell what there is: cells, sounds, and which cells were recorded for which sounds."""
    import pandas as pd

    from .store import open_area

    ds = open_area(area, path)
    click.echo(f"{ds.attrs['title']}\n{ds.attrs['source']}\n")
    n_val, n_est = (int((ds["subset"] == subset).sum()) for subset in ("val", "est"))
    click.echo(
        f"{ds.sizes['neuron']} cells, {int(ds['auditory'].sum())} of them auditory; "
        f"{n_est} est and {n_val} val sounds\n"
    )
    n_reps = ds["n_reps"].compute()
    cells = pd.DataFrame(
        {
            "animal": ds["animal"].values,
            "site": ds["site"].values,
            "auditory": ds["auditory"].values,
            "est": (n_reps.sel(subset="est") > 0).mean("stim").values,
            "val": (n_reps.sel(subset="val") > 0).mean("stim").values,
            "repeats": n_reps.sel(subset="val").max("stim").values,
        }
    )
    for by in ("animal", "site"):
        table = cells.groupby(by).agg(
            cells=("auditory", "size"),
            auditory=("auditory", "sum"),
            est=("est", "mean"),
            val=("val", "mean"),
            repeats=("repeats", "max"),
        )
        table[["est", "val"]] = (100 * table[["est", "val"]]).round(1).astype(str) + " %"
        click.echo(f"{table}\n")
    click.echo("est, val: recorded (stimulus, cell) pairs; repeats: most presentations of a val sound")


@main.command()
@click.argument("area", type=AREA)
@click.argument("file", type=click.Path(path_type=Path))
@subset_option
@click.option("--format", "form", type=click.Choice(["netcdf", "zarr"]), default="netcdf")
@data_path
def export(area: str, file: Path, subset: Any, form: str, path: Path | None) -> None:
    """Write an area to FILE, to be opened with plain xarray or any netCDF or zarr reader."""
    from .store import open_area

    if file.exists():
        raise click.ClickException(f"{file} is there already; remove it or choose another name")
    ds = open_area(area, path, subset=subset)
    part = file.with_name(f".{file.name}.part")
    if form == "zarr":
        ds.to_zarr(part, mode="w")
    else:
        ds.to_netcdf(part)
    part.rename(file)
    click.echo(file)


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--scale", default=0.02, show_default=True, help="Size, 1 being the real release's.")
@click.option("--seed", default=0, show_default=True)
def simulate(path: Path, scale: float, seed: int) -> None:
    """Write a simulated release, in the published layout, into the folder PATH."""
    from .simulate import simulate

    click.echo(simulate(path, scale=scale, seed=seed))


@main.command()
@click.argument("path", type=click.Path(path_type=Path), default=Path("nat4xr-demo"))
def demo(path: Path) -> None:
    """Show the package at work on a small SIMULATED release, kept in the folder PATH."""
    import matplotlib.pyplot as plt

    from . import plot
    from .index import drop_unrecorded
    from .simulate import simulate
    from .store import open_area

    release = path / "release"
    if not release.exists():
        click.echo(f"Simulating a small release in {release} (these are not recordings) ...")
        simulate(release)
    ds = open_area("A1", release)
    click.echo(ds)
    val = drop_unrecorded(ds.sel(subset="val", auditory=True))
    click.echo(f"\nds.sel(subset='val', auditory=True): {dict(val.sizes)}")
    val.to_netcdf(path / "val.nc")
    best = val["psth"].std(("stim", "time")).idxmax("neuron").item()
    cell = val.sel(neuron=best).isel(stim=0)
    plot.cell_response(cell)
    plt.savefig(path / "cell.png", dpi=150)
    plt.close()
    click.echo(f"\nThe selection, as netCDF:   {path / 'val.nc'}")
    click.echo(f"One cell and one sound:     {path / 'cell.png'}")
