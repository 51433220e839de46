"""The command line. Each command calls a few functions of the package."""

from __future__ import annotations

import json
import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from . import __version__
from .errors import DownloadError, ReleaseError, quoted
from .extras import require

if TYPE_CHECKING:
    import pandas as pd

AREA = click.Choice(["A1", "PEG"], case_sensitive=False)
PART = click.Choice(["A1", "PEG", "wav"], case_sensitive=False)
# The same as nat4xr.paper.FIGURES and nat4xr.models.MODELS, whose import would take seconds.
PAPER_FIGURES = ["pareto", "equivalence", "heldout", "transfer", "data-limited", "areas"]
NETWORKS = ["ln", "ln-pop", "cnn1d", "cnn1dx2", "cnn", "cnn-deepstrf", "statenet", "transformer"]
data_path = click.option(
    "--path",
    type=click.Path(path_type=Path),
    help="Data folder. Default: $NAT4XR_DATA_DIR, or else the user's cache folder.",
)
subset_option = click.option(
    "--subset",
    type=click.Choice(["all", "est", "val"]),
    default="all",
    show_default=True,
    help="est: sounds presented once; val: sounds presented 20 times.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
_EXPECTED = (ReleaseError, DownloadError, OSError, ImportError, ValueError)


class _Commands(click.Group):
    """Commands that print expected errors and warnings as single lines."""

    def invoke(self, ctx: click.Context) -> Any:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                return super().invoke(ctx)
            except _EXPECTED as error:
                raise click.ClickException(str(error)) from error


def _show_warning(message: Warning | str, *_args: Any, **_kwargs: Any) -> None:
    click.secho(f"Warning: {message}", fg="yellow", err=True)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="nat4xr")
def main() -> None:
    """NAT4: ferret auditory-cortex responses to natural sounds, as labelled xarray objects."""


@main.command(short_help="Download areas or the sounds.")
@click.argument("parts", metavar="A1|PEG|wav...", type=PART, nargs=-1, required=True)
@data_path
def fetch(parts: tuple[str, ...], path: Path | None) -> None:
    """Download the files of areas, or the sounds (wav), from Zenodo, and check their md5."""
    from .io.download import fetch

    for part in parts:
        for file in fetch(part, path):
            click.echo(file)


@main.command(short_help="Show the data folder.")
@data_path
def where(path: Path | None) -> None:
    """Show the data folder, and which files of the release it contains."""
    from .io.cache import converted_paths
    from .io.registry import FILES, data_dir
    from .io.release import find_area

    folder = data_dir(path)
    variable = os.environ.get("NAT4XR_DATA_DIR")
    named = "--path" if path else "$NAT4XR_DATA_DIR" if variable else "the user's cache folder"
    simulated = ": a SIMULATED release" if (folder / "truth.nc").exists() else ""
    click.echo(f"{folder.absolute()} ({named}){simulated}")
    missing = []
    for area in ("A1", "PEG"):
        files = find_area(area, folder)
        if isinstance(files, list):
            missing.append(area)
        click.echo(f"{area}: {f'no {files[0]}' if isinstance(files, list) else 'complete'}")
        for kind, description in (("", "converted"), ("_spikes", "converted spikes")):
            for file in converted_paths(area, kind, folder):
                if file.exists():
                    click.echo(f"     {description}: {file}")
    (wav,) = FILES["wav"]
    has_wav = (folder / wav).exists() or (folder / "wav").is_dir()
    click.echo(f"wav: {'complete' if has_wav else f'no {wav}'}")
    if not has_wav:
        missing.append("wav")
    if missing:
        into = f" --path {quoted(path)}" if path else ""
        click.echo(f"To download what is missing:\n    nat4xr fetch {' '.join(missing)}{into}")


@main.command(short_help="Count cells, sounds and spikes.")
@click.argument("area", metavar="A1|PEG", type=AREA)
@data_path
@as_json
def info(area: str, path: Path | None, as_json: bool) -> None:
    """Count cells, sounds and spikes, and how many sounds have responses, by animal and site."""
    from .area import open_area
    from .coverage import count_cells
    from .spikes import open_spikes, spikes_by_site

    ds = open_area(area, path, download=False, progressbar=not as_json)
    spikes = spikes_by_site(open_spikes(area, path, progressbar=not as_json))
    sites = count_cells(ds, "site").join(spikes.drop(columns="neurons").round(1))
    tables = {"animal": count_cells(ds, "animal"), "site": sites}
    counts = {
        "cells": ds.sizes["neuron"],
        "auditory": int(ds["auditory"].sum()),
        "est": int((ds["subset"] == "est").sum()),
        "val": int((ds["subset"] == "val").sum()),
    }
    if as_json:
        about = {key: ds.attrs[key] for key in ("area", "title", "source")}
        about["simulated"] = bool(ds.attrs["simulated"])
        by = {f"by_{key}": json.loads(t.to_json(orient="index")) for key, t in tables.items()}
        _echo_json(about | counts | by)
        return
    click.echo(f"{ds.attrs['title']}\nSource: {ds.attrs['source']}\n")
    click.echo(
        "{cells} cells, {auditory} of them auditory; {est} est and {val} val sounds\n".format(
            **counts
        )
    )
    for table in tables.values():
        click.echo(f"{table.to_string()}\n")
    click.echo("val %, est %: percentage of sounds to which a cell has a response, mean over cells")
    click.echo("outside: spikes outside all trials; rate: spikes/s in trials, mean over cells")


