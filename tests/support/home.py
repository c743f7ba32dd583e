"""A home with versions as the daemon makes them, without the daemon: sessions run in the test's own process."""

import tiny
from training_runs import PLAN

from lorad.config import Settings
from lorad.home import Home
from lorad.models import bases
from lorad.records import SessionSpec
from lorad.storage import files
from lorad.storage.database import Database
from lorad.storage.ledger import Ledger
from lorad.track import open_track
from lorad.training import reproduction, session
from lorad.training.run_folder import RunFolder
from lorad.versions.promotion import PromotionRecord

SETTINGS = Settings.model_validate(
    {
        "judge": {"max_perplexity_rise": 100.0, "max_kl": 100.0, "max_degenerate_share": 1.0},
        "training": {"merge_adapters_on_save": False},
    }
)


def drop(memory, new):
    """Accept examples as a drop."""
    taken = Ledger(memory._db).take("drop.json", "chat", 0.0)
    memory.add(new, taken.id, 0.0)


class Track:
    """A home whose track ``chat`` has one version of three facts."""

    def __init__(self, root):
        self.root = root
        for name in ("configs", "inbox", "models"):
            (root / name).mkdir()
        # as PLAN has it: some of the machines that run this would answer in bfloat16
        files.write_json(root / "configs" / "default.yaml", {"training": {"dtype": "float32"}})
        home = Home(root)
        self.track = open_track(home, Settings(), Database(home.database), "chat")
        self.base, self.memory, self.registry = self.track.base, self.track.memory, self.track.registry
        bases.store_base(tiny.save(root / "source"), self.base)
        self.learn(tiny.facts(3, "doors"), 1)

    def learn(self, new, job):
        drop(self.memory, new)
        folder = RunFolder(self.registry.candidates / f"job-{job}")
        parent = self.registry.latest
        old = self.memory.learned(self.registry.lineage(parent))
        order = SessionSpec(
            job=job,
            track="chat",
            task="chat",
            kind="learn",
            dataset=new[0].dataset,
            base=str(self.base),
            parent=str(self.registry.path(parent)) if parent else None,
            parent_version=parent,
            plan=PLAN,
            settings={
                "training": SETTINGS.training.model_dump(),
                "judge": SETTINGS.judge.model_dump(),
                "resolved": SETTINGS.model_dump(mode="json"),
            },
        )
        folder.begin(order, new, old)
        session.Session(folder, order).run()
        result = folder.result()
        birth = PromotionRecord(job=job, parent=parent, base=result.base, description="learned")
        version = self.registry.promote(folder.candidate, birth, 1000.0)
        self.memory.mark_learned([example.ids for example in new], version)
        self.memory.record_recall(version, result.right)
        return version

    def again(self, version):
        folder = RunFolder(self.root / "again")
        order = reproduction.prepare(self.track, version, folder)
        session.Session(folder, order).run()
        return reproduction.compare(self.registry, version, folder)
