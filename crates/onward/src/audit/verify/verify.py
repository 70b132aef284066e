#!/usr/bin/env python3
"""Checks the audit chains of an Onward database, or an exported chain, without any code of Onward.

    verify.py onward.db [--chain NAME] [--key FILE] [--checkpoint FILE [--vkey VKEY]] [--archive FOLDER]
    zstd -dc entries.ndjson.zst | verify.py --export - [--key FILE]
    zstd -dc entries.ndjson.zst | verify.py --export - --manifest manifest --vkey VKEY [--key FILE]
    verify.py --export orders.ndjson [--key FILE] [--checkpoint FILE [--vkey VKEY]]
    verify.py --inclusion proof.json --checkpoint FILE --vkey VKEY
    verify.py --self-test

Needs Python 3.9 or newer and nothing else. The database is opened read-only; a server may have it open, and a copy works too.
Each entry is hashed exactly as it is stored, linked to the one before it, and the head must be the last entry. With --key (a file
with a key a line: 64 hex digits, or a name, a colon and 64 hex digits, and behind them ORIGIN=SEQ where the key was retired) every MAC
is checked too. With --checkpoint (a head that was saved outside
by `onward audit verify --save`, or with --vkey one that was signed, from `onward audit checkpoint`) a cut end, or a database that
was put back or swapped, shows as well. Of an export, which may begin anywhere, the hash before its first entry is believed;
--export - reads standard input. With --manifest (the signed one that lies beside an archived file) the export must be the very one that
was archived, and all of it. --inclusion checks that one entry is in a signed checkpoint.

Exit codes: 0 good, 1 broken, 2 could not run or cannot tell.
"""

import argparse
import base64
import binascii
import contextlib
import hashlib
import hmac
import json
import os
import re
import sqlite3
import struct
import sys
from urllib.parse import quote

NEXT = {
    "BROKEN(edited)": "compare these rows with a backup; the rows before them still stand",
    "BROKEN(link)": "a row at or right before this place was replaced; compare both with a backup",
    "BROKEN(gap)": "look for the missing rows in a backup",
    "BROKEN(foreign)": "keep the row as evidence; it was not written by an append",
    "BROKEN(mac)": "these rows were written without the key; compare them with a backup",
    "BROKEN(unknown_key)": "give the key if it is yours; otherwise these rows were sealed by somebody else",
    "BROKEN(key_window)": "find out who used the key; compare these rows with a backup",
    "BROKEN(control)": "compare these rows with a backup; only this library writes control entries",
    "BROKEN(head)": "compare the head and the last rows with a backup",
    "BROKEN(pii)": "compare these values with a backup; a redaction would have left an entry that names them",
    "BROKEN(time)": "compare these rows with a backup",
    "BROKEN(origin)": "find out which chain these rows were copied from, or who renamed this one",
    "BROKEN(root)": "verify against a head that was saved outside: the rows or the head were rewritten",
    "TRUNCATED": "the end was cut or the database was put back; restore the missing rows",
    "DIVERGED": "the database was rewritten, swapped or put back and then continued; compare it with a backup",
    "BROKEN(skeleton)": "compare the skeleton and the rows with a backup",
    "DEGRADED": "put the file back from a copy; nothing that it holds is lost yet",
    "LOST": "put the file back from a copy; the skeleton still proves what it must hold",
    "INDEX_MISMATCH": "compare the objects of kind onward.segment with a backup; the chain tells what they should be",
    "LEFTOVER": "remove it: nothing needs it any more",
    "UNDETERMINED": "give the key and verify again",
}
FINDINGS_MAX = 1000
DATA_MAX = 1 << 20
LINE_MAX = 4 << 20
SEQ_MAX = (1 << 53) - 1
APPLICATION_ID = 0x6F6E7764
PINNED, HAS_ACTOR, HAS_RESOURCE, CLOCK_BEHIND = 1, 2, 4, 8
FLAGS_KNOWN = PINNED | HAS_ACTOR | HAS_RESOURCE | CLOCK_BEHIND
CONTROL = (b"chain.", b"segment.", b"hold.", b"redact.", b"key.", b"audit.")


class CannotRun(Exception):
    """No verdict: the files could not be read, or the call is wrong."""


# The bytes: LP(field 1, .. field n), each field a 4-byte big-endian length and its bytes; integers 8 bytes big-endian.

def lp(*fields):
    return b"".join(struct.pack(">I", len(field)) + field for field in fields)


def integer(value):
    return struct.pack(">q", value)


def genesis(origin):
    return hashlib.sha256(lp(b"onward.audit.genesis.v1", origin)).digest()


def check_types(integers, strings):
    """Refuses what our tables cannot hold: they are STRICT, so only a table that somebody made anew does."""
    fits = all(isinstance(value, int) for value in integers) and all(isinstance(value, (bytes, type(None))) for value in strings)
    if not fits:
        raise CannotRun("a stored row is not what was written: a value is of another type; compare the tables with a backup")


class Row:
    """A row as the database holds it; every text is bytes."""

    COLUMNS = ("seq, prev, hash, mac, kid, at, event_id, kind, actor, resource, "
               f"substr(data, 1, {DATA_MAX + 1}), pii, flags")

    def __init__(self, seq, prev, hash, mac, kid, at, event_id, kind, actor, resource, data, pii, flags):
        check_types((seq, at or 0, flags or 0), (prev, hash, mac, kid, event_id, kind, actor, resource, data, pii))
        # A NULL where none belongs is read as empty: the hash will not fit it.
        self.seq, self.prev, self.hash, self.mac, self.kid, self.at = seq, prev or b"", hash or b"", mac, kid or b"", at or 0
        self.event_id, self.kind, self.actor, self.resource = event_id or b"", kind or b"", actor, resource
        self.data, self.pii, self.flags = data or b"", pii, flags or 0

    def compute_hash(self, origin):
        return hashlib.sha256(lp(
            b"onward.audit.entry.v1", origin, self.event_id, self.kind, self.actor or b"", self.resource or b"", self.data,
            self.pii or b"", self.kid, integer(self.flags), integer(self.at), integer(self.seq), self.prev)).digest()


class Key:
    """A MAC key, and by origin the entry that it begins behind, and the last one that it sealed before it was retired."""

    def __init__(self, secret, after, through):
        self.secret, self.after, self.through = secret, after, through

    def has_begun(self, origin, seq):
        return seq > self.after.get(origin, seq - 1)

    def is_in_window(self, origin, seq):
        return self.has_begun(origin, seq) and seq <= self.through.get(origin, seq)


def seal(key, entry_hash):
    return hmac.new(key, lp(b"onward.audit.mac.v1", entry_hash), hashlib.sha256).digest()