@main.command(short_help="Write an area to a netCDF or zarr file.")
@click.argument("area", metavar="A1|PEG", type=AREA)
@click.argument("file", type=click.Path(path_type=Path))
@subset_option
@click.option("--spikes", is_flag=True, help="Write the spike times instead of the responses.")
@click.option("--char", is_flag=True, help="Write text as characters, for readers such as Octave.")
@data_path
def export(area: str, file: Path, subset: Any, spikes: bool, char: bool, path: Path | None) -> None:
    """Write an area to FILE, whose name must end in .nc (netCDF) or .zarr."""
    from dask.diagnostics.progress import ProgressBar

    from .area import open_area
    from .io import cache
    from .io.netcdf import to_netcdf
    from .io.writing import written
    from .spikes import open_spikes

    if file.suffix not in (".nc", ".zarr"):
        raise click.UsageError(f"{file}: the name must end in .nc (netCDF) or .zarr")
    if char and file.suffix != ".nc":
        raise click.UsageError("--char applies to netCDF only: the name must end in .nc")
    if file.exists():
        raise click.ClickException(f"{file} already exists: remove it or choose another name")
    if file.suffix == ".zarr":
        require("zarr", "zarr")
    ds = (open_spikes if spikes else open_area)(area, path, subset=subset)
    with ProgressBar(minimum=1, out=sys.stderr):
        if file.suffix == ".zarr":
            warnings.filterwarnings(
                "ignore", "The data type .FixedLengthUTF32|Consolidated metadata"
            )
            with written(file) as part:
                ds.to_zarr(part)
        elif subset == "all" and not char:  # a copy of the converted file is fastest
            converted = cache.spikes_file if spikes else cache.area_file
            source = converted(area, path, download=False, progressbar=False)
            with written(file) as part:
                shutil.copyfile(source.path, part)
        else:
            text = [name for name, v in ds.variables.items() if v.dtype.kind in "OU"]
            to_netcdf(ds, file, encoding={n: {"dtype": "S1"} for n in text} if char else {})
    click.echo(file)


@main.command(short_help="Write a simulated release.")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--scale", default=0.02, show_default=True, help="Size as a fraction of the real release."
)
@click.option(
    "--model",
    type=click.Choice(["linear", "adaptive"]),
    default="linear",
    show_default=True,
    help="Encoding model. The cells of adaptive have a core in common, as reproduce needs it.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the random numbers.")
def simulate(path: Path, scale: float, model: Literal["linear", "adaptive"], seed: int) -> None:
    """Write a simulated release into the folder PATH, in the layout of the real one."""
    from .simulation import simulate

    click.echo(simulate(path, scale=scale, model=model, seed=seed))


_MARKS = {True: ("ok", "green"), False: ("FAILED", "red"), None: ("-", None)}


@main.command(short_help="Check your copy of the release.")
@click.argument("area", metavar="A1|PEG", type=AREA)
@data_path
@as_json
@click.pass_context
def verify(ctx: click.Context, area: str, path: Path | None, as_json: bool) -> None:
    """Check the files of an area and their contents; the exit code is 1 if a check fails."""
    import textwrap

    from .verification import verify

    try:
        table = verify(area, path)
    except _EXPECTED as error:
        if as_json:
            report = {"area": area, "ok": False, "error": str(error), "checks": []}
            _echo_json(report)
        raise
    checks = table.astype(object).where(table.notna(), None).to_dict("records")
    ok, failed, unjudged = (sum(c["ok"] is kind for c in checks) for kind in (True, False, None))
    if as_json:
        report = {"area": area, "ok": not failed, "checks": checks}
        _echo_json(report)
    else:
        for check in checks:
            mark, colour = _MARKS[check["ok"]]
            as_expected = check["expected"] in ("", check["found"])
            expected = "" if as_expected else f" (expected: {check['expected']})"
            mark = click.style(f"{mark:7}", fg=colour)
            click.echo(f"{mark} {check['check']}: {check['found']}{expected}")
            if check["detail"]:
                click.echo(textwrap.indent(textwrap.fill(check["detail"], 92), " " * 8))
        counts = {f"{ok} ok": ok, f"{failed} FAILED": failed, f"{unjudged} not judged": unjudged}
        click.echo(f"\n{len(checks)} checks: {', '.join(text for text, n in counts.items() if n)}")
        release = next((check for check in checks if check["check"] == "release"), None)
        if release and release["found"] == "partial":
            click.echo(f"The release is not complete: {release['detail']}.")
    ctx.exit(1 if failed else 0)


