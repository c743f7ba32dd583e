"""A home, its learning loop and a clock, with a fake trainer: what the tests of the learning loop live in."""

import json

import tiny
from fake_embedder import FakeEmbedder

from lorad.apps.daemon.document_tracks import DocumentTracks
from lorad.apps.daemon.indexing import Indexing
from lorad.apps.daemon.loop import LearningLoop
from lorad.config import Settings
from lorad.datasets import other_wordings, reader, sidecar
from lorad.datasets.inbox.inbox import Inbox
from lorad.errors import ProtocolError, RegistryError, SampleError, TransientError
from lorad.evaluation import judge
from lorad.home import Home
from lorad.records import Evaluation, Machine, ModelShape, Score, SessionResult
from lorad.serving.queries import Archive
from lorad.states import JobState
from lorad.storage import files
from lorad.storage.database import Database
from lorad.storage.ledger import Ledger
from lorad.track import open_tracks
from lorad.training.planner import plan
from lorad.versions import papers

SETTINGS = Settings.model_validate({"inbox": {"settle_seconds": 5}})
SHAPE = ModelShape(name="tiny", parameters=1000, layers=2, hidden=8, vocabulary=100)
MACHINE = Machine(device="cpu", name="cpu", memory_bytes=10**10, threads=1, fast_bfloat16=False)


def evaluate(spec, new, old, recall=1.0, broken=0, perplexity=10.0, facts=None):
    """Return what a session would have measured."""
    names = [item.example.dataset for item in old]
    datasets = set(names) - {spec.dataset}
    totals = {name: names.count(name) for name in datasets} | {spec.dataset: len(new)}
    return Evaluation(
        dataset=spec.dataset,
        scores={
            name: Score(right=round(total * recall) - broken * (name in datasets), total=total)
            for name, total in totals.items()
        },
        before={
            name: Score(right=total if name in datasets else 0, total=total) for name, total in totals.items()
        },
        new=Score(right=round(len(new) * recall), total=len(new)),
        new_before=Score(right=0, total=len(new)),
        broken=broken,
        mended=0,
        facts=facts or {},
        perplexity=perplexity,
        perplexity_base=10.0,
        kl_base=0.1,
        degenerate=0,
        sampled=6,
        reload_difference=0.0,
        merge_difference=0.0,
        truncation_error=0.0,
        finite=True,
        ended_by="recall",
    )


class FakeSession:
    """A child process that ends when the test says so."""

    def __init__(self, run):
        self.run = run
        self.folder = run.path
        self.status = None
        self.stopped = False
        self.progress = {"phase": "training"}

    def poll(self, ticks):
        del ticks
        return self.status

    def stop(self):
        self.stopped = True

    def end(self, status=0, rank=8, **measured):
        """End like a session does: the candidate first, then the exit status."""
        if status == 0:
            spec, new, old = self.run.spec(), self.run.new(), self.run.old()
            found = evaluate(spec, new, old, **measured)
            candidate = self.run.candidate
            files.write_bytes(candidate / "adapter_model.safetensors", b"weights of job %d" % spec.job)
            files.write_json(candidate / "adapter_config.json", {"r": rank})
            papers.write_result(
                candidate,
                SessionResult(
                    parent=spec.parent_version,
                    base="base-print",
                    evaluation=found,
                    verdict=judge.decide(found, SETTINGS.judge),
                    learned=tuple(example.ids for example in new),
                    right={example.id: True for example in new},
                ),
            )
        self.status = status


class FakeModels:
    """The models of a home: plans for real, starts fakes, notes what serves."""

    def __init__(self):
        self.sessions = []
        self.serving = None
        self.broken = set()
        self.is_short = False
        self.bad_bases = []
        self.is_seated = False
        self.as_it_serves = lambda: None
        self.slow = ""
        """Why what serves answers slower than it could, for now."""
        self.refuses = ""
        """A word that the base cannot say."""
        self.known_labels = ()
        """Of the version that serves."""

    def check(self, track, example):
        del track
        if self.refuses and self.refuses in str(example.target):
            raise SampleError("the base model would answer otherwise", code="not_served")
        return example

    def labels(self, track):
        del track
        return self.known_labels

    def plan(self, track, examples, overrides, drift):
        del track
        return plan(
            lengths=[10] * len(examples),
            shape=SHAPE,
            machine=MACHINE,
            planner=SETTINGS.planner,
            rehearsal=SETTINGS.rehearsal,
            training=SETTINGS.training,
            overrides=overrides,
            drift=drift,
        )

    def start(self, folder):
        self.sessions.append(FakeSession(folder))
        return self.sessions[-1]

    def serve(self, track, version):
        self._check_seat(track)
        if self.is_short:
            raise TransientError("loading: no memory", code="memory")
        if version in self.broken:
            raise RegistryError(f"{version} cannot be loaded", version=version)
        self.as_it_serves()
        self.serving = version
        return self.slow

    def serve_faster(self, track):
        self._check_seat(track)
        return self.slow

    def fingerprint(self, track):
        self._check_seat(track)
        return "base-print"

    def damaged_bases(self):
        return self.bad_bases

    def _check_seat(self, track):
        """Refuse what the engine refuses before the base models are loaded."""
        if not self.is_seated:
            raise ProtocolError(f"there is no model {track.name!r}", code="model_not_found")


