from . import benchmark as benchmark
from . import bridges as bridges
from . import metrics as metrics
from . import models as models
from . import plot as plot
from . import preprocess as preprocess
from . import strf as strf
from .area import open_area as open_area
from .coverage import count_cells as count_cells
from .coverage import drop_unrecorded as drop_unrecorded
from .errors import DownloadError as DownloadError
from .errors import ReleaseError as ReleaseError
from .index import LabelIndex as LabelIndex
from .index import drop_label_index as drop_label_index
from .index import set_labels as set_labels
from .io.engine import open_recording as open_recording
from .io.registry import fetch as fetch
from .population import latency as latency
from .population import pairs as pairs
from .simulation import simulate as simulate
from .spikes import bin_spikes as bin_spikes
from .spikes import open_spikes as open_spikes
from .spikes import session_trials as session_trials
from .spikes import spike_trains as spike_trains
from .verification import verify as verify
from .waveforms import open_waveforms as open_waveforms

__version__: str
