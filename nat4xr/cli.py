"""The command line, thin: each command is a few calls of the package."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from . import __version__
from .errors import DownloadError, ReleaseError

AREA = click.Choice(["A1", "PEG"])
# Those of nat4xr.models.MODELS, which needs PyTorch.
NETWORKS = ["ln", "ln-pop", "cnn1d", "cnn1dx2", "cnn", "cnn-deepstrf", "statenet", "transformer"]
data_path = click.option(
    "--path",
    type=click.Path(path_type=Path),
    help="Folder of the data. Default: $NAT4XR_DATA_DIR, or else the user's cache folder.",
)
subset_option = click.option(
    "--subset",
    type=click.Choice(["all", "est", "val"]),
    default="all",
    show_default=True,
    help="est: sounds presented once; val: those presented 20 times.",
)
_EXPECTED = (ReleaseError, DownloadError, OSError, ImportError, ValueError)


class _Commands(click.Group):
    """Commands whose expected errors are one line, not a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except _EXPECTED as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Commands)
@click.version_option(__version__, prog_name="nat4xr")
def main() -> None:
    """NAT4: ferret auditory-cortex responses to natural sounds, as labelled xarray objects."""


@main.command(short_help="Download an area or the sounds.")
@click.argument("part", metavar="A1|PEG|wav", type=click.Choice(["A1", "PEG", "wav"]))
@data_path
def fetch(part: str, path: Path | None) -> None:
    """Download an area's files (or the sounds, wav) from Zenodo, and verify them."""
    from .io.registry import fetch

    for file in fetch(part, path):
        click.echo(file)


@main.command(short_help="Count cells, sounds and spikes.")
@click.argument("area", type=AREA)
@data_path
def info(area: str, path: Path | None) -> None:
    """Tell what there is: cells, sounds, spikes, and which cells heard which sounds."""
    from .area import open_area
    from .coverage import count_cells
    from .spikes import open_spikes, spikes_by_site

    ds = open_area(area, path, download=False)
    subset = ds["subset"].values
    click.echo(f"{ds.attrs['title']}\n{ds.attrs['source']}\n")
    click.echo(
        f"{ds.sizes['neuron']} cells, {int(ds['auditory'].sum())} of them auditory; "
        f"{(subset == 'est').sum()} est and {(subset == 'val').sum()} val sounds\n"
    )
    spikes = spikes_by_site(open_spikes(area, path)).drop(columns="neurons").round(1)
    for table in (count_cells(ds, "animal"), count_cells(ds, "site").join(spikes)):
        click.echo(f"{table.to_string()}\n")
    click.echo("val %, est %: share of the sounds that a cell has a response to, mean over cells")
    click.echo("outside: spikes outside every trial; rate: spikes/s in trials, mean over cells")


@main.command(short_help="Write netCDF or zarr.")
@click.argument("area", type=AREA)
@click.argument("file", type=click.Path(path_type=Path))
@subset_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["netcdf", "zarr"]),
    help="Default: zarr if FILE ends in .zarr, else netcdf.",
)
@click.option("--spikes", is_flag=True, help="Export the spike times instead.")
@data_path
def export(
    area: str, file: Path, subset: Any, form: str | None, spikes: bool, path: Path | None
) -> None:
    """Write an area to FILE: netCDF for any reader of it, or zarr for xarray."""
    from .area import open_area
    from .spikes import open_spikes

    if file.exists():
        raise click.ClickException(f"{file} is there already; remove it or choose another name")
    ds = (open_spikes if spikes else open_area)(area, path, subset=subset)
    # Beside its place and under a name of its own, until it is whole.
    with TemporaryDirectory(dir=file.absolute().parent, prefix=f".{file.name}.") as folder:
        part = Path(folder, file.name)
        if (form or ("zarr" if file.suffix == ".zarr" else "netcdf")) == "zarr":
            ds.to_zarr(part)
        else:
            ds.to_netcdf(part)
        part.rename(file)
    click.echo(file)


@main.command(short_help="Write a simulated release.")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--scale", default=0.02, show_default=True, help="Size, 1 being the real release's.")
@click.option("--seed", default=0, show_default=True, help="Of the random numbers.")
def simulate(path: Path, scale: float, seed: int) -> None:
    """Write a simulated release, in the published layout, into the folder PATH."""
    from .simulation import simulate

    click.echo(simulate(path, scale=scale, seed=seed))


