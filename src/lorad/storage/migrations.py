"""What each lorad has changed in the database, oldest first.

What lives here: the scripts, and the one function of Python that they call. What never does: running them
(``database``).
"""

import json

from lorad.records import Example

#: Each entry is applied once, in order; ``PRAGMA user_version`` counts them. Never edit one that was released.
MIGRATIONS = (
    """
    CREATE TABLE drops (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL, track TEXT NOT NULL, state TEXT NOT NULL,
        digest TEXT NOT NULL DEFAULT '', rows INTEGER NOT NULL DEFAULT 0,
        taken_at REAL NOT NULL, ended_at REAL, reason TEXT NOT NULL DEFAULT '{}'
    );
    CREATE TABLE jobs (
        id INTEGER PRIMARY KEY, track TEXT NOT NULL, dataset TEXT NOT NULL, state TEXT NOT NULL,
        kind TEXT NOT NULL DEFAULT 'learn', created_at REAL NOT NULL, started_at REAL, ended_at REAL,
        attempts INTEGER NOT NULL DEFAULT 0, force INTEGER NOT NULL DEFAULT 0,
        settings TEXT NOT NULL DEFAULT '{}', version TEXT, reason TEXT NOT NULL DEFAULT '{}'
    );
    CREATE TABLE events (
        id INTEGER PRIMARY KEY, at REAL NOT NULL, name TEXT NOT NULL, data TEXT NOT NULL DEFAULT '{}'
    );
    CREATE TABLE flags (name TEXT PRIMARY KEY, value TEXT NOT NULL);
    CREATE TABLE examples (
        id TEXT NOT NULL, track TEXT NOT NULL, question_id TEXT NOT NULL, dataset TEXT NOT NULL,
        task TEXT NOT NULL, question TEXT NOT NULL, answer TEXT NOT NULL, line INTEGER NOT NULL DEFAULT 0,
        drop_id INTEGER REFERENCES drops(id), added_at REAL NOT NULL,
        superseded_by TEXT, forgotten_at REAL, learned_in TEXT, recalled INTEGER, recalled_in TEXT,
        PRIMARY KEY (track, id)
    );
    CREATE INDEX examples_by_question ON examples (track, question_id);
    CREATE INDEX examples_by_dataset ON examples (track, dataset);
    """,
    # what was forgotten kept its words at first, here and in two other places
    """
    UPDATE examples SET question = 'null', answer = 'null' WHERE forgotten_at IS NOT NULL;
    UPDATE drops SET reason = json_remove(reason, '$.replaced') WHERE reason LIKE '%"replaced"%';
    UPDATE events SET data = json_remove(data, '$.selector') WHERE name = 'forgotten';
    """,
    # one example may be learned by several versions: once more after a rollback, and the rollback undone
    """
    CREATE TABLE learnings (
        id INTEGER PRIMARY KEY, track TEXT NOT NULL, question_id TEXT NOT NULL, example_id TEXT NOT NULL,
        version TEXT NOT NULL, UNIQUE (track, question_id, version)
    );
    INSERT OR REPLACE INTO learnings (track, question_id, example_id, version)
        SELECT track, question_id, id, learned_in FROM examples WHERE learned_in IS NOT NULL
        ORDER BY CAST(substr(learned_in, 2) AS INTEGER),
            CAST(substr(learned_in, instr(learned_in, '.') + 1) AS INTEGER), superseded_by IS NULL;
    ALTER TABLE examples DROP COLUMN learned_in;
    ALTER TABLE examples DROP COLUMN superseded_by;
    """,
    # one question in several spellings is one now, and a version may have learned two answers to it: those that no
    # longer hold are told. What was forgotten has no words. It keeps its place, and with it the answers that it
    # replaced, so that it replaces no others
    """
    CREATE TABLE asked (track TEXT, id TEXT, was TEXT NOT NULL, now TEXT NOT NULL, PRIMARY KEY (track, id));
    INSERT INTO asked SELECT track, id, question_id, question_id_of(task, question) FROM examples e
        WHERE forgotten_at IS NULL AND NOT EXISTS (
            SELECT 1 FROM learnings newer
            LEFT JOIN examples by ON by.track = newer.track AND by.id = newer.example_id
            WHERE newer.track = e.track AND newer.question_id = e.question_id
                AND (by.id IS NULL OR by.forgotten_at IS NOT NULL)
                AND newer.id > (
                    SELECT MAX(mine.id) FROM learnings mine
                    WHERE mine.track = e.track AND mine.question_id = e.question_id AND mine.example_id = e.id
                )
        );
    UPDATE examples SET question_id = (
        SELECT now FROM asked WHERE asked.track = examples.track AND asked.id = examples.id
    ) WHERE EXISTS (SELECT 1 FROM asked WHERE asked.track = examples.track AND asked.id = examples.id);
    CREATE TABLE learned (
        id INTEGER PRIMARY KEY, track TEXT NOT NULL, question_id TEXT NOT NULL, example_id TEXT NOT NULL,
        version TEXT NOT NULL, UNIQUE (track, question_id, example_id, version)
    );
    INSERT OR REPLACE INTO learned (id, track, question_id, example_id, version)
        SELECT l.id, l.track, coalesce(now, l.question_id), l.example_id, l.version FROM learnings l
        LEFT JOIN asked ON asked.track = l.track AND asked.id = l.example_id AND asked.was = l.question_id
        ORDER BY l.id;
    INSERT INTO events (at, name, data)
        SELECT CAST(strftime('%s', 'now') AS REAL), 'spellings joined', json_object(
            'track', e.track, 'replaced', COUNT(*), 'datasets', json_group_array(DISTINCT e.dataset)
        ) FROM asked JOIN examples e ON e.track = asked.track AND e.id = asked.id
        WHERE e.id = (
            SELECT example_id FROM learnings l WHERE l.track = e.track AND l.question_id = asked.was
            ORDER BY l.id DESC LIMIT 1
        ) AND e.id != (
            SELECT example_id FROM learned l WHERE l.track = e.track AND l.question_id = asked.now
            ORDER BY l.id DESC LIMIT 1
        ) GROUP BY e.track;
    DROP TABLE learnings;
    ALTER TABLE learned RENAME TO learnings;
    DROP TABLE asked;
    """,
    # a file may go on after it was read, and one may end the daemon that reads it. Sizes, times and numbers of files
    # are larger than SQLite's numbers on some file systems, so they are text
    """
    ALTER TABLE drops ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE drops ADD COLUMN again_of INTEGER;
    ALTER TABLE drops ADD COLUMN read_as TEXT NOT NULL DEFAULT '';
    ALTER TABLE drops ADD COLUMN kept_as TEXT NOT NULL DEFAULT '';
    """,
    # the field's words for states and settings
    """
    UPDATE drops SET state = 'processing' WHERE state = 'taken';
    UPDATE drops SET state = 'duplicate' WHERE state = 'repeated';
    UPDATE events SET name = 'duplicate' WHERE name = 'repeated';
    UPDATE jobs SET reason = json_set(reason, '$.ended_by', 'max_rounds')
        WHERE json_extract(reason, '$.ended_by') = 'ceiling';
    UPDATE jobs SET settings = json_remove(
        json_set(settings, '$.max_rounds', json_extract(settings, '$.max_epochs')), '$.max_epochs'
    ) WHERE json_extract(settings, '$.max_epochs') IS NOT NULL;
    """,
    # other wordings of a question, and where an example is found by its meaning and its words
    """
    ALTER TABLE examples ADD COLUMN also_asked TEXT NOT NULL DEFAULT '[]';
    ALTER TABLE examples ADD COLUMN held_out TEXT NOT NULL DEFAULT '[]';
    CREATE TABLE embeddings (
        id INTEGER PRIMARY KEY, track TEXT NOT NULL, example_id TEXT NOT NULL, embedder TEXT NOT NULL,
        vector BLOB NOT NULL, UNIQUE (track, example_id)
    );
    CREATE VIRTUAL TABLE example_words USING fts5(words);
    """,
)


def question_id(task: str, question: str) -> str:
    """Return what an example's question is known by: a script has the words alone."""
    return Example(task=task, input=json.loads(question), target=None).input_id
