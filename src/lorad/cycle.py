"""A loop: one learning step. Settle, accept, plan, train, judge, promote, swap, prune.

What lives here: the order of things, and moving drops and jobs along their states. What never does:
threads, processes, clocks, tensors; whatever starts a child or loads weights is handed in.

Every step can be repeated: the disk and the ledger are the truth, so start-up is ``recover`` and then the
same ``step`` as always.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from lorad import domain, files, judge, samples, sidecar
from lorad.config import RegistrySettings, Settings
from lorad.database import Database
from lorad.domain import Evaluation, Example, Job, Order, Plan, Score, Verdict
from lorad.errors import LoradError, RetryLater, SampleError, TrainingError, describe
from lorad.inbox import Inbox, Stranger, Waiting, unchanged
from lorad.ledger import Ledger
from lorad.log import get_logger
from lorad.memory import Memory, Recalled
from lorad.registry import Birth, Registry
from lorad.states import DropState, JobState

log = get_logger()

MAX_ATTEMPTS = 3
"""A job whose daemon died under it is started again this often; then it waits for a human."""

TAKEN_AT_ONCE = 100
"""Files that one step takes: a flood must not keep the session and people's commands waiting."""


class Session(Protocol):
    """A running child process, seen from here."""

    def poll(self, now: float) -> int | None:
        """Return the exit status, or ``None`` while it runs."""

    def stop(self) -> None:
        """Ask it to end soon; it leaves no candidate behind."""

    @property
    def progress(self) -> dict[str, Any]:
        """Return the newest line of progress."""


class Tracks(Protocol):
    """What the cycle asks of those who hold models: measure rows, start sessions, swap versions."""

    def plan(self, track: str, examples: Sequence[Example], overrides: dict[str, Any]) -> Plan:
        """Plan a session for these examples."""

    def start(self, folder: Path) -> Session:
        """Start a session on the order in a folder."""

    def serve(self, track: str, version: str | None) -> None:
        """Answer from this version from now on; raise ``RegistryError`` when it cannot be loaded."""

    def fingerprint(self, track: str) -> str:
        """Return the fingerprint of the track's base model."""