def commit_to(salt, value):
    return hashlib.sha256(lp(b"onward.audit.pii.v1", salt, value)).digest()


class Frontier:
    """The growing edge of the Merkle tree of RFC 6962 over the hashes of all entries."""

    def __init__(self, size=0, roots=()):
        self.size, self.roots = size, list(roots)

    @classmethod
    def parse(cls, size, data):
        if len(data) != 32 * bin(size).count("1"):
            return None
        return cls(size, [data[i:i + 32] for i in range(0, len(data), 32)])

    def push(self, entry_hash):
        top, size = hashlib.sha256(b"\0" + entry_hash).digest(), self.size
        while size & 1:
            top, size = hashlib.sha256(b"\1" + self.roots.pop() + top).digest(), size >> 1
        self.roots.append(top)
        self.size += 1

    def root(self):
        if not self.roots:
            return hashlib.sha256(b"").digest()
        right = self.roots[-1]
        for left in reversed(self.roots[:-1]):
            right = hashlib.sha256(b"\1" + left + right).digest()
        return right


class Before:
    """What is known of the row before."""

    def __init__(self, seq, at, stored, computed, sealed):
        self.seq, self.at, self.stored, self.computed, self.sealed = seq, at, stored, computed, sealed

    def has(self, some_hash):
        return some_hash in (self.stored, self.computed)


