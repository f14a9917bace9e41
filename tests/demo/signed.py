"""Reads signed mails (RFC 3156) as a mail program does: with Python's `email` package, and gpg for the signature.

    signed.py extract MAIL FOLDER    writes the part that is signed, and its signature, into FOLDER
    signed.py verify FOLDER...       checks every mail in these folders; fails if one has no good signature

gpg uses the keys of $GNUPGHOME.
"""

import email
import email.policy
import os
import subprocess
import sys
import tempfile

# Header lines are given back as they came: folding them anew would change the bytes that were signed
# (https://github.com/python/cpython/issues/99533).
AS_WRITTEN = email.policy.SMTP.clone(refold_source="none")


def parts(mail):
    """The bytes that are signed, and the signature."""
    with open(mail, "rb") as file:
        message = email.message_from_binary_file(file, policy=AS_WRITTEN)
    if message.get_content_type() != "multipart/signed":
        raise ValueError(f"is {message.get_content_type()}, not multipart/signed")
    if message.defects:
        raise ValueError(f"is malformed: {message.defects}")
    signed, signature = message.get_payload()
    return signed.as_bytes(), signature.get_payload(decode=True)


def extract(mail, folder):
    """Writes both parts as files."""
    paths = [os.path.join(folder, name) for name in ("signed-part", "signature.asc")]
    for path, content in zip(paths, parts(mail)):
        with open(path, "wb") as file:
            file.write(content)
    return paths


def trouble(mail, scratch):
    """Why the mail has no good signature; None if it has."""
    try:
        signed, signature = extract(mail, scratch)
    except (ValueError, OSError) as error:
        return str(error)
    gpg = subprocess.run(["gpg", "--batch", "--verify", signature, signed], capture_output=True, check=False)
    return None if gpg.returncode == 0 else gpg.stderr.decode(errors="replace")


def verify(folders):
    """Prints what is wrong with each mail that has no good signature, and how many have one."""
    mails = [entry.path for folder in folders for entry in os.scandir(folder)]
    bad = 0
    with tempfile.TemporaryDirectory() as scratch:
        for mail in sorted(mails):
            wrong = trouble(mail, scratch)
            if wrong:
                bad += 1
                print(f"BAD {mail}: {wrong}")
    print(f"{len(mails) - bad} of {len(mails)} mails have a good signature")
    return bad == 0 and len(mails) > 0


if sys.argv[1] == "extract":
    extract(sys.argv[2], sys.argv[3])
else:
    sys.exit(0 if verify(sys.argv[2:]) else 1)
