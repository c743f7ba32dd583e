"""Names of files in the inbox that are no datasets.

What lives here: the patterns, each with its reason, and matching them. What never does: looking at a file.
"""

import fnmatch
import functools
import re

#: What lies beside a dataset for people to read, whatever its ending.
_PAPERS = (
    *(
        name + rest
        for name in ("README", "LICENSE", "LICENCE")
        for rest in ("", ".md", ".txt", ".*", "-*", "_*")
    ),
    *(name + rest for name in ("COPYING", "NOTICE") for rest in ("", ".md", ".txt")),
)

#: An ending that says that rows are inside, so that ``license_questions.csv`` is no paper.
_ROWS = re.compile(r"\.(jsonl?|ndjson|csv|tsv|parquet)(\.gz)?$", re.IGNORECASE)

#: Names of files that other programs are still writing, or that are not meant for us; in any case, as the systems
#: that write them have it.
IGNORED = (
    ".*",
    "~*",
    "*~",
    "#*#",
    "*.part",
    "*.partial",
    "*.filepart",
    "*.crdownload",
    "*.opdownload",
    "*.download",
    "*.aria2",
    "*.tmp",
    "*.swp",
    "*.sb-*",
    "*.lock",
    "*.lck",
    "4913",  # vim tries whether it may write here
    # what somebody kept of a file that he changed
    "*.bak",
    "*.orig",
    "*.old",
    # what Windows and macOS say about a file; WSL may write the colon as U+F03A
    "*[:\uf03a]Zone.Identifier",
    "*[:\uf03a]SmartScreen",
    "*[:\uf03a]encryptable",
    "*[:\uf03a]AFP_*",
    "*[:\uf03a]com.apple.*",
    "*[:\uf03a]com.dropbox.*",
    # what they, and network drives, put into every folder
    "Icon\r",
    "Thumbs.db",
    "desktop.ini",
    "@eaDir",
    "@Recycle",
    "#recycle",
    "$RECYCLE.BIN",
    "System Volume Information",
    "__MACOSX",
    "lost+found",
    # checksums and signatures
    "*.md5",
    "*.sha1",
    "*.sha224",
    "*.sha256",
    "*.sha384",
    "*.sha512",
    "*.md5sum",
    "*.sha*sum",
    "*.crc",
    "*.crc32",
    "*.sfv",
    "*.asc",
    "*.sig",
    "*.minisig",
    *(
        f"{kind}{ending}"
        for kind in ("MD5SUM", "SHA1SUM", "SHA224SUM", "SHA256SUM", "SHA384SUM", "SHA512SUM", "CHECKSUM")
        for ending in ("", "S", ".txt", "S.txt")
    ),
    # what programs say about a dataset
    "_SUCCESS",
    "_committed_*",
    "_started_*",
    "_metadata",
    "_common_metadata",
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "dataset-metadata.json",
    "datapackage.json",
    "croissant.json",
    "*.reason.json",
    *_PAPERS,
)


@functools.cache
def _ignored() -> re.Pattern[str]:
    """Return all patterns as one, made when the first name is asked: most commands ask none."""
    return re.compile("|".join(fnmatch.translate(pattern) for pattern in IGNORED), re.IGNORECASE)


def passed_by(name: str) -> str | None:
    """Return the pattern by which a file of this name is ignored; ``None`` if it is not."""
    if not _ignored().match(name):  # a folder may hold a million
        return None
    small = name.lower()
    # there are letters that are another one in small, and are not made small: \u017f is an s
    found = next((pattern for pattern in IGNORED if fnmatch.fnmatchcase(small, pattern.lower())), None)
    return None if found in _PAPERS and _ROWS.search(name) else found