class Cycle:
    """The learning loop of one home; ``step`` is called again and again by whoever owns the clock."""

    def __init__(
        self,
        *,
        settings: Settings,
        database: Database,
        inbox: Inbox,
        registries: dict[str, Registry],
        tracks: Tracks,
        base_folder: Callable[[str], Path],
    ) -> None:
        self.settings = settings
        self.ledger = Ledger(database)
        self.memory = Memory(database)
        self.registries = registries
        self.inbox = inbox
        self._database = database
        self._tracks = tracks
        self._base_folder = base_folder
        self._running: tuple[Job, Session] | None = None
        self._retry_at: dict[Path, tuple[int, float]] = {}
        self._is_full = False

    # -- the picture

    def step(self, now: float, ticks: float) -> None:
        """Do what can be done now, without waiting. ``now`` is the time of day, ``ticks`` a steady clock."""
        self.look(now, ticks)
        for file in self.inbox.processing():
            self.accept(file, now, ticks)
        if self._running is None:
            self.start_next(now)
        else:
            self.watch(now)

    # -- start

    def recover(self, now: float) -> None:
        """Bring ledger, folders and tracker to one story after any kind of stop."""
        self.inbox.recover()
        for name, registry in self.registries.items():
            for sentence in registry.recover():
                log.warning("registry_recovered", track=name, what=sentence)
                self.ledger.note("recovered", now, track=name, what=sentence)
        for job in self.ledger.open_jobs():
            if job.state is not JobState.QUEUED:
                self._recover_job(job, now)

    def _recover_job(self, job: Job, now: float) -> None:
        registry = self.registries[job.track]
        version = registry.of_job(job.id)
        if version is not None:  # promoted on disk, not yet in the ledger
            judged = job if job.state is JobState.JUDGING else self.ledger.move_job(job, "trained", now)
            self._clear(judged, version)
            self._enter(judged, version, registry.evaluation(version), now)
            return
        if job.attempts >= MAX_ATTEMPTS:
            files.remove(registry.candidates / f"job-{job.id}")
            reason = {
                "code": "interrupted",
                "message": f"the daemon stopped {job.attempts} times during this session; lorad retry {job.id}",
            }
            self.ledger.move_job(job, "crash", now, reason=reason)
        else:
            self.ledger.move_job(job, "requeue", now)
            self.ledger.note("requeued", now, job=job.id, why="the daemon stopped during the session")

    # -- settle and accept

    def look(self, now: float, ticks: float) -> None:
        """Take what lies complete in the inbox while there is room, and refuse what is no dataset file."""
        taken = len(self.inbox.processing()) + len(self.ledger.open_jobs())
        room = self.settings.inbox.max_waiting - taken
        if room <= 0 and self._is_full:
            return
        ready = self.inbox.settled(ticks)
        self._tell_full(ready, room, now)
        for file in ready[: max(0, min(room, TAKEN_AT_ONCE))]:
            self.take(file)
        for stranger in self.inbox.strangers():
            self._refuse(stranger, now)

    def _tell_full(self, ready: Sequence[Waiting], room: int, now: float) -> None:
        was_full, self._is_full = self._is_full, self.inbox.count > room and len(ready) >= room
        if self._is_full and not was_full:
            why = (
                f"{self.inbox.count} files lie in the inbox, and no more than inbox.max_waiting "
                f"({self.settings.inbox.max_waiting}) wait to be learned; the others are taken as there is room"
            )
            self.ledger.note("inbox_full", now, code="too_many_files", why=why)
            log.warning("inbox_full", code="too_many_files", why=why)

    def take(self, file: Waiting) -> None:
        """Move a complete file out of its writer's reach."""
        try:
            self.inbox.take(file)
        except (RetryLater, OSError) as error:
            self.inbox.held[file.path] = str(error)
            log.warning("take_failed", file=file.name, error=str(error))

    def _refuse(self, stranger: Stranger, now: float) -> None:
        """Tell of what is no dataset file; links, pipes and devices are put aside, unopened."""
        file, error = stranger.file, stranger.error
        try:
            if not stranger.is_left:
                self.inbox.fail(file.path, error.as_dict() | {"track": file.track})
            name = "not_taken" if stranger.is_left else "failed"
            self.ledger.note(name, now, file=file.name, code=error.code, why=error.message)
        except (RetryLater, OSError) as problem:
            log.warning("refuse_failed", file=file.name, error=str(problem))
        log.warning("file_refused", file=file.name, code=error.code, why=error.message)

    def accept(self, file: Waiting, now: float, ticks: float) -> None:
        """Read a taken file: its examples into memory and a job into the queue, or the file to ``failed/``."""
        tries, not_before = self._retry_at.get(file.path, (0, 0.0))
        if ticks < not_before:
            return
        try:
            self._accept(file, now)
        except (RetryLater, OSError, MemoryError) as error:
            self._retry_at[file.path] = (tries + 1, ticks + self._pause(error, tries))
            self.inbox.held[file.path] = str(error) or type(error).__name__
            log.warning("accept_later", file=file.path.name, error=str(error), tries=tries + 1)
            return
        self._retry_at.pop(file.path, None)
        self.inbox.held.pop(file.path, None)

    def _pause(self, error: BaseException, tries: int) -> float:
        is_written = isinstance(error, RetryLater) and error.code == "changed"
        return max(self.settings.inbox.settle_seconds * is_written, min(300.0, 2.0**tries))

    def _accept(self, file: Waiting, now: float) -> None:
        drop = self._open_drop(file, now)
        try:
            with unchanged(file.path):
                meta, reading = self._read(file)
            with files.passing_errors(f"accepting {file.path.name}"):
                self._remember(drop, reading, now, meta.description)
            self.inbox.finish(file.path, now)
        except SampleError as error:
            self._fail(file, drop, error, now)

    def _read(self, file: Waiting) -> tuple[sidecar.Sidecar, samples.Reading]:
        meta, task = sidecar.beside(file.path), self.settings.tracks[file.track].task
        meta.fit(sidecar.path_of(file.path).name, file.track, task, tuple(self.settings.tracks))
        return meta, samples.read(file.path, self.settings.inbox, task, meta.fields)

    def _open_drop(self, file: Waiting, now: float) -> domain.Drop:
        for drop in self.ledger.drops(state=DropState.TAKEN, limit=self.settings.inbox.max_waiting):
            if (drop.name, drop.track) == (file.path.name, file.track):
                return drop  # a crash between taking and accepting
        return self.ledger.take(file.path.name, file.track, now)

    def _remember(
        self, drop: domain.Drop, reading: samples.Reading, now: float, description: str = ""
    ) -> None:
        twin = self.ledger.find_content(drop.track, reading.digest)
        report = {
            "formats": reading.formats,
            "repeated_rows": reading.repeated,
            "contradicted_rows": [example.line for example in reading.contradicted],
            "bad_rows": [domain.as_json(problem) for problem in reading.problems[:20]],
            **({"description": description} if description else {}),
        }
        with self._database.transaction():
            registry = self.registries[drop.track]
            lineage = registry.lineage(registry.latest)
            intake = self.memory.add(drop.track, reading.examples, drop.id, now, lineage)
            report |= {"new": intake.new, "known": intake.known, "replacing": len(intake.replacing)}
            if intake.new == 0:
                same = f"it says the same as {twin.name}" if twin else "every row was known already"
                self.ledger.close_drop(
                    drop, "repeat", now, content=reading.digest, rows=reading.rows, reason=report
                )
                self.ledger.note("repeated", now, file=drop.name, why=same)
                return
            dataset = reading.examples[0].dataset
            self.ledger.close_drop(
                drop, "accept", now, content=reading.digest, rows=reading.rows, reason=report
            )
            job = self.ledger.queue(drop.track, dataset, now, settings={"drop": drop.id})
            counts = {"new": intake.new, "known": intake.known, "replacing": len(intake.replacing)}
            told = {name: count for name, count in counts.items() if count}
            self.ledger.note("accepted", now, file=drop.name, rows=reading.rows, job=job.id, **told)
        log.info(
            "accepted", file=drop.name, rows=reading.rows, new=intake.new, known=intake.known, job=job.id
        )

    def _fail(self, file: Waiting, drop: domain.Drop, error: SampleError, now: float) -> None:
        reason = error.as_dict() | {"track": file.track}
        with self._database.transaction():
            self.ledger.close_drop(drop, "fail", now, reason=reason)
            self.ledger.note("failed", now, file=drop.name, code=error.code, why=error.message)
        self.inbox.fail(file.path, reason)
        log.warning("file_failed", file=drop.name, code=error.code, why=error.message)

    # -- plan and train

    def start_next(self, now: float) -> None:
        """Start the oldest queued job, unless learning is paused."""
        if self.ledger.flag("paused"):
            return
        job = next((job for job in self.ledger.open_jobs() if job.state is JobState.QUEUED), None)
        if job is None:
            return
        job = self.ledger.move_job(job, "start", now)
        try:
            self._running = (job, self._tracks.start(self._prepare(job)))
            self.ledger.note("training", now, job=job.id, dataset=job.dataset)
            log.info("training", job=job.id, dataset=job.dataset)
        except (LoradError, OSError) as error:
            self._crash(job, error, now)

    def _prepare(self, job: Job) -> Path:
        registry = self.registries[job.track]
        track = self.settings.tracks[job.track]
        parent = registry.newest_sound(self._tracks.fingerprint(job.track))
        new, old = self.materials(job, registry.lineage(parent))
        if job.kind == "learn" and not new:
            raise TrainingError(
                "nothing is left to learn from this drop; it was forgotten or replaced", code="nothing_new"
            )
        overrides = {key: value for key, value in job.settings.items() if key != "drop"}
        if job.kind == "consolidate":  # what mends a truncation is small, or nothing would be gained
            rank = max(1, self.settings.training.max_rank // 8)
            overrides = {"rank": rank, "alpha": 2 * rank, **overrides}
        order = Order(
            job=job.id,
            track=job.track,
            task=track.task,
            kind=job.kind,
            dataset=job.dataset,
            base=str(self._base_folder(track.base)),
            parent=str(registry.path(parent)) if parent and job.kind != "refit" else None,
            parent_version=parent,
            plan=self._tracks.plan(job.track, new or [item.example for item in old], overrides),
            settings={
                "training": self.settings.training.model_dump(),
                "judge": self.settings.judge.model_dump(),
                "resolved": self.settings.model_dump(mode="json"),
            },
        )
        request: dict[str, Any] = {
            "new": [domain.as_json(example) for example in new],
            "old": [domain.as_json(item.example) | {"right": item.right} for item in old],
            "order": domain.as_json(order),
        }
        folder = registry.candidates / f"job-{job.id}"
        if _cut_off(folder) != json.loads(json.dumps(request)):
            files.remove(folder)
            files.write_lines(folder / "new.jsonl", request["new"])
            files.write_lines(folder / "old.jsonl", request["old"])
            files.write_json(folder / "request.json", request["order"])
        return folder

    def materials(self, job: Job, lineage: Sequence[str]) -> tuple[list[Example], list[Recalled]]:
        """Return a job's new examples, and the old ones that its answers do not replace."""
        new = (
            self.memory.of_drop(job.track, job.dataset, int(job.settings.get("drop", 0)))
            if job.kind == "learn"
            else []
        )
        answered = {example.question_id for example in new}
        ids = {example.id for example in new}
        learned = self.memory.learned(job.track, lineage)
        old = [
            item
            for item in learned
            if item.example.question_id not in answered and item.example.id not in ids
        ]
        return new, old

    # -- judge and promote

    def watch(self, now: float) -> None:
        """Look at the running session; when it has ended, judge what it left."""
        assert self._running is not None  # noqa: S101 - step asks only when one runs
        job, session = self._running
        status = session.poll(now)
        if status is None:
            return
        self._running = None
        folder = self.registries[job.track].candidates / f"job-{job.id}"
        if self.ledger.job(job.id).state is JobState.CANCELLED:
            files.remove(folder)
            return
        try:
            if status != 0:
                raise self._why(folder, status)
            self.settle_candidate(self.ledger.move_job(job, "trained", now), folder, now)
        except (LoradError, OSError) as error:
            self._crash(self.ledger.job(job.id), error, now)

    def _why(self, folder: Path, status: int) -> TrainingError:
        lines = files.read_lines(folder / "progress.jsonl")
        said = next((line["error"] for line in reversed(lines) if "error" in line), None)
        if said:
            return TrainingError(said["message"], code=said["code"])
        killed = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return TrainingError(
            f"the session {killed}; its last words are in {folder / 'session.log'}",
            code="session_died",
            status=status,
        )

    def settle_candidate(self, job: Job, folder: Path, now: float) -> None:
        """Judge a candidate; promote it and swap, or keep it aside with its numbers."""
        registry = self.registries[job.track]
        result = files.read_json(folder / "candidate" / "evaluation.json")
        evaluation = domain.restore(Evaluation, result["evaluation"])
        verdict = judge.decide(evaluation, self.settings.judge)
        if not verdict.promote and not job.force:
            registry.reject(folder, job.id)
            self._report(job, "reject", verdict, evaluation, now)
            return
        version = registry.promote(folder / "candidate", self._birth(job, result, evaluation), now)
        self._clear(job, version)
        self._enter(job, version, result, now)

    def _clear(self, job: Job, version: str) -> None:
        """Keep what a promoted version's session left beside its candidate, and remove its folder."""
        registry = self.registries[job.track]
        folder = registry.candidates / f"job-{job.id}"
        try:
            registry.keep_merged(folder / "merged", version)
        except (LoradError, OSError) as error:  # the version stands without it
            log.warning("no_merged_copy", job=job.id, version=version, error=str(error))
        files.remove(folder)

    def _birth(self, job: Job, result: dict[str, Any], evaluation: Evaluation) -> Birth:
        old = [score for name, score in evaluation.scores.items() if name != evaluation.dataset]
        performance = {
            "recall": round(_score(evaluation).recall, 4),
            "retention": round(sum(s.right for s in old) / max(1, sum(s.total for s in old)), 4),
            "perplexity": round(evaluation.perplexity, 3),
        }
        if not old:
            del performance["retention"]
        words = {
            "learn": f"learned {job.dataset}",
            "refit": "refitted from all of memory",
            "consolidate": "consolidated",
        }
        return Birth(
            job=job.id,
            parent=result["parent"],
            base=result["base"],
            description=words[job.kind],
            performance=performance,
        )

    def _enter(self, job: Job, version: str, result: dict[str, Any], now: float) -> None:
        """Make ledger and memory agree with a version that is already on disk; can be repeated."""
        evaluation = domain.restore(Evaluation, result["evaluation"])
        verdict = judge.decide(evaluation, self.settings.judge)
        learned = [domain.restore(Example, data) for data in result["learned"]]
        with self._database.transaction():
            self.memory.mark_learned(job.track, learned, version)
            self.memory.record_recall(job.track, version, result["right"])
            self._report(replace(job, version=version), "promote", verdict, evaluation, now)
        try:
            self._tracks.serve(job.track, version)
        except LoradError as error:
            self._retreat(job.track, version, error, now)
        try:
            self.prune(job.track, self.settings.registry, now)
        except (LoradError, OSError) as error:  # the version serves; what is too much can go another day
            log.warning("prune_failed", track=job.track, **describe(error))

    def _report(self, job: Job, event: str, verdict: Verdict, evaluation: Evaluation, now: float) -> None:
        reason = {
            "reasons": list(verdict.reasons),
            "failed": list(verdict.failed),
            "ended_by": evaluation.ended_by,
        }
        moved = self.ledger.move_job(job, event, now, version=job.version, reason=reason)
        facts = {
            "job": job.id,
            "dataset": job.dataset,
            "version": job.version,
            "recall": round(_score(evaluation).recall, 4),
        }
        self.ledger.note(str(moved.state), now, **facts, failed=list(verdict.failed))
        log.info(str(moved.state), **facts, failed=list(verdict.failed), ended_by=evaluation.ended_by)

    def _retreat(self, track: str, version: str, error: LoradError, now: float) -> None:
        """Go back to the newest sound version: the promoted one cannot serve."""
        registry = self.registries[track]
        registry.mark_damaged(version)
        sound = registry.newest_sound(self._tracks.fingerprint(track))
        if sound:
            registry.rollback(sound)
        self._tracks.serve(track, sound)
        self.ledger.note("rolled_back", now, track=track, version=version, to=sound, why=error.message)
        log.error("rolled_back", track=track, version=version, to=sound, **describe(error))

    def _crash(self, job: Job, error: BaseException, now: float) -> None:
        reason = describe(error)
        self.ledger.move_job(job, "crash", now, reason=reason)
        self.ledger.note("session_failed", now, job=job.id, dataset=job.dataset, why=reason["message"])
        log.error("session_failed", job=job.id, **reason)

    # -- what people ask for

    @property
    def session(self) -> tuple[Job, dict[str, Any]] | None:
        """Return the running job and its newest progress, or ``None``."""
        running = self._running
        return None if running is None else (running[0], running[1].progress)

    def cancel(self, job_id: int, now: float) -> Job:
        """Take a job out of the queue, or end its session; nothing but its time is lost."""
        job = self.ledger.move_job(self.ledger.job(job_id), "cancel", now)
        if self._running and self._running[0].id == job_id:
            self._running[1].stop()
        self.ledger.note("cancelled", now, job=job_id)
        return job

    def retry(
        self, job_id: int, now: float, *, force: bool = False, settings: dict[str, Any] | None = None
    ) -> Job:
        """Queue a rejected, failed or cancelled job again, perhaps with other settings or by force."""
        job = self.ledger.job(job_id)
        changed = self.ledger.move_job(
            job, "retry", now, force=int(force), settings=job.settings | (settings or {}), attempts=0
        )
        self.ledger.note("retry", now, job=job_id, force=force)
        return changed

    def tidy(self, now: float) -> list[Job]:
        """Queue the consolidation of every track that is idle and whose adapter has grown over half its limit."""
        busy = {job.track for job in self.ledger.open_jobs()}
        queued = []
        for track, registry in self.registries.items():
            version = registry.newest_sound(self._tracks.fingerprint(track))
            if (
                version
                and track not in busy
                and registry.rank(version) > self.settings.training.max_rank // 2
            ):
                queued.append(self.ledger.queue(track, "memory", now, kind="consolidate"))
                self.ledger.note("consolidating", now, track=track, version=version, job=queued[-1].id)
        return queued

    def rollback(self, track: str, to: str | None, now: float) -> dict[str, str | None]:
        """Serve ``previous`` (or the version named) again."""
        latest, previous = self.registries[track].rollback(to)
        self._tracks.serve(track, latest)
        self.ledger.note("rolled_back", now, track=track, to=latest, why="asked for")
        return {"latest": latest, "previous": previous, "serving": latest}

    def prune(
        self, track: str, limits: RegistrySettings, now: float, *, dry_run: bool = False
    ) -> dict[str, str]:
        """Remove the versions beyond the limits, but not the one that the running session builds on."""
        gone = self.registries[track].prune(limits, now, self._needed(track), dry_run=dry_run)
        if gone and not dry_run:
            self.ledger.note("pruned", now, track=track, versions=list(gone))
            log.info("pruned", track=track, versions=gone)
        return gone

    def _needed(self, track: str) -> list[str]:
        if self._running is None or self._running[0].track != track:
            return []
        folder = self.registries[track].candidates / f"job-{self._running[0].id}"
        parent = files.read_json(folder / "request.json")["parent_version"]
        return [parent] if parent else []

    def halt(self, now: float) -> None:
        """Stop the running session before the daemon ends; its job is queued again."""
        if self._running:
            job, session = self._running
            session.stop()
            self._running = None
            current = self.ledger.job(job.id)
            if current.state is JobState.TRAINING:
                self.ledger.move_job(current, "requeue", now, attempts=job.attempts - 1)


def _cut_off(folder: Path) -> dict[str, Any] | None:
    """Return what a session that was cut off was asked: asked the same, it goes on from its checkpoints."""
    files.remove(folder / "candidate")
    try:
        rows = {name: files.read_lines(folder / f"{name}.jsonl") for name in ("new", "old")}
        return {**rows, "order": files.read_json(folder / "request.json")}
    except (OSError, ValueError):
        return None


def _score(evaluation: Evaluation) -> Score:
    """Return the score of the session's dataset, or of everything when it was not for one dataset."""
    everything = evaluation.scores.values()
    pooled = Score(right=sum(s.right for s in everything), total=sum(s.total for s in everything))
    return evaluation.scores.get(evaluation.dataset, pooled)
