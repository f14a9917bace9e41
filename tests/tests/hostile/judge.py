"""Reads mails as receivers do: python3 -c … GNUPG_HOME FILE… -> a JSON list, one object a file.

Each is read by Python's `email` under its policies `default` and `compat32`; what either finds wrong is told. The table of events
is read by Python's `csv`, from the file in the mail, unpacked where it has to be, or from the text.
"""

import csv
import email
import email.header
import email.policy
import email.utils
import gzip
import io
import json
import re
import subprocess
import sys
import tempfile
import zipfile

csv.field_size_limit(1 << 30)


def defects(message):
    found = [repr(defect) for part in message.walk() for defect in part.defects]
    for part in message.walk():
        for value in part.values():
            found += [repr(defect) for defect in getattr(value, "defects", [])]
    # That a header is UTF-8 is its good right.
    return [defect for defect in found if not defect.startswith("NonASCIILocalPartDefect")]


def decoded(value):
    value = value.replace("\r\n", "")
    return str(email.header.make_header(email.header.decode_header(value)))


def verify(home, raw, message):
    boundary = b"\r\n--" + message.get_boundary().encode()
    pieces = raw.split(boundary + b"\r\n")
    assert len(pieces) == 3, "more boundaries than there are parts"
    signature = message.get_payload()[1].get_payload()
    with tempfile.NamedTemporaryFile() as file:
        file.write(signature.encode())
        file.flush()
        gpg = subprocess.run(["gpg", "--homedir", home, "--batch", "--status-fd", "1", "--verify", file.name, "-"],
                             input=pieces[1], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    valid = [line.split()[2] for line in gpg.stdout.decode().splitlines() if line.startswith("[GNUPG:] VALIDSIG ")]
    return valid[0] if gpg.returncode == 0 and len(valid) == 1 else None


def rows(parts, text):
    for part in parts:
        name, data = part.get_filename(), part.get_payload(decode=True)
        if name == "events.zip":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                assert archive.namelist() == ["events.csv"], archive.namelist()
                assert archive.testzip() is None
                data = archive.read("events.csv")
        elif name == "events.csv.gz":
            data = gzip.decompress(data)
        elif name != "events.csv":
            continue
        return list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True))
    titles = re.search('^"[^"\n]*",', text, re.MULTILINE)
    return list(csv.reader(io.StringIO(text[titles.start():], newline=""), strict=True)) if titles else None


def read(home, path):
    with open(path, "rb") as file:
        raw = file.read()
    if b"\r\n" not in raw:
        # Stored by a relay with the line ends of this system.
        raw = raw.replace(b"\n", b"\r\n")
    # As text, since a header can be UTF-8 (RFC 6532).
    message = email.message_from_string(raw.decode(), policy=email.policy.default)
    old = email.message_from_string(raw.decode(), policy=email.policy.compat32)
    leaves = [part for part in old.walk() if not part.is_multipart()]
    text = next(part for part in leaves if part.get_content_type() == "text/plain")
    text = text.get_payload(decode=True).decode("utf-8")
    try:
        table = rows(leaves, text)
    except csv.Error:
        table = None
    return {
        "defects": defects(message) + defects(old),
        "subject": str(message["Subject"]),
        "old_subject": decoded(old["Subject"]),
        "to": [address.addr_spec for address in message["To"].addresses],
        "old_to": [address for _, address in email.utils.getaddresses(old.get_all("To"))],
        "structure": [part.get_content_type() for part in old.walk()],
        "names": [part.get_filename() for part in leaves],
        "text": text,
        "rows": table,
        "signed_by": verify(home, raw, old) if old.get_content_type() == "multipart/signed" else None,
    }


print(json.dumps([read(sys.argv[1], path) for path in sys.argv[2:]]))
