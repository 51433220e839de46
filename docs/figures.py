"""The figures of these pages: their style, those of the reference, their colours in the dark."""

import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from sphinx_gallery.scrapers import matplotlib_scraper

import nat4xr
from nat4xr import metrics, plot, preprocess, strf

STYLE = Path(__file__).parent / "figures.mplstyle"

# What the figure of each function of nat4xr.plot shows, for those who do not see it.
REFERENCE = {
    "cell_response": "Three panels of one time axis: a spectrogram, a raster and a PSTH.",
    "coverage": "A map of cells and sounds; val sounds are dark, est sounds light.",
    "population": "A map of rates, a row a cell and a column a bin; most rise as the sound begins.",
    "prediction": "A recorded PSTH in grey and a smoother predicted one in red, which follows it.",
    "psth": "A rate over time with a band of its standard error; the time of the sound is shaded.",
    "raster": "Rows of ticks, a row a presentation; spikes come at similar times in all rows.",
    "scores": "Points below a diagonal: scores of a model against noise ceilings, by animal.",
    "spectrogram": "The energy of one sound by frequency and time; a bar marks when it was on.",
    "strf": "Weights by frequency and lag: a red spot of excitation and a blue one of suppression.",
}

# What is black, white or grey in the light has another grey in the dark.
DARK = {
    "000000": "e0e0e0",
    "ffffff": "131416",
    "ebebeb": "2a2c30",
    "4c4c4c": "c0c0c0",
    "666666": "b0b0b0",
    "bfbfbf": "555555",
}


def draw_reference(folder: Path) -> None:
    """Draw what each function of `nat4xr.plot` draws, from the release that the pages use."""
    mpl.rc_file(STYLE)
    folder.mkdir(parents=True, exist_ok=True)
    ds = nat4xr.open_area("A1", progressbar=False).sel(auditory=True)
    est, val = ds.sel(subset="est"), ds.sel(subset="val")
    one = val.sel(sound="geese", neuron="ARM029a-07-6")
    x = preprocess.log_minmax(ds.spectrogram, reference=est.spectrogram)
    model = strf.fit(x.sel(subset="est"), est.psth)
    predicted = strf.predict(model, x.sel(subset="val"))
    one_predicted = predicted.sel(sound="geese", neuron="ARM029a-07-6").squeeze()
    score = metrics.corrcoef(predicted, val.psth)
    draw: dict[str, Any] = {
        "cell_response": lambda fig: plot.cell_response(one, axes=fig.subplots(3, sharex=True)),
        "coverage": lambda fig: plot.coverage(
            nat4xr.open_area("A1", progressbar=False), ax=fig.subplots()
        ),
        "population": lambda fig: plot.population(
            val.sel(sound="geese"), sort="latency", ax=fig.subplots()
        ),
        "prediction": lambda fig: plot.prediction(one_predicted, one, ax=fig.subplots()),
        "psth": lambda fig: plot.psth(one, ax=fig.subplots()),
        "raster": lambda fig: plot.raster(one, ax=fig.subplots()),
        "scores": lambda fig: plot.scores(score, metrics.cc_max(val.response), ax=fig.subplots()),
        "spectrogram": lambda fig: plot.spectrogram(one, ax=fig.subplots()),
        "strf": lambda fig: plot.strf(model.sel(neuron="ARM029a-07-6"), ax=fig.subplots()),
    }
    tall = {"cell_response", "coverage", "population", "scores"}
    for name in plot.__all__:
        figure = Figure(figsize=(5.6, 4.4 if name in tall else 2.4), layout="constrained")
        draw[name](figure)
        figure.savefig(folder / f"{name}.svg")


def reset_style(gallery_conf: dict[str, Any], file: str) -> None:
    """Begin each example of the gallery in the style of these pages."""
    mpl.rc_file(STYLE)


def scrape(block: Any, variables: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Keep the figures of an example as SVG, with the texts that its comments give for them.

    The n-th figure has the n-th comment ``# sphinx_gallery_alt = "..."`` of the file.
    """
    images = variables["image_path_iterator"]
    first = len(images)
    rst: str = matplotlib_scraper(block, variables, gallery_conf, format="svg")
    source = Path(variables["src_file"]).read_text(encoding="utf-8")
    texts = re.findall(r'^# sphinx_gallery_alt = "(.*)"$', source, re.MULTILINE)[first:]
    for text in texts[: len(images) - first]:
        rst = re.sub(r"(:alt:) (?!\0).*", rf"\1 \0{text}", rst, count=1)
    return rst.replace("\0", "")


def darken(file: Path) -> None:
    """Let a figure follow the colours of its page, light or dark."""
    svg = file.read_text(encoding="utf-8")
    mark = "</style>"
    if "prefers-color-scheme" in svg or mark not in svg:
        return
    rules = ["svg{fill:#e0e0e0}"]
    for light, dark in DARK.items():
        for what in ("fill", "stroke"):
            rules.append(f'[style*="{what}: #{light}"]{{{what}:#{dark}!important}}')
    dark_style = f"@media(prefers-color-scheme:dark){{{''.join(rules)}}}"
    file.write_text(svg.replace(mark, dark_style + mark, 1), encoding="utf-8")