class Past:
    """The segments of a chain as its control entries tell of them, and the skeletons that stay of what was purged."""

    CHUNK = 8192
    STEPS = {
        "segment.archived": ("archived", ("sealed",)), "segment.purge_begun": ("purging", ("archived",)),
        "segment.purged": ("purged", ("purging",)), "segment.restore_begun": ("restoring", ("purged", "purging")),
        "segment.restored": ("archived", ("restoring",)), "segment.file_purged": ("file_purged", ("purged",)),
    }
    LACKING = ("purging", "purged", "restoring", "file_purged")

    def __init__(self, connection=None, name=b"", chain=None):
        self.connection, self.name, self.chain = connection, name, chain
        self.lives, self.cursor, self.passed, self.redacted = {}, None, [], []

    def take(self, row):
        """Takes the next control entry; returns why it cannot be one of ours."""
        try:
            step, kind = json.loads(row.data), row.kind.decode()
            if kind.startswith("redact."):
                return self.redact(row, step, kind)
            begin, generation = step["from"], step["gen"]
            if kind == "segment.sealed":
                last = list(self.lives.values())[-1]["to"] if self.lives else 0
                life = {key: step[key] for key in ("from", "to", "place")}
                life.update({key: bytes.fromhex(step[key]) for key in ("prev", "last", "skeleton")})
                if begin != last + 1 or not begin <= step["to"] < min(begin + (1 << 20), row.seq) or generation != 1:
                    return "a segment begins where the one before it ends, and lies before the entry that seals it"
                self.lives[begin] = {**life, "gen": 1, "state": "sealed", "archive": None}
                return None
            if begin not in self.lives:
                return "a control entry tells of a segment that was never sealed"
            life = self.lives[begin]
            if kind not in self.STEPS:
                return "a control entry of a segment has an unknown kind"
            state, before = self.STEPS[kind]
            if life["state"] not in before or generation != life["gen"] + 1:
                return "a segment cannot come to this state from the one before"
            life["gen"], life["state"] = generation, state
            if kind == "segment.archived":
                file = step["archive"]
                manifest = file.get("manifest")
                life["archive"] = {"name": file["name"], "bytes": file["bytes"], "sha256": bytes.fromhex(file["sha256"]),
                                   "manifest": manifest and bytes.fromhex(manifest)}
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            kind = "redaction" if row.kind.startswith(b"redact.") else "segment"
            return f"a control entry of a {kind} is malformed"

    def redact(self, row, step, kind):
        """Takes a control entry that tells whose personal data went."""
        if kind != "redact.done":
            return "a control entry of a redaction has an unknown kind"
        ranges = [(first, last) for first, last in step["seqs"]]
        # It excuses what was there before it: never itself, and nothing that came later.
        if any(type(first) is not int or type(last) is not int or not 1 <= first <= last < row.seq for first, last in ranges):
            return "a control entry of a redaction is malformed"
        self.redacted.extend(ranges)

    def beside(self, seq):
        """The personal data beside an entry: none if they were overwritten by zeros."""
        found = self.connection.execute("SELECT subject, salt, value FROM onward_personal WHERE chain = ? AND seq = ?", (self.chain, seq))
        found = found.fetchone()
        return found[1:] if found and found[0] and found[0][:1] != b"\0" else None

    def of(self, seq):
        return next((life for life in self.lives.values() if life["from"] <= seq <= life["to"]), None)

    def at(self, seq, add):
        """What is known of an entry: its hash, whether it is a control entry, and the state; a walk asks for each, in order."""
        life = self.of(seq)
        if life is None:
            self.cursor = None
            return None
        index, offset = divmod(seq - life["from"], self.CHUNK)
        if self.cursor is None or self.cursor[:2] != (life["from"], index):
            self.cursor = self.begin(life, index, offset, add)
        chunk, rows, digest, whole = self.cursor[2:]
        known = None
        if chunk is not None:
            known = chunk[offset * 32:offset * 32 + 32], bool(chunk[rows * 32 + offset // 8] >> offset % 8 & 1), life["state"]
        if seq == life["to"] and whole:
            if digest.digest() != life["skeleton"] or known[0] != life["last"]:
                add("BROKEN(skeleton)", life["from"], life["to"], "the skeleton is not the one that was sealed")
            self.passed.append(life)
        return known

    def begin(self, life, index, offset, add):
        before = self.cursor if self.cursor and self.cursor[:2] == (life["from"], index - 1) and self.cursor[5] else None
        name = b"%s/%016d/%s/%03d" % (self.name, life["from"], life["place"].encode(), index)
        found = self.connection.execute(
            "SELECT payload FROM onward_objects WHERE namespace = 'default' AND kind = 'onward.skeleton' AND name = ?",
            (name.decode("utf-8", "replace"),)).fetchone()
        chunk = found[0] if found else None
        rows = min(life["to"] + 1 - life["from"] - index * self.CHUNK, self.CHUNK)
        if not isinstance(chunk, bytes) or len(chunk) != rows * 32 + (rows + 7) // 8:
            chunk = None
            first = life["from"] + index * self.CHUNK
            add("BROKEN(skeleton)", first, min(life["to"], first + self.CHUNK - 1), "a part of the skeleton is missing or damaged")
        digest = before[4].copy() if before else hashlib.sha256()
        digest.update(chunk or b"")
        return life["from"], index, chunk, rows, digest, offset == 0 and chunk is not None and (index == 0 or before is not None)

    def next_excuse(self, seq):
        return next((life["from"] for life in self.lives.values() if life["from"] > seq and life["state"] in self.LACKING), None)


class Walk:
    """One walk over one chain, each row once, in order."""

    def __init__(self, name, origin, keys, saved, first=1):
        self.name, self.origin, self.keys, self.saved, self.first = name, origin, keys, saved, first
        self.findings, self.left_out = [], 0
        self.before, self.frontier = None, Frontier()
        self.rows_hashed, self.rows_known, self.seen_sealed, self.attested_to = 0, 0, False, None
        self.past, self.lost_at = Past(), 0
        if not origin.endswith(b"/" + name):
            self.add("BROKEN(origin)", 1, 1, "the origin of the chain is not that of its name")

    def add(self, code, first, last, reason):
        for finding in reversed(self.findings[-len(NEXT):]):
            if finding[0] == code and finding[2] + 1 == first and finding[3] == reason:
                finding[2] = last
                return
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append([code, first, last, reason])
        else:
            self.left_out += 1

    def row(self, row):
        expected = self.before.seq + 1 if self.before else 1
        if row.seq < expected:
            outside = row.seq < 1
            reason = "a row stands before the first entry" if outside else "two rows have one position"
            return self.add("BROKEN(foreign)", max(row.seq, 0), max(row.seq, 0), reason)
        if row.seq > expected:
            self.absent(expected, row.seq - 1)
        known = self.past.at(row.seq, self.add)
        if row.seq == 1 and self.first == 1:
            self.find_origin(row)
        computed = row.compute_hash(self.origin)
        self.rows_hashed += 1
        self.check_links(row)
        self.check_content(row, computed)
        self.check_mac(row, computed)
        self.check_known(row, computed, known)
        self.check_personal(row)
        self.compare_saved(row.seq, row.hash, computed)
        if self.frontier is not None and len(row.hash) == 32:
            self.frontier.push(row.hash)
        else:
            self.frontier = None
        self.before = Before(row.seq, row.at, row.hash, computed, bool(row.kid))

    def learn(self, rows):
        """Takes the control entries of segments; only those count that verify themselves."""
        for row in rows:
            good = row.hash == row.compute_hash(self.origin) and bool(row.kid) == (row.mac is not None)
            if good and row.kid and self.keys:
                key = self.keys.get(row.kid)
                good = key and hmac.compare_digest(seal(key.secret, row.hash), row.mac) and key.is_in_window(self.origin, row.seq)
            why = self.past.take(row) if good else "a control entry that does not verify excuses nothing"
            if why:
                self.add("BROKEN(control)", row.seq, row.seq, why)

    def absent(self, first, last):
        """Takes entries that are not there: known by their skeleton where they may be absent, a gap where not."""
        seq = first
        while seq <= last:
            known = self.past.at(seq, self.add)
            if known and known[2] in Past.LACKING:
                if known[1]:
                    self.add("BROKEN(gap)", seq, seq, "a control entry is missing, which no purge removes")
                self.known(seq, known[0])
                seq += 1
                continue
            excuse = self.past.next_excuse(seq)
            end = min(last, excuse - 1) if excuse else last
            self.add("BROKEN(gap)", seq, end, "entries are missing")
            self.before = self.frontier = None
            self.lost_at, seq = end, end + 1

    def known(self, seq, entry_hash):
        life = self.past.lives.get(seq)
        if life and self.before and not self.before.has(life["prev"]):
            self.add("BROKEN(link)", seq, seq, "the segment does not link to the entry before it")
        self.rows_known += 1
        self.compare_saved(seq, entry_hash, entry_hash)
        if self.frontier is not None:
            self.frontier.push(entry_hash)
        at, sealed = (self.before.at, self.before.sealed) if self.before else (-(1 << 63), self.seen_sealed)
        self.before = Before(seq, at, entry_hash, entry_hash, sealed)

    def check_known(self, row, computed, known):
        if known is None:
            return
        entry_hash, pinned, state = known
        if row.hash != entry_hash:
            if state in Past.LACKING:
                self.add("BROKEN(foreign)", row.seq, row.seq, "the row is not the one that was purged from this place")
            elif row.hash == computed:
                self.add("BROKEN(skeleton)", row.seq, row.seq, "the row is not the one that the skeleton knows")
        elif bool(row.flags & PINNED) != pinned:
            self.add("BROKEN(control)", row.seq, row.seq, "the skeleton knows the row otherwise: as a control entry, or as none")
        elif not pinned and state in ("purged", "file_purged"):
            self.add("LEFTOVER", row.seq, row.seq, "the entry is purged, and its row is still there")

    def check_personal(self, row):
        # Values do not travel with files.
        if row.pii is None or len(row.pii) != 32 or self.past.connection is None:
            return
        beside, redacted = self.past.beside(row.seq), any(first <= row.seq <= last for first, last in self.past.redacted)
        if beside is None:
            if not redacted:
                self.add("BROKEN(pii)", row.seq, row.seq, "the personal data are gone, and no entry tells of a redaction")
        elif commit_to(*beside) != row.pii:
            self.add("BROKEN(pii)", row.seq, row.seq, "the personal data are not those that the entry commits to")
        elif redacted:
            self.add("LEFTOVER", row.seq, row.seq, "the personal data are redacted, and they are still there")

    def check_index(self, payloads):
        rows = []
        for payload in payloads:
            try:
                row = json.loads(payload)
                rows.append((row["from"], row["gen"], row["state"]))
            except (ValueError, LookupError, TypeError, RecursionError):
                rows.append(None)
        for life in self.past.lives.values():
            if (life["from"], life["gen"], life["state"]) not in rows:
                self.add("INDEX_MISMATCH", life["from"], life["to"], "the row of the segment is not what the chain tells of it")
        if len(rows) > len(self.past.lives) or None in rows:
            self.add("INDEX_MISMATCH", 0, 0, "there are rows of segments that the chain does not tell of")

    def check_files(self, archive):
        for life in self.past.passed:
            file, state, lack, beside = life["archive"], life["state"], None, None
            if file is None:
                continue
            path = os.path.join(archive, *file["name"].split("/"))
            manifest = os.path.join(os.path.dirname(path), "manifest")
            if not os.path.isfile(path):
                lack = "the file of the segment is missing"
            elif os.path.getsize(path) != file["bytes"] or file_hash(path) != file["sha256"]:
                lack = "the file of the segment is damaged"
            elif file["manifest"] and not os.path.isfile(manifest):
                beside = "the manifest of the file is missing"
            elif file["manifest"] and file_hash(manifest) != file["manifest"]:
                beside = "the manifest of the file is not the one that was written"
            if state == "file_purged":
                if lack is None:
                    self.add("LEFTOVER", life["from"], life["to"], "the file is purged, and it is still there")
            elif lack and state == "archived":
                self.add("DEGRADED", life["from"], life["to"], lack)
            elif lack:
                self.add("LOST", life["from"], life["to"], lack)
            elif beside:
                self.add("DEGRADED", life["from"], life["to"], beside)

    def find_origin(self, first):
        """Notices that the rows belong to another chain, and goes on with their own origin so that other findings stay exact."""
        if first.prev == genesis(self.origin):
            return
        try:
            origin = json.loads(first.data)["origin"].encode()
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return
        if first.prev == genesis(origin) and first.hash == first.compute_hash(origin):
            self.add("BROKEN(origin)", 1, 1, "the first entry was written for a chain of another origin")
            self.origin = origin

    def check_links(self, row):
        if row.seq == 1 and row.prev != genesis(self.origin):
            self.add("BROKEN(link)", 1, 1, "the first entry does not begin a chain of this origin")
        if self.before and not self.before.has(row.prev):
            self.add("BROKEN(link)", row.seq, row.seq, "the entry does not link to the one before it")
        if self.before and row.at < self.before.at:
            self.add("BROKEN(time)", row.seq, row.seq, "the entry is older than the one before it")

    def check_content(self, row, computed):
        if row.hash != computed:
            self.add("BROKEN(edited)", row.seq, row.seq, "the stored hash is not that of the stored bytes")
        elif bool(row.flags & HAS_ACTOR) != (row.actor is not None) or bool(row.flags & HAS_RESOURCE) != (row.resource is not None):
            self.add("BROKEN(edited)", row.seq, row.seq, "an absent field was made empty, or an empty one absent")
        elif row.flags & ~FLAGS_KNOWN or row.pii is not None and len(row.pii) != 32 or len(row.data) > DATA_MAX:
            self.add("UNDETERMINED", row.seq, row.seq, "the entry has a form that this version does not know")
        control = is_text(row.kind) and row.kind.startswith(CONTROL)
        if control != bool(row.flags & PINNED):
            self.add("BROKEN(control)", row.seq, row.seq, "the flag of a control entry does not fit the kind")
        elif (row.kind == b"chain.created") != (row.seq == 1):
            self.add("BROKEN(control)", row.seq, row.seq, "a chain begins with its creation, once")

    def check_mac(self, row, computed):
        sealed = bool(row.kid)
        if sealed != (row.mac is not None):
            self.add("BROKEN(mac)", row.seq, row.seq, "the entry has a key without a mac, or a mac without a key")
        elif self.keys and row.hash == computed:
            if not sealed:
                # Entries from before the first key are vouched for by the sealed ones that link to them.
                if self.seen_sealed:
                    self.add("BROKEN(mac)", row.seq, row.seq, "the entry carries no mac, although earlier ones do")
                elif any(key.after.get(self.origin) == row.seq for key in self.keys.values()):
                    self.add("BROKEN(mac)", row.seq, row.seq, "the entry carries no mac, although it was sealed when the next key came")
            elif row.kid not in self.keys:
                self.add("BROKEN(unknown_key)", row.seq, row.seq, "the entry is sealed under a key that was not given")
            elif not hmac.compare_digest(seal(self.keys[row.kid].secret, computed), row.mac):
                self.add("BROKEN(mac)", row.seq, row.seq, "the mac is not that of the key")
            elif not self.keys[row.kid].has_begun(self.origin, row.seq):
                self.add("BROKEN(key_window)", row.seq, row.seq, "the entry is sealed under a key that came after it")
            elif not self.keys[row.kid].is_in_window(self.origin, row.seq):
                self.add("BROKEN(key_window)", row.seq, row.seq, "the entry is sealed under a key that was retired before it")
        self.seen_sealed = self.seen_sealed or sealed

    def compare_saved(self, seq, stored, computed):
        saved = self.saved
        if not saved or saved["size"] != seq or saved["origin"] != self.origin:
            return
        root, clean = None, not self.findings
        if self.frontier is not None:
            frontier = Frontier(self.frontier.size, self.frontier.roots)
            frontier.push(computed)
            root = frontier.root()
        if saved["hash"] is not None and saved["hash"] not in (stored, computed):
            self.add("DIVERGED", 1, seq, "the entry at the size of the saved head has another hash")
        elif clean and root is not None and root != saved["root"]:
            self.add("DIVERGED", 1, seq, "the root at the size of the saved head is another")
        elif clean and (saved["hash"] is not None or root is not None):
            self.attested_to = seq

    def end(self, head):
        last = self.before.seq if self.before else self.lost_at
        self.check_head(head, last)
        if self.keys and not self.seen_sealed and last:
            self.add("BROKEN(mac)", min(self.first, last), last, "a key was given, and no entry is sealed")
        if self.saved and self.saved["origin"] != self.origin:
            self.add("DIVERGED", 1, self.saved["size"], "the chain has another origin than the saved head")
        elif self.saved and last < self.saved["size"]:
            self.add("TRUNCATED", last + 1, self.saved["size"], "the chain is shorter than the saved head")

    def check_head(self, head, last):
        if head is None:
            if last:
                return self.add("BROKEN(head)", last, last, "the chain has no head")
            return self.add("BROKEN(gap)", 1, 1, "entries are missing")
        seq, head_hash, frontier, at = head
        check_types((seq, at or 0), (head_hash, frontier))
        seq, head_hash, frontier = max(seq, 0), head_hash or b"", frontier or b""
        if seq > last:
            return self.add("BROKEN(gap)", last + 1, seq, "entries are missing")
        if not last:
            return self.add("BROKEN(gap)", 1, 1, "entries are missing")
        if seq < last:
            return self.add("BROKEN(head)", seq + 1, last, "entries stand beyond the head")
        if not self.before.has(head_hash) or self.before.at != at:
            self.add("BROKEN(head)", last, last, "the head is not the last entry")
        stored = Frontier.parse(seq, frontier)
        if stored is None:
            self.add("BROKEN(root)", last, last, "the tree of the head does not fit its length")
        elif not self.findings and self.frontier is not None and stored.root() != self.frontier.root():
            self.add("BROKEN(root)", last, last, "the root of the head is not that of the entries")

    def report(self):
        """Prints the findings and the verdict; returns the exit code."""
        bad = any(finding[0] not in ("UNDETERMINED", "LEFTOVER") for finding in self.findings)
        unclear = any(finding[0] == "UNDETERMINED" for finding in self.findings)
        verdict = "broken" if bad else "undetermined" if unclear else "ok"
        name = self.name.decode("utf-8", "replace")
        for code, first, last, reason in self.findings:
            print(f"{name} {code} {first}..{last}: {reason}; {NEXT[code]}")
        if self.left_out:
            print(f"{name}: {self.left_out} findings more")
        good = verdict == "ok"
        authenticated = good and bool(self.keys) and self.before is not None and self.before.sealed
        attested = f"attested to {self.attested_to}" if good and self.attested_to else "not attested"
        print(f"{name}: {verdict}, entries {self.first}..{self.before.seq if self.before else 0}, {self.rows_hashed} hashed"
              f"{f', {self.rows_known} known by skeleton' if self.rows_known else ''}, "
              f"{'authenticated' if authenticated else 'not authenticated'}, {attested}")
        return 1 if bad else 2 if unclear else 0


def is_text(data):
    try:
        data.decode("utf-8")
        return True
    except UnicodeDecodeError:
        return False


# The files.

def open_database(path):
    if not os.path.isfile(path):
        raise CannotRun("no such database file")
    uri = "file:" + quote(os.path.abspath(path))
    # A copy in a folder that cannot be written has nobody who could change it meanwhile: there SQLite needs to be told so.
    for suffix in ("?mode=ro", "?mode=ro&immutable=1"):
        if "immutable" in suffix and os.path.exists(path + "-wal"):
            break
        connection = sqlite3.connect(uri + suffix, uri=True, isolation_level=None, timeout=5)
        connection.text_factory = bytes
        try:
            if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
                connection.close()
                raise CannotRun("the file is a database of another program")
            connection.execute("SELECT 1 FROM onward_chains LIMIT 1").fetchall()
            if not connection.execute("SELECT 1 FROM onward_meta").fetchall():
                connection.close()
                raise CannotRun("the database has lost the facts of its store")
            connection.execute("PRAGMA trusted_schema = OFF")
            # One view for the whole walk; it keeps no writer waiting.
            connection.execute("BEGIN")
            return connection
        except sqlite3.Error as e:
            connection.close()
            error = e
    raise CannotRun(f"the database cannot be read: {error}")


def read_keys(path):
    keys = {}
    with open(path, encoding="ascii") as file:
        lines = [line.split() for line in file.read(1 << 20).splitlines()]
    for first, *windows in (words for words in lines if words and not words[0].startswith("#")):
        kid, digits = first.split(":", 1) if ":" in first else ("k1", first)
        pins = [re.fullmatch("(.+)([>=])([0-9]+)", window) for window in windows]
        sides = {side: {pin[1].encode(): int(pin[3]) for pin in pins if pin and pin[2] == side} for side in ">="}
        good = re.fullmatch(r"[a-z0-9._-]{1,64}", kid) and re.fullmatch(r"[0-9a-fA-F]{64}", digits)
        if not good or kid.encode() in keys or sum(map(len, sides.values())) != len(windows):
            raise CannotRun("a MAC key is 64 hex digits, or a name, a colon and 64 hex digits; and ORIGIN>SEQ and ORIGIN=SEQ, once for a chain")
        keys[kid.encode()] = Key(bytes.fromhex(digits), sides[">"], sides["="])
    if not keys:
        raise CannotRun("the key file holds no key")
    return keys


def read_saved(path):
    def members(pairs):
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a member stands twice")
        return dict(pairs)

    with open(path, encoding="utf-8") as file:
        text = file.read(8193)
    try:
        saved = json.loads(text, object_pairs_hook=members)
        if len(text.encode()) > 8192 or saved["onward"] != "saved-head":
            raise ValueError("another form")
        if saved["v"] != 1:
            raise CannotRun("the saved head is of a newer version")
        size = saved["size"]
        if set(saved) != {"onward", "v", "chain", "origin", "size", "hash", "root", "frontier", "saved_at"} or isinstance(size, bool):
            raise ValueError("another form")
        size = size if isinstance(size, int) else int(size) if re.fullmatch(r"[0-9]+", size) else 0
        hashes = [bytes.fromhex(saved[name]) for name in ("hash", "root")]
        if not 1 <= size < 1 << 53 or not saved["origin"] or any(len(some) != 32 for some in hashes):
            raise ValueError("out of range")
        length, roots = saved["frontier"].split(":")
        tree = Frontier.parse(size, bytes.fromhex(roots))
        if length != str(size) or not tree or tree.root() != hashes[1]:
            raise ValueError("the frontier does not give the root")
        return {"chain": saved["chain"].encode(), "origin": saved["origin"].encode(), "size": size, "hash": hashes[0], "root": hashes[1]}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as e:
        raise CannotRun(f"the file is not a saved head: {e}") from None


# Signed checkpoints: C2SP signed notes with Ed25519, which Python's library does not have (RFC 8032, section 5.1).

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT_OF_MINUS_1 = pow(2, (P - 1) // 4, P)


def point_add(a, b):
    (x1, y1, z1, t1), (x2, y2, z2, t2) = a, b
    e, f, g, h = (y1 - x1) * (y2 - x2), 2 * t1 * t2 * D, 2 * z1 * z2, (y1 + x1) * (y2 + x2)
    e, f, g, h = h - e, g - f, g + f, h + e
    return e * f % P, g * h % P, f * g % P, e * h % P


def point_multiply(scalar, point):
    result = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            result = point_add(result, point)
        point, scalar = point_add(point, point), scalar >> 1
    return result


def point_read(data):
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT_OF_MINUS_1 % P
    if y >= P or (x * x - square) % P or not x and sign:
        return None
    x = P - x if x & 1 != sign else x
    return x, y, 1, x * y % P


BASE = point_read((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))


def ed25519_is_good(key, message, signature):
    a, r, s = point_read(key), point_read(signature[:32]), int.from_bytes(signature[32:], "little")
    if a is None or r is None or len(signature) != 64 or s >= ORDER:
        return False
    h = int.from_bytes(hashlib.sha512(signature[:32] + key + message).digest(), "little") % ORDER
    left, right = point_multiply(s, BASE), point_add(r, point_multiply(h, a))
    return not (left[0] * right[2] - right[0] * left[2]) % P and not (left[1] * right[2] - right[1] * left[2]) % P


def b64(text):
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data) != text:
        raise ValueError("not base64 as we write it")
    return data


def read_vkey(text):
    try:
        origin, key_id, key = text.strip().encode().split(b"+", 2)
        key = b64(key)
        found = hashlib.sha256(origin + b"\n" + key).digest()[:4]
        if not origin or len(key) != 33 or key[0] != 1 or found.hex().encode() != key_id:
            raise ValueError("its id is not that of the key")
        return origin, found, key[1:]
    except ValueError as e:
        raise CannotRun(f"the verifier key is malformed: {e}") from None


def read_note(path, vkey, what):
    """The lines of a text that is signed by this key, and the key's origin."""
    origin, key_id, key = read_vkey(vkey)
    with open(path, "rb") as file:
        note = file.read(4097)
    try:
        text, signatures = note.rsplit(b"\n\n", 1)
        lines, text, good = text.split(b"\n"), text + b"\n", False
        if len(note) > 4096 or not signatures.endswith(b"\n"):
            raise ValueError("another form")
        for line in signatures[:-1].split(b"\n"):
            mark, name, coded = line.split(b" ")
            signature = b64(coded)
            if mark != "\u2014".encode() or len(signature) <= 4:
                raise ValueError("a line is no signature")
            if name == origin and signature[:4] == key_id:
                if not ed25519_is_good(key, text, signature[4:]):
                    raise ValueError("the signature is not that of the key")
                good = True
        if not good:
            raise ValueError("it is not signed by this key for this chain")
    except ValueError as e:
        raise CannotRun(f"the file is not a signed {what}: {e}") from None
    return origin, lines


def read_checkpoint(path, vkey):
    origin, lines = read_note(path, vkey, "checkpoint")
    try:
        if len(lines) != 3 or lines[0] != origin or not re.fullmatch(rb"[1-9][0-9]{0,15}", lines[1]):
            raise ValueError("another form")
        size, root = int(lines[1]), b64(lines[2])
        if size >= 1 << 53 or len(root) != 32:
            raise ValueError("out of range")
    except ValueError as e:
        raise CannotRun(f"the file is not a signed checkpoint: {e}") from None
    return {"chain": origin.rsplit(b"/", 1)[-1], "origin": origin, "size": size, "hash": None, "root": root}


# No origin has a space in it, so no checkpoint begins like a manifest.
MANIFEST = (rb"onward archive manifest v1\norigin (?P<origin>\S+)\nfrom (?P<first>[1-9][0-9]{0,15})\nto (?P<to>[1-9][0-9]{0,15})\n"
            rb"rows (?P<rows>[1-9][0-9]{0,15})\nprev [0-9a-f]{64}\nlast [0-9a-f]{64}\nroot [0-9a-f]{64}\n"
            rb"entries\.ndjson\.zst [0-9a-f]{64} [0-9]{1,20}\nentries\.ndjson (?P<sha256>[0-9a-f]{64}) (?P<bytes>[0-9]{1,20})\n"
            rb"verify\.py [0-9a-f]{64}")


def read_manifest(path, vkey):
    origin, lines = read_note(path, vkey, "manifest")
    found = re.fullmatch(MANIFEST, b"\n".join(lines))
    first, to, rows, size = (int(found[name]) for name in ("first", "to", "rows", "bytes")) if found else (0, 0, 0, 0)
    if not found or found["origin"] != origin or rows != to - first + 1 or to > SEQ_MAX:
        raise CannotRun("the file is not a signed manifest: another form")
    return {"origin": origin, "from": first, "to": to, "sha256": bytes.fromhex(found["sha256"].decode()), "bytes": size}


def read_trusted(options):
    if options.vkey and options.checkpoint:
        return read_checkpoint(options.checkpoint, options.vkey)
    return read_saved(options.checkpoint) if options.checkpoint else None


def verify_inclusion(options):
    if not options.checkpoint or not options.vkey:
        raise CannotRun("a proof needs a signed checkpoint and the verifier key")
    trusted = read_checkpoint(options.checkpoint, options.vkey)
    try:
        with open(options.inclusion, encoding="utf-8") as file:
            proved = json.loads(file.read(1 << 16))
        seq, size, path = proved["seq"], proved["size"], [bytes.fromhex(step) for step in proved["proof"]]
        top, at, last = bytes.fromhex(proved["hash"]), seq - 1, size - 1
        if type(seq) is not int or type(size) is not int or len(path) > 64 or any(len(step) != 32 for step in [top, *path]):
            raise ValueError("out of range")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as e:
        raise CannotRun(f"the file is not a proof: {e}") from None
    top, good = hashlib.sha256(b"\0" + top).digest(), 0 <= at <= last
    for step in path:
        good = good and last > 0
        if at & 1 or at == last:
            top = hashlib.sha256(b"\1" + step + top).digest()
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            top = hashlib.sha256(b"\1" + top + step).digest()
        at, last = at >> 1, last >> 1
    same = (proved["origin"].encode(), size, top) == (trusted["origin"], trusted["size"], trusted["root"])
    good = good and last == 0 and same
    print(f"{trusted['chain'].decode()}: entry {seq} is {'' if good else 'not '}proved to be in the checkpoint of size {trusted['size']}")
    return 0 if good else 1


def file_hash(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while True:
            piece = file.read(1 << 20)
            if not piece:
                return digest.digest()
            digest.update(piece)


def verify_chain(connection, chain, name, origin, keys, saved, archive):
    walk = Walk(name, origin, keys, saved)
    walk.past = Past(connection, name, chain)
    controls = (f"SELECT {Row.COLUMNS} FROM onward_entries WHERE chain = ? AND flags & 1 = 1 "
                "AND (substr(kind, 1, 8) = 'segment.' OR substr(kind, 1, 7) = 'redact.') AND seq > 0 ORDER BY seq")
    walk.learn([Row(*columns) for columns in connection.execute(controls, (chain,))])
    for columns in connection.execute(f"SELECT {Row.COLUMNS} FROM onward_entries WHERE chain = ? ORDER BY seq", (chain,)):
        walk.row(Row(*columns))
    head = connection.execute("SELECT seq, hash, frontier, at FROM onward_heads WHERE chain = ?", (chain,)).fetchone()
    text = name.decode("utf-8", "replace")
    walk.check_index([payload for (payload,) in connection.execute(
        "SELECT payload FROM onward_objects WHERE namespace = 'default' AND kind = 'onward.segment' AND name >= ? AND name < ? ORDER BY name",
        (text + "/", text + "0"))])
    if archive:
        walk.check_files(archive)
    walk.end(head)
    return walk.report()


def verify_database(options):
    keys = read_keys(options.key) if options.key else {}
    saved = read_trusted(options)
    wanted = options.chain.encode() if options.chain else saved and saved["chain"]
    if saved and wanted != saved["chain"]:
        raise CannotRun("the saved head is of another chain")
    connection = open_database(options.database)
    chains = connection.execute("SELECT id, name, origin FROM onward_chains ORDER BY name").fetchall()
    if wanted:
        chains = [chain for chain in chains if chain[1] == wanted]
    for _, name, origin in chains:
        check_types((), (name, origin))
    codes = [verify_chain(connection, chain, name or b"", origin or b"", keys, saved, options.archive) for chain, name, origin in chains]
    if wanted and not chains:
        if not saved:
            raise CannotRun("no such chain")
        gone = Walk(saved["chain"], saved["origin"], keys, saved)
        gone.findings = [["TRUNCATED", 1, saved["size"], "the chain of the saved head is gone"]]
        codes.append(gone.report())
    if not wanted:
        orphans = ("SELECT chain FROM onward_entries UNION SELECT chain FROM onward_heads EXCEPT SELECT id FROM onward_chains")
        for (chain,) in connection.execute(orphans):
            print(f"#{chain} BROKEN(origin) 0..0: rows of a chain that has no name; {NEXT['BROKEN(origin)']}")
            codes.append(1)
        if not codes:
            raise CannotRun("the database has no chain")
    return 1 if 1 in codes else max(codes)


# The lines of an export. Whatever is not exactly the form is no export.

def members(line, needed, optional=()):
    def pairs_once(pairs):
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a member stands twice")
        return dict(pairs)

    def refuse(text):
        raise ValueError(f"{text} is no number of ours")

    def whole(text):
        return refuse(text) if text == "-0" or len(text) > 20 else int(text)

    try:
        found = json.loads(line.decode("utf-8"), object_pairs_hook=pairs_once, parse_float=refuse, parse_constant=refuse, parse_int=whole)
        missing, unknown = set(needed) - set(found), set(found) - set(needed) - set(optional)
        if missing or unknown:
            raise ValueError("a member is missing or unknown")
        for name, kind in {**dict(needed), **dict(optional)}.items():
            value = found.get(name)
            if value is None and name in dict(optional):
                found[name] = None
            elif type(value) is not (int if kind in ("seq", "at") else bool if kind == "true" else str):
                raise ValueError(f"{name} is of another type")
            elif kind == "seq" and not 0 <= value < 1 << 63 or kind == "at" and not -(1 << 63) <= value < 1 << 63:
                raise ValueError(f"{name} is out of range")
            elif kind == "hash":
                if not re.fullmatch("[0-9a-fA-F]{64}", value):
                    raise ValueError(f"{name} is no hash")
                found[name] = bytes.fromhex(value)
            elif kind == "text":
                found[name] = value.encode()
        return found
    except (ValueError, TypeError, AttributeError, RecursionError) as e:
        raise CannotRun(f"the file is no export: {e}") from None


HEADER = {"onward": "text", "v": "seq", "chain": "text", "origin": "text", "from": "seq", "to": "seq", "rows": "seq"}
FOOTER = {"end": "true", "rows": "seq", "last": "hash", "root": "hash"}
LINE = {"seq": "seq", "prev": "hash", "at": "at", "event_id": "text", "kind": "text", "kid": "text", "flags": "seq", "hash": "hash"}
LINE_OPTIONAL = {"actor": "text", "resource": "text", "data": "text", "data_base64": "text", "pii": "hash", "mac": "hash"}


def read_line(file):
    line = file.readline(LINE_MAX + 1)
    if line and not (line.startswith(b"{") and line.endswith(b"}\n")):
        raise CannotRun("the file is no export: it was cut off, or a line is too long or not an object")
    return line[:-1]


def read_header(file):
    line = read_line(file)
    with contextlib.suppress(ValueError, AttributeError, TypeError, RecursionError):
        any_form = json.loads(line)
        if any_form.get("onward") == "archive" and any_form.get("v") > 1:
            raise CannotRun("the export is of a newer version")
    header = members(line, HEADER, {"prev": "hash"})
    first, last = header["from"], header["to"]
    if header["onward"] != b"archive" or header["v"] != 1 or not header["origin"]:
        raise CannotRun("the file is no export: the header is malformed")
    if not re.fullmatch(rb"[a-z0-9][a-z0-9._-]{0,63}", header["chain"]):
        raise CannotRun("the file is no export: its header names no chain")
    if not 1 <= first <= last <= SEQ_MAX or header["rows"] != last - first + 1 or (header["prev"] is None) != (first == 1):
        raise CannotRun("the file is no export: the range of its header is none")
    return header


def read_row(line):
    entry = members(line, LINE, LINE_OPTIONAL)
    data, coded = entry["data"], entry["data_base64"]
    if (data is None) == (coded is None):
        raise CannotRun("the file is no export: an entry has its data once")
    if data is None:
        try:
            data = base64.b64decode(coded, validate=True)
        except binascii.Error:
            data = None
        if data is None or base64.b64encode(data) != coded:
            raise CannotRun("the file is no export: data that is not base64")
    if not 1 <= entry["seq"] <= SEQ_MAX:
        raise CannotRun("the file is no export: a number is out of its range")
    return Row(entry["seq"], entry["prev"], entry["hash"], entry["mac"], entry["kid"], entry["at"], entry["event_id"], entry["kind"],
               entry["actor"], entry["resource"], data, entry["pii"], entry["flags"])


def verify_export(file, keys, saved):
    header = read_header(file)
    first, to = header["from"], header["to"]
    if saved and (saved["chain"] != header["chain"] or not first <= saved["size"] <= to):
        raise CannotRun("the saved head is of another chain, or lies outside the export")
    if saved and saved["hash"] is None and first > 1:
        raise CannotRun("a checkpoint is compared with an export that begins with the chain and reaches its size")
    walk, tree, at = Walk(header["chain"], header["origin"], keys, saved, first), Frontier(), 0
    if first > 1:
        # All that the file knows of the entry before the range is its hash.
        walk.before = Before(first - 1, -(1 << 63), header["prev"], header["prev"], False)
        walk.frontier = None
    line = read_line(file)
    while not line.startswith(b'{"end":'):
        if not line:
            raise CannotRun("the file is no export: it was cut off")
        row = read_row(line)
        walk.row(row)
        tree.push(row.hash)
        at = row.at
        line = read_line(file)
    footer = members(line, FOOTER)
    if not footer["end"] or footer["rows"] != header["rows"]:
        raise CannotRun("the file is no export: the footer is malformed")
    if read_line(file):
        raise CannotRun("the file is no export: something follows its end")
    # The tree of a chain is known from its first entry on; of another range it is this file's own, judged here.
    fits = tree.root() == footer["root"]
    roots = b"".join(tree.roots) if first == 1 else bytes(32 * bin(to).count("1"))
    walk.end((to, footer["last"], roots if fits else b"", at))
    return walk


class Summed:
    """Counts and hashes the lines that are read of a file."""

    def __init__(self, file):
        self.file, self.digest, self.bytes = file, hashlib.sha256(), 0

    def readline(self, limit):
        line = self.file.readline(limit)
        self.digest.update(line)
        self.bytes += len(line)
        return line


def verify_archived(file, keys, saved, manifest):
    """Checks an export that must be the very one that a manifest names, whatever else is wrong with it."""
    file, walk, broken = Summed(file), None, None
    try:
        walk = verify_export(file, keys, saved)
    except CannotRun as e:
        broken = e
    while file.bytes <= manifest["bytes"] and file.readline(LINE_MAX):
        pass
    same = walk is None or (walk.origin, walk.first, walk.before and walk.before.seq) == (manifest["origin"], manifest["from"], manifest["to"])
    if not same or (file.bytes, file.digest.digest()) != (manifest["bytes"], manifest["sha256"]):
        walk = Walk(manifest["origin"].rsplit(b"/", 1)[-1], manifest["origin"], {}, None, manifest["from"])
        walk.before = Before(manifest["to"], 0, b"", b"", False)
        walk.add("DEGRADED", manifest["from"], manifest["to"], "the file is not the one that the manifest names")
    elif broken:
        raise broken
    return walk


# The worked example of the entry layout.

def self_test():
    origin, key = b"onward.example/audit/orders", bytes(range(32))
    created = (b'{"alg":"sha256","nonce":"000102030405060708090a0b0c0d0e0f",'
               b'"origin":"onward.example/audit/orders","v":1}')
    refund = '{"amount":9.5,"note":"remboursé","order":42}'.encode()
    first = Row(1, genesis(origin), b"", None, b"k1", 1760000000000000, b"created", b"chain.created", None, None, created, None, 1)
    first.hash = first.compute_hash(origin)
    second = Row(2, first.hash, b"", None, b"k1", 1760000000123456, b"01JA0000-refund-42", b"order.refund", b"user:7", b"order:42",
                 refund, None, 6)
    second.hash = second.compute_hash(origin)
    tree = Frontier()
    tree.push(first.hash)
    tree.push(second.hash)
    expected = {
        "genesis": (genesis(origin), "f1b68579544b877437921c745fbbb63d9394322bea4b60560e9b974b71cf12df"),
        "hash of entry 1": (first.hash, "053fc9deca9580cb177b40142af537b6c674f4f47f53fa77448029247cb6abec"),
        "mac of entry 1": (seal(key, first.hash), "c7c4d5d80f2641dcbf787c29522880448660864d7c5a315097acd31d514bca95"),
        "hash of entry 2": (second.hash, "9a2bda567bf52732bee0ebc63a7b4d6ddf8a8b61ed6a3eb2c698487cecc7d815"),
        "mac of entry 2": (seal(key, second.hash), "9d66f49c07833dc1d34c8a53dad0b53e3f55e7bd72b4c47d12da4d46cb082618"),
        "commitment to personal data": (commit_to(bytes(range(32, 64)), b'{"email":"a@example.org"}'),
                                        "51fbecd00a32f1490df4f9c9af3a9f7e47a5ba30f5de2bec5705bbab90fe9744"),
        "root at size 2": (tree.root(), "37f1b03a7d0079808491291b3b879a4f696f0e594dd39b86523191f70b8ff002"),
    }
    vkey = "onward.example/audit/orders+03e3584f+AepKbGPinFIKvvVQexMuxfmVR3auvr57kkIe6mkURtIs"
    text = b"onward.example/audit/orders\n2\nN/GwOn0AeYCEkSkbO4eaT2lvDllN05uGUjGR9wuP8AI=\n"
    signature = b64(b"A+NYT3PzHMVriiwKQ1cn7iE3jP6kE3Fy0mfdn4WJ2PhBz2mWQKd6YaF8DljueFm6etINByLT63DwsjPOf7Z5olu13QE=")
    signed = [ed25519_is_good(read_vkey(vkey)[2], some, signature[4:]) for some in (text, text + b"\n")]
    expected["signature of the checkpoint"] = (bytes(signed), "0100")
    wrong = [name for name, (found, vector) in expected.items() if found.hex() != vector]
    for name in wrong:
        print(f"self-test: {name} differs")
    print("self-test: " + ("broken" if wrong else "ok"))
    return 1 if wrong else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("database", nargs="?", help="the database file")
    parser.add_argument("--export", metavar="FILE", help="an exported chain, or - for standard input, instead of a database")
    parser.add_argument("--chain", metavar="NAME", help="only this chain")
    parser.add_argument("--key", metavar="FILE", help="the MAC key")
    parser.add_argument("--checkpoint", metavar="FILE", help="a head that was saved outside")
    parser.add_argument("--vkey", metavar="VKEY", help="the key that checks the signatures of checkpoint and manifest: ORIGIN+ID+KEY")
    parser.add_argument("--manifest", metavar="FILE", help="the signed manifest that lies beside an archived file, which the export must be")
    parser.add_argument("--inclusion", metavar="FILE", help="a proof that an entry is in the checkpoint, instead of a database")
    parser.add_argument("--archive", metavar="FOLDER", help="the archive, whose files are looked at, too")
    parser.add_argument("--self-test", action="store_true", help="check the worked example of the entry layout")
    options = parser.parse_args()
    if options.self_test:
        return self_test()
    if bool(options.database) + bool(options.export) + bool(options.inclusion) != 1 or options.chain and not options.database:
        parser.error("a database file is needed, or an export or a proof, and these are of one chain")
    if options.vkey and not (options.checkpoint or options.manifest) or options.manifest and not (options.vkey and options.export):
        parser.error("a verifier key is for a checkpoint or a manifest, and a manifest is for an export and needs the key")
    try:
        if options.inclusion:
            return verify_inclusion(options)
        if not options.export:
            return verify_database(options)
        keys = read_keys(options.key) if options.key else {}
        saved = read_trusted(options)
        manifest = read_manifest(options.manifest, options.vkey) if options.manifest else None
        with contextlib.ExitStack() as stack:
            file = sys.stdin.buffer if options.export == "-" else stack.enter_context(open(options.export, "rb"))
            walk = verify_archived(file, keys, saved, manifest) if manifest else verify_export(file, keys, saved)
            return walk.report()
    except (CannotRun, OSError, UnicodeError, sqlite3.Error, struct.error, TypeError) as e:
        print(f"verify.py: could not run: {e}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