@main.command(short_help="Check the files you have.")
@click.argument("area", type=AREA)
@data_path
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
@click.pass_context
def verify(ctx: click.Context, area: str, path: Path | None, as_json: bool) -> None:
    """Check an area's files and what is read from them; exit with 1 if anything is wrong."""
    import json
    import textwrap

    from .verification import verify

    try:
        table = verify(area, path)
    except _EXPECTED as error:
        if as_json:
            report = {"area": area, "ok": False, "error": str(error), "checks": []}
            click.echo(json.dumps(report, indent=1))
        raise
    checks = table.astype(object).where(table.notna(), None).to_dict("records")
    failed = sum(check["ok"] is False for check in checks)
    if as_json:
        report = {"area": area, "ok": not failed, "checks": checks}
        click.echo(json.dumps(report, indent=1, allow_nan=False))
    else:
        for check in checks:
            mark = {True: "ok", False: "FAILED", None: "-"}[check["ok"]]
            expected = f" (expected: {check['expected']})" if check["expected"] != "" else ""
            click.echo(f"{mark:7} {check['check']}: {check['found']}{expected}")
            if check["detail"]:
                click.echo(textwrap.indent(textwrap.fill(check["detail"], 92), " " * 8))
        click.echo(f"\n{failed or 'None'} of {len(checks)} checks failed (-: not judged).")
        release = next((check for check in checks if check["check"] == "release"), None)
        if release and release["found"] == "partial":
            click.echo(f"This is not the whole release: {release['detail']}.")
    ctx.exit(1 if failed else 0)


@main.command(short_help="Fit a model and score it.")
@click.argument("area", type=AREA)
@click.option(
    "--model",
    type=click.Choice(["strf", *NETWORKS]),
    default="strf",
    show_default=True,
    help="strf: ridge regression and a static nonlinearity; others: networks (nat4xr[models]).",
)
@click.option("--prefilter", type=click.Choice(["adaptrans"]), help="Front end of a network.")
@click.option("--seeds", default=5, show_default=True, help="Number of fits of a network.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("nat4xr-benchmark"),
    show_default=True,
    help="Folder for models, predictions, scores and figures.",
)
@data_path
def benchmark(
    area: str, model: str, prefilter: str | None, seeds: int, out: Path, path: Path | None
) -> None:
    """Fit a model to the est sounds, score it on the val sounds, and print the leaderboard."""
    from .area import open_area
    from .runs import run_strf

    ds = open_area(area, path)
    if model == "strf":
        table = run_strf(ds, out)
    else:
        from . import models

        table = models.run(ds, model, prefilter, seeds=seeds, out=out)
    if table["simulated"].any():
        click.echo("SIMULATED data: rows marked so cannot be compared with the published ones\n")
    click.echo(table.drop(columns=["paper", "doi"]).to_string(index=False, na_rep=""))
    click.echo(f"\nModels, predictions, scores of each cell and figures: {out}")


@main.command(short_help="See the package at work.")
@click.argument("path", type=click.Path(path_type=Path), default=Path("nat4xr-demo"))
def demo(path: Path) -> None:
    """Show the package at work on a small SIMULATED release, kept in the folder PATH."""
    from . import plot
    from .area import open_area
    from .coverage import drop_unrecorded
    from .simulation import simulate

    plt = plot.pyplot()
    release = path / "release"
    if not (release / "truth.nc").exists():
        click.echo(f"Simulating a small release in {release} (these are not recordings) ...")
        simulate(release)
    ds = open_area("A1", release, download=False)  # never real data in place of these
    click.echo(ds)
    val = drop_unrecorded(ds.sel(subset="val", auditory=True)).load()
    click.echo(f"\nds.sel(subset='val', auditory=True): {dict(val.sizes)}")
    val.to_netcdf(path / "val.nc")
    best = val["psth"].std(("stim", "time")).idxmax("neuron").item()
    cell = val.sel(neuron=best).isel(stim=0)
    plot.cell_response(cell)
    plt.savefig(path / "cell.png", dpi=150)
    plt.close()
    click.echo(f"\nThe selection, as netCDF:   {path / 'val.nc'}")
    click.echo(f"One cell and one sound:     {path / 'cell.png'}")