@main.command(short_help="Fit a model and score it.")
@click.argument("area", metavar="A1|PEG", type=AREA)
@click.option(
    "--model",
    type=click.Choice(["strf", *NETWORKS]),
    default="strf",
    show_default=True,
    help="strf is ridge regression with a static nonlinearity; the others are networks, which "
    "need nat4xr[models].",
)
@click.option("--prefilter", type=click.Choice(["adaptrans"]), help="Front end of the network.")
@click.option("--seeds", type=click.IntRange(1), help="Number of network fits.  [default: 5]")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("nat4xr-benchmark"),
    show_default=True,
    help="Folder for models, predictions, scores and figures.",
)
@data_path
@as_json
def benchmark(
    area: str,
    model: str,
    prefilter: str | None,
    seeds: int | None,
    out: Path,
    path: Path | None,
    as_json: bool,
) -> None:
    """Fit a model to the est sounds, score it on the val sounds, and print the leaderboard."""
    from . import runs
    from .area import open_area

    if model == "strf" and (prefilter or seeds):
        raise click.UsageError(
            "--prefilter and --seeds are only for networks: choose a network with --model"
        )
    ds = open_area(area, path)
    if model == "strf":
        table = runs.run_strf(ds, out)
    else:
        table = runs.run(ds, model, prefilter, seeds=seeds or 5, out=out)
    if as_json:
        _echo_json(json.loads(table.to_json(orient="records")))
        return
    if table["simulated"].any():
        click.echo("Rows marked SIMULATED cannot be compared with the published rows.\n")
    click.echo("Scores in %: means over cells ± standard errors over sounds.\n")
    click.echo(_leaderboard_text(table))
    click.echo(f"\nModels, predictions, scores of each cell and figures: {out}")


def _leaderboard_text(table: pd.DataFrame) -> str:
    """Format the leaderboard for a width of 100 characters, with standard errors of the scores."""
    shown = table[["area"]].assign(model=table["backbone"])
    for score in ("cc_raw", "cc_norm", "r_ceiling"):
        errors = table[f"{score}_se"].map(" ± {:.1f}".format, na_action="ignore").fillna("")
        shown[score] = table[score].map("{:.1f}".format, na_action="ignore") + errors
    for name, count in (("cells", "n_cells"), ("parameters", "params_per_neuron")):
        shown[name] = table[count].map("{:.0f}".format, na_action="ignore")
    shown["remarks"] = table["remarks"].where(~table["simulated"], "SIMULATED")
    return shown.to_string(index=False, na_rep="")


@main.command(short_help="Repeat an analysis of the paper.")
@click.argument("figure", type=click.Choice(PAPER_FIGURES))
@click.argument("area", metavar="A1|PEG", type=AREA)
@click.option(
    "--quick", is_flag=True, help="Fit fewer models for fewer epochs (minutes on two cores)."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("nat4xr-paper"),
    show_default=True,
    help="Folder for the scores, the figure and the claim.",
)
@data_path
def reproduce(figure: str, area: str, quick: bool, out: Path, path: Path | None) -> None:
    """Fit models and draw FIGURE of the data set's paper.

    If the command is interrupted, run it again to continue.
    """
    from .area import open_area
    from .paper import BOTH_AREAS
    from .paper import reproduce as reproduce_figure

    ds = open_area(area, path)
    other = open_area("PEG" if area == "A1" else "A1", path) if figure in BOTH_AREAS else None
    scores = reproduce_figure(figure, ds, out, other=other, quick=quick)
    click.echo(f"{scores.attrs['claim']}\nScores, figure and claim: {out}")


@main.command(short_help="Draw a figure from simulated data.")
@click.argument("path", type=click.Path(path_type=Path), default=Path("nat4xr-demo"))
def demo(path: Path) -> None:
    """Draw one cell's responses to one sound, from a small SIMULATED release in the folder PATH."""
    from . import plot
    from .area import open_area
    from .coverage import drop_unrecorded
    from .io.netcdf import to_netcdf
    from .io.writing import written
    from .simulation import simulate

    plt = plot.pyplot()
    release = path / "release"
    if not (release / "truth.nc").exists():
        simulate(release)
    ds = open_area("A1", release, download=False)  # never download real data instead
    val = drop_unrecorded(ds.sel(subset="val", auditory=True)).load()
    to_netcdf(val, path / "val.nc")
    best = val["psth"].std(("stim", "time")).idxmax("neuron").item()
    plot.cell_response(val.sel(neuron=best).isel(stim=0))
    with written(path / "cell.png") as part:
        plt.savefig(part, dpi=150)
    plt.close()
    click.echo(f"SIMULATED release of {ds.attrs['area']} in {release}: {dict(ds.sizes)}")
    click.echo(f"One cell and one sound: {path / 'cell.png'}; the selection: {path / 'val.nc'}")
    click.echo(f'Next, in Python: import nat4xr; nat4xr.open_area("A1", "{release.as_posix()}")')


def _echo_json(content: Any) -> None:
    click.echo(json.dumps(content, indent=1, allow_nan=False))