class InProcessReader:
    """Reads in this process, so that a test sees what a file raises."""

    read = staticmethod(reader.read)
    sidecar = staticmethod(sidecar.read)
    wordings = staticmethod(other_wordings.read)


class World:
    """A home, its learning loop and two clocks: the time of day, and a steady one."""

    def __init__(self, home, settings=SETTINGS):
        self.home = home
        self.settings = settings
        self.now = 1000.0
        self.ticks = 0.0
        self.models = FakeModels()
        self.indexes = {}
        self.documents = None
        self.start()

    def start(self):
        """Start the daemon's loop anew, as after a restart."""
        self.models.is_seated = False
        self.database = Database(self.home / "models" / "lorad.sqlite3")
        self.ledger = Ledger(self.database)
        self.tracks = dict(open_tracks(Home(self.home), self.settings, self.database))
        self.track = self.tracks["chat"]
        self.registry = self.track.registry
        self.inbox = Inbox(
            self.home / "inbox",
            self.settings.inbox,
            tuple(self.settings.tracks),
            self.home / "models" / "drops",
        )
        if self.documents:
            self.documents.close()
        self.documents = DocumentTracks(Home(self.home), self.settings, self.ledger)
        self.documents.open(FakeEmbedder())
        self.indexes |= self.documents.stores
        self.wire(InProcessReader())
        self.loop.recovery.recover(self.now)
        self.models.is_seated = True
        self.loop.served.serve_all(self.ticks)

    def wire(self, reader):
        """Put the loop together from what there is; it has no memory of the one before."""
        self.reader = reader
        self.loop = LearningLoop(
            settings=self.settings,
            tracks=self.tracks,
            ledger=self.ledger,
            inbox=self.inbox,
            reader=reader,
            models=self.models,
            executor=self.models,
            indexing=Indexing(self.indexes, lambda: self.ticks),
            fitting=Indexing({}, lambda: self.ticks),  # its versions have no index
            documents=self.documents,
            minute_of=lambda now: int(now // 60) % 1440,
        )

    def archive(self):
        """Return what the daemon tells of this home."""
        return Archive(self.tracks, self.ledger, self.settings.judge)

    def drop(self, name, examples):
        path = self.home / "inbox" / name
        path.write_text(examples if isinstance(examples, str) else json.dumps(tiny.rows(examples)))
        return path

    def pass_time(self, seconds=6.0):
        """Look, wait until dropped files have rested, look again."""
        self.loop.step(self.now, self.ticks)
        self.now += seconds
        self.ticks += seconds
        self.loop.step(self.now, self.ticks)

    def learn(self, name, examples, **measured):
        """Drop a file and let its session end well."""
        self.drop(name, examples)
        self.pass_time()
        self.models.sessions[-1].end(**measured)
        self.pass_time()

    def order(self):
        """Return what the newest session was ordered to do."""
        return files.read_json(self.models.sessions[-1].folder / "request.json")

    def job(self):
        return self.ledger.jobs()[0]

    def done(self):
        return sorted(path.name for path in (self.home / "inbox" / "done").rglob("*.json"))

    def failed(self):
        return sorted(path.name for path in (self.home / "inbox" / "failed").iterdir())


def told(world, name):
    return [event for event in world.ledger.events() if event["name"] == name]


def failed_with_checkpoints(world):
    """Let a session die behind its third round; return the folder of its checkpoints."""
    world.drop("doors.json", tiny.facts(4))
    world.pass_time()
    folder = world.registry.candidates / "job-1" / "checkpoints"
    for number in (1, 2, 3):
        files.write_json(folder / f"round-000{number}" / "manifest.json", {})
    world.models.sessions[-1].status = -9
    world.pass_time()
    assert world.job().state is JobState.FAILED
    return folder
